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
from archwright.catalog.tables.cost_records import Node
from archwright.contract.estimate import Estimate, exact
from archwright.contract.plan import Miss, Purchase
from archwright.contract.record import replace
from archwright.plan.accounting.cash_flow import Term
from archwright.plan.accounting.fleet import Fleet
from archwright.plan.accounting.provenance import Ledger
from archwright.plan.capacity.availability import Up
from archwright.plan.capacity.machine_count import ROUNDING, machine_hours, machines_for, width_for
from archwright.plan.capacity.service_levels import judge_availability
from archwright.plan.cost.hardware_lifecycle import MONTHS_PER_YEAR
from archwright.plan.cost.list_prices import node_price
from archwright.plan.demand.forecast import HOURS_PER_MONTH, years_of
from archwright.plan.demand.model_selection import model_notes
from archwright.plan.options.owned_hardware import Stock, Way, node_of, part_of
from archwright.plan.options.pool_writer import (
    LEAST_CARRIED,
    Part,
    Writer,
    assumed,
    busy_machines,
    fragile,
    joined,
    named,
    serving_of,
    working_of,
)
from archwright.sizing.hardware.machine import Batch, Steady

Pace = Callable[[Estimate], float]


class Settler:
    """Writes the machines of a house into the ledger."""

    def __init__(self, catalog: Catalog, ledger: Ledger, writer: Writer) -> None:
        self._catalog, self._ledger, self._writer = catalog, ledger, writer

    def part(self, had: tuple[tuple[Stock, tuple[int, ...]], ...], ways: tuple[Way, ...], place: str) -> Part:
        """`had`: the machines of each stock, month by month. `place` sets facts of one option apart from those of
        another.
        """
        held = []
        for machine in dict.fromkeys(stock.kind.machine for stock, _ in had):
            mine = tuple(way for way in ways if way.choice.machine == machine)
            there = [(stock, counts) for stock, counts in had if stock.kind.machine == machine and any(counts)]
            if mine and there:
                held.append(self._type(there, mine, ways, place))
        return joined(held)

    def _type(
        self, stocks: list[tuple[Stock, tuple[int, ...]]], ways: tuple[Way, ...], every: tuple[Way, ...], place: str
    ) -> Part:
        """`every`: of all types, those that share a load with these among them."""
        whole = tuple(map(sum, zip(*(counts for _, counts in stocks), strict=True)))
        held, pools = [self._stock(stock, ways, (counts, whole), place) for stock, counts in stocks], list[str]()
        pools += dict.fromkeys(map(_pool_of, ways))
        # The spares are one workload's engines on paper: whichever machine fails, they take what ran on it.
        first = max(ways, key=lambda way: max(way.choice.peak, default=0.0))
        spares = max(max(way.choice.spares, default=0) for way in ways)
        for way in ways:
            beside = tuple(one for one in every if one.part is not None and one.task.name == way.task.name)
            part = self._way(stocks, way, (spares, spares if way is first else 0), beside)
            held.append(_sharing(part, tuple(pools)))
        return joined(held)

    def _stock(
        self, stock: Stock, ways: tuple[Way, ...], counts: tuple[tuple[int, ...], tuple[int, ...]], place: str
    ) -> Part:
        """`counts`: machines of this stock, and of the whole type."""
        mine, whole = counts
        terms = self._bought(stock, ways, mine, (place, whole[-1] - mine[-1])) if stock.purchase == "bought" else ()
        return Part(terms=terms, fleets=(_fleet(stock, ways, mine, whole),))

    def _way(
        self,
        stocks: list[tuple[Stock, tuple[int, ...]]],
        way: Way,
        spared: tuple[int, int],
        beside: tuple[Way, ...],
    ) -> Part:
        """`spared`: the type's spares, and those among them whose engines are counted here; `beside`: all who share
        its load.
        """
        task = way.task
        bought = tuple(
            Purchase(
                pool=_pool_of(way),
                machine=stock.host.machine.id,
                kind=stock.purchase,
                machines=sum(counts) / len(counts),
                peak=max(counts),
            )
            for stock, counts in stocks
        )
        made = Part(
            purchases=bought,
            models=named(task, way.model, way.steady),
            notes=model_notes(task.workload, way.model),
        )
        steady, demand = way.steady, task.demand
        if steady is None or demand is None:
            working = working_of(task, way.batch, way.width)
            return made._replace(misses=_job_misses(way), serving=working, assumptions=assumed(way.batch))
        misses, said, host = list(steady.misses), [*made.notes, *fragile(task, steady)], stocks[0][0].host
        running = _alone(way, spared) if way.part is None else _among(way, beside)
        up = self._writer.placed(task, host.where, running.up)
        judge_availability(task.workload.name, up, task.workload.slo, misses, said)
        pool = self._writer.pool(task, host, steady, running.engines, way.suffix)
        if way.part is not None or way.kept:
            years = years_of(len(demand.growth))
            done = (sum(way.done(demand, month) for month in year) / len(year) for year in years)
            pool = replace(pool, shares=tuple(round(share, 6) for share in done))
        if way.part is not None:
            said += [] if way.suffix else [_told(beside)]
        served = task._replace(demand=demand.part(running.share))
        serving = serving_of(served, host, steady, up) if running.share > ROUNDING else ()
        return made._replace(
            pools=(pool,),
            serving=tuple(one._replace(machines=running.machines, part=running.share) for one in serving),
            misses=tuple(misses),
            notes=tuple(said),
            assumptions=assumed(steady),
        )

    def _bought(
        self, stock: Stock, ways: tuple[Way, ...], counts: tuple[int, ...], where: tuple[str, int]
    ) -> tuple[Term, ...]:
        """`where`: the place, and the machines that are there already."""
        node, (place, there) = node_of(stock.host), where
        price = node_price(node, self._catalog, self._ledger)
        before = (0, *counts[:-1])
        flow = tuple(price.value * (now - then) for now, then in zip(counts, before, strict=True))
        number = self._counted(node, ways, counts, there)
        drivers = (self._ledger.drive(price), self._ledger.drive(number))
        line = f"{node.id}, bought for {place}"
        return (Term(line, "purchase", flow, drivers, once=True, machines_of=_workloads_of(ways)),)

    def _counted(self, node: Node, ways: tuple[Way, ...], counts: tuple[int, ...], there: int) -> Estimate:
        """Made from the facts of the work that takes the most of them: options that differ in the rest alone are
        wrong together. `there`: machines of the type that need not be bought.
        """
        most = max(ways, key=_weight)
        basis = self._ledger.basis(
            f"machines.{node.id}.{most.task.name}.{most.choice.model or most.task.workload.kind}.{counts[-1]}".lower(),
            "formula",
            "machines of this type that are bought by the end of the horizon, spares included",
            formula="what workloads take of machines in the busiest hour, summed, rounded up, and spares they share",
            facts=self._facts(most),
        )
        value, months = counts[-1], len(counts)
        fast = counts_of(ways, months, lambda carried: carried.high)[-1] - there
        slow = counts_of(ways, months, lambda carried: max(carried.low, carried.value * LEAST_CARRIED))[-1] - there
        return Estimate(value=value, low=max(0, min(fast, value)), high=max(slow, value), unit="machines", basis=basis)

    def _facts(self, way: Way) -> tuple[str, ...]:
        sized = way.sized
        names = self._ledger.adopt_all(sized.bases)
        figure = sized.requests_per_s if isinstance(sized, Steady) else sized.machine_hours
        known = names.get(figure.basis)
        return (*((known,) if known else ()), *sized.assumptions)


