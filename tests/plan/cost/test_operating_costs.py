"""Operating costs of an option: properties of all cash flows, and each kind of cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.examples import read_example

from archwright.catalog.load import load_catalog
from archwright.contract.needs import SLO, ExistingComponent, Needs, OwnedMachine, Workload
from archwright.contract.record import replace
from archwright.needs.reader import parse_needs
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import Location, MachineFleet
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.cost.data_placement import build_option_context
from archwright.plan.cost.hardware_lifecycle import read_ageing_curve
from archwright.plan.cost.operating_costs import OperatingCosts, estimate_operating_costs
from archwright.plan.cost.storage_and_egress import list_stored_items

from ..fleet_samples import CLOUD, CLOUD_EU, HERE, HOSTED, house, own_fleet, rented_fleet

CATALOG = load_catalog()
MODELS = {"letters": "Qwen3-32B", "assistant": "Llama-3.3-70B-Instruct", "support-chat": "Qwen3-8B"}
Case = tuple[Needs, tuple[MachineFleet, ...], tuple[Location, ...]]


def needs_of(name: str, **changes: Any) -> Needs:
    return replace(parse_needs(read_example(name).encode(), "needs.yaml", CATALOG)[0], **changes)


def clinic_at_home(**changes: Any) -> Case:
    needs = needs_of("clinic", **changes)
    letters = own_fleet(needs, CATALOG, "8x-h100", ("letters",))
    return needs, (letters, own_fleet(needs, CATALOG, "2x-l4", ("xray",), 2)), (house(),)


def startup_in_a_cloud(**changes: Any) -> Case:
    needs = needs_of("startup", **changes)
    return needs, (rented_fleet(needs, CATALOG, ("support-chat", "tone", "index"), count=2),), (CLOUD,)


def startup_by_the_token(**changes: Any) -> Case:
    return needs_of("startup", **changes), (), (HOSTED,)


def manufacturer_in_both() -> Case:
    needs, home = needs_of("manufacturer"), house("FR")
    tuned = own_fleet(needs, CATALOG, "8x-h100", ("assistant", "house-model"), 6, home)
    data = own_fleet(needs, CATALOG, "cpu-2-socket", ("telemetry",), 10, home)
    plants = tuple(own_fleet(needs, CATALOG, "cpu-2-socket", ("downtime",), 5, house(c)) for c in ("FR", "US", "CN"))
    return needs, (tuned, data, *plants, rented_fleet(needs, CATALOG, ("assistant",), CLOUD_EU, 3)), (home, CLOUD_EU)


def desk_here() -> Case:
    needs = needs_of("desk")
    months = needs.budget.horizon_months
    machine = own_fleet(needs, CATALOG, "cpu-2-socket", ("assistant",), 1, HERE)
    return needs, (machine._replace(purchase="owned", node=None, machines=(1.0,) * months, busy_w=30.0),), (HERE,)


MakeCase = Callable[[], Case]
CASES: tuple[MakeCase, ...] = (
    clinic_at_home,
    startup_in_a_cloud,
    startup_by_the_token,
    manufacturer_in_both,
    desk_here,
)


def run(case: Case, ledger: PlanProvenance | None = None) -> OperatingCosts:
    needs, fleets, where = case
    return estimate_operating_costs(needs, CATALOG, ledger or PlanProvenance(), fleets, where, MODELS)


def run_clinic(**changes: Any) -> OperatingCosts:
    """The clinic with its first fleet alone, changed."""
    needs, fleets, where = clinic_at_home()
    return run((needs, (fleets[0]._replace(**changes),), where))


def with_field(case: Case, name: str, **changes: Any) -> Case:
    """The case with changes inside a record of its needs."""
    needs, fleets, where = case
    return replace(needs, **{name: replace(getattr(needs, name), **changes)}), fleets, where


def spent(found: OperatingCosts) -> float:
    return sum(term.sum for term in found.terms)


def lines(found: OperatingCosts, category: str, words: str = "") -> list[CashFlow]:
    return [term for term in found.terms if term.category == category and words in term.line]


def one(found: OperatingCosts, category: str, words: str = "") -> CashFlow:
    (term,) = lines(found, category, words)
    return term


# --- properties of all cases


@pytest.mark.parametrize("case", CASES)
def test_flows_and_numbers_have_facts_and_names(case: MakeCase) -> None:
    """Each flow has the horizon's length, drivers and its own name; only the resale value is received."""
    made, ledger = case(), PlanProvenance()
    found = run(made, ledger)
    for term in found.terms:
        assert len(term.flow) == made[0].budget.horizon_months and term.sum != 0, term.line
        assert term.drivers and all(ledger.driver_estimate(driver).value > 0 for driver in term.drivers), term.line
        assert (term.category == "residual") == (min(term.flow) < 0), term.line
        if term.category == "residual":
            assert term.once and sum(term.flow[:-1]) == 0
    assert len({term.line for term in found.terms}) == len(found.terms)
    numbers = [found.power_kw, found.energy_kwh_per_month, found.carbon_kg_per_month]
    known = {basis.id for basis in ledger.collect_bases(*[number for number in numbers if number is not None])}
    assert all(number is None or number.basis in known for number in numbers)


