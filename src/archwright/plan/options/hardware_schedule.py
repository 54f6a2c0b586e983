"""Schedule of on-site machines: converts the integer program's solution to purchases, fleets and pools.

The solution states the machines of each year. For a shared load, a machine type serves what the other types leave; the
number of bought machines is as uncertain as the whole load.
"""

import itertools
import math
from collections.abc import Callable

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import ServerSpec
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.job_window import JobWindow
from archwright.contract.needs import Site
from archwright.contract.number_format import format_share
from archwright.contract.record import replace
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import MachineFleet
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import RedundancyRequirement
from archwright.plan.capacity.machine_count import ROUNDING, count_job_machines, count_machines
from archwright.plan.capacity.night_window import select_night_share
from archwright.plan.cost.prices import node_price
from archwright.plan.demand.forecast import (
    HOURS_PER_DAY,
    HOURS_PER_MONTH,
    MONTHS_PER_YEAR,
    Demand,
    split_into_years,
)
from archwright.plan.options import owned_hardware as owned
from archwright.plan.options.option_builder import (
    MIN_THROUGHPUT_SHARE,
    BusiestYear,
    OptionPart,
    PoolWriter,
    compute_busy_machines,
    join_parts,
    list_purchases,
)
from archwright.plan.options.owned_hardware import Assignments, HardwareStock, TaskAssignment
from archwright.sizing.hardware.machine import BatchWork, SteadyCapacity

ThroughputBound = Callable[[Estimate], float]
# A stock, and its machines month by month.
StockCounts = tuple[HardwareStock, tuple[int, ...]]


