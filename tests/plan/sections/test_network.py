"""The network section: which fabric and why, what leaves, what is cut."""

from __future__ import annotations

import pytest

from archwright.contract.decision import SectionLine
from archwright.contract.needs import Placement, Traffic, Workload
from archwright.contract.plan import Option
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import ChosenOption, Location
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


def chosen_of(case: Case) -> ChosenOption:
    needs, fleets, where = case
    placement: Placement = where[0].placement
    option = Option(
        name=placement,
        placement=placement,
        provider=where[0].provider,
        regions=tuple(place.region for place in where if place.region),
        feasible=True,
        misses=(),
        total_cost=None,
        cost_per_month=None,
        capex=None,
        models={name: model for name, model in MODELS.items() if any(name == one.name for one in needs.workloads)},
    )
    return ChosenOption(needs, CATALOG, PlanProvenance(), option, fleets)


def line_of(case: Case, topic: str) -> SectionLine:
    (line,) = [line for line in build_network_section(chosen_of(case)).lines if topic in line.topic]
    return line


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
    line = line_of(manufacturer_in_both(), "house-model: fabric")
    assert "x 400G per machine" in line.choice and "switches of 64 ports: 1" in line.choice
    assert line.estimate is not None and line.estimate.value > 0.1
    assert f"{line.estimate.value:.0%} of the time waiting at 100G" in line.why
    assert "archwright_training_tokens_per_second" in line.proof
    assert line.estimate.low < line.estimate.value < line.estimate.high


def test_owned_machines_have_their_switches() -> None:
    needs, fleets, where = manufacturer_in_both()
    owned = fleets[0]._replace(purchase="owned")
    assert "switches" not in line_of((needs, (owned,), where), "house-model: fabric").choice


def test_a_tune_by_adapters_stays_on_100g() -> None:
    needs, fleets, where = manufacturer_in_both()
    lora = tuple(replace(one, method="lora") if one.kind == "finetune" else one for one in needs.workloads)
    line = line_of((replace(needs, workloads=lora), fleets, where), "house-model: fabric")
    assert line.choice.startswith("100G Ethernet") and "adapters" in line.why
    section = build_network_section(chosen_of((replace(needs, workloads=lora), fleets, where)))
    assert section.summary == "100G Ethernet is enough for every job on several machines."


def test_what_no_fabric_hides_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archwright.sizing.infrastructure.network.MAX_WAIT_SHARE", 1e-6)
    monkeypatch.setattr("archwright.plan.sections.network.MAX_WAIT_SHARE", 1e-6)
    assert "still" in line_of(manufacturer_in_both(), "house-model: fabric").why


def test_nothing_that_spans_machines_takes_no_fabric() -> None:
    assert line_of(clinic_at_home(), "Cluster fabric").choice.startswith("none")
    assert build_network_section(chosen_of(clinic_at_home())).summary.startswith("No job uses several machines")


def test_several_jobs_are_counted() -> None:
    needs, fleets, where = manufacturer_in_both()
    base = Workload(name="own-base", kind="pretrain", parameters=70e9, tokens=1e12)
    more = own_fleet(needs, CATALOG, "8x-h100", ("own-base",), 16, where[0])
    section = build_network_section(
        chosen_of((replace(needs, workloads=(*needs.workloads, base)), (*fleets, more), where))
    )
    assert section.summary == "A 400G fabric between machines, for house-model, own-base."


def test_the_front_end_is_sized_for_the_high_end_of_its_bytes() -> None:
    line = line_of(manufacturer_in_both(), "Front end")
    assert line.choice == "two 10 Gbit/s ports for the gateways"
    assert line.estimate is not None and line.estimate.unit == "bytes/s"


def test_this_machine_has_no_front_end() -> None:
    topics = [line.topic for line in build_network_section(chosen_of(desk_here())).lines]
    assert "Front end" not in topics and "Traffic out" in topics


def test_a_load_without_requests_has_no_front_end() -> None:
    needs, _, where = startup_in_a_cloud()
    batch = tuple(one for one in needs.workloads if one.kind == "finetune")
    topics = [
        line.topic for line in build_network_section(chosen_of((replace(needs, workloads=batch), (), where))).lines
    ]
    assert "Front end" not in topics


def test_ports_end_at_the_fastest_there_are() -> None:
    needs, fleets, where = startup_in_a_cloud()
    flood = Workload(name="etl", kind="data-processing", traffic=Traffic(gib_per_day=1e9, deadline_h=1))
    line = line_of((replace(needs, workloads=(*needs.workloads, flood)), fleets, where), "etl: data in")
    assert line.choice.startswith("400 Gbit/s")


