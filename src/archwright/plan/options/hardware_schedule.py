"""From the program's answer to what a plan keeps of machines in the house: when each is bought, what runs on it.

The program says how many machines there are in each year. What a load that is shared takes of a type is what the
others leave of it; the machines that are bought are as uncertain as the whole of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import ServerSpec
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.plan import Purchase
from archwright.contract.record import replace
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import MachineFleet
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import RedundancyRequirement
from archwright.plan.capacity.machine_count import ROUNDING, compute_machine_hours, count_job_machines, count_machines
from archwright.plan.capacity.service_levels import check_availability
from archwright.plan.cost.hardware_lifecycle import MONTHS_PER_YEAR
from archwright.plan.cost.prices import node_price
from archwright.plan.demand.forecast import HOURS_PER_MONTH, split_into_years
from archwright.plan.demand.model_selection import list_model_notes
from archwright.plan.options.option_builder import (
    MIN_THROUGHPUT_SHARE,
    OptionPart,
    PoolWriter,
    build_batch_loads,
    build_provisioned_loads,
    compute_busy_machines,
    describe_fragile_limits,
    join_parts,
    list_assumptions,
    map_workload_model,
)
from archwright.plan.options.owned_hardware import (
    Assignments,
    HardwareStock,
    TaskAssignment,
    compute_machine_share,
    require_node,
)
from archwright.sizing.hardware.machine import BatchWork, SteadyCapacity

ThroughputBound = Callable[[Estimate], float]


class HardwareScheduler:
    def __init__(self, catalog: Catalog, ledger: PlanProvenance, writer: PoolWriter) -> None:
        self._catalog, self._ledger, self._writer = catalog, ledger, writer

    def write_part(
        self, had: tuple[tuple[HardwareStock, tuple[int, ...]], ...], ways: Assignments, place: str
    ) -> OptionPart:
        """`had`: the machines of each stock, month by month. `place` sets facts of one option apart from another's."""
        held = []
        for machine in dict.fromkeys(stock.kind.machine for stock, _ in had):
            mine = tuple(way for way in ways if way.choice.machine == machine)
            there = [(stock, counts) for stock, counts in had if stock.kind.machine == machine and any(counts)]
            if mine and there:
                held.append(self._write_type(there, mine, ways, place))
        return join_parts(held)

    def _write_type(
        self, stocks: list[tuple[HardwareStock, tuple[int, ...]]], ways: Assignments, every: Assignments, place: str
    ) -> OptionPart:
        """`every`: of all types, those that share a load with these among them."""
        whole = tuple(map(sum, zip(*(counts for _, counts in stocks), strict=True)))
        held = [self._write_stock(stock, ways, (counts, whole), place) for stock, counts in stocks]
        pools = dict.fromkeys(f"{way.task.name}{way.suffix}" for way in ways)
        # The spares are one workload's engines on paper: whichever machine fails, they take what ran on it.
        first = max(ways, key=lambda way: max(way.choice.peak, default=0.0))
        spares = max(max(way.choice.spares, default=0) for way in ways)
        for way in ways:
            beside = tuple(one for one in every if one.part is not None and one.task.name == way.task.name)
            part = self._write_assignment(stocks, way, (spares, spares if way is first else 0), beside)
            own = f"{way.task.name}{way.suffix}"
            others = tuple(pool for pool in pools if pool != own)
            held.append(part._replace(purchases=tuple(replace(one, shared_with=others) for one in part.purchases)))
        return join_parts(held)

    def _write_stock(
        self, stock: HardwareStock, ways: Assignments, counts: tuple[tuple[int, ...], tuple[int, ...]], place: str
    ) -> OptionPart:
        """`counts`: machines of this stock, and of the whole type."""
        mine, whole = counts
        fleets = (_build_fleet(stock, ways, mine, whole),)
        bought = stock.purchase == "bought"
        terms = self._price_purchase(stock, ways, mine, (place, whole[-1] - mine[-1])) if bought else ()
        return OptionPart(terms=terms, fleets=fleets)

    def _write_assignment(
        self,
        stocks: list[tuple[HardwareStock, tuple[int, ...]]],
        way: TaskAssignment,
        spared: tuple[int, int],
        beside: Assignments,
    ) -> OptionPart:
        """`spared`: spares of the type, and those counted here; `beside`: all who share its load."""
        task = way.task
        bought, pool_name = [], f"{task.name}{way.suffix}"
        for stock, counts in stocks:
            machine, mean, peak = stock.host.machine.id, sum(counts) / len(counts), max(counts)
            bought.append(Purchase(pool=pool_name, machine=machine, kind=stock.purchase, machines=mean, peak=peak))
        models, notes = map_workload_model(task, way.model, way.steady), list_model_notes(task.workload, way.model)
        made = OptionPart(purchases=tuple(bought), models=models, notes=notes)
        steady, demand = way.steady, task.demand
        if steady is None or demand is None:
            job, batch = task.job, way.batch
            late = (*batch.misses, *count_job_machines(batch, job)[1]) if batch is not None and job is not None else ()
            working = build_batch_loads(task, batch, way.width)
            return made._replace(misses=late, serving=working, assumptions=list_assumptions(batch))
        misses, said, host = (
            list(steady.misses),
            [*made.notes, *describe_fragile_limits(task, steady)],
            stocks[0][0].host,
        )
        running = _size_exclusive_load(way, spared) if way.part is None else _size_shared_load(way, beside)
        up = self._writer.add_failure_domain(task, host.where, running.up)
        check_availability(task.workload.name, up, task.workload.slo, misses, said)
        pool = self._writer.build_pool(task, host, steady, running.engines, way.suffix)
        if way.part is not None or way.kept:
            years = split_into_years(len(demand.growth))
            done = (sum(way.served_share(demand, month) for month in year) / len(year) for year in years)
            pool = replace(pool, shares=tuple(round(share, 6) for share in done))
        if way.part is not None:
            said += [] if way.suffix else [_describe_shared_load(beside)]
        served = task._replace(demand=demand.scaled_by(running.share))
        serving = build_provisioned_loads(served, host, steady, up) if running.share > ROUNDING else ()
        return made._replace(
            pools=(pool,),
            serving=tuple(one._replace(machines=running.machines, part=running.share) for one in serving),
            misses=tuple(misses),
            notes=tuple(said),
            assumptions=list_assumptions(steady),
        )

    def _price_purchase(
        self, stock: HardwareStock, ways: Assignments, counts: tuple[int, ...], where: tuple[str, int]
    ) -> tuple[CashFlow, ...]:
        """`where`: the place, and the machines that are there already."""
        node, (place, there) = require_node(stock.host), where
        price = node_price(node, self._catalog, self._ledger)
        before = (0, *counts[:-1])
        flow = tuple(price.value * (now - then) for now, then in zip(counts, before, strict=True))
        number = self._estimate_machine_count(node, ways, counts, there)
        drivers = (self._ledger.register_driver(price), self._ledger.register_driver(number))
        line = f"{node.id}, bought for {place}"
        return (CashFlow(line, "purchase", flow, drivers, once=True, machines_of=_list_workloads(ways)),)

    def _estimate_machine_count(
        self, node: ServerSpec, ways: Assignments, counts: tuple[int, ...], there: int
    ) -> Estimate:
        """Rests on the facts of the work that takes the most. `there`: machines that need not be bought."""
        most = max(ways, key=_rank_by_machines)
        sized = most.sizing_result
        names = self._ledger.register_bases(sized.bases)
        figure = sized.requests_per_s if isinstance(sized, SteadyCapacity) else sized.machine_hours
        known = names.get(figure.basis)
        basis = self._ledger.create_basis(
            f"machines.{node.id}.{most.task.name}.{most.choice.model or most.task.workload.kind}.{counts[-1]}".lower(),
            "formula",
            "machines of this type that are bought by the end of the horizon, spares included",
            formula="what workloads take of machines in the busiest hour, summed, rounded up, and spares they share",
            facts=(*((known,) if known else ()), *sized.assumptions),
        )
        fast, slow = (
            count_machines_by_month(ways, len(counts), pace)[-1] - there
            for pace in (lambda carried: carried.high, _get_slow_end)
        )
        value = counts[-1]
        return Estimate(value=value, low=max(0, min(fast, value)), high=max(slow, value), unit="machines", basis=basis)