class HardwareScheduler:
    def __init__(self, catalog: Catalog, ledger: PlanProvenance, writer: PoolWriter) -> None:
        self._catalog, self._ledger, self._writer = catalog, ledger, writer

    def at_site(self, site: Site) -> "HardwareScheduler":
        """Return the scheduler of another site, whose tier counts for availability."""
        writer = PoolWriter(self._catalog, self._ledger, site)
        return HardwareScheduler(self._catalog, self._ledger, writer)

    def write_part(self, stocks: tuple[StockCounts, ...], assignments: Assignments, place: str) -> OptionPart:
        """Write all machine types. `place` distinguishes the facts of options and sites."""
        parts = []
        for machine in dict.fromkeys(stock.kind.machine for stock, _ in stocks):
            used = tuple(each for each in assignments if each.choice.machine == machine)
            present = [(stock, counts) for stock, counts in stocks if stock.kind.machine == machine and any(counts)]
            if used and present:
                parts.append(self._write_type(present, used, assignments, place))
        return join_parts(parts)

    def _write_type(
        self, stocks: list[StockCounts], used: Assignments, assignments: Assignments, place: str
    ) -> OptionPart:
        """Write one machine type; `assignments`: those of all types, which may share a load with `used`."""
        whole = tuple(map(sum, zip(*(counts for _, counts in stocks), strict=True)))
        parts, fleets = [], [_build_fleet(stock, used, counts, whole) for stock, counts in stocks]
        for (stock, counts), fleet in zip(stocks, fleets, strict=True):
            present = whole[-1] - counts[-1]
            terms = self._price_purchase(stock, used, counts, (place, present)) if stock.purchase == "bought" else ()
            parts.append(OptionPart(terms=terms, fleets=(fleet,)))
        windows = _schedule_nights(used, whole, stocks[0][0].host.machine.accelerator_count)
        parts.append(OptionPart(windows=windows, notes=tuple(one.summary for one in windows)))
        pools = dict.fromkeys(each.pool for each in used)
        # One workload's pool lists the spares; if any machine fails, they replace it.
        first = max(used, key=lambda each: max(each.choice.peak, default=0.0))
        spares = max(max(each.choice.spares, default=0) for each in used)
        for each in used:
            sharing = tuple(one for one in assignments if one.part is not None and one.task.name == each.task.name)
            others = tuple(pool for pool in pools if pool != each.pool)
            part = self._write_assignment(stocks[0][0], each, (spares, spares if each is first else 0), sharing)
            parts.append(part._replace(purchases=list_purchases(fleets, each.pool, others)))
        return join_parts(parts)

    def _write_assignment(
        self, stock: HardwareStock, assigned: TaskAssignment, spares: tuple[int, int], sharing: Assignments
    ) -> OptionPart:
        """`spares`: of the type, and those listed in this pool; `sharing`: all assignments that share the load."""
        task, steady, demand = assigned.task, assigned.steady, assigned.task.demand
        if steady is None or demand is None:
            job, batch = task.job, assigned.batch
            late = (*batch.misses, *count_job_machines(batch, job)[1]) if batch is not None and job is not None else ()
            return self._writer.write_job(task, assigned.model, batch, assigned.width)._replace(misses=late)
        shared = assigned.part is not None
        busiest = _size_shared_load(assigned, sharing) if shared else _size_exclusive_load(assigned, spares)
        part = self._writer.write_load(task, stock.host, (assigned.model, steady), busiest, assigned.suffix)
        if shared or assigned.kept:
            spans = split_into_years(len(demand.growth))
            served = (sum(assigned.served_share(demand, month) for month in year) / len(year) for year in spans)
            shares = tuple(round(share, 6) for share in served)
            part = part._replace(pools=tuple(replace(pool, shares=shares) for pool in part.pools))
        if shared and not assigned.suffix:
            shares_of = [(one.choice.machine, one.part.shares) for one in sharing if one.part is not None]
            texts = (f"{machine} {' '.join(f'{format_share(share)}' for share in each)}" for machine, each in shares_of)
            years = max(len(each) for _, each in shares_of)
            note = f"{task.name}: machine types share the load in years 1 to {years}: {'; '.join(texts)}"
            part = part._replace(notes=(*part.notes, note))
        return part

    def _price_purchase(
        self, stock: HardwareStock, used: Assignments, counts: tuple[int, ...], where: tuple[str, int]
    ) -> tuple[CashFlow, ...]:
        """`where`: the place, and the machines of the type that need not be bought."""
        node, (place, present) = owned.require_node(stock.host), where
        price = node_price(node, self._catalog, self._ledger)
        flow = tuple(price.value * (now - then) for now, then in zip(counts, (0, *counts[:-1]), strict=True))
        drivers = (price.basis, self._register_machine_count(node, used, counts, present))
        line = f"{node.id}, bought for {place}"
        return (CashFlow(line, "purchase", flow, drivers, once=True, machines_of=_list_workloads(used)),)

    def _register_machine_count(
        self, node: ServerSpec, used: Assignments, counts: tuple[int, ...], present: int
    ) -> str:
        """Register the number of bought machines, with the facts of the work that needs the most; return its basis."""
        most = max(used, key=lambda one: (one.choice.most_machines, one.task.name))
        sized = most.sizing_result
        names = self._ledger.register_bases(sized.bases)
        figure = sized.requests_per_s if isinstance(sized, SteadyCapacity) else sized.machine_hours
        known, value = names.get(figure.basis), counts[-1]
        fast, slow = (
            count_machines_by_month(used, len(counts), pace)[-1] - present
            for pace in (lambda carried: carried.high, _get_slow_end)
        )
        return self._ledger.create_driver(
            Estimate(value=value, low=max(0, min(fast, value)), high=max(slow, value), unit="machines"),
            f"machines.{node.id}.{most.task.name}.{most.choice.model or most.task.workload.kind}.{value}".lower(),
            "formula",
            "machines of this type that are bought by the end of the horizon, spares included",
            formula="machines that workloads need in the busiest hour, summed and rounded up, plus shared spares",
            facts=(*((known,) if known else ()), *sized.assumptions),
        ).basis


def _get_slow_end(band: Estimate) -> float:
    return max(band.low, band.value * MIN_THROUGHPUT_SHARE)


def _count_engines(assigned: TaskAssignment) -> int:
    return max(assigned.sizing_result.engines, 1) if isinstance(assigned.sizing_result, SteadyCapacity) else 1


def _size_exclusive_load(assigned: TaskAssignment, spares: tuple[int, int]) -> BusiestYear:
    most, (shared_spares, listed), engines = max(assigned.choice.peak), spares, _count_engines(assigned)
    needed = count_machines(most, 1.0)
    count = max(1, math.ceil(most * engines - ROUNDING)) + listed * engines
    return BusiestYear(count, most, _compute_on_site_share(assigned), RedundancyRequirement(needed, shared_spares))


def _compute_on_site_share(assigned: TaskAssignment) -> float:
    """Return the share of the busiest month's peak that on-site machines serve."""
    demand = assigned.task.demand
    if demand is None or not assigned.kept:
        return 1.0
    month = max(range(len(demand.growth)), key=lambda one: (demand.growth[one], one))
    return assigned.rates(demand, month)[0] / demand.rates(month)[0]