@pytest.mark.parametrize("case", CASES[:4])
@given(st.data())
@settings(max_examples=12)
def test_more_data_or_longer_retention_never_costs_less(case: MakeCase, data: st.DataObject) -> None:
    needs, fleets, where = case()
    which = data.draw(st.integers(0, len(needs.data) - 1))
    field = data.draw(st.sampled_from(["size_gib", "growth_gib_per_month", "retention_months"]))
    start = replace(needs.data[which], retention_months=data.draw(st.floats(1, 100)), growth_gib_per_month=50.0)
    more = replace(start, **{field: getattr(start, field) * data.draw(st.floats(1, 5))})

    def costs(profile: object) -> float:
        sets = tuple(profile if index == which else kept for index, kept in enumerate(needs.data))
        return spent(run((replace(needs, data=sets), fleets, where)))

    before = costs(start)
    assert costs(more) >= before - 1e-6 * abs(before)


@given(st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=15)
def test_more_machines_never_cost_less_to_run(few: int, more: int) -> None:
    needs = needs_of("clinic")
    less, greater = (
        spent(run((needs, (own_fleet(needs, CATALOG, "8x-h100", ("letters",), count),), (house(),))))
        for count in (few, few + more)
    )
    assert greater >= less


def test_this_machine_costs_electricity_only() -> None:
    found = run(desk_here())
    assert {term.category for term in found.terms} == {"energy"}
    assert found.power_kw is not None and found.power_kw.value == pytest.approx(0.03)
    assert found.rack_units == 0


# --- on-premises machines


def test_an_own_site_pays_no_rent_and_its_own_price_of_electricity() -> None:
    ledger = PlanProvenance()
    found = run(clinic_at_home(), ledger)
    assert lines(found, "facility") == []
    assert ledger.driver_estimate("electricity.de").value == 0.24
    assert "part.pue.average" in one(found, "energy", "letters").drivers


def test_without_a_site_machines_are_in_rented_space() -> None:
    found = run(with_field(clinic_at_home(), "placement", site=None))
    rent, pue = one(found, "facility"), CATALOG.parameter("pue.modern").value
    assert found.power_kw is not None
    assert rent.flow[0] == pytest.approx(found.power_kw.value / pue * CATALOG.parameter("colo.kw-month").value)
    assert "part.pue.modern" in one(found, "energy", "letters").drivers


