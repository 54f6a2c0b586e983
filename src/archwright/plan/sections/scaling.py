"""Scale: machines now and at the horizon, the range they move in, what a lost machine costs, and what breaks first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from archwright.contract.decision import Section, SectionLine
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.evidence import Query
from archwright.contract.needs import Workload
from archwright.contract.plan import Option, Pool, Purchase
from archwright.plan.accounting.fleet import ChosenOption, MachineFleet
from archwright.plan.capacity.availability import compute_availability, count_spares
from archwright.plan.cost.data_placement import REFRESH_SUFFIX
from archwright.plan.demand.forecast import HOURS_PER_MONTH, compute_monthly_growth
from archwright.plan.explain.formatting import describe_engines, format_estimate, format_number
from archwright.plan.sections.guidance import select_guidance
from archwright.plan.sections.plan_traits import serves_requests

ELASTIC_PURCHASES = frozenset({"on-demand", "spot", "per-second"})
IN_FLIGHT_WINDOW_S = 3600.0
ORDINALS = ("first", "second", "third", "fourth")


class Headroom(NamedTuple):
    """A limit and what the plan takes of it. `times`: how often the plan fits into it."""

    name: str
    taken: Estimate
    limit: float
    times: Estimate


def build_scaling_section(chosen: ChosenOption) -> Section:
    if chosen.option is None:
        lines: tuple[SectionLine, ...] = ()
        summary = "No option is feasible: there is nothing to scale before a limit is moved."
    else:
        tightest = compute_headrooms(chosen, chosen.option)
        machines, ranges = _list_machines(chosen, chosen.option), _list_autoscaling_ranges(chosen, chosen.option)
        lines = (*machines, *ranges, *_list_machine_losses(chosen), *_list_limit_lines(tightest))
        summary = "The needs state no limit that growth would meet: price decides how far this plan goes."
        if tightest:
            first, times = tightest[0].name, tightest[0].times.value
            summary = f"At {times:.2f} times this plan {first} is reached first, if it grows with the load."
    return Section(id="scale", title="Scale", summary=summary, lines=(*lines, *select_guidance(chosen, "scale")))


def _list_machines(chosen: ChosenOption, option: Option) -> Iterator[SectionLine]:
    answering = {one.name for one in chosen.needs.workloads if serves_requests(one)}
    for fleet in chosen.fleets:
        if answering & set(fleet.workloads):
            yield _build_steady_line(fleet, _find_pool(option, fleet))
        else:
            yield _build_batch_line(fleet)
    if not chosen.fleets:
        for pool in option.pools:
            yield SectionLine(
                topic=f"{', '.join(pool.workloads)}: machines",
                choice=f"{describe_engines(pool)} in {pool.region}",
                why=f"each serves {pool.slots} requests at once, {pool.context_tokens} tokens each",
                proof=_build_in_flight_query(pool),
            )


def _find_pool(option: Option, fleet: MachineFleet) -> Pool | None:
    """The pool of a fleet's place, for workloads that have one in each."""
    of_them = [pool for pool in option.pools if set(pool.workloads) & set(fleet.workloads)]
    here = (pool for pool in of_them if pool.region in (fleet.where.region, fleet.where.country))
    return next(here, of_them[0] if of_them else None)


def _build_steady_line(fleet: MachineFleet, pool: Pool | None) -> SectionLine:
    first, last = (format_number(fleet.machines[end]) for end in (0, -1))
    busy = f"{fleet.busy:.0%}" if fleet.busy >= 0.01 else "under 1%"
    proof = f"archwright explain plan.json {fleet.workloads[0]}" if pool is None else _build_in_flight_query(pool)
    slots = f"; {pool.replicas} engines in all, {pool.slots} requests at once each" if pool is not None else ""
    return SectionLine(
        topic=f"{', '.join(fleet.workloads)}: {fleet.purchase} machines in {fleet.where.region}",
        choice=f"{fleet.machine.id}: {first} on average at first, {last} in the last month, {fleet.peak} at most",
        why=f"the peak decides their number; they work {busy} of the time they run{slots}",
        proof=proof,
    )


def _build_batch_line(fleet: MachineFleet) -> SectionLine:
    first, last = (format_number(fleet.machines[end] * HOURS_PER_MONTH) for end in (0, -1))
    return SectionLine(
        topic=f"{', '.join(fleet.workloads)}: {fleet.purchase} machines in {fleet.where.region}",
        choice=f"{fleet.peak} x {fleet.machine.id} while it runs, {first} hours in the first month, {last} in the last",
        why="work with an end: machines are there for the run, as many as its deadline takes",
        proof=f"archwright explain plan.json {fleet.workloads[0]}",
    )


def _build_in_flight_query(pool: Pool) -> str:
    """How full a pool was: against slots x replicas."""
    query = Query(metric="in_flight", labels={"pool": pool.name}, statistic="max", window_s=IN_FLIGHT_WINDOW_S)
    return query.promql()


