"""Control plane: size, place and cost of its machines."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.catalog.load import load_catalog
from archwright.contract.needs import SLO, ExistingComponent, Needs, RequestRate, Workload
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.cost.control_plane import MAX_SHARED_CORES, list_platform_parts
from archwright.plan.cost.data_placement import OptionContext, build_option_context
from archwright.plan.cost.facility_costs import estimate_site_power
from archwright.plan.cost.operating_costs import OperatingCosts, estimate_energy_and_carbon
from archwright.plan.cost.staffing import list_staff
from archwright.plan.cost.storage_and_egress import list_stored_items

from ..fleet_samples import CLOUD, HERE, HOSTED, house, own_fleet, rented_fleet
from .test_operating_costs import Case, needs_of, run

CATALOG = load_catalog()
KINDS = ("gateway", "monitoring", "lake")


def at_home(needs: Needs) -> Case:
    return needs, (own_fleet(needs, CATALOG, "8x-h100", ("letters", "xray")),), (house(),)


def in_a_cloud(needs: Needs) -> Case:
    return needs, (rented_fleet(needs, CATALOG, ("support-chat",)),), (CLOUD,)


def case(made: Case) -> OptionContext:
    needs, fleets, where = made
    return build_option_context(needs, CATALOG, PlanProvenance(), fleets, where)


def each(needs: Needs, change: Callable[[Workload], Workload]) -> Needs:
    return replace(needs, workloads=tuple(change(workload) for workload in needs.workloads))


def times(needs: Needs, factor: float) -> Needs:
    def more(workload: Workload) -> Workload:
        traffic = workload.traffic
        if traffic is None or (rate := traffic.requests_per_second) is None:
            return workload
        rate = RequestRate(mean=rate.mean * factor, peak=rate.peak * factor)
        return replace(workload, traffic=replace(traffic, requests_per_second=rate))

    return each(needs, more)


def with_availability(needs: Needs, target: float | None) -> Needs:
    return each(needs, lambda workload: replace(workload, slo=SLO(availability=target)))


def having(needs: Needs, *kinds: str) -> Needs:
    there = tuple(ExistingComponent(kind=kind, product="theirs") for kind in kinds)  # type: ignore[arg-type]
    return replace(needs, existing=there)


def paid(found: OperatingCosts) -> float:
    """Sum the lines of the control plane's machines."""
    return sum(term.sum for term in found.terms if "host of " in term.line or "control-plane servers" in term.line)


# --- how many


def test_cores_are_those_of_requests_and_tokens_at_the_peak_and_idle_cores() -> None:
    needs = needs_of("startup")
    seat = case(in_a_cloud(needs)).seat
    assert seat is not None
    typical = {name: CATALOG.parts[name].typical for name in CATALOG.parts}
    chat = needs.workloads[0]
    assert chat.traffic is not None and chat.traffic.requests_per_second is not None
    assert chat.traffic.output_tokens is not None
    spent = typical["gateway.request"] + chat.traffic.output_tokens.mean * typical["gateway.token"]
    grown = 1.8 ** (23 / 12) * chat.traffic.requests_per_second.peak
    idle = sum(typical[f"platform.{part}"] for part in ("database", "monitoring", "catalogue"))
    wanted = idle + grown * (spent / typical["gateway.busy"] + typical["database.request"])
    assert seat.cores == pytest.approx(wanted)
    assert set(seat.counts) == {2}, "one is enough, one is spare"


def test_a_large_load_takes_more_of_them_as_it_grows() -> None:
    needs = times(needs_of("startup"), 2000.0)
    ledger = PlanProvenance()
    seat = build_option_context(needs, CATALOG, ledger, in_a_cloud(needs)[1], (CLOUD,)).seat
    assert seat is not None and seat.offer is not None
    assert seat.counts[0] < seat.counts[-1] and list(seat.counts) == sorted(seat.counts)
    assert (seat.counts[-1] - 5) * seat.offer.vcpu < seat.cores <= seat.counts[-1] * seat.offer.vcpu
    machines = ledger.driver_estimate(seat.machines)
    assert machines.low < machines.value < machines.high, "as uncertain as what a request takes"
    (line,) = [term for term in run(in_a_cloud(needs)).terms if term.line.startswith("host of")]
    assert line.line.startswith("host of gateway, monitoring, catalogue: "), "the database is a service of the cloud"
    assert line.flow[-1] > line.flow[0]


@pytest.mark.parametrize("made", [at_home, in_a_cloud])
@given(st.floats(0.01, 1e4), st.floats(1.0, 50.0))
@settings(max_examples=25)
def test_more_load_never_takes_less(made: Callable[[Needs], Case], first: float, factor: float) -> None:
    needs = needs_of("clinic" if made is at_home else "startup")
    for asked in (needs, with_availability(needs, None)):
        less, more = (paid(run(made(times(asked, by)))) for by in (first, first * factor))
        assert more >= less * (1 - 1e-9)