def test_bought_machines_are_supported_repaired_and_sold_and_their_purchase_is_stated_elsewhere() -> None:
    found, node = run(clinic_at_home()), CATALOG.nodes["8x-h100"]
    assert lines(found, "purchase") == [] and lines(found, "refresh") == []
    curve = read_ageing_curve(CATALOG.parameter, "life.gpu", node)
    assert one(found, "residual", "8x-h100").flow[-1] == pytest.approx(-node.price_usd * curve.worth(60))
    support, parts = one(found, "support", "support of 8x-h100"), one(found, "support", "spare parts of 8x-h100")
    repairs = one(found, "support", "repairs of 8x-h100")
    assert (
        support.flow[0] == support.flow[36] == pytest.approx(node.price_usd * CATALOG.parameter("support").value / 12)
    )
    assert support.flow[48] == pytest.approx(support.flow[0] * CATALOG.parameter("support.rise").value)
    assert repairs.flow[12] == pytest.approx(repairs.flow[0] * CATALOG.parameter("failures.rise").value)
    assert support.sum + repairs.sum == pytest.approx(node.price_usd * curve.upkeep(60))
    assert parts.once and parts.sum == pytest.approx(node.price_usd * CATALOG.parameter("spares").value)
    (schedule,) = (note for note in found.notes if note.startswith("8x-h100"))
    assert schedule.endswith("buy 1 in month 0; extend the support of 1 in month 36; sell 1 in month 60")


def test_machines_that_come_later_are_supported_later() -> None:
    found = run_clinic(machines=(1.0,) * 12 + (2.0,) * 48, peak=2)
    support = one(found, "support", "support of 8x-h100")
    assert support.flow[12] == pytest.approx(2 * support.flow[11])
    assert support.flow[59] > support.flow[47] > support.flow[36] == support.flow[12]


def test_a_sale_of_owned_machines_is_advice_and_no_gain() -> None:
    """The notes estimate the proceeds of machines without work; no cost contains them."""
    needs, fleets, where = manufacturer_in_both()
    price, curve = CATALOG.nodes["8x-h100"].price_usd, read_ageing_curve(CATALOG.parameter, "life.gpu")
    used = fleets[0]._replace(purchase="owned", machines=(3.0,) * 24 + (1.0,) * 36, peak=3, age_months=14.0)
    found, rate = run((needs, (used,), where[:1])), CATALOG.exchange_rate("USD", "EUR").value
    assert lines(found, "residual", "owned") == []
    schedule, *sales = [note for note in found.notes if "owned 8x-h100" in note]
    steps = "keep 3 in month 0; release 1 in month 0; extend the support of 3 in month 22; release 2 in month 24"
    assert schedule == f"4 owned 8x-h100, 14 months old: {steps}"
    worth = [(0, 1, curve.worth(14)), (24, 2, curve.worth(38))]
    assert len(sales) == 2
    for note, (month, count, share) in zip(sales, worth, strict=True):
        assert f"to sell {count} in month {month} brings about {count * price * share * rate:,.0f} EUR" in note


def test_the_costs_of_worn_machines_stand_beside_those_of_a_new_one() -> None:
    needs, fleets, where = manufacturer_in_both()
    new, worn = (
        fleets[0]._replace(purchase="owned", machines=(4.0,) * 60, peak=4, age_months=age) for age in (14.0, 108.0)
    )
    for fleet, said in ((new, False), (worn, True)):
        owned = (OwnedMachine(machine="8x H100 SXM", count=4, age_months=fleet.age_months),)
        notes = run((replace(needs, placement=replace(needs.placement, owned=owned)), (fleet,), where[:1])).notes
        assert any("A new machine with its support costs" in note for note in notes) == said


def test_owned_machines_have_no_purchase_renewal_spare_parts_or_resale() -> None:
    found = run_clinic(purchase="owned", machines=(1.0,) * 36 + (0.0,) * 24)
    assert lines(found, "refresh", "8x-h100") == [] and lines(found, "support", "spare parts") == []
    support, power = one(found, "support", "support of 8x-h100").flow, one(found, "energy", "8x-h100").flow
    assert support[35] > 0 and support[36] == 0 and power[35] > 0 and power[36] == 0
    needs, (fleet, *_), where = with_field(clinic_at_home(), "budget", horizon_months=24)
    found = run((needs, (fleet._replace(purchase="owned", machines=(1.0,) * 24),), where))
    assert lines(found, "refresh") == [] and lines(found, "residual", "8x-h100") == []
    found = run_clinic(purchase="owned", node=None)
    assert lines(found, "support", "letters") == [] and one(found, "energy", "letters").sum > 0, "without a row"


