"""Rented machines: for each task the model, machine type, region and way to pay that cost the least at one provider.

A steady load gets machines month by month and level by level: the load over what one machine carries, at least one,
plus the spares its availability asks for; they follow the load, or are promised (purchase.py). A job gets the fewest
machines that keep its deadline, for the hours it takes.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

from archwright.catalog.facts import Catalog
from archwright.catalog.rows import ModelSpec
from archwright.contract.needs import Needs
from archwright.contract.plan import Miss
from archwright.plan.availability import spares_for
from archwright.plan.candidates import Carrying, Host, Hosts, Sizer, Task, alike, front, speaks
from archwright.plan.demand import HOURS_PER_MONTH, Demand, Job
from archwright.plan.models import better
from archwright.plan.purchase import KINDS, REDONE, SPOT, SPOT_TOGETHER, Market, Price, Running, Tranche, cheapest
from archwright.plan.residency import Bounds, bounds_of, bounds_of_all, in_words, region_inside
from archwright.plan.staffing import machine_usd
from archwright.sizing.machine import Batch, Steady

# Assumed: getting a machine, its image and the data takes this long at the start of each run, and is paid for.
START_H = 0.25
# What the optimisation leaves of a whole number.
ROUNDING = 1e-6


class Pick(NamedTuple):
    """A task's place among rented machines. `needed` run at once at the busiest moment, `spares` beside them;
    `staff_usd` is what the people cost whom so many machines take.
    """

    task: Task
    host: Host
    model: ModelSpec | None
    steady: Steady | None
    batch: Batch | None
    tranches: tuple[Tranche, ...]
    needed: int
    spares: int
    misses: tuple[Miss, ...]
    ways: tuple[Price, ...] = ()
    staff_usd: float = 0.0

    @property
    def usd(self) -> float:
        return sum(tranche.sum for tranche in self.tranches)

    @property
    def cost(self) -> float:
        """What decides between machines."""
        return self.usd + self.staff_usd


class Found(NamedTuple):
    """One pick for each task, as far as there is one; `misses` says why not."""

    picks: tuple[Pick, ...]
    misses: tuple[Miss, ...]
    notes: tuple[str, ...] = ()


class Renter:
    """Looks for the cheapest machines of a provider."""

    def __init__(self, needs: Needs, catalog: Catalog, sizer: Sizer, *, promises: bool = True) -> None:
        self._needs, self._catalog, self._sizer = needs, catalog, sizer
        self._market, self._hosts = Market(catalog, spot=needs.placement.spot), Hosts(needs, catalog)
        self._promises = promises
        self._each = machine_usd(needs, catalog, own=False)
        self._known: dict[tuple[str, str, tuple[str, ...]], Pick | None] = {}
        self._here: dict[str, tuple[Host, ...]] = {}
        self._cheapest: dict[tuple[str, Bounds, str | None, bool], tuple[Host, ...]] = {}

    def find(self, provider: str, tasks: tuple[Task, ...]) -> Found:
        """The cheapest pick of every task; followers run the model of whom they follow, chosen for both together."""
        picks, misses, notes = list[Pick](), list[Miss](), list[str]()
        for task in tasks:
            notes += task.notes
            if task.follows is not None:
                continue
            family = (task, *(other for other in tasks if other.follows == task.name))
            together = self._family(provider, family)
            picks += together
            misses += [miss for pick in together for miss in pick.misses]
            if not together:
                misses += self._why_not(provider, family)
        return Found(tuple(picks), tuple(dict.fromkeys(misses)), tuple(notes))

    def _family(self, provider: str, family: tuple[Task, ...]) -> tuple[Pick, ...]:
        first = family[0]
        if len(family) == 1:
            pick = self.best(provider, first, first.models)
            return (pick,) if pick is not None else ()
        best = tuple[Pick, ...]()
        for least, model in self._ranked(provider, first):
            # What follows costs something too: no model whose bound is dearer than the best whole can still win.
            if best and least >= _order(best)[:2]:
                break
            first_pick = self.best(provider, first, (model,))
            if first_pick is None or (best and _order((first_pick,))[:2] >= _order(best)[:2]):
                continue
            others = [self.best(provider, task, (model,)) for task in family[1:]]
            picks = (first_pick, *(pick for pick in others if pick is not None))
            if len(picks) == len(family):
                best = min(best or picks, picks, key=_order)
        return best

    def _ranked(self, provider: str, task: Task) -> list[tuple[tuple[int, float], ModelSpec | None]]:
        """Models by the least that the task can cost with them."""
        found, demand = [], task.demand
        months = _months(demand) if demand is not None else Counter()
        for model in task.models:
            carrying = self._carrying(provider, task, (model,))
            bounds = [_bound(one, demand, months) for one in carrying] if demand is not None else []
            if task.demand is None or bounds:
                found.append((min(bounds, default=(0, 0.0)), model))
        return sorted(found, key=lambda pair: (pair[0], pair[1].id if pair[1] is not None else ""))

    def _carrying(self, provider: str, task: Task, models: tuple[ModelSpec | None, ...]) -> tuple[Carrying, ...]:
        """The machine types, each with each of the models that it holds, that no other beats."""
        found = []
        for host in self._cheap(provider, task):
            for model in models if task.demand is not None else ():
                steady = self._sizer.steady(task.demand, model, host.machine) if task.demand is not None else None
                if steady is not None and steady.requests_per_s.value > 0:
                    found.append(Carrying(host, model, self._prices(host), steady))
        return front(found)

    def best(self, provider: str, task: Task, models: tuple[ModelSpec | None, ...]) -> Pick | None:
        """The cheapest that breaks the fewest limits; None when nothing holds the task."""
        key = (provider, task.name, tuple(model.id if model is not None else "" for model in models))
        if key not in self._known:
            if task.demand is not None:
                self._known[key] = self._best_steady(task, task.demand, self._carrying(provider, task, models))
            else:
                self._known[key] = self._best_job(task, models, self._cheap(provider, task))
        return self._known[key]

    def better(self, provider: str, pick: Pick) -> Pick | None:
        """The same task with the cheapest model that is clearly better."""
        task, best = pick.task, None
        for least, model in self._ranked(provider, task) if task.demand is not None else ():
            if best is not None and least >= _order((best,))[:2]:
                break
            if model is not None and pick.model is not None and better(task.workload, model, pick.model):
                tried = self.best(provider, task, (model,))
                found = [one for one in (best, tried) if one is not None]
                best = min(found, key=lambda one: _order((one,)), default=None)
        return best

    def inside(self, provider: str, task: Task) -> tuple[Host, ...]:
        """The provider's machines where the task's data may go: inside the bounds of all data where the provider has
        such a region, so that work without bounds does not stray to another continent.
        """
        if provider not in self._here:
            self._here[provider] = self._hosts.rented(provider)
        here = tuple(host for host in self._here[provider] if self._hosts.fit(task, host))
        regions = dict.fromkeys(host.where.region for host in here)
        near: Bounds = ((task.place,),) if task.place is not None else ()
        for bounds in (bounds_of_all(self._needs), bounds_of(self._needs, task.workload)):
            within = (*bounds, *near)
            allowed = {region for region in regions if region_inside(self._catalog, within, provider, region)}
            if allowed:
                return tuple(host for host in here if host.where.region in allowed)
        return ()

    def _best_steady(self, task: Task, demand: Demand, found: tuple[Carrying, ...]) -> Pick | None:
        best: Pick | None = None
        months = _months(demand)
        for least, _, one in sorted((_bound(one, demand, months), index, one) for index, one in enumerate(found)):
            if best is not None and least >= (len(best.misses), best.cost):
                break
            pick = self._steady_pick(task, demand, one)
            best = pick if best is None else min(best, pick, key=lambda p: _order((p,)))
        return best

    def _steady_pick(self, task: Task, demand: Demand, one: Carrying) -> Pick:
        months = running_of(demand, one.steady.requests_per_s.value)
        most = max(max(month.counts) for month in months)
        spares = next(s for n, s in _spared(demand, one.steady.requests_per_s.value) if n + s == most)
        ways = self.ways(one.host)
        tranches = cheapest(months, ways)
        broken = tuple(one.steady.misses)
        staff = self._staff(tranches)
        return Pick(task, one.host, one.model, one.steady, None, tranches, most - spares, spares, broken, ways, staff)

    def _staff(self, tranches: tuple[Tranche, ...]) -> float:
        return self._each * sum(sum(tranche.machines) for tranche in tranches)

    def _best_job(self, task: Task, models: tuple[ModelSpec | None, ...], hosts: tuple[Host, ...]) -> Pick | None:
        picks = []
        for host in hosts if task.job is not None else ():
            for model in models:
                batch = self._sizer.batch(task.job, model, host.machine) if task.job is not None else None
                if batch is not None and task.job is not None:
                    picks.append(self._job_pick(task, task.job, (host, model, batch)))
        return min(picks, key=lambda pick: _order((pick,)), default=None)

    def _job_pick(self, task: Task, job: Job, what: tuple[Host, ModelSpec | None, Batch]) -> Pick:
        host, model, batch = what
        listed, spot = self.ways(host)[0], self._spot(host)
        ways = [(listed, 1.0)] if spot is None else [(listed, 1.0), (spot, 1 + REDONE)]
        found = [_run(batch, job, price, redone) for price, redone in ways]
        found = [run for run in found if run[0].kind != KINDS[SPOT] or run[1] <= SPOT_TOGETHER]
        tranche, machines, misses = min(found, key=lambda run: (len(run[2]), run[0].sum))
        prices = tuple(price for price, _ in ways)
        broken, staff = (*batch.misses, *misses), self._staff((tranche,))
        return Pick(task, host, model, None, batch, (tranche,), machines, 0, broken, prices, staff)

    def ways(self, host: Host) -> tuple[Price, ...]:
        ways = self._market.ways(host.offer) if host.offer is not None else ()
        return ways if self._promises else ways[:1]

    def _spot(self, host: Host) -> Price | None:
        return self._market.price(host.offer, SPOT) if host.offer is not None and self._promises else None

    def _prices(self, host: Host) -> tuple[float, ...]:
        """By the hour, for one year, for three; a way that is not sold costs what the next shorter one does."""
        by_kind = {price.kind: price.usd_per_hour for price in self.ways(host)}
        listed = by_kind["on-demand"]
        return (listed, by_kind.get("commit-1y", listed), by_kind.get("commit-3y", listed))

    def _cheap(self, provider: str, task: Task) -> tuple[Host, ...]:
        """Of machines that carry the same, those that are not dearer in every way."""
        key = (provider, bounds_of(self._needs, task.workload), task.place, speaks(task))
        if key not in self._cheapest:
            kept: dict[tuple[object, ...], list[Host]] = {}
            hosts = self.inside(provider, task)
            for host in sorted(hosts, key=lambda h: (self._prices(h), h.offer.id if h.offer is not None else "")):
                group, prices = kept.setdefault(alike(host.machine), []), self._prices(host)
                if not any(all(a <= b for a, b in zip(self._prices(o), prices, strict=True)) for o in group):
                    group.append(host)
            self._cheapest[key] = tuple(host for group in kept.values() for host in group)
        return self._cheapest[key]

    def _why_not(self, provider: str, family: tuple[Task, ...]) -> list[Miss]:
        first = family[0]
        if first.misses:
            return list(first.misses)
        hosts = self.inside(provider, first)
        if not any(host.machine.accelerator is not None for host in hosts) and first.models != (None,):
            return [self._nowhere(provider, first)]
        if not hosts:
            return [self._nowhere(provider, first)]
        model = next((model.id for model in first.models if model is not None), first.workload.kind)
        alone = [t for t in family if not any(self.best(provider, t, (model,)) for model in first.models)]
        stuck = (alone or list(family[1:]) or [first])[0]
        return [Miss(constraint=f"{stuck.name}.model", value=model, limit="an accelerator that holds it")]

    def _nowhere(self, provider: str, task: Task) -> Miss:
        """Offers inside, but not of the pinned accelerators; or none inside at all."""
        bounds, pinned = bounds_of(self._needs, task.workload), self._needs.placement.accelerators
        near = [offer for offer in self._catalog.offers if offer.provider == provider and offer.accelerator]
        inside = any(region_inside(self._catalog, bounds, provider, offer.region) for offer in near)
        if pinned is not None and inside:
            where = "in the regions" if self._needs.placement.regions is not None else "inside the residency"
            return Miss(constraint="accelerators", value=f"no offer {where}", limit=", ".join(pinned))
        return Miss(constraint="residency", value="no offer inside", limit=in_words(bounds))


def _order(picks: tuple[Pick, ...]) -> tuple[int, float, str]:
    return (
        sum(len(pick.misses) for pick in picks),
        sum(pick.cost for pick in picks),
        " ".join(pick.host.machine.id for pick in picks),
    )


def _months(demand: Demand) -> Counter[tuple[float, ...]]:
    """How many months have the same requests/s at each level of the day."""
    return Counter(map(demand.rates, range(len(demand.growth))))


def _bound(one: Carrying, demand: Demand, months: Counter[tuple[float, ...]]) -> tuple[int, float]:
    """No way to pay is cheaper than all hours of parts of machines, none spare, at the least price."""
    capacity, hours, always = one.steady.requests_per_s.value, 0.0, not demand.elsewhere
    for rates, count in months.items():
        for level, rate in zip(demand.levels, rates, strict=True):
            if rate > 0 or always:
                hours += count * level.hours * max(1.0, rate / capacity)
    return (len(one.steady.misses), hours * min(one.prices))


def running_of(demand: Demand, capacity: float) -> tuple[Running, ...]:
    """Machines of every month and level, spares included."""
    hours, counts = tuple(level.hours for level in demand.levels), dict[tuple[float, ...], tuple[int, ...]]()
    months = [demand.rates(month) for month in range(len(demand.growth))]
    for rates in months:
        if rates not in counts:
            target = demand.workload.slo.availability
            needed = [machines_for(rate, capacity) if _open(demand, rate) else 0 for rate in rates]
            counts[rates] = tuple(n + spares_for(n, target) if n else 0 for n in needed)
    return tuple(Running(hours, counts[rates]) for rates in months)


def _open(demand: Demand, rate: float) -> bool:
    """Whether machines run: always, but where somebody else serves all of the load now."""
    return rate > 0 or not demand.elsewhere


def _spared(demand: Demand, capacity: float) -> list[tuple[int, int]]:
    """Machines and spares at the peak of every month, the most first."""
    target = demand.workload.slo.availability
    found = {machines_for(max(demand.rates(month)), capacity) for month in range(len(demand.growth))}
    return [(n, spares_for(n, target)) for n in sorted(found, reverse=True)]


def machines_for(rate: float, capacity: float) -> int:
    return max(1, math.ceil(rate / capacity - ROUNDING))


def mean_machines(demand: Demand, capacity: float) -> float:
    """Machines that run on average over the horizon, spares included."""
    months = running_of(demand, capacity)
    return sum(month_mean(month) for month in months) / len(months)


def month_mean(month: Running) -> float:
    return sum(h * n for h, n in zip(month.hours, month.counts, strict=True)) / sum(month.hours)


def width_for(batch: Batch, job: Job, redone: float = 1.0) -> tuple[int, tuple[Miss, ...]]:
    """The fewest machines that keep the deadline in the busiest month; all that help, with a miss, when none do."""
    most = max(job.growth) * redone
    low, high = batch.least, max(batch.least, batch.most)

    def took(machines: int) -> float:
        return batch.hours(machines) * most + START_H

    if took(high) > job.deadline_h:
        name = f"{job.workload.name}.deadline_h"
        return high, (Miss(constraint=name, value=took(high), limit=job.deadline_h),)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if took(middle) <= job.deadline_h else (middle + 1, high)
    return low, ()


def machine_hours(batch: Batch, job: Job, machines: int, redone: float = 1.0) -> tuple[float, ...]:
    """Hours of all machines together, month by month."""
    runs = job.runs_per_month * machines
    return tuple(runs * (batch.hours(machines) * growth * redone + START_H) for growth in job.growth)


def _run(batch: Batch, job: Job, price: Price, redone: float) -> tuple[Tranche, int, tuple[Miss, ...]]:
    machines, misses = width_for(batch, job, redone)
    hours = machine_hours(batch, job, machines, redone)
    machines_on = tuple(hour / HOURS_PER_MONTH for hour in hours)
    paid = tuple(hour * price.usd_per_hour for hour in hours)
    return Tranche(price.kind, machines_on, paid, machines), machines, misses