@pytest.mark.parametrize("made", [at_home, in_a_cloud])
def test_a_looser_prediction_never_takes_more(made: Callable[[Needs], Case]) -> None:
    needs = times(needs_of("clinic" if made is at_home else "startup"), 300.0)
    targets = (0.5, 0.9, 0.98, 0.99, 0.995, 0.999, 0.9999)
    costs = [paid(run(made(with_availability(needs, target)))) for target in targets]
    # The nodes of a cluster stand in three zones, which covers the spares.
    assert costs == sorted(costs) and (costs[0] < costs[-1] or made is in_a_cloud)


def test_workloads_at_sites_have_their_gateway_there() -> None:
    needs, home = needs_of("manufacturer"), house("FR")
    fleets = (own_fleet(needs, CATALOG, "8x-h100", ("assistant",), 2, home),)
    whole = case((needs, fleets, (home,))).seat
    without = replace(needs, workloads=tuple(one for one in needs.workloads if not one.sites), sites={})
    assert whole is not None and whole == case((without, fleets, (home,))).seat


# --- existing components


@pytest.mark.parametrize(
    ("kinds", "left"),
    [
        ((), ("gateway", "database", "monitoring", "catalogue")),
        (("gateway",), ("database", "monitoring", "catalogue")),
        (("monitoring", "registry"), ("gateway", "database", "catalogue")),
        (("gateway", "lake"), ("monitoring",)),
        (KINDS, ()),
    ],
)
def test_existing_components_are_kept_and_need_no_machine(kinds: tuple[str, ...], left: tuple[str, ...]) -> None:
    needs = having(needs_of("startup"), *kinds)
    assert list_platform_parts(needs) == left
    for made in (in_a_cloud(needs), (needs, (), (HOSTED,))):
        ledger = PlanProvenance()
        lines = [term.line for term in run(made, ledger).terms if "host of " in term.line]
        # A cluster has the database as a service.
        parts = tuple(part for part in left if made[2] == (HOSTED,) or part != "database")
        assert [line.startswith(f"host of {', '.join(parts)}: ") for line in lines] == ([True] if parts else [])
        assert not any("runs on an existing machine" in said for said in ledger.assumptions)
    assert paid(run(in_a_cloud(needs))) <= paid(run(in_a_cloud(needs_of("startup"))))


def test_gateway_catalogue_and_control_plane_need_requests_and_data() -> None:
    seat = case(in_a_cloud(having(needs_of("startup"), "gateway"))).seat
    assert seat is not None and set(seat.counts) == {1}, "only the gateway needs a spare"
    needs = each(replace(needs_of("startup"), data=()), lambda workload: replace(workload, data=()))
    assert "catalogue" not in list_platform_parts(needs)
    jobs = replace(needs, workloads=tuple(one for one in needs.workloads if one.name == "index"))
    assert case((jobs, in_a_cloud(needs)[1], (CLOUD,))).seat is None


# --- sharing


@pytest.mark.parametrize(("made", "name"), [(at_home, "clinic")])
def test_a_small_platform_without_spare_shares_a_machine_and_says_so(made: Callable[[Needs], Case], name: str) -> None:
    needs = times(with_availability(needs_of(name), None), 0.2)
    _, fleets, where = made(needs)
    roomy = tuple(fleet._replace(machine=fleet.machine._replace(cores=16)) for fleet in fleets)
    found = run((needs, roomy, where))
    assert paid(found) == 0 and any("share a machine that serves requests" in note for note in found.notes)
    seat = case((times(needs, 500.0), roomy, where)).seat
    assert seat is not None and not seat.is_shared and seat.cores > MAX_SHARED_CORES
    leaving = tuple(fleet._replace(machines=(1.0,) * 12 + (0.0,) * (len(fleet.machines) - 12)) for fleet in roomy)
    assert paid(run((needs, leaving, where))) > 0, "a machine that goes shares nothing afterwards"
    narrow = tuple(fleet._replace(machine=fleet.machine._replace(cores=4)) for fleet in fleets)
    assert paid(run((needs, narrow, where))) > 0


def test_it_does_not_run_on_workers_that_stop_and_costs_what_it_costs_beside_hosted_models() -> None:
    """A database on a worker that stops without requests would lose its keys."""
    needs = times(with_availability(needs_of("startup"), None), 0.2)
    worker = rented_fleet(needs, CATALOG, ("support-chat", "tone", "index"))
    place = Location("serverless", "runpod", "US-CA-2", "US")
    roomy = worker._replace(where=place, machine=worker.machine._replace(cores=16), offer=None, purchase="per-second")
    seat = case((needs, (roomy,), (place,))).seat
    assert seat is not None and not seat.is_shared and seat.offer is not None and seat.where.placement == "cloud"
    assert paid(run((needs, (roomy,), (place,)))) == pytest.approx(paid(run((needs, (), (HOSTED,)))))


