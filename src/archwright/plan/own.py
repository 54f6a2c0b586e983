"""Machines in the house: bought, or owned already; shared by the workloads, chosen by the program of optimise.py.

What a machine costs over the horizon is summed here only to compare: its price, support and energy. What an option
really pays is in its terms. Machines are bought as the load grows: at the start of each year what that year takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.cost_rows import Node
from archwright.catalog.facts import Catalog
from archwright.catalog.rows import ModelSpec
from archwright.contract.needs import Needs, OwnedMachine
from archwright.contract.plan import PurchaseKind
from archwright.errors import CatalogError
from archwright.plan.availability import spares_for
from archwright.plan.candidates import Host, Hosts, Sizer, Task
from archwright.plan.demand import HOURS_PER_MONTH, Demand, Job
from archwright.plan.fleet import Fleet, Where
from archwright.plan.models import better
from archwright.plan.optimise import Choice, Kind
from archwright.plan.rented import Pick
from archwright.plan.staffing import machine_usd
from archwright.plan.successor import Successor, successor
from archwright.plan.width import ROUNDING, machine_hours, machines_for, width_for
from archwright.sizing.machine import Batch, Steady
from archwright.sizing.power import overhead

# On a host processor a workload takes parts of a machine no smaller than this.
LEAST_PART = 1 / 16
MONTHS_PER_YEAR = 12
# Of a machine's largest draw, to compare costs only: what one draws is predicted with the option.
MEAN_DRAW = 0.6


class Stock(NamedTuple):
    """Machines of one type, bought or owned."""

    host: Host
    purchase: PurchaseKind
    kind: Kind


class Way(NamedTuple):
    """A choice of the program, and what it stands for. `pick`: rented machines; with `bursts` those of the load above
    the mean. `suffix` sets a second pool of the same workload apart.
    """

    choice: Choice
    task: Task
    model: ModelSpec | None = None
    steady: Steady | None = None
    batch: Batch | None = None
    width: int = 0
    pick: Pick | None = None
    bursts: bool = False
    suffix: str = ""

    @property
    def sized(self) -> Steady | Batch:
        """Raises ValueError where the house does nothing of it."""
        found = self.steady if self.steady is not None else self.batch
        if found is None:
            raise ValueError(f"{self.task.name}: nothing of it runs in the house")
        return found


def shared(way: Way, share: float) -> Way:
    """The way, for a part of its task's load."""
    demand, steady, machine = way.task.demand, way.steady, way.choice.machine
    if share > 1 - ROUNDING or demand is None or steady is None or machine is None:
        return way
    part = demand.part(share)
    choice = steady_choice(way.task.name, part, way.model, steady, machine)
    return way._replace(task=way.task._replace(demand=part), choice=choice)


def node_of(host: Host) -> Node:
    """Raises ValueError for a rented machine: what one of the house costs is in a row of its own."""
    if host.node is None:
        raise ValueError(f"{host.machine.id} is no machine of a house")
    return host.node