def _pool_of(way: Way) -> str:
    return f"{way.task.name}{way.suffix}"


def _sharing(part: Part, pools: tuple[str, ...]) -> Part:
    """Its purchases, saying whose machines they are too."""
    told = (replace(one, shared_with=tuple(pool for pool in pools if pool != one.pool)) for one in part.purchases)
    return part._replace(purchases=tuple(told))


class Running(NamedTuple):
    """Of a pool in the busiest year: its engines in all, the machines that must answer its `share` of the load; `up`
    are those of the whole load.
    """

    engines: int
    machines: int
    share: float
    up: Up


def _alone(way: Way, spared: tuple[int, int]) -> Running:
    most, (spares, counted) = max(way.choice.peak), spared
    engines = max(way.sized.engines, 1) if isinstance(way.sized, Steady) else 1
    needed = machines_for(most, 1.0)
    count = max(1, math.ceil(most * engines - ROUNDING)) + counted * engines
    return Running(count, needed, _kept(way), Up(needed, spares))


def _kept(way: Way) -> float:
    """The part of the busiest month's peak that stays in the house."""
    demand = way.task.demand
    if demand is None or not way.kept:
        return 1.0
    month = max(range(len(demand.growth)), key=lambda one: (demand.growth[one], one))
    return way.rates(demand, month)[0] / demand.rates(month)[0]