def _size_shared_load(assigned: TaskAssignment, sharing: Assignments) -> BusiestYear:
    years, peak = range(len(assigned.choice.peak)), assigned.choice.peak
    machines = [[math.ceil(_get_reserved_machines(one, year) - ROUNDING) for one in sharing] for year in years]
    carried = [
        tuple(zip(machines[year], (1 / one.choice.peak[year] for one in sharing), strict=True)) for year in years
    ]
    last = max(years, key=lambda year: (peak[year], year))
    # The spares of a type that serves alone, else those for all types that share the load.
    alone = (one.part is None or one.part.shares[last] > 1 - ROUNDING for one in sharing)
    pairs = zip(sharing, alone, strict=True)
    backed = [one.choice.spares[last] if single else one.choice.beside[last] for one, single in pairs]
    spares = min(spare for spare, count in zip(backed, machines[last], strict=True) if count)
    share, engines = assigned.part.shares[last] if assigned.part is not None else 1.0, _count_engines(assigned)
    return BusiestYear(
        engines=max(math.ceil(_get_reserved_machines(assigned, year) * engines - ROUNDING) for year in years),
        used=peak[last] * share,
        share=share * _compute_on_site_share(assigned),
        up=RedundancyRequirement(max(1, sum(machines[last]) - spares), spares, among=tuple(carried)),
    )


def _get_reserved_machines(assigned: TaskAssignment, year: int) -> float:
    return assigned.part.reserved[year] if assigned.part is not None else assigned.choice.peak[year]