class House:
    """The site of one's own: which machines may stand there, and what each task would take of them. With `expired` also
    those whose price is too old to buy by.
    """

    def __init__(self, needs: Needs, catalog: Catalog, sizer: Sizer, *, expired: bool = True) -> None:
        self._needs, self._catalog, self._sizer, self._expired = needs, catalog, sizer, expired
        site = needs.placement.site
        self.country = site.country if site is not None else needs.organisation.country
        self.where = Where("on-premises", "on-premises", self.country, self.country)
        self._allowed = Hosts(needs, catalog)
        self._hosts = self._allowed.bought(self.where)
        self.notes: list[str] = []
        self.stocks = tuple((*self._owned(), *self._bought()))

    @property
    def pue(self) -> float:
        """What cooling and conversion add to a machine's draw."""
        name = overhead("on-premises", colocated=self._needs.placement.site is None, catalog=self._catalog)
        return self._catalog.part(name).value if name is not None else 1.0

    @property
    def usd_per_kwh(self) -> float:
        site = self._needs.placement.site
        if site is not None and site.electricity_usd_per_kwh is not None:
            return site.electricity_usd_per_kwh
        return self._catalog.electricity_usd_per_kwh(self.country).value

    def _bought(self) -> Iterable[Stock]:
        for host in self._hosts:
            if self._expired or self._catalog.may_advise_buying(node_of(host)):
                yield Stock(host, "bought", self._kind(host, None, None))

    def _owned(self) -> Iterable[Stock]:
        for owned in self._needs.placement.owned:
            host = self._known(owned)
            if host is None:
                self.notes.append(
                    f"owned {owned.count} x {owned.machine} are left out: no row of a bought machine is like them"
                )
                continue
            yield Stock(host, "owned", self._kind(host, owned.age_months, owned.count))

    def _life(self, host: Host) -> float:
        """Months."""
        name = "life.server" if host.machine.accelerator is None else "life.gpu"
        return self._catalog.part(name).value * MONTHS_PER_YEAR

    def _known(self, owned: OwnedMachine) -> Host | None:
        try:
            count, device = self._catalog.machine_named(owned.machine)
        except CatalogError:
            return None
        wanted = (device.id, count)
        return next((host for host in self._hosts if _holds(host) == wanted), None)

    def _kind(self, host: Host, age: float | None, most: int | None) -> Kind:
        """`age` in months, None for one that is bought. Renewed at the end of its life and sold at the end, as the
        option will pay for it (renewal.py).
        """
        node, months = node_of(host), self._needs.budget.horizon_months
        kw = node.power_w / 1000 * self.pue
        energy = kw * MEAN_DRAW * HOURS_PER_MONTH * self.usd_per_kwh
        support = node.price_usd * self._catalog.part("support").value / MONTHS_PER_YEAR
        life, residual = self._life(host), self._catalog.part("residual").value
        first = 0.0 if age is None else max(0.0, life - age)
        purchases = max(0, math.ceil((months - first) / life))
        last = first + (purchases - 1) * life
        worth = residual ** ((months - last) / life) if purchases else 0.0
        monthly = energy + support
        again = node.price_usd if age is None else self.successor(node).usd
        staff = machine_usd(self._needs, self._catalog, own=True)
        whole = again * (purchases - worth) + (monthly + staff) * months
        capex = again * purchases
        return Kind(node.id, whole, monthly, capex, kw, node.rack_units, most)

    def successor(self, node: Node) -> Successor:
        return successor(node, (node_of(host) for host in self._hosts), self._catalog)

    def idle(self, fleets: tuple[Fleet, ...]) -> tuple[str, ...]:
        """What is said of owned machines that are left out."""
        used = {fleet.machine.id: fleet.peak for fleet in fleets if fleet.purchase == "owned"}
        currency = self._needs.budget.currency
        rate = self._catalog.exchange("USD", currency).value
        return tuple(
            f"{left} of {stock.kind.most} owned {stock.host.machine.id} have no work: one costs "
            f"{stock.kind.usd * rate:,.0f} {currency} over the horizon for support, energy and renewal, and as a "
            "second type of machine it takes spares of its own: more than it would save"
            for stock in self.stocks
            if stock.purchase == "owned" and (left := (stock.kind.most or 0) - used.get(stock.host.machine.id, 0)) > 0
        )

    def ways(self, task: Task, models: tuple[ModelSpec | None, ...], *, followed: bool) -> list[Way]:
        """Every way to do the task in the house; those that keep all limits, when there are any."""
        found = [
            way
            for host in {stock.host.machine.id: stock.host for stock in self.stocks}.values()
            if self._allowed.fit(task, host)
            for way in (
                self._steady_ways(task, models, host) if task.demand is not None else self._job_ways(task, models, host)
            )
        ]
        kept = [way for way in found if not broken(way)] or found
        kept = kept if followed else _of_equals(task, kept)
        # Where a load may be shared among types, all of it has one model: the strongest of each type is not enough.
        owns = any(stock.purchase == "owned" for stock in self.stocks)
        return kept if followed or (owns and task.demand is not None) else _strongest(kept)

    def _steady_ways(self, task: Task, models: tuple[ModelSpec | None, ...], host: Host) -> Iterable[Way]:
        for model in models:
            demand = task.demand
            steady = self._sizer.steady(demand, model, host) if demand is not None else None
            if demand is not None and steady is not None and steady.requests_per_s.value > 0:
                yield Way(steady_choice(task.name, demand, model, steady, host.machine.id), task, model, steady)

    def _job_ways(self, task: Task, models: tuple[ModelSpec | None, ...], host: Host) -> Iterable[Way]:
        for model in models:
            job = task.job
            batch = self._sizer.batch(job, model, host.machine) if job is not None else None
            if job is not None and batch is not None:
                width, _ = width_for(batch, job)
                hours = max(machine_hours(batch, job, width))
                choice = Choice(task.name, _named(model), host.machine.id, width=float(width), hours=hours)
                yield Way(choice, task, model, None, batch, width)