def test_the_busiest_month_counts_for_power_and_space() -> None:
    """Machines that are never present together are not summed."""
    needs, fleets, where = clinic_at_home()
    before, after = (1.0,) * 36 + (0.0,) * 24, (0.0,) * 36 + (1.0,) * 24
    both = (fleets[0]._replace(purchase="owned", machines=before), fleets[0]._replace(machines=after))
    alone, found = run((needs, fleets[:1], where)), run((needs, both, where))
    assert found.power_kw is not None and alone.power_kw is not None
    assert found.power_kw.value == pytest.approx(alone.power_kw.value, rel=1e-3)
    assert found.rack_units == alone.rack_units


def test_peak_power_and_space_are_those_of_machines_storage_and_switches() -> None:
    found = run(clinic_at_home())
    (place,) = found.places
    bare = (10.2 + 2 * 1.1) * CATALOG.parameter("pue.average").value
    assert found.power_kw is not None and found.power_kw.value == place.power_kw.value > bare
    assert place.rack_units == found.rack_units
    assert found.rack_units is not None and found.rack_units > 8 + 2 * 2


def test_machines_at_plants_use_no_power_of_the_main_site() -> None:
    needs, fleets, where = manufacturer_in_both()
    found = run((needs, fleets, where))
    assert [place.where for place in found.places] == [house("FR")]
    without = run((needs, tuple(fleet for fleet in fleets if "downtime" not in fleet.workloads), where))
    assert found.power_kw is not None and without.power_kw is not None
    # Only the disks for the plants' metrics are added.
    assert found.power_kw.value == pytest.approx(without.power_kw.value, rel=1e-3)
    assert found.energy_kwh_per_month is not None and without.energy_kwh_per_month is not None
    assert found.energy_kwh_per_month.value > 1.01 * without.energy_kwh_per_month.value


# --- the network between machines


def test_a_full_tune_over_machines_needs_a_fabric_and_adapters_or_one_machine_need_none() -> None:
    needs, fleets, where = manufacturer_in_both()
    found = run((needs, fleets, where))
    assert lines(found, "network", "cluster switches") and lines(found, "network", "cluster optics")
    assert lines(found, "network", "cards") == [], "these machines have eight ports of 400G"
    lora = tuple(replace(one, method="lora") if one.kind == "finetune" else one for one in needs.workloads)
    assert lines(run((replace(needs, workloads=lora), fleets, where)), "network", "cluster") == []
    alone = own_fleet(needs, CATALOG, "8x-h100", ("house-model",), 1, where[0])
    assert lines(run((needs, (alone,), where[:1])), "network") == []


def test_only_the_machines_of_one_run_are_connected() -> None:
    needs, fleets, where = manufacturer_in_both()
    single, two, every = (
        run((needs, (fleets[0]._replace(widths=widths),), where[:1]))
        for widths in ({"house-model": 1}, {"house-model": 2}, {})
    )
    assert 0 < one(two, "network", "optics").sum < one(every, "network", "optics").sum
    assert lines(single, "network", "cluster") == []


def test_a_job_on_machines_with_a_slow_network_is_noted() -> None:
    needs, fleets, where = manufacturer_in_both()
    slow = fleets[0].machine._replace(network_bytes_per_s=12.5e9)
    owned = fleets[0]._replace(purchase="owned", machine=slow)
    assert any("has 100 Gbit/s" in note and "x 400" in note for note in run((needs, (owned,), where[:1])).notes)
    fast = run((needs, (owned._replace(machine=fleets[0].machine),), where[:1]))
    assert not any("Gbit/s" in note for note in fast.notes)


def test_machines_without_fast_ports_get_cards_and_several_machines_get_switches() -> None:
    for count in (1.0, 2.0):
        few = run_clinic(machines=(count,) * 60, peak=int(count))
        assert lines(few, "network") == [], "one or two machines use the switches of the building"
    assert one(run(clinic_at_home()), "network").line == "front-end switches, 2 in DE"
    needs = needs_of("manufacturer")
    slow = own_fleet(needs, CATALOG, "8x-l40s", ("house-model",), 4, house("FR"))
    assert one(run((needs, (slow,), (house("FR"),))), "network", "cards").sum % CATALOG.parameter("nic.400g").value == 0