def count_machines_by_month(
    assignments: Assignments, months: int, pace: ThroughputBound = lambda carried: carried.value
) -> tuple[int, ...]:
    """Return the machines of one type per month; `pace` selects a value from the throughput interval."""
    # The reserved machines of a shared load include its spares.
    spares = [each.choice.spares for each in assignments if each.choice.spares and each.part is None]
    monthly = [
        max(1, math.ceil(_compute_machines_used(assignments, month, pace) - ROUNDING))
        + max((one[month // MONTHS_PER_YEAR] for one in spares), default=0)
        for month in range(months)
    ]
    yearly = [max(monthly[year : year + MONTHS_PER_YEAR]) for year in range(0, months, MONTHS_PER_YEAR)]
    kept = itertools.accumulate(yearly, max)
    return tuple(count for count in kept for _ in range(MONTHS_PER_YEAR))[:months]


def _compute_machines_used(assignments: Assignments, month: int, pace: ThroughputBound) -> float:
    use = MachineUse(month, pace)
    for assigned in assignments:
        sized = assigned.sizing_result
        if not isinstance(sized, SteadyCapacity):
            use.add_job(assigned, sized)
        elif assigned.task.demand is not None:
            use.add_load(assigned, assigned.task.demand, sized)
    return use.machines


class MachineUse:
    """Machines of one type that loads and jobs use in a month, at a pace of their work."""

    def __init__(self, month: int, pace: ThroughputBound) -> None:
        self._month = month
        self._pace = pace
        self._peak = 0.0
        self._mean = 0.0
        self._hours = 0.0
        self._width = 0.0
        # The night: machines that loads keep, those of its widest job, and the part of it that all runs take.
        self._night_load = 0.0
        self._night_width = 0.0
        self._night_share = 0.0

    @property
    def machines(self) -> float:
        # If the runs of a night take longer than it lasts, more of them run at once.
        night_jobs = self._night_width * max(1.0, self._night_share)
        by_day = self._mean + self._width
        return max(self._peak, by_day, self._night_load + self._width + night_jobs, self._hours / HOURS_PER_MONTH)

    def add_load(self, assigned: TaskAssignment, demand: Demand, sized: SteadyCapacity) -> None:
        year = self._month // MONTHS_PER_YEAR
        steady = sized._replace(requests_per_s=exact_estimate(self._pace(sized.requests_per_s), "requests/s"))
        parts = [owned.compute_machine_share(rate, steady) for rate in assigned.rates(demand, self._month)]
        if assigned.part is not None:
            # Without what other types reserve, even if this type alone would need fewer machines.
            choice = assigned.choice
            elsewhere = choice.peak[year] - _get_reserved_machines(assigned, year)
            share = 1 - assigned.load_share(year * MONTHS_PER_YEAR)
            lower_levels = (max(0.0, part - choice.mean[year] * share) for part in parts[1:])
            parts = [max(0.0, parts[0] - elsewhere), *lower_levels]
        self._peak += parts[0]
        self._mean += parts[1]
        self._night_load += select_night_share(demand, steady, parts)
        self._hours += demand.sum_machine_hours(parts)

    def add_job(self, assigned: TaskAssignment, sized: BatchWork) -> None:
        # Hours per run are the inverse of throughput, so the ends of the interval swap.
        run = sized.machine_hours
        runs_per_h = Estimate(value=1 / run.value, low=1 / run.high, high=1 / _get_slow_end(run), unit="1/h")
        slowdown = 1 / (self._pace(runs_per_h) * run.value)
        choice = assigned.choice
        if choice.runs_at_night:
            self._night_width = max(self._night_width, choice.width)
            self._night_share += choice.night_share * slowdown
        else:
            self._width += choice.width
            self._hours += assigned.machine_hours[self._month] * slowdown


def _schedule_nights(used: Assignments, whole: tuple[int, ...], accelerators: int) -> tuple[JobWindow, ...]:
    """Return the windows of the jobs of the night, one after another.

    `whole`: machines of the type per month; `accelerators`: of one machine. Time that the runs leave is divided in
    proportion to them. There is no window if the machines carry all jobs by day.
    """
    if _fit_by_day(used, whole):
        return ()
    total_h = sum(assigned.run_h for assigned in used)
    passed_h = 0.0
    windows = list[JobWindow]()
    for assigned in used:
        night = assigned.night
        job = assigned.task.job
        if night is None or job is None:
            continue
        lasts_h = night.lasts_h * assigned.run_h / total_h
        window = JobWindow(
            job=assigned.pool,
            workload=job.workload.name,
            every=job.every,
            starts_h=(night.starts_h + passed_h) % HOURS_PER_DAY,
            lasts_h=lasts_h,
            run_h=assigned.run_h,
            time_zone=night.time_zone,
        )
        # Work without a model uses processors only.
        if assigned.model is not None:
            width = min(1.0, assigned.choice.width)
            count = math.ceil(width * accelerators - ROUNDING)
            window = replace(window, accelerators=count, pauses=_list_paused_pools(used))
        windows.append(window)
        passed_h += lasts_h
    return tuple(windows)


def _list_paused_pools(used: Assignments) -> tuple[str, ...]:
    return tuple(assigned.pool for assigned in used if assigned.choice.peak and not any(assigned.choice.night))


def _fit_by_day(used: Assignments, whole: tuple[int, ...]) -> bool:
    """True if the machines carry all jobs at once, beside the mean of their loads, in each year."""
    for year, machines in enumerate(whole[::MONTHS_PER_YEAR]):
        busy = 0.0
        spares = 0
        for assigned in used:
            choice = assigned.choice
            busy += choice.width
            if choice.peak:
                busy += choice.mean[year]
                spares = max(spares, choice.spares[year])
        if busy + spares > machines + ROUNDING:
            return False
    return True


def _build_fleet(
    stock: HardwareStock, used: Assignments, counts: tuple[int, ...], whole: tuple[int, ...]
) -> MachineFleet:
    """`whole`: machines of the type, the base of `busy`; `busy_w`: mean of the power draws, weighted by work."""
    work = [(_compute_mean_busy(each), each.sizing_result.busy_w * each.slices) for each in used]
    total, present = sum(share for share, _ in work), sum(whole) / len(whole)
    return MachineFleet(
        where=stock.host.where,
        machine=stock.host.machine,
        workloads=_list_workloads(used),
        purchase=stock.purchase,
        machines=tuple(float(count) for count in counts),
        peak=max(counts),
        busy=min(1.0, total / present),
        busy_w=sum(share * watts for share, watts in work) / total if total else 0.0,
        node=stock.host.node,
        widths={each.task.workload.name: math.ceil(each.choice.width) for each in used if each.batch is not None},
        work={each.task.workload.name: share for each, (share, _) in zip(used, work, strict=True)},
        age_months=stock.age_months,
    )


def _list_workloads(assignments: Assignments) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.task.workload.name for each in assignments))


def _compute_mean_busy(assigned: TaskAssignment) -> float:
    demand, sized = assigned.task.demand, assigned.sizing_result
    if isinstance(sized, SteadyCapacity) and demand is not None:
        grown = sum(growth * assigned.served_share(demand, month) for month, growth in enumerate(demand.growth))
        return compute_busy_machines(demand, sized, grown / len(demand.growth))
    hours = assigned.machine_hours
    return sum(hours) / len(hours) / HOURS_PER_MONTH if hours else 0.0
