"""The network section: which fabric and why, what leaves, what is cut."""

from __future__ import annotations

from typing import Any

import pytest

from archwright.contract.decision import SectionLine
from archwright.contract.needs import Site, Traffic, Workload
from archwright.contract.number_format import format_share
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import ChosenOption, Location, MachineFleet
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.sections.network import build_network_section

from ..cost.test_operating_costs import (
    CASES,
    CATALOG,
    MODELS,
    Case,
    clinic_at_home,
    desk_here,
    manufacturer_in_both,
    needs_of,
    startup_by_the_token,
    startup_in_a_cloud,
)
from ..fleet_samples import own_fleet
from ..option_samples import build_option


def chosen_of(case: Case) -> ChosenOption:
    needs, fleets, where = case
    names = {workload.name for workload in needs.workloads}
    option = build_option(
        where[0].placement,
        None,
        placement=where[0].placement,
        provider=where[0].provider,
        regions=tuple(place.region for place in where if place.region),
        models={name: model for name, model in MODELS.items() if name in names},
    )
    return ChosenOption(needs, CATALOG, PlanProvenance(), option, fleets)


def line_of(case: Case, topic: str) -> SectionLine:
    (line,) = [line for line in build_network_section(chosen_of(case)).lines if topic in line.topic]
    return line


def topics_of(case: Case) -> list[str]:
    return [line.topic for line in build_network_section(chosen_of(case)).lines]


def of(case: Case, *fleets: MachineFleet, **changes: Any) -> Case:
    """A case with other fields of its needs, and with other fleets if some are given."""
    return replace(case[0], **changes), fleets or case[1], case[2]


def placed(case: Case, site: Site | None) -> Case:
    return of(case, placement=replace(case[0].placement, site=site))


HOME, BOTH, CLOUD, TOKENS, DESK = (
    make() for make in (clinic_at_home, manufacturer_in_both, startup_in_a_cloud, startup_by_the_token, desk_here)
)
SITE, FLEET, WORKLOADS = HOME[0].placement.site, HOME[1][0], CLOUD[0].workloads
assert SITE is not None
OPEN_SITE = placed(HOME, replace(SITE, power_kw=None, rack_units=None))
FLOOD = Workload(name="etl", kind="data-processing", traffic=Traffic(gib_per_day=1e9, deadline_h=1))
LORA = of(BOTH, workloads=tuple(replace(w, method="lora") if w.kind == "finetune" else w for w in BOTH[0].workloads))
TUNING = (replace(CLOUD[0], workloads=tuple(one for one in WORKLOADS if one.kind == "finetune")), (), CLOUD[2])
SERVERLESS = (needs_of("startup"), (), (Location("serverless", "aws", "us-east-1", "US"),))
SHARED = of(HOME, FLEET, FLEET._replace(workloads=("xray",), peak=4))
RACKS = of(HOME, own_fleet(HOME[0], CATALOG, "72x-gb200", ("letters",), 2))


@pytest.mark.parametrize(
    ("case", "topic", "field", "texts"),
    [
        (HOME, "Cluster fabric", "choice", ("none",)),
        (LORA, "house-model: fabric", "choice", ("100G Ethernet",)),
        (LORA, "house-model: fabric", "why", ("adapters",)),
        (BOTH, "Front end", "choice", ("two 10 Gbit/s ports for the gateways",)),
        (of(CLOUD, workloads=(*WORKLOADS, FLOOD)), "etl: data in", "choice", ("400 Gbit/s",)),
        (BOTH, "telemetry: data in", "choice", ("10 Gbit/s",)),
        (BOTH, "telemetry: data in", "why", ("GB per month",)),
        (HOME, "Switches in DE", "choice", ("2 switches of 100G for 3 machines",)),
        (BOTH, "Traffic out of eu-north-1", "choice", ("GB per month to the internet",)),
        (BOTH, "Traffic out of eu-north-1", "why", ("To do: compare the traffic out of eu-north-1 on each invoice",)),
        (BOTH, "Traffic out of eu-north-1", "demanded_by", ("gdpr 44-49",)),
        (HOME, "Traffic out", "choice", ("no traffic that is billed by the byte",)),
        (TOKENS, "Traffic out of us-central1", "choice", ("58.8 GB",)),
        (SERVERLESS, "Traffic out", "topic", ("us-central1",)),
        (CLOUD, "Boundary", "demanded_by", ("soc2 CC6.6",)),
        (HOME, "Power in DE", "why", ("the site has 40 kW, 42 rack units", "x 1.56")),
        (HOME, "Power in DE", "why_not", ("% of the electricity bill.",)),
        (placed(HOME, None), "Power in DE", "why_not", ("This hall is as efficient already.",)),
        (HOME, "Racks of 8x-h100", "choice", ("1 with air cooling, up to 2 machines each",)),
        (RACKS, "Racks of 72x-gb200", "choice", ("liquid cooling, 2 of 132 kW",)),
        (SHARED, "Racks of 8x-h100", "choice", ("3 with air cooling",)),
        (BOTH, "Energy and carbon", "choice", ("kWh/month", "kg/month")),
        (BOTH, "Energy and carbon", "why", ("FR 56 g/kWh (44.8 to 70)",)),
    ],
)
def test_a_line_says(case: Case, topic: str, field: str, texts: tuple[str, ...]) -> None:
    said = getattr(line_of(case, topic), field)
    assert all(text in said for text in texts), said