def test_data_processing_says_what_comes_in() -> None:
    line = line_of(manufacturer_in_both(), "telemetry: data in")
    assert "GB per month" in line.why and "10 Gbit/s" in line.choice


def test_switches_of_the_house_are_doubled() -> None:
    assert line_of(clinic_at_home(), "Switches in DE").choice.startswith("2 switches of 100G for 3 machines")


def test_what_leaves_a_cloud_is_billed_and_named_with_the_clause_on_transfers() -> None:
    line = line_of(manufacturer_in_both(), "Traffic out of eu-north-1")
    assert "GB per month to the internet" in line.choice
    assert line.demanded_by == ("gdpr 44-49",) and line.proof == ""
    assert "This release does not meter the traffic" in line.why


def test_nothing_is_billed_out_of_a_house() -> None:
    assert line_of(clinic_at_home(), "Traffic out").choice == "no traffic that is billed by the byte"


def test_tokens_leave_from_the_platforms_host() -> None:
    assert line_of(startup_by_the_token(), "Traffic out of us-central1").choice.startswith("58.")


def test_the_boundary_names_its_clauses() -> None:
    assert "soc2 CC6.6" in line_of(startup_in_a_cloud(), "Boundary").demanded_by


def test_without_an_option_the_section_still_says_what_it_can() -> None:
    chosen = ChosenOption(needs_of("clinic"), CATALOG, PlanProvenance(), None, ())
    assert build_network_section(chosen).lines


def test_places_of_an_option_without_machines_come_from_its_regions() -> None:
    needs = needs_of("startup")
    there = Location("serverless", "aws", "us-east-1", "US")
    assert "us-central1" in line_of((needs, (), (there,)), "Traffic out").topic


# --- power and cooling


def test_power_is_held_against_the_site() -> None:
    line = line_of(clinic_at_home(), "Power in DE")
    assert line.estimate is not None and f"{line.estimate.value:.1f}" in line.choice
    assert "the site has 40 kW, 42 rack units" in line.why and "x 1.56" in line.why
    assert line.why_not.endswith("% of the electricity bill.")


def test_a_site_without_limits_and_rented_space_name_none() -> None:
    needs, fleets, where = clinic_at_home()
    site = needs.placement.site
    assert site is not None
    open_site = replace(site, power_kw=None, rack_units=None)
    free = replace(needs, placement=replace(needs.placement, site=open_site))
    assert "the site has" not in line_of((free, fleets, where), "Power in DE").why
    rented = replace(needs, placement=replace(needs.placement, site=None))
    assert line_of((rented, fleets, where), "Power in DE").why_not == "This hall is as efficient already."


def test_air_cools_a_few_machines_a_rack_and_a_rack_that_is_one_machine_takes_liquid() -> None:
    needs, fleets, where = clinic_at_home()
    assert line_of((needs, fleets, where), "Racks of 8x-h100").choice == "1 with air cooling, up to 2 machines each"
    whole = own_fleet(needs, CATALOG, "72x-gb200", ("letters",), 2)
    assert "liquid cooling, 2 of 132 kW" in line_of((needs, (whole,), where), "Racks of 72x-gb200").choice


def test_machines_of_a_kind_share_racks() -> None:
    needs, fleets, where = clinic_at_home()
    both = (fleets[0], fleets[0]._replace(workloads=("xray",), peak=4))
    assert line_of((needs, both, where), "Racks of 8x-h100").choice.startswith("3 with air cooling")


def test_a_machine_without_a_row_stands_in_no_rack() -> None:
    needs, fleets, where = clinic_at_home()
    unknown = fleets[0]._replace(node=None)
    topics = [line.topic for line in build_network_section(chosen_of((needs, (unknown,), where))).lines]
    assert not any(topic.startswith("Racks") for topic in topics)


def test_energy_and_carbon_name_their_grids() -> None:
    line = line_of(manufacturer_in_both(), "Energy and carbon")
    assert "FR 56 g/kWh (44.8 .. 70)" in line.why and "kWh/month" in line.choice and "kg/month" in line.choice


def test_tokens_have_no_line_on_energy() -> None:
    topics = [line.topic for line in build_network_section(chosen_of(startup_by_the_token())).lines]
    assert "Energy and carbon" not in topics