def _get_slow_end(band: Estimate) -> float:
    return max(band.low, band.value * MIN_THROUGHPUT_SHARE)


class BusiestYear(NamedTuple):
    """A pool in the busiest year: its engines, and machines for its `share` of the load; `up` is of the whole load."""

    engines: int
    machines: int
    share: float
    up: RedundancyRequirement


def _size_exclusive_load(way: TaskAssignment, spared: tuple[int, int]) -> BusiestYear:
    most, (spares, counted) = max(way.choice.peak), spared
    engines = max(way.sizing_result.engines, 1) if isinstance(way.sizing_result, SteadyCapacity) else 1
    needed = count_machines(most, 1.0)
    count = max(1, math.ceil(most * engines - ROUNDING)) + counted * engines
    return BusiestYear(count, needed, _compute_on_site_share(way), RedundancyRequirement(needed, spares))


def _compute_on_site_share(way: TaskAssignment) -> float:
    """The part of the busiest month's peak that stays in the house."""
    demand = way.task.demand
    if demand is None or not way.kept:
        return 1.0
    month = max(range(len(demand.growth)), key=lambda one: (demand.growth[one], one))
    return way.rates(demand, month)[0] / demand.rates(month)[0]


def _size_shared_load(way: TaskAssignment, beside: Assignments) -> BusiestYear:
    years = range(len(way.choice.peak))
    machines = [[math.ceil(_get_reserved_machines(one, year) - ROUNDING) for one in beside] for year in years]
    carried = [tuple(zip(machines[year], (1 / one.choice.peak[year] for one in beside), strict=True)) for year in years]
    last = max(years, key=lambda year: (way.choice.peak[year], year))
    spares = min(_count_load_spares(one, last) for one, count in zip(beside, machines[last], strict=True) if count)
    share = way.part.shares[last] if way.part is not None else 1.0
    engines = max(way.sizing_result.engines, 1) if isinstance(way.sizing_result, SteadyCapacity) else 1
    return BusiestYear(
        engines=max(math.ceil(_get_reserved_machines(way, year) * engines - ROUNDING) for year in years),
        machines=count_machines(way.choice.peak[last] * share, 1.0),
        share=share * _compute_on_site_share(way),
        up=RedundancyRequirement(max(1, sum(machines[last]) - spares), spares, among=tuple(carried)),
    )