def _list_autoscaling_ranges(chosen: ChosenOption, option: Option) -> Iterator[SectionLine]:
    """What an autoscaler is set to: the machines that are had anyway, and the most at the peak."""
    batch = {one.name for one in chosen.needs.workloads if not serves_requests(one)}
    by_pool: dict[str, list[Purchase]] = defaultdict(list)
    for purchase in option.purchases:
        by_pool[purchase.pool].append(purchase)
    for pool, bought in by_pool.items():
        had = sum(purchase.peak for purchase in bought if purchase.kind not in ELASTIC_PURCHASES)
        low = had if pool in batch or pool.endswith(REFRESH_SUFFIX) else max(had, 1)
        high = sum(purchase.peak for purchase in bought)
        if low == high:
            continue
        ways = ", ".join(f"{format_number(p.machines)} {p.kind} on average, {p.peak} at peak" for p in bought)
        yield SectionLine(
            topic=f"{pool}: range",
            choice=f"{low} to {high} {'machine' if high == 1 else 'machines'}",
            why=f"{ways}; the provider's autoscaler keeps this range, this release starts no machines itself",
            alternative=f"{high} all the time",
            why_not="paid in every hour for the busiest one",
        )


def _list_machine_losses(chosen: ChosenOption) -> Iterator[SectionLine]:
    for workload in chosen.needs.workloads:
        mine = [fleet for fleet in chosen.fleets if workload.name in fleet.workloads]
        months = range(chosen.needs.budget.horizon_months)
        machines = round(max(sum(fleet.monthly_peaks[month] for fleet in mine) for month in months))
        if workload.slo.availability is not None and machines:
            yield _build_loss_line(chosen, workload, workload.slo.availability, machines)


def _build_loss_line(chosen: ChosenOption, workload: Workload, target: float, machines: int) -> SectionLine:
    """Machines at a site stand in for each other, those of another site do not."""
    sites = max(1, sum(chosen.needs.sites[name].count for name in workload.sites))
    peak = max(1, machines // sites)
    needed = max((n for n in range(1, peak + 1) if n + count_spares(n, target) <= peak), default=peak)
    spares = peak - needed
    at = f" at each of {sites} sites" if workload.sites else ""
    return SectionLine(
        topic=f"{workload.name}: a machine lost",
        choice=f"{needed} + {spares} machines{at}",
        why=(
            f"{target:.6g} of the time is asked for; "
            f"with {spares} spare the machines hold {compute_availability(needed, spares):.6g} "
            f"if they fail independently. With one of {peak} down {(peak - 1) / peak:.0%} of the machines go on"
            f"{_describe_overload(workload, peak / needed, chosen.needs.budget.horizon_months)}"
        ),
        proof=f"archwright explain plan.json {workload.name}",
        alternative="no spare",
        why_not=f"holds {compute_availability(needed, 0):.6g} of the time",
    )


def _describe_overload(workload: Workload, times: float, months: int) -> str:
    """The load at which limits break while every machine is up; machines are counted for the last month's peak."""
    if workload.rate is None:
        return ""
    last = workload.rate.peak * compute_monthly_growth(workload.traffic, months)[-1]
    return (
        f"; all up, they carry at least {format_number(last * times)} requests/s, {times:.2f} times the last month's "
        "peak: beyond it requests wait, then are refused"
    )


def compute_headrooms(chosen: ChosenOption, option: Option) -> list[Headroom]:
    """Every limit of the needs that the option comes near, the tightest first."""
    budget, site = chosen.needs.budget, chosen.needs.placement.site
    racks = exact_estimate(option.rack_units, "U") if option.rack_units is not None else None
    found: list[tuple[str, Estimate | None, float | None]] = [
        ("the budget for a month", option.cost_per_month, budget.per_month),
        ("the budget for purchases", option.capex, budget.capex),
        ("the power of the site", option.power_kw, site.power_kw if site is not None else None),
        ("the rack space", racks, site.rack_units if site is not None else None),
    ]
    measured = []
    for name, taken, limit in found:
        if taken is not None and limit is not None and taken.low > 0:
            measured.append(_compute_headroom(chosen, name, taken, limit))
    return sorted(measured, key=lambda one: one.times.value)


def _compute_headroom(chosen: ChosenOption, name: str, taken: Estimate, limit: float) -> Headroom:
    basis = chosen.ledger.create_basis(
        f"headroom.{name.removeprefix('the ').replace(' ', '-')}",
        "formula",
        f"how often this plan fits into {name}",
        formula=f"{limit:,.10g} / {taken.value:,.10g} {taken.unit}; holds if it grows in proportion to the load",
        facts=(taken.basis,) if taken.basis else (),
    )
    return Headroom(name, taken, limit, taken.divide_amount(limit, "times", basis))


def _list_limit_lines(tightest: list[Headroom]) -> Iterator[SectionLine]:
    for place, one in zip(ORDINALS, tightest, strict=False):
        risk = ", at risk: it lies inside the band" if one.times.low < 1 <= one.times.value else ""
        yield SectionLine(
            topic=f"What breaks {place}",
            choice=f"{one.name}: {format_estimate(one.taken)} of {format_number(one.limit)}{risk}",
            why=f"{format_number(one.times.value)} times this plan reaches it, if it grows in proportion to the load",
            proof="archwright explain plan.json",
            estimate=one.times,
        )