def _among(way: Way, beside: tuple[Way, ...]) -> Running:
    """Of a load that is shared among types."""
    years = range(len(way.choice.peak))
    machines = [[math.ceil(_reserved(one, year) - ROUNDING) for one in beside] for year in years]
    carried = [tuple(zip(machines[year], (1 / one.choice.peak[year] for one in beside), strict=True)) for year in years]
    last = max(years, key=lambda year: (way.choice.peak[year], year))
    spares = min(_spares(one, last) for one, count in zip(beside, machines[last], strict=True) if count)
    share = way.part.shares[last] if way.part is not None else 1.0
    engines = max(way.sized.engines, 1) if isinstance(way.sized, Steady) else 1
    return Running(
        engines=max(math.ceil(_reserved(way, year) * engines - ROUNDING) for year in years),
        machines=machines_for(way.choice.peak[last] * share, 1.0),
        share=share * _kept(way),
        up=Up(max(1, sum(machines[last]) - spares), spares, among=tuple(carried)),
    )


def _reserved(way: Way, year: int) -> float:
    return way.part.reserved[year] if way.part is not None else way.choice.peak[year]


def _spares(way: Way, year: int) -> int:
    """On a type of its own, or of all that share its load."""
    alone = way.part is None or way.part.shares[year] > 1 - ROUNDING
    return way.choice.spares[year] if alone else way.choice.beside[year]


def _told(beside: tuple[Way, ...]) -> str:
    """What is said of a load that is shared: who does how much of it, year by year."""
    parts = (
        f"{way.choice.machine} {' '.join(f'{share:.0%}' for share in way.part.shares)}"
        for way in beside
        if way.part is not None
    )
    years = max(len(way.part.shares) for way in beside if way.part is not None)
    return f"{beside[0].task.name}: several types of machines share it, years 1 to {years}: {'; '.join(parts)}"