# --- storage and traffic


def test_cloud_storage_recurs_and_on_premises_storage_is_bought_or_charged_monthly() -> None:
    data = one(run(startup_in_a_cloud()), "storage", "data tickets")
    assert not data.once and data.flow[-1] > data.flow[0]
    assert one(run(clinic_at_home()), "storage", "data images").once
    data = one(run(with_field(clinic_at_home(), "budget", capex=0.0)), "storage", "data images")
    assert not data.once and data.flow[0] > 0


def test_existing_components_store_their_data_without_a_price() -> None:
    kinds = ("lake", "monitoring", "registry")
    there = tuple(ExistingComponent(kind=kind, product="theirs") for kind in kinds)  # type: ignore[arg-type]
    services = tuple(row.item for row in CATALOG.cloud_services)
    stored = [term.line for term in lines(run(startup_in_a_cloud(existing=there)), "storage")]
    kept = [line for line in stored if not line.startswith(services)]
    assert all(line.startswith(("vector index", "checkpoints")) for line in kept) and kept


def test_responses_are_billed_beyond_the_free_volume() -> None:
    needs, fleets, where = startup_in_a_cloud()
    zones = one(run((needs, fleets, where)), "egress")
    assert "between zones" in zones.line, "the 60 GB a month of answers lie below the first 100"
    busy = tuple(
        replace(one, traffic=replace(one.traffic, requests_per_second=replace(rate, mean=40.0, peak=90.0)))
        if one.traffic is not None and (rate := one.traffic.requests_per_second) is not None
        else one
        for one in needs.workloads
    )
    assert one(run((replace(needs, workloads=busy), fleets, where)), "egress", "answers of support-chat").flow[0] > 0


def test_traffic_between_zones_needs_spares_work_and_a_price() -> None:
    needs, (fleet,), where = startup_in_a_cloud()
    modest = replace(needs, workloads=tuple(replace(one, slo=SLO()) for one in needs.workloads))
    free = Location("cloud", "azure", "eastus2", "US")
    for case in (
        (needs, (fleet._replace(peak=1),), where),
        (modest, (fleet,), where),
        (needs, (fleet._replace(where=free),), (free,)),
        (needs, (fleet._replace(machines=(0.0,) * needs.budget.horizon_months),), where),
    ):
        assert lines(run(case), "egress", "zones") == []


def test_backups_and_copies_are_at_another_place_where_the_data_are_used() -> None:
    found = run(manufacturer_in_both())
    assert "eu-north-1" in one(found, "storage", "backup of sensors").line
    copies = [term.line for term in lines(found, "storage", "copy")]
    assert copies == ["data manuals, copy: object storage in eu-north-1"]


def test_a_copy_in_another_region_follows_the_growth_of_its_data() -> None:
    needs, fleets, where = startup_in_a_cloud()
    west = next(o for o in CATALOG.offers if o.provider == "aws" and o.region != "us-east-1" and o.accelerator_count)
    second = rented_fleet(needs, CATALOG, ("support-chat",), Location("cloud", "aws", west.region, "US"))
    anywhere = replace(needs, data=tuple(replace(data, residency=("any",)) for data in needs.data))
    found = run((anywhere, (*fleets, second), where))
    copy, tuned = one(found, "egress", "data tickets, copy"), one(found, "egress", "model of tone")
    assert "between regions" in copy.line and copy.flow[0] > 10 * copy.flow[1] > 0
    assert tuned.flow[0] == tuned.flow[-1] > 0


def test_work_at_another_place_than_its_data_reads_them_over_the_network() -> None:
    needs, fleets, _ = startup_in_a_cloud()
    chat = fleets[0]._replace(workloads=("support-chat",))
    away = Location("cloud", "gcp", "us-central1", "US")
    tune = rented_fleet(needs, CATALOG, ("tone",), away)
    found = run((needs, (chat, tune), (CLOUD, away)))
    assert not any("tone reads" in term.line for term in found.terms), "300,000 tokens are below the free volume"
    traffic = needs.workloads[0].traffic
    assert traffic is not None
    etl = Workload(name="etl", kind="data-processing", data=("tickets",), traffic=replace(traffic, gib_per_day=100.0))
    busy = replace(needs, workloads=(*needs.workloads, etl))
    moved = run((busy, (chat, tune._replace(workloads=("etl",))), (CLOUD, away)))
    assert one(moved, "egress", "etl reads tickets").sum > 0