# --- place


def test_its_machines_are_in_the_region_of_the_option(plan_of: Callable[..., Plan]) -> None:
    needs = needs_of("desk")
    fleet = own_fleet(needs, CATALOG, "cpu-2-socket", ("assistant",), 1, HERE)
    assert case((needs, (fleet,), (HERE,))).seat is None, "the local machine runs its own control plane"
    for option in plan_of("startup").options:
        hosts = [line.name for line in option.cost_lines if line.name.startswith("host of ")]
        assert len(hosts) == (1 if option.cost_lines else 0), option.name
        if option.placement == "cloud":
            assert any(hosts[0].endswith(f" in {region}") for region in option.regions), option.name


def test_where_the_region_sells_no_small_machine_the_nearest_does() -> None:
    needs, fleets, _ = in_a_cloud(needs_of("startup"))
    elsewhere = Location("cloud", "aws", "us-nowhere-1", "US")
    moved = tuple(fleet._replace(where=elsewhere) for fleet in fleets)
    seat = case((needs, moved, (elsewhere,))).seat
    assert seat is not None and seat.offer is not None
    assert seat.offer.provider == "aws" and seat.where.country == "US"
    nobody = Location("cloud", "nobody", "nowhere", "US")
    far = case((needs, (fleets[0]._replace(where=nobody),), (nobody,))).seat
    assert far is not None and far.offer is not None and far.where.country == "US"
    named = replace(needs, placement=replace(needs.placement, clouds=("runpod",)))
    assert case((named, (fleets[0]._replace(where=nobody),), (nobody,))).seat is None


def test_a_region_without_a_known_small_machine_has_one_at_its_price_level() -> None:
    """The price of the home region times the ratio of the machines that both regions sell, of low confidence."""
    needs, fleets, _ = in_a_cloud(needs_of("startup"))
    near = Location("cloud", "gcp", "us-east4", "US")
    by_id = {offer.id: offer for offer in CATALOG.offers}
    assert not any(one.region == "us-east4" and one.accelerator is None for one in by_id.values())
    seat = case((needs, (fleets[0]._replace(where=near),), (near,))).seat
    assert seat is not None and seat.offer is not None and seat.where == near
    assert (seat.offer.price_kind, seat.offer.confidence) == ("derived", "low") and "x" in seat.offer.source
    home = by_id[f"gcp:us-central1:{seat.offer.instance_type}"].on_demand_usd_per_hour
    paid, level = (
        seat.offer.on_demand_usd_per_hour,
        [by_id[f"gcp:{region}:g2-standard-4"].on_demand_usd_per_hour for region in ("us-east4", "us-central1")],
    )
    assert home and paid and level[0] and level[1]
    assert paid / home == pytest.approx(level[0] / level[1], rel=0.05)


# --- on-premises


def test_own_servers_cost_purchase_support_power_and_staff() -> None:
    needs = needs_of("clinic")
    found, here = run(at_home(needs)), case(at_home(needs))
    bare, kept = here._replace(seat=None), list_stored_items(here)
    lines = [term for term in found.terms if "small server" in term.line or "control-plane servers" in term.line]
    first = next(term for term in lines if term.once and term.flow[0] > 0)
    assert first.sum == pytest.approx(3 * CATALOG.parts["platform.server"].typical)
    assert {term.category for term in lines} == {"platform", "support", "energy", "residual"}
    draw = 3 * CATALOG.parts["platform.server-draw"].typical * CATALOG.parameter("pue.average").value
    (there,), (before,) = estimate_site_power(here, kept), estimate_site_power(bare, kept)
    assert there.power_kw.value - before.power_kw.value == pytest.approx(draw)
    assert there.rack_units - before.rack_units == 3
    energy = [estimate_energy_and_carbon(one, kept)[0] for one in (here, bare)]
    assert energy[0] is not None and energy[1] is not None
    assert energy[0].value - energy[1].value == pytest.approx(730 * draw)
    people = [sum(need.needed.value for need in list_staff(one)) for one in (here, bare)]
    assert people[0] > people[1]
    found = run(at_home(replace(needs, budget=replace(needs.budget, capex=0.0))))
    hosts = [term for term in found.terms if term.category == "platform"]
    assert len(hosts) == 1 and not hosts[0].once, "without capex the servers are charged monthly"
    assert hosts[0].flow[0] == pytest.approx(hosts[0].flow[-1])


def test_a_hosted_model_shares_no_machine_and_needs_no_spare_without_a_target() -> None:
    needs = with_availability(needs_of("startup"), None)
    (line,) = [term.line for term in run((needs, (), (HOSTED,))).terms if term.category == "platform"]
    assert "1 x" in line