def counts_of(ways: tuple[Way, ...], months: int, pace: Pace = lambda carried: carried.value) -> tuple[int, ...]:
    """Machines of one type, month by month. `pace` says which end of a band of requests/s counts."""
    monthly = [
        max(1, math.ceil(_taken(ways, month, pace) - ROUNDING))
        + max(_spared(way, month // MONTHS_PER_YEAR) for way in ways)
        for month in range(months)
    ]
    yearly = [max(monthly[year : year + MONTHS_PER_YEAR]) for year in range(0, months, MONTHS_PER_YEAR)]
    kept = itertools.accumulate(yearly, max)
    return tuple(count for count in kept for _ in range(MONTHS_PER_YEAR))[:months]


def _spared(way: Way, year: int) -> int:
    """What is reserved of a load that is shared has its spares in it."""
    return way.choice.spares[year] if way.choice.spares and way.part is None else 0


def _taken(ways: tuple[Way, ...], month: int, pace: Pace) -> float:
    peak = mean = width = hours = 0.0
    for way in ways:
        demand, job, sized = way.task.demand, way.task.job, way.sized
        if isinstance(sized, Steady) and demand is not None:
            carried = pace(sized.requests_per_s)
            steady = sized._replace(requests_per_s=exact(carried, "requests/s"))
            parts = [part_of(rate, steady) for rate in way.rates(demand, month)]
            if way.part is not None:
                parts = _left(way, parts, month // MONTHS_PER_YEAR)
            peak, mean = peak + parts[0], mean + parts[1]
            hours += sum(level.hours * part for level, part in zip(demand.levels, parts, strict=True))
        if not isinstance(sized, Steady) and job is not None:
            # A slow machine is one on which a run takes longer: the ends of the band are the other way round.
            slower = pace(_inverse(sized.machine_hours)) * sized.machine_hours.value
            width += way.width
            hours += machine_hours(sized, job, way.width)[month] / slower
    return max(peak, mean + width, hours / HOURS_PER_MONTH)


def _left(way: Way, parts: list[float], year: int) -> list[float]:
    """Of a load that is shared: what other types do not take, however much this type would take of it alone."""
    elsewhere = way.choice.peak[year] - _reserved(way, year)
    share = 1 - way.share(year * MONTHS_PER_YEAR)
    return [max(0.0, parts[0] - elsewhere), *(max(0.0, part - way.choice.mean[year] * share) for part in parts[1:])]


def _weight(way: Way) -> tuple[float, str]:
    choice = way.choice
    return (max(max(choice.peak, default=0.0), max(choice.mean, default=0.0) + choice.width), way.task.name)


def _inverse(hours: Estimate) -> Estimate:
    return Estimate(
        value=1 / hours.value, low=1 / hours.high, high=1 / max(hours.low, hours.value * LEAST_CARRIED), unit="1/h"
    )


def _job_misses(way: Way) -> tuple[Miss, ...]:
    job, batch = way.task.job, way.batch
    return (*batch.misses, *width_for(batch, job)[1]) if batch is not None and job is not None else ()


def _fleet(stock: Stock, ways: tuple[Way, ...], counts: tuple[int, ...], whole: tuple[int, ...]) -> Fleet:
    """`busy` is the work done against the machines there, of the `whole` type; `busy_w` weighs each workload's draw by
    its work.
    """
    work = [(_busy(way), way.sized.busy_w) for way in ways]
    total, there = sum(share for share, _ in work), sum(whole) / len(whole)
    return Fleet(
        where=stock.host.where,
        machine=stock.host.machine,
        workloads=_workloads_of(ways),
        purchase=stock.purchase,
        machines=tuple(float(count) for count in counts),
        peak=max(counts),
        busy=min(1.0, total / there),
        busy_w=sum(share * watts for share, watts in work) / total if total else 0.0,
        node=stock.host.node,
        widths={way.task.workload.name: way.width for way in ways if way.batch is not None},
        work={way.task.workload.name: share for way, (share, _) in zip(ways, work, strict=True)},
    )


def _workloads_of(ways: tuple[Way, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(way.task.workload.name for way in ways))


def _busy(way: Way) -> float:
    """Machines' worth of work, mean over the horizon."""
    demand, job, sized = way.task.demand, way.task.job, way.sized
    if isinstance(sized, Steady) and demand is not None:
        grown = sum(growth * way.done(demand, month) for month, growth in enumerate(demand.growth))
        return busy_machines(demand, sized, grown / len(demand.growth))
    hours = machine_hours(sized, job, way.width) if isinstance(sized, Batch) and job is not None else (0.0,)
    return sum(hours) / len(hours) / HOURS_PER_MONTH