def test_files_of_an_embedding_model_are_stored_too() -> None:
    needs, fleets, where = startup_in_a_cloud()
    chosen = {"index": next(iter(CATALOG.embedders)), "support-chat": "no such model"}
    kept = list_stored_items(build_option_context(needs, CATALOG, PlanProvenance(), fleets, where, chosen))
    assert [one.kept.name for one in kept if "model files" in one.kept.name] == ["model files of index"]


def test_the_platforms_own_files_are_one_line_per_place_and_price() -> None:
    ledger = PlanProvenance()
    small = one(run(startup_in_a_cloud(), ledger), "storage", "model files, checkpoints, logs and audit")
    assert small.line.endswith("object storage in us-east-1")
    (driver,) = (driver for driver in small.drivers if driver.startswith("bytes"))
    band = ledger.driver_estimate(driver)
    assert band.low < band.value < band.high and band.unit == "bytes"


# --- the control plane's machine: more in test_control_plane.py


def test_hosted_models_need_a_machine_for_the_gateway_unless_nothing_may_be_rented() -> None:
    found = run(startup_by_the_token())
    host = one(found, "platform")
    assert "2 x" in host.line and host.sum > 0
    assert all("openai" not in term.line for term in lines(found, "storage"))
    ledger = PlanProvenance()
    assert lines(run(with_field(startup_by_the_token(), "placement", allow=("hosted-api",)), ledger), "platform") == []
    assert any("runs on an existing machine" in sentence for sentence in ledger.assumptions)


def test_without_a_known_machine_data_are_at_the_provider_at_another_providers_price() -> None:
    ledger = PlanProvenance()
    found = run(with_field(startup_by_the_token(), "placement", clouds=("runpod",)), ledger)
    assert lines(found, "platform") == lines(found, "egress") == [] and lines(found, "storage", "data tickets")
    assert any("is used" in sentence for sentence in ledger.assumptions)


# --- energy and carbon


def test_rented_machines_count_for_carbon_only_and_hosted_models_and_no_places_for_nothing() -> None:
    found = run(startup_in_a_cloud())
    assert lines(found, "energy") == [] and found.power_kw is None and found.rack_units is None
    assert found.carbon_kg_per_month is not None and found.carbon_kg_per_month.value > 0
    found = run(startup_by_the_token())
    assert found.energy_kwh_per_month is None and found.carbon_kg_per_month is None
    found = run((needs_of("startup"), (), ()))
    assert lines(found, "storage") == [] and lines(found, "platform") == []


# --- further regions


def test_a_region_beside_the_main_place_has_a_fixed_cost() -> None:
    """Beside an own site, every cloud region is a further one; the main region of a cloud is none."""
    words = [CATALOG.parts[name].item for name in ("region.network", "region.platform")]
    alone, (needs, fleets, where) = run(startup_in_a_cloud()), startup_in_a_cloud()
    there = fleets[0]._replace(where=CLOUD_EU)
    spread, both = run((needs, (*fleets, there), where)), run(manufacturer_in_both())
    for word in words:
        assert lines(alone, "platform", word) == lines(spread, "platform", word) == lines(both, "platform", word) == []
    # A region of a cloud pays what its cluster needs, in place of a flat sum.
    assert len(lines(alone, "platform", "EKS control plane")) == 1
    first, second = lines(spread, "platform", "EKS control plane")
    assert second.line.endswith(CLOUD_EU.region) and second.sum == first.sum
    assert len(lines(spread, "platform", "PostgreSQL")) == 1, "only the gateway has a database"
    assert lines(both, "platform", "control plane") and not lines(both, "platform", "PostgreSQL")
