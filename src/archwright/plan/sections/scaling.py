"""Scale section: machines over time, their range, the loss of one machine, and which limit is reached first."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from archwright.contract.decision import Section, SectionLine
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.needs import Workload
from archwright.contract.number_format import format_estimate, format_exact, format_number, format_share
from archwright.contract.plan import Option, Purchase
from archwright.plan.accounting.fleet import ChosenOption, MachineFleet
from archwright.plan.capacity.availability import compute_availability, count_spares
from archwright.plan.cost.data_placement import REFRESH_SUFFIX
from archwright.plan.demand.forecast import HOURS_PER_MONTH, compute_monthly_growth
from archwright.plan.explain.formatting import describe_engines
from archwright.plan.sections.guidance import fill_line, select_guidance, write_proof
from archwright.plan.sections.plan_traits import serves_requests

ELASTIC_PURCHASES = frozenset({"on-demand", "spot", "per-second"})
ORDINALS = ("First", "Second", "Third", "Fourth")


class Headroom(NamedTuple):
    """A limit of the needs. `taken`: what the plan uses of it; `times`: how often the plan fits into it."""

    name: str
    taken: Estimate
    limit: float
    times: Estimate


def build_scaling_section(chosen: ChosenOption) -> Section:
    if chosen.option is None:
        lines: tuple[SectionLine, ...] = ()
        summary = "No option is feasible, so there is nothing to scale. Relax a limit first."
    else:
        tightest = compute_headrooms(chosen, chosen.option)
        machines, ranges = _list_machines(chosen, chosen.option), _list_autoscaling_ranges(chosen, chosen.option)
        lines = (*machines, *ranges, *_list_machine_losses(chosen), *_list_limit_lines(tightest))
        summary = "The needs state no limit that growth would reach. Only the price limits the growth of this plan."
        if tightest:
            first, times = tightest[0].name, tightest[0].times.value
            summary = f"At {format_number(times)} times this plan, {first} is reached first, if it grows with the load."
    return Section(id="scale", title="Scale", summary=summary, lines=(*lines, *select_guidance(chosen, "scale")))


def _list_machines(chosen: ChosenOption, option: Option) -> Iterator[SectionLine]:
    answering = {one.name for one in chosen.needs.workloads if serves_requests(one)}
    for fleet in chosen.fleets:
        if answering & set(fleet.workloads):
            yield _build_steady_line(fleet, option)
        else:
            proof = f"archwright explain plan.json {fleet.workloads[0]}"
            yield fill_line("scale.batch", _list_fleet_values(fleet, HOURS_PER_MONTH), proof=proof)
    for pool in option.pools if not chosen.fleets else ():
        values = {"workloads": ", ".join(pool.workloads), "engines": describe_engines(pool), "region": pool.region}
        values |= {"slots": str(pool.slots), "context": str(pool.context_tokens)}
        yield fill_line("scale.pool", values, proof=write_proof("in_flight", "max", pool=pool.name))


def _list_fleet_values(fleet: MachineFleet, factor: float) -> dict[str, object]:
    first, last = (format_number(fleet.machines[end] * factor) for end in (0, -1))
    names = {"workloads": ", ".join(fleet.workloads), "purchase": fleet.purchase, "region": fleet.where.region}
    return {**names, "machine": fleet.machine.id, "first": first, "last": last, "peak": fleet.peak}


def _build_steady_line(fleet: MachineFleet, option: Option) -> SectionLine:
    busy = format_share(fleet.busy)
    slots, proof = "", f"archwright explain plan.json {fleet.workloads[0]}"
    pools = [pool for pool in option.pools if set(pool.workloads) & set(fleet.workloads)]
    # A workload may have a pool at each of its places.
    here = [pool for pool in pools if pool.region in (fleet.where.region, fleet.where.country)]
    for pool in (here or pools)[:1]:
        slots = f"; {pool.replicas} engines in total, {pool.slots} requests at once each"
        proof = write_proof("in_flight", "max", pool=pool.name)
    return fill_line("scale.steady", {**_list_fleet_values(fleet, 1.0), "busy": busy, "slots": slots}, proof=proof)


def _list_autoscaling_ranges(chosen: ChosenOption, option: Option) -> Iterator[SectionLine]:
    """Limits for an autoscaler: from the machines that are always there to the most at the peak."""
    batch = {one.name for one in chosen.needs.workloads if not serves_requests(one)}
    by_pool: dict[str, list[Purchase]] = defaultdict(list)
    for purchase in option.purchases:
        by_pool[purchase.pool].append(purchase)
    for pool, bought in by_pool.items():
        fixed = sum(purchase.peak for purchase in bought if purchase.kind not in ELASTIC_PURCHASES)
        low = fixed if pool in batch or pool.endswith(REFRESH_SUFFIX) else max(fixed, 1)
        high = sum(purchase.peak for purchase in bought)
        if low != high:
            kinds = ", ".join(f"{format_number(p.machines)} {p.kind} on average, {p.peak} at peak" for p in bought)
            values = {"pool": pool, "low": low, "high": high, "bought": kinds}
            yield fill_line("scale.range", {**values, "noun": "machine" if high == 1 else "machines"})


def _list_machine_losses(chosen: ChosenOption) -> Iterator[SectionLine]:
    for workload in chosen.needs.workloads:
        fleets = [fleet for fleet in chosen.fleets if workload.name in fleet.workloads]
        months = range(chosen.needs.budget.horizon_months)
        machines = round(max(sum(fleet.monthly_peaks[month] for fleet in fleets) for month in months))
        if workload.slo.availability is not None and machines:
            yield _build_loss_line(chosen, workload, workload.slo.availability, machines)


def _build_loss_line(chosen: ChosenOption, workload: Workload, target: float, machines: int) -> SectionLine:
    """Machines of one site replace each other; machines of other sites do not."""
    sites = max(1, sum(chosen.needs.sites[name].count for name in workload.sites))
    peak = max(1, machines // sites)
    needed = max((n for n in range(1, peak + 1) if n + count_spares(n, target) <= peak), default=peak)
    overload = ""
    if workload.rate is not None:
        # Machines are counted for the last month's peak.
        last = workload.rate.peak * compute_monthly_growth(workload.traffic, chosen.needs.budget.horizon_months)[-1]
        carried = (
            f"at least {format_number(last * peak / needed)} requests/s, {format_number(peak / needed)} times the last"
        )
        overload = f"; all up, they carry {carried} month's peak. Beyond that load, requests wait and are then refused"
    values = {
        "workload": workload.name,
        "needed": needed,
        "spares": peak - needed,
        "sites": f" at each of {sites} sites" if workload.sites else "",
        "target": target,
        "held": compute_availability(needed, peak - needed),
        "peak": peak,
        "left": (peak - 1) / peak,
        "overload": overload,
        "bare": compute_availability(needed, 0),
    }
    return fill_line("scale.loss", values, proof=f"archwright explain plan.json {workload.name}")


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
    headrooms = []
    for name, taken, limit in found:
        if taken is not None and limit is not None and taken.low > 0:
            basis = chosen.ledger.create_basis(
                f"headroom.{name.removeprefix('the ').replace(' ', '-')}",
                "formula",
                f"how often this plan fits into {name}",
                formula=(
                    f"{format_exact(limit)} / {format_exact(taken.value)} {taken.unit}; valid for growth in proportion "
                    "to the load"
                ),
                facts=(taken.basis,) if taken.basis else (),
            )
            headrooms.append(Headroom(name, taken, limit, taken.divide_amount(limit, "times", basis)))
    return sorted(headrooms, key=lambda one: one.times.value)


def _list_limit_lines(tightest: list[Headroom]) -> Iterator[SectionLine]:
    for place, one in zip(ORDINALS, tightest, strict=False):
        chance = format_share(one.taken.chance_below(one.limit))
        values = {
            "place": place,
            "name": one.name,
            "taken": format_estimate(one.taken),
            "limit": format_number(one.limit),
            "risk": f", which holds with {chance}" if one.times.low < 1 else "",
            "times": format_number(one.times.value),
        }
        yield fill_line("scale.limit", values, estimate=one.times)
