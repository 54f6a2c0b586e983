"""From the program's answer to what a plan keeps of machines in the house: when each is bought, what runs on it.

Machines of a kind in a month: what its steady loads take at the peak, or at the mean beside the jobs, rounded up, and
the spares they share. They are had from the start of the year that takes them, and stay.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from archwright.catalog.cost_rows import Node
from archwright.catalog.facts import Catalog
from archwright.contract.estimate import Estimate
from archwright.contract.plan import Miss, Purchase
from archwright.contract.record import replace
from archwright.plan.demand import HOURS_PER_MONTH
from archwright.plan.fleet import Fleet
from archwright.plan.ledger import Ledger
from archwright.plan.limits import judge_availability
from archwright.plan.listed import node_price
from archwright.plan.models import model_notes
from archwright.plan.own import MONTHS_PER_YEAR, Stock, Way, node_of, part_of
from archwright.plan.parts import (
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
from archwright.plan.terms import Term
from archwright.plan.width import ROUNDING, machine_hours, width_for
from archwright.sizing.machine import Steady

Pace = Callable[[Estimate], float]


class Settler:
    """Writes the machines of a house into the ledger."""

    def __init__(self, catalog: Catalog, ledger: Ledger, writer: Writer) -> None:
        self._catalog, self._ledger, self._writer = catalog, ledger, writer

    def part(self, stocks: tuple[Stock, ...], ways: tuple[Way, ...], months: int, place: str) -> Part:
        """`place` sets facts of one option apart from those of another. Of one type, stocks that are there already are
        used first.
        """
        held = []
        for machine in dict.fromkeys(stock.kind.machine for stock in stocks):
            mine = tuple(way for way in ways if way.choice.machine == machine)
            if mine:
                had = sorted((s for s in stocks if s.kind.machine == machine), key=lambda s: s.kind.most is None)
                counts = counts_of(mine, months)
                held.append(self._type(had, mine, counts, place))
        return joined(held)

    def _type(self, stocks: list[Stock], ways: tuple[Way, ...], counts: tuple[int, ...], place: str) -> Part:
        held, left, spares = list[Part](), counts, max(way.choice.spares for way in ways)
        pools = tuple(dict.fromkeys(map(_pool_of, ways)))
        purchases = list[tuple[Stock, tuple[int, ...]]]()
        for stock in stocks:
            taken = tuple(count if stock.kind.most is None else min(count, stock.kind.most) for count in left)
            left = tuple(count - here for count, here in zip(left, taken, strict=True))
            if any(taken):
                purchases.append((stock, taken))
                held.append(self._stock(stock, ways, (taken, counts), place))
        # The spares are one workload's engines on paper: whichever machine fails, they take what ran on it.
        first = max(ways, key=lambda way: way.choice.peak)
        parts = (self._way(purchases, way, (spares, spares if way is first else 0)) for way in ways)
        return joined([*held, *(_sharing(part, pools) for part in parts)])

    def _stock(
        self, stock: Stock, ways: tuple[Way, ...], counts: tuple[tuple[int, ...], tuple[int, ...]], place: str
    ) -> Part:
        """`counts`: machines of this stock, and of the whole type."""
        mine, whole = counts
        terms = self._bought(stock, ways, mine, (place, whole[-1] - mine[-1])) if stock.purchase == "bought" else ()
        return Part(terms=terms, fleets=(_fleet(stock, ways, mine, whole),))

    def _way(self, stocks: list[tuple[Stock, tuple[int, ...]]], way: Way, spared: tuple[int, int]) -> Part:
        """`spared`: the type's spares, and those among them whose engines are counted here."""
        task, (spares, counted) = way.task, spared
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
        models = named(task, way.model, way.steady)
        notes = model_notes(task.workload, way.model)
        steady, demand = way.steady, task.demand
        if steady is None or demand is None:
            said_of = assumed(way.batch)
            working = working_of(task, way.batch, way.width)
            made = Part(purchases=bought, models=models, misses=_job_misses(way), notes=notes, assumptions=said_of)
            return made._replace(serving=working)
        misses, said, host = list(steady.misses), list(notes), stocks[0][0].host
        needed = max(1, math.ceil(way.choice.peak - ROUNDING))
        up = self._writer.up(task, host.where, needed, spares)
        judge_availability(task.workload.name, up, task.workload.slo, misses, said)
        said += fragile(task, steady)
        engines = max(steady.engines, 1)
        replicas = max(1, math.ceil(way.choice.peak * engines - ROUNDING)) + counted * engines
        pool = self._writer.pool(task, host, steady, replicas, way.suffix)
        return Part(
            pools=(pool,),
            purchases=bought,
            models=models,
            serving=serving_of(task, host, steady, up) if not way.suffix else (),
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
        return (Term(f"{node.id}, bought for {place}", "purchase", flow, drivers, once=True),)

    def _counted(self, node: Node, ways: tuple[Way, ...], counts: tuple[int, ...], there: int) -> Estimate:
        """Made from the facts of the work that takes the most of them: options that differ in the rest alone are
        wrong together. `there`: machines of the type that need not be bought.
        """
        most = max(ways, key=lambda way: (max(way.choice.peak, way.choice.mean + way.choice.width), way.task.name))
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


def counts_of(ways: tuple[Way, ...], months: int, pace: Pace = lambda carried: carried.value) -> tuple[int, ...]:
    """Machines of one type, month by month. `pace` says which end of a band of requests/s counts."""
    spares = max(way.choice.spares for way in ways)
    monthly = [max(1, math.ceil(_taken(ways, month, pace) - ROUNDING)) + spares for month in range(months)]
    yearly = [max(monthly[year : year + MONTHS_PER_YEAR]) for year in range(0, months, MONTHS_PER_YEAR)]
    kept = itertools.accumulate(yearly, max)
    return tuple(count for count in kept for _ in range(MONTHS_PER_YEAR))[:months]


def _taken(ways: tuple[Way, ...], month: int, pace: Pace) -> float:
    peak = mean = width = hours = 0.0
    for way in ways:
        demand, job, sized = way.task.demand, way.task.job, way.sized
        if isinstance(sized, Steady) and demand is not None:
            carried = pace(sized.requests_per_s)
            steady = sized._replace(requests_per_s=_exactly(sized.requests_per_s, carried))
            parts = [part_of(level.rate * demand.growth[month], steady) for level in demand.levels]
            parts[0] = parts[1] if way.bursts else parts[0]
            peak, mean = peak + parts[0], mean + parts[1]
            hours += sum(level.hours * part for level, part in zip(demand.levels, parts, strict=True))
        if not isinstance(sized, Steady) and job is not None:
            # A slow machine is one on which a run takes longer: the ends of the band are the other way round.
            slower = pace(_inverse(sized.machine_hours)) * sized.machine_hours.value
            width += way.width
            hours += machine_hours(sized, job, way.width)[month] / slower
    return max(peak, mean + width, hours / HOURS_PER_MONTH)


def _exactly(estimate: Estimate, value: float) -> Estimate:
    return Estimate(value=value, low=value, high=value, unit=estimate.unit, basis=estimate.basis)


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
        workloads=tuple(dict.fromkeys(way.task.workload.name for way in ways)),
        purchase=stock.purchase,
        machines=tuple(float(count) for count in counts),
        peak=max(counts),
        busy=min(1.0, total / there),
        busy_w=sum(share * watts for share, watts in work) / total if total else 0.0,
        node=stock.host.node,
        widths={way.task.workload.name: way.width for way in ways if way.batch is not None},
    )


def _busy(way: Way) -> float:
    """Machines' worth of work, mean over the horizon."""
    demand, job, sized = way.task.demand, way.task.job, way.sized
    if isinstance(sized, Steady):
        return busy_machines(demand, sized) if demand is not None else 0.0
    hours = machine_hours(sized, job, way.width) if job is not None else (0.0,)
    return sum(hours) / len(hours) / HOURS_PER_MONTH
