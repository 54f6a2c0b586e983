"""What an option pays beside machines and tokens: the laws of its flows, and each part of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.catalog.load import load_catalog
from archwright.contract.needs import SLO, ExistingComponent, Needs, Workload
from archwright.contract.record import replace
from archwright.needs.reader import parse_needs
from archwright.needs.template import read_template
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import Location, MachineFleet
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.cost.data_placement import build_option_context
from archwright.plan.cost.operating_costs import OperatingCosts, estimate_operating_costs
from archwright.plan.cost.storage_and_egress import list_stored_items

from ..fleet_samples import CLOUD, CLOUD_EU, HERE, HOSTED, house, own_fleet, rented_fleet

CATALOG = load_catalog()
MODELS = {"letters": "Qwen3-32B", "assistant": "Llama-3.3-70B-Instruct", "support-chat": "Qwen3-8B"}
Case = tuple[Needs, tuple[MachineFleet, ...], tuple[Location, ...]]


def needs_of(name: str, **changes: Any) -> Needs:
    return replace(parse_needs(read_template(name).encode(), "needs.yaml", CATALOG)[0], **changes)


def clinic_at_home() -> Case:
    needs = needs_of("clinic")
    letters = own_fleet(needs, CATALOG, "8x-h100", ("letters",))
    return needs, (letters, own_fleet(needs, CATALOG, "2x-l4", ("xray",), 2)), (house(),)


def startup_in_a_cloud() -> Case:
    needs = needs_of("startup")
    return needs, (rented_fleet(needs, CATALOG, ("support-chat", "tone", "index"), count=2),), (CLOUD,)


def startup_by_the_token() -> Case:
    return needs_of("startup"), (), (HOSTED,)


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


CASES: tuple[Callable[[], Case], ...] = (
    clinic_at_home,
    startup_in_a_cloud,
    startup_by_the_token,
    manufacturer_in_both,
    desk_here,
)


def run(case: Case, ledger: PlanProvenance | None = None) -> OperatingCosts:
    needs, fleets, where = case
    return estimate_operating_costs(needs, CATALOG, ledger or PlanProvenance(), fleets, where, MODELS)


def spent(found: OperatingCosts) -> float:
    return sum(term.sum for term in found.terms)


def lines(found: OperatingCosts, category: str, words: str = "") -> list[CashFlow]:
    return [term for term in found.terms if term.category == category and words in term.line]


def one(found: OperatingCosts, category: str, words: str = "") -> CashFlow:
    (term,) = lines(found, category, words)
    return term


# --- laws


@pytest.mark.parametrize("case", CASES)
def test_every_flow_has_the_horizons_length_and_rests_on_facts_of_the_ledger(case: Callable[[], Case]) -> None:
    made, ledger = case(), PlanProvenance()
    for term in run(made, ledger).terms:
        assert len(term.flow) == made[0].budget.horizon_months
        assert all(ledger.driver_estimate(driver).value > 0 for driver in term.drivers), term.line
        assert term.drivers, term.line


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_received_but_what_hardware_is_worth_at_the_end(case: Callable[[], Case]) -> None:
    for term in run(case()).terms:
        assert term.sum != 0, term.line
        assert (term.category == "residual") == (min(term.flow) < 0), term.line
        if term.category == "residual":
            assert term.once and sum(term.flow[:-1]) == 0


@pytest.mark.parametrize("case", CASES)
def test_every_number_names_a_basis(case: Callable[[], Case]) -> None:
    ledger = PlanProvenance()
    found = run(case(), ledger)
    numbers = [found.power_kw, found.energy_kwh_per_month, found.carbon_kg_per_month]
    known = {basis.id for basis in ledger.collect_bases(*[number for number in numbers if number is not None])}
    assert all(number is None or number.basis in known for number in numbers)


@pytest.mark.parametrize("case", CASES)
def test_lines_of_an_option_have_names_of_their_own(case: Callable[[], Case]) -> None:
    names = [term.line for term in run(case()).terms]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("case", CASES[:4])
@given(st.data())
@settings(max_examples=12)
def test_more_data_or_longer_retention_never_costs_less(case: Callable[[], Case], data: st.DataObject) -> None:
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

    def costs(count: int) -> float:
        fleet = own_fleet(needs, CATALOG, "8x-h100", ("letters",), count)
        return spent(run((needs, (fleet,), (house(),))))

    assert costs(few + more) >= costs(few)


# --- this machine


def test_this_machine_costs_electricity_only() -> None:
    found = run(desk_here())
    assert {term.category for term in found.terms} == {"energy"}
    assert found.power_kw is not None and found.power_kw.value == pytest.approx(0.03)
    assert found.rack_units == 0


# --- people


def test_people_on_the_payroll_are_a_line_that_no_limit_counts() -> None:
    staff = one(run(clinic_at_home()), "staff")
    assert "on the payroll" in staff.line and not staff.budgeted and not staff.once


def test_people_beyond_those_there_are_to_be_hired_and_it_is_said() -> None:
    needs, fleets, where = clinic_at_home()
    few = replace(needs, organisation=replace(needs.organisation, platform_engineers=0.25))
    found = run((few, fleets, where))
    kept, new = lines(found, "staff")
    assert "to hire" in new.line and new.sum > kept.sum
    assert any("more platform engineers" in note for note in found.notes)


def test_who_does_not_say_how_many_there_are_gets_one_line() -> None:
    needs, fleets, where = clinic_at_home()
    silent = replace(needs, organisation=replace(needs.organisation, platform_engineers=None))
    assert one(run((silent, fleets, where)), "staff").line == "platform engineers"


def test_tokens_take_fewer_people_than_rented_machines_and_these_fewer_than_own_ones() -> None:
    needs = needs_of("startup")
    own = own_fleet(needs, CATALOG, "2x-l4", ("support-chat",), 2, house("US"))
    rented = rented_fleet(needs, CATALOG, ("support-chat",), count=2)
    costs = [
        sum(term.sum for term in lines(run((needs, fleets, where)), "staff"))
        for fleets, where in (((), (HOSTED,)), ((rented,), (CLOUD,)), ((own,), (house("US"),)))
    ]
    assert costs == sorted(costs) and costs[0] < costs[1] < costs[2]


def test_what_is_not_known_of_people_is_half_shared_and_half_the_floors_own() -> None:
    needs = needs_of("startup")
    rented = rented_fleet(needs, CATALOG, ("support-chat",), count=2)
    ledger = PlanProvenance()
    cloud, tokens = (
        {name for name in one(run((needs, fleets, where), ledger), "staff").drivers if name.startswith("staff.need")}
        for fleets, where in (((rented,), (CLOUD,)), ((), (HOSTED,)))
    )
    assert cloud & tokens == {"staff.need"} and len(cloud) == len(tokens) == 2
    floor = CATALOG.parameter("staff.own")
    both = [ledger.driver_estimate(name) for name in cloud]
    assert sum(math.log(each.high) ** 2 for each in both) == pytest.approx(math.log(floor.high / floor.value) ** 2)


def test_a_country_without_a_rate_gets_a_middle_with_a_wide_band() -> None:
    needs, fleets, where = startup_by_the_token()
    elsewhere = replace(needs, organisation=replace(needs.organisation, country="BR"))
    ledger = PlanProvenance()
    (rate,) = (d for d in one(run((elsewhere, fleets, where), ledger), "staff").drivers if d.startswith("staff.br"))
    low, high = CATALOG.parameter("staff.europe"), CATALOG.parameter("staff.us")
    band = ledger.driver_estimate(rate)
    assert low.value < band.value < high.value and band.low < low.low and band.high == high.high


# --- the house


def test_a_site_of_ones_own_pays_no_rent_and_its_own_price_of_electricity() -> None:
    ledger = PlanProvenance()
    found = run(clinic_at_home(), ledger)
    assert lines(found, "facility") == []
    assert ledger.driver_estimate("electricity.de").value == 0.24
    assert "part.pue.average" in one(found, "energy", "letters").drivers


def test_without_a_site_machines_stand_in_rented_space() -> None:
    needs, fleets, where = clinic_at_home()
    bare = replace(needs, placement=replace(needs.placement, site=None))
    found = run((bare, fleets, where))
    rent = one(found, "facility")
    pue = CATALOG.parameter("pue.modern").value
    assert found.power_kw is not None
    assert rent.flow[0] == pytest.approx(found.power_kw.value / pue * CATALOG.parameter("colo.kw-month").value)
    assert "part.pue.modern" in one(found, "energy", "letters").drivers


def test_bought_machines_are_renewed_after_their_life_and_sold_at_the_end() -> None:
    found, node = run(clinic_at_home()), CATALOG.nodes["8x-h100"]
    renewal, sold = one(found, "refresh", "8x-h100"), one(found, "residual", "8x-h100")
    assert renewal.flow[48] == node.price_usd and sum(map(bool, renewal.flow)) == 1
    assert sold.flow[-1] == pytest.approx(-node.price_usd * CATALOG.parameter("residual").value ** (12 / 48))


def test_the_purchase_itself_is_stated_elsewhere() -> None:
    assert lines(run(clinic_at_home()), "purchase") == []


def test_support_and_spare_parts_of_bought_machines() -> None:
    found, node = run(clinic_at_home()), CATALOG.nodes["8x-h100"]
    support, parts = one(found, "support", "support of 8x-h100"), one(found, "support", "spare parts of 8x-h100")
    assert support.flow[0] == pytest.approx(node.price_usd * CATALOG.parameter("support").value / 12)
    assert parts.once and parts.sum == pytest.approx(node.price_usd * CATALOG.parameter("spares").value)


def test_machines_that_come_later_are_supported_and_renewed_later() -> None:
    needs, fleets, where = clinic_at_home()
    growing = fleets[0]._replace(machines=(1.0,) * 12 + (2.0,) * 48, peak=2)
    found = run((needs, (growing,), where))
    support = one(found, "support", "support of 8x-h100")
    assert support.flow[12] == pytest.approx(2 * support.flow[11])
    assert [month for month, usd in enumerate(one(found, "refresh", "8x-h100").flow) if usd] == [48]


def test_owned_machines_are_neither_bought_nor_renewed_and_need_no_spare_parts() -> None:
    needs, fleets, where = clinic_at_home()
    gone = fleets[0]._replace(purchase="owned", machines=(1.0,) * 36 + (0.0,) * 24)
    found = run((needs, (gone,), where))
    assert lines(found, "refresh", "8x-h100") == [] and lines(found, "support", "spare parts") == []
    support, power = one(found, "support", "support of 8x-h100").flow, one(found, "energy", "8x-h100").flow
    assert support[35] > 0 and support[36] == 0 and power[35] > 0 and power[36] == 0


def test_what_follows_a_machine_stands_where_it_stood() -> None:
    """The busiest month counts for power and room, not the sum of machines that are never there together."""
    needs, fleets, where = clinic_at_home()
    before, after = (1.0,) * 36 + (0.0,) * 24, (0.0,) * 36 + (1.0,) * 24
    both = (fleets[0]._replace(purchase="owned", machines=before), fleets[0]._replace(machines=after))
    alone, found = run((needs, fleets[:1], where)), run((needs, both, where))
    assert found.power_kw is not None and alone.power_kw is not None
    assert (
        found.power_kw.value == pytest.approx(alone.power_kw.value, rel=1e-3) and found.rack_units == alone.rack_units
    )


def test_owned_machines_that_outlive_the_horizon_bring_nothing_back() -> None:
    needs, fleets, where = clinic_at_home()
    short = replace(needs, budget=replace(needs.budget, horizon_months=24))
    new = fleets[0]._replace(purchase="owned", machines=(1.0,) * 24)
    found = run((short, (new,), where))
    assert lines(found, "refresh") == [] and lines(found, "residual", "8x-h100") == []


def test_an_owned_machine_without_a_row_costs_electricity() -> None:
    needs, fleets, where = clinic_at_home()
    unknown = fleets[0]._replace(purchase="owned", node=None)
    found = run((needs, (unknown,), where))
    assert lines(found, "support", "letters") == []
    assert one(found, "energy", "letters").sum > 0


def test_peak_power_and_room_are_those_of_machines_storage_and_switches() -> None:
    found = run(clinic_at_home())
    (place,) = found.places
    bare = (10.2 + 2 * 1.1) * CATALOG.parameter("pue.average").value
    assert found.power_kw is not None and found.power_kw.value == place.power_kw.value > bare
    assert place.rack_units == found.rack_units
    assert found.rack_units is not None and found.rack_units > 8 + 2 * 2


def test_what_stands_at_plants_draws_nothing_from_the_site() -> None:
    needs, fleets, where = manufacturer_in_both()
    found = run((needs, fleets, where))
    (place,) = found.places
    assert place.where == house("FR")
    without = run((needs, tuple(fleet for fleet in fleets if "downtime" not in fleet.workloads), where))
    assert found.power_kw is not None and without.power_kw is not None
    # Only what the plants' metrics take on disk is added.
    assert found.power_kw.value == pytest.approx(without.power_kw.value, rel=1e-3)
    assert found.energy_kwh_per_month is not None and without.energy_kwh_per_month is not None
    assert found.energy_kwh_per_month.value > 1.01 * without.energy_kwh_per_month.value


# --- the network


def test_a_full_tune_over_machines_takes_a_fabric() -> None:
    found = run(manufacturer_in_both())
    assert lines(found, "network", "cluster switches") and lines(found, "network", "cluster optics")
    assert lines(found, "network", "cards") == [], "these machines have eight ports of 400G"


def test_only_the_machines_a_run_takes_at_once_are_joined() -> None:
    needs, fleets, where = manufacturer_in_both()
    two = fleets[0]._replace(widths={"house-model": 2})
    found, all_of_them = run((needs, (two,), where[:1])), run((needs, fleets[:1], where[:1]))
    assert 0 < one(found, "network", "optics").sum < one(all_of_them, "network", "optics").sum
    alone = fleets[0]._replace(widths={"house-model": 1})
    assert lines(run((needs, (alone,), where[:1])), "network", "cluster") == []


def test_a_job_on_machines_with_a_slow_network_is_noted() -> None:
    needs, fleets, where = manufacturer_in_both()
    slow = fleets[0].machine._replace(network_bytes_per_s=12.5e9)
    owned = fleets[0]._replace(purchase="owned", machine=slow)
    notes = run((needs, (owned,), where[:1])).notes
    assert any("has 100 Gbit/s" in note and "x 400" in note for note in notes)
    assert run((needs, (owned._replace(machine=fleets[0].machine),), where[:1])).notes == ()


def test_a_tune_by_adapters_takes_none() -> None:
    needs, fleets, where = manufacturer_in_both()
    lora = tuple(replace(one, method="lora") if one.kind == "finetune" else one for one in needs.workloads)
    assert lines(run((replace(needs, workloads=lora), fleets, where)), "network", "cluster") == []


def test_machines_without_fast_ports_get_cards() -> None:
    needs = needs_of("manufacturer")
    slow = own_fleet(needs, CATALOG, "8x-l40s", ("house-model",), 4, house("FR"))
    found = run((needs, (slow,), (house("FR"),)))
    cards = next(term for term in lines(found, "network", "cards") if term.category == "network")
    assert cards.sum % CATALOG.parameter("nic.400g").value == 0


def test_a_tune_on_one_machine_needs_no_network_between() -> None:
    needs, _, where = manufacturer_in_both()
    alone = own_fleet(needs, CATALOG, "8x-h100", ("house-model",), 1, where[0])
    assert lines(run((needs, (alone,), where[:1])), "network") == []


def test_a_single_machine_uses_the_buildings_switches() -> None:
    needs, fleets, where = clinic_at_home()
    assert lines(run((needs, fleets[:1], where)), "network") == []
    assert one(run(clinic_at_home()), "network").line == "front-end switches, 2 in DE"


# --- bytes


def test_a_cloud_is_paid_for_bytes_and_a_house_buys_disks() -> None:
    rented, bought = run(startup_in_a_cloud()), run(clinic_at_home())
    data = one(rented, "storage", "data tickets")
    assert not data.once and data.flow[-1] > data.flow[0]
    assert one(bought, "storage", "data images").once


def test_where_nothing_may_be_bought_the_house_charges_for_storage() -> None:
    needs, fleets, where = clinic_at_home()
    poor = replace(needs, budget=replace(needs.budget, capex=0.0))
    data = one(run((poor, fleets, where)), "storage", "data images")
    assert not data.once and data.flow[0] > 0


def test_what_is_there_already_is_not_priced() -> None:
    needs, fleets, where = startup_in_a_cloud()
    kinds = ("lake", "monitoring", "registry")
    there = tuple(ExistingComponent(kind=kind, product="theirs") for kind in kinds)  # type: ignore[arg-type]
    kept = [term.line for term in lines(run((replace(needs, existing=there), fleets, where)), "storage")]
    assert all(line.startswith(("vector index", "checkpoints")) for line in kept) and kept


def test_answers_of_a_cloud_are_billed_beyond_what_is_free() -> None:
    needs, fleets, where = startup_in_a_cloud()
    zones = one(run((needs, fleets, where)), "egress")
    assert "between zones" in zones.line, "the 60 GB a month of answers lie below the first 100"
    busy = tuple(
        replace(one, traffic=replace(one.traffic, requests_per_second=replace(rate, mean=40.0, peak=90.0)))
        if one.traffic is not None and (rate := one.traffic.requests_per_second) is not None
        else one
        for one in needs.workloads
    )
    found = one(run((replace(needs, workloads=busy), fleets, where)), "egress", "answers of support-chat")
    assert found.flow[0] > 0


def test_traffic_between_zones_is_paid_where_spares_stand_and_a_price_is_known() -> None:
    needs, fleets, where = startup_in_a_cloud()
    alone = fleets[0]._replace(peak=1)
    assert lines(run((needs, (alone,), where)), "egress") == []
    modest = tuple(replace(one, slo=SLO()) for one in needs.workloads)
    assert lines(run((replace(needs, workloads=modest), fleets, where)), "egress") == []
    free = Location("cloud", "azure", "eastus2", "US")
    assert lines(run((needs, (fleets[0]._replace(where=free),), (free,))), "egress", "zones") == []
    idle = fleets[0]._replace(machines=(0.0,) * needs.budget.horizon_months)
    assert lines(run((needs, (idle,), where)), "egress", "zones") == []


def test_a_backup_lies_at_another_place_where_there_is_one() -> None:
    found = run(manufacturer_in_both())
    assert "eu-north-1" in one(found, "storage", "backup of sensors").line


def test_data_are_copied_where_they_are_answered_from_and_only_there() -> None:
    copies = lines(run(manufacturer_in_both()), "storage", "copy")
    assert [term.line for term in copies] == ["data manuals, copy: object storage in eu-north-1"]


def test_a_copy_in_another_region_follows_what_comes_in() -> None:
    needs, fleets, where = startup_in_a_cloud()
    west = next(o for o in CATALOG.offers if o.provider == "aws" and o.region != "us-east-1" and o.accelerator_count)
    other = Location("cloud", "aws", west.region, "US")
    second = rented_fleet(needs, CATALOG, ("support-chat",), other)
    anywhere = replace(needs, data=tuple(replace(data, residency=("any",)) for data in needs.data))
    found = run((anywhere, (*fleets, second), where))
    copy = one(found, "egress", "data tickets, copy")
    assert "between regions" in copy.line and copy.flow[0] > 10 * copy.flow[1] > 0
    tuned = one(found, "egress", "model of tone")
    assert tuned.flow[0] == tuned.flow[-1] > 0


def test_work_away_from_its_data_reads_them_over_the_network() -> None:
    needs, fleets, _ = startup_in_a_cloud()
    chat = fleets[0]._replace(workloads=("support-chat",))
    away = Location("cloud", "gcp", "us-central1", "US")
    tune = rented_fleet(needs, CATALOG, ("tone",), away)
    found = run((needs, (chat, tune), (CLOUD, away)))
    amounts = [term.line for term in found.terms if "reads" in term.line]
    assert amounts == [], "three hundred thousand tokens stay below what is free"
    etl = Workload(name="etl", kind="data-processing", data=("tickets",), traffic=needs.workloads[0].traffic)
    assert etl.traffic is not None
    daily = replace(etl, traffic=replace(etl.traffic, gib_per_day=100.0))
    busy = replace(needs, workloads=(*needs.workloads, daily))
    moved = run((busy, (chat, tune._replace(workloads=("etl",))), (CLOUD, away)))
    assert one(moved, "egress", "etl reads tickets").sum > 0


def test_an_embedding_models_files_are_kept_too() -> None:
    needs, fleets, where = startup_in_a_cloud()
    name = next(iter(CATALOG.embedders))
    chosen = {"index": name, "support-chat": "no such model"}
    kept = list_stored_items(build_option_context(needs, CATALOG, PlanProvenance(), fleets, where, chosen))
    assert [one.kept.name for one in kept if "model files" in one.kept.name] == ["model files of index"]


def test_the_platforms_own_files_are_one_line_a_place_and_price() -> None:
    ledger = PlanProvenance()
    small = one(run(startup_in_a_cloud(), ledger), "storage", "model files, checkpoints, logs and audit")
    assert small.line.endswith("object storage in us-east-1")
    (driver,) = (driver for driver in small.drivers if driver.startswith("bytes"))
    band = ledger.driver_estimate(driver)
    assert band.low < band.value < band.high and band.unit == "bytes"


def test_machines_for_jobs_alone_take_fewer_people_than_those_that_answer() -> None:
    needs, fleets, _ = startup_in_a_cloud()
    jobs = fleets[0]._replace(workloads=("tone", "index"))
    answers = one(run((needs, fleets, (CLOUD,))), "staff")
    both = one(run((needs, (jobs,), (HOSTED, CLOUD))), "staff")
    assert both.sum < answers.sum


# --- the platform's own host: more in test_control_plane.py


def test_answers_by_the_token_need_a_host_for_the_gateway() -> None:
    found = run(startup_by_the_token())
    host = one(found, "platform")
    assert "2 x" in host.line and host.sum > 0
    assert all("openai" not in term.line for term in lines(found, "storage"))


def test_who_may_rent_nothing_runs_the_gateway_on_what_there_is() -> None:
    needs, fleets, where = startup_by_the_token()
    ledger = PlanProvenance()
    bound = replace(needs, placement=replace(needs.placement, allow=("hosted-api",)))
    assert lines(run((bound, fleets, where), ledger), "platform") == []
    assert any("runs on an existing machine" in sentence for sentence in ledger.assumptions)


def test_where_no_host_is_known_data_lie_with_the_provider_at_another_ones_price() -> None:
    needs, fleets, where = startup_by_the_token()
    nowhere = replace(needs, placement=replace(needs.placement, clouds=("runpod",)))
    ledger = PlanProvenance()
    found = run((nowhere, fleets, where), ledger)
    assert lines(found, "platform") == []
    assert any("the price of" in sentence for sentence in ledger.assumptions)
    assert lines(found, "storage", "data tickets") and lines(found, "egress") == []


# --- energy and carbon


def test_rented_machines_count_for_carbon_and_cost_no_electricity() -> None:
    found = run(startup_in_a_cloud())
    assert lines(found, "energy") == [] and found.power_kw is None and found.rack_units is None
    assert found.carbon_kg_per_month is not None and found.carbon_kg_per_month.value > 0


def test_tokens_say_nothing_of_their_energy() -> None:
    found = run(startup_by_the_token())
    assert found.energy_kwh_per_month is None and found.carbon_kg_per_month is None


def test_without_places_there_is_nothing_to_run() -> None:
    found = run((needs_of("startup"), (), ()))
    assert lines(found, "storage") == [] and lines(found, "platform") == []