def _get_reserved_machines(way: TaskAssignment, year: int) -> float:
    return way.part.reserved[year] if way.part is not None else way.choice.peak[year]


def _count_load_spares(way: TaskAssignment, year: int) -> int:
    """On a type of its own, or of all that share its load."""
    alone = way.part is None or way.part.shares[year] > 1 - ROUNDING
    return way.choice.spares[year] if alone else way.choice.beside[year]


def _describe_shared_load(beside: Assignments) -> str:
    shares = [(way.choice.machine, way.part.shares) for way in beside if way.part is not None]
    parts = (f"{machine} {' '.join(f'{share:.0%}' for share in mine)}" for machine, mine in shares)
    years = max(len(mine) for _, mine in shares)
    return f"{beside[0].task.name}: several types of machines share it, years 1 to {years}: {'; '.join(parts)}"


def count_machines_by_month(
    ways: Assignments, months: int, pace: ThroughputBound = lambda carried: carried.value
) -> tuple[int, ...]:
    """Machines of one type, month by month. `pace` says which end of a band of requests/s counts."""
    # What is reserved of a load that is shared has its spares in it.
    spares = [way.choice.spares for way in ways if way.choice.spares and way.part is None]
    monthly = [
        max(1, math.ceil(_compute_machines_used(ways, month, pace) - ROUNDING))
        + max((one[month // MONTHS_PER_YEAR] for one in spares), default=0)
        for month in range(months)
    ]
    yearly = [max(monthly[year : year + MONTHS_PER_YEAR]) for year in range(0, months, MONTHS_PER_YEAR)]
    kept = itertools.accumulate(yearly, max)
    return tuple(count for count in kept for _ in range(MONTHS_PER_YEAR))[:months]


def _compute_machines_used(ways: Assignments, month: int, pace: ThroughputBound) -> float:
    peak = mean = width = hours = 0.0
    for way in ways:
        demand, job, sized = way.task.demand, way.task.job, way.sizing_result
        if isinstance(sized, SteadyCapacity) and demand is not None:
            carried = pace(sized.requests_per_s)
            steady = sized._replace(requests_per_s=exact_estimate(carried, "requests/s"))
            parts = [compute_machine_share(rate, steady) for rate in way.rates(demand, month)]
            if way.part is not None:
                parts = _subtract_other_types(way, parts, month // MONTHS_PER_YEAR)
            peak, mean = peak + parts[0], mean + parts[1]
            hours += sum(level.hours * part for level, part in zip(demand.levels, parts, strict=True))
        if not isinstance(sized, SteadyCapacity) and job is not None:
            # A slow machine is one on which a run takes longer: the ends of the band are the other way round.
            slower = pace(_invert_hours(sized.machine_hours)) * sized.machine_hours.value
            width += way.width
            hours += compute_machine_hours(sized, job, way.width)[month] / slower
    return max(peak, mean + width, hours / HOURS_PER_MONTH)


def _subtract_other_types(way: TaskAssignment, parts: list[float], year: int) -> list[float]:
    """Of a load that is shared: what other types do not take, however much this type would take of it alone."""
    elsewhere = way.choice.peak[year] - _get_reserved_machines(way, year)
    share = 1 - way.load_share(year * MONTHS_PER_YEAR)
    return [max(0.0, parts[0] - elsewhere), *(max(0.0, part - way.choice.mean[year] * share) for part in parts[1:])]


def _rank_by_machines(way: TaskAssignment) -> tuple[float, str]:
    choice = way.choice
    return (max(max(choice.peak, default=0.0), max(choice.mean, default=0.0) + choice.width), way.task.name)


def _invert_hours(hours: Estimate) -> Estimate:
    return Estimate(value=1 / hours.value, low=1 / hours.high, high=1 / _get_slow_end(hours), unit="1/h")


def _build_fleet(
    stock: HardwareStock, ways: Assignments, counts: tuple[int, ...], whole: tuple[int, ...]
) -> MachineFleet:
    """`whole`: machines of the type, against which `busy` counts; `busy_w` weighs each draw by its work."""
    work = [(_compute_mean_busy(way), way.sizing_result.busy_w) for way in ways]
    total, there = sum(share for share, _ in work), sum(whole) / len(whole)
    return MachineFleet(
        where=stock.host.where,
        machine=stock.host.machine,
        workloads=_list_workloads(ways),
        purchase=stock.purchase,
        machines=tuple(float(count) for count in counts),
        peak=max(counts),
        busy=min(1.0, total / there),
        busy_w=sum(share * watts for share, watts in work) / total if total else 0.0,
        node=stock.host.node,
        widths={way.task.workload.name: way.width for way in ways if way.batch is not None},
        work={way.task.workload.name: share for way, (share, _) in zip(ways, work, strict=True)},
    )


def _list_workloads(ways: Assignments) -> tuple[str, ...]:
    return tuple(dict.fromkeys(way.task.workload.name for way in ways))


def _compute_mean_busy(way: TaskAssignment) -> float:
    """Machines' worth of work, mean over the horizon."""
    demand, job, sized = way.task.demand, way.task.job, way.sizing_result
    if isinstance(sized, SteadyCapacity) and demand is not None:
        grown = sum(growth * way.served_share(demand, month) for month, growth in enumerate(demand.growth))
        return compute_busy_machines(demand, sized, grown / len(demand.growth))
    hours = compute_machine_hours(sized, job, way.width) if isinstance(sized, BatchWork) and job is not None else (0.0,)
    return sum(hours) / len(hours) / HOURS_PER_MONTH