def _holds(host: Host) -> tuple[str | None, int]:
    device = host.machine.accelerator
    return (device.id if device is not None else None, host.machine.accelerator_count)


def steady_choice(
    task: str, demand: Demand, model: ModelSpec | None, steady: Steady, machine: str, *, bursts: bool = False
) -> Choice:
    """What the busiest month takes; with `bursts` only up to the mean, the peak being served elsewhere."""
    growth = max(demand.growth)
    taken = [part_of(level.rate * growth, steady) for level in demand.levels]
    if bursts:
        taken[0] = taken[1]
    needed = machines_for(taken[0], 1.0)
    return Choice(
        task,
        _named(model),
        machine,
        peak=taken[0],
        mean=taken[1],
        hours=sum(level.hours * part for level, part in zip(demand.levels, taken, strict=True)),
        spares=spares_for(needed, demand.workload.slo.availability),
        outside=bursts,
    )


def part_of(rate: float, steady: Steady) -> float:
    """Machines that `rate` takes: whole engines where accelerators run them, else parts of a host processor."""
    if rate <= 0:
        return 0.0
    share = rate / steady.requests_per_s.value
    if steady.devices:
        return max(1, math.ceil(share * steady.engines - ROUNDING)) / steady.engines
    return max(1, math.ceil(share / LEAST_PART - ROUNDING)) * LEAST_PART


def broken(way: Way) -> int:
    """Limits it breaks even on an idle machine, and deadlines."""
    job: Job | None = way.task.job
    misses = len(way.steady.misses) if way.steady is not None else 0
    if way.batch is not None and job is not None:
        misses += len(way.batch.misses) + len(width_for(way.batch, job)[1])
    return misses


def _named(model: ModelSpec | None) -> str:
    return model.id if model is not None else ""


def _strongest(ways: list[Way]) -> list[Way]:
    """Of each machine type the model that takes the least of it: nothing else tells them apart in the house."""
    best: dict[str | None, Way] = {}
    for way in ways:
        known = best.get(way.choice.machine)
        if known is None or _load(way) < _load(known):
            best[way.choice.machine] = way
    return list(best.values())


def _of_equals(task: Task, ways: list[Way]) -> list[Way]:
    """Of models that take the same of a machine, only the better one."""
    best: dict[object, Way] = {}
    for way in ways:
        key = way.choice._replace(model="", usd=0.0) if way.model is not None else way.choice
        other = best.setdefault(key, way)
        if way.model is not None and other.model is not None and better(task.workload, way.model, other.model):
            best[key] = way
    return list(best.values())


def _load(way: Way) -> tuple[int, float, float, float]:
    choice = way.choice
    size = float(way.model.parameters) if way.model is not None else 0.0
    return (broken(way), max(choice.peak, choice.mean + choice.width), choice.hours, size)