@pytest.mark.parametrize(
    ("case", "absent"),
    [
        (DESK, "Front end"),
        (TUNING, "Front end"),
        (of(HOME, FLEET._replace(node=None)), "Racks"),
        (TOKENS, "Energy and carbon"),
    ],
)
def test_what_is_not_there_has_no_line(case: Case, absent: str) -> None:
    assert not any(topic.startswith(absent) for topic in topics_of(case))


def test_what_has_no_limit_and_no_switch_names_none() -> None:
    assert "switches" not in line_of(of(BOTH, BOTH[1][0]._replace(purchase="owned")), "house-model: fabric").choice
    assert "the site has" not in line_of(OPEN_SITE, "Power in DE").why
    assert line_of(BOTH, "Traffic out of eu-north-1").proof == ""
    assert "Traffic out" in topics_of(DESK)


@pytest.mark.parametrize("case", [make() for make in CASES])
def test_every_line_says_what_why_and_what_else(case: Case) -> None:
    chosen = chosen_of(case)
    section = build_network_section(chosen)
    assert section.id == "network" and section.lines and section.summary
    topics = [line.topic for line in section.lines]
    assert len(topics) == len(set(topics))
    for line in section.lines:
        assert line.topic and line.choice and line.why
        assert bool(line.alternative) == bool(line.why_not)
        assert all(clause.split()[0] in chosen.needs.regulations for clause in line.demanded_by)
    kept = {basis.id for basis in chosen.ledger.collect_bases(section)}
    assert {line.estimate.basis for line in section.lines if line.estimate is not None} <= kept


def test_a_full_tune_over_machines_takes_400g_and_says_what_100g_would_waste() -> None:
    line = line_of(BOTH, "house-model: fabric")
    assert "x 400G per machine" in line.choice and "switches of 64 ports: 1" in line.choice
    assert line.estimate is not None and line.estimate.value > 0.1
    assert f"{format_share(line.estimate.value)} of the time waiting at 100G" in line.why
    assert "archwright_training_tokens_per_second" in line.proof
    assert line.estimate.low < line.estimate.value < line.estimate.high


def test_the_summary_counts_the_jobs_on_several_machines() -> None:
    needs, fleets, where = BOTH
    base = Workload(name="own-base", kind="pretrain", parameters=70e9, tokens=1e12)
    more = own_fleet(needs, CATALOG, "8x-h100", ("own-base",), 16, where[0])
    several = replace(needs, workloads=(*needs.workloads, base)), (*fleets, more), where
    for case, summary in (
        (several, "A 400G fabric between machines, for house-model, own-base."),
        (LORA, "100G Ethernet is enough for every job on several machines."),
        (HOME, "No job uses several machines, so no cluster fabric is needed."),
    ):
        assert build_network_section(chosen_of(case)).summary == summary


def test_what_no_fabric_hides_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archwright.sizing.infrastructure.network.MAX_WAIT_SHARE", 1e-6)
    monkeypatch.setattr("archwright.plan.sections.network.MAX_WAIT_SHARE", 1e-6)
    assert "still" in line_of(BOTH, "house-model: fabric").why


def test_figures_stand_in_the_unit_of_their_line() -> None:
    front = line_of(BOTH, "Front end").estimate
    assert front is not None and front.unit == "bytes/s"
    power = line_of(HOME, "Power in DE")
    assert power.estimate is not None and f"{power.estimate.value:.1f}" in power.choice


def test_without_an_option_the_section_still_says_what_it_can() -> None:
    chosen = ChosenOption(needs_of("clinic"), CATALOG, PlanProvenance(), None, ())
    assert build_network_section(chosen).lines
