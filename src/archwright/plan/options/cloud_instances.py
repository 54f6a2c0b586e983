"""Rented machines: for each task the model, machine type, region and way to pay that cost the least at one provider.

A steady load gets machines month by month and level by level: the load over what one machine carries, at least one,
plus the spares its availability asks for; they follow the load, or are committed (`purchase_options`). A job gets the
fewest machines that keep its deadline, for the hours it takes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from itertools import accumulate
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.needs import Needs
from archwright.contract.plan import ConstraintViolation
from archwright.plan.accounting.fleet import compute_monthly_peaks
from archwright.plan.capacity.candidates import (
    CandidateMachine,
    MachineCapability,
    MachineFinder,
    ModelOptions,
    SizingCache,
    WorkloadTask,
    make_sizing_key,
    select_pareto_front,
    uses_language_model,
)
from archwright.plan.capacity.machine_count import (
    ROUNDING,
    compute_running_hours,
    count_peak_machines,
    is_serving,
    price_job_runs,
)
from archwright.plan.capacity.purchase_options import (
    KIND_BY_TERM,
    MAX_SPOT_MACHINES,
    SPOT,
    SPOT_REDONE_SHARE,
    HourlyPrice,
    OfferPrices,
    PurchaseTranche,
    select_purchase_mix,
)
from archwright.plan.cost.staffing import compute_machine_staff_usd
from archwright.plan.demand.data_residency import (
    ResidencyBounds,
    collect_all_bounds,
    collect_bounds,
    format_bounds,
    is_near_users,
    is_region_inside,
    list_user_places,
)
from archwright.plan.demand.forecast import BatchJob, Demand
from archwright.plan.demand.model_selection import SIMILAR_COST_FACTOR, get_model_id, is_better_model, is_quality_known
from archwright.plan.violations import Misses, build_violation
from archwright.sizing.hardware.machine import BatchWork, SteadyCapacity

# Broken limits, by how much, and USD: what nothing better can be below.
CostLowerBound = tuple[int, float, float]


class InstanceChoice(NamedTuple):
    """A task's place among rented machines. `needed` run at once at the busiest moment, `spares` beside them;
    `staff_usd` is what the people cost whom so many machines take.
    """

    task: WorkloadTask
    host: CandidateMachine
    model: ModelSpec | None
    steady: SteadyCapacity | None
    batch: BatchWork | None
    tranches: tuple[PurchaseTranche, ...]
    needed: int
    spares: int
    misses: Misses
    ways: tuple[HourlyPrice, ...] = ()
    staff_usd: float = 0.0

    @property
    def usd(self) -> float:
        return sum(tranche.sum for tranche in self.tranches)

    @property
    def cost(self) -> float:
        """What decides between machines."""
        return self.usd + self.staff_usd


class InstanceSelection(NamedTuple):
    """One pick for each task, as far as there is one; `misses` says why not."""

    picks: tuple[InstanceChoice, ...]
    misses: Misses
    notes: tuple[str, ...] = ()


class InstanceSelector:
    """Looks for the cheapest machines of a provider, in one `region` where it is named."""

    def __init__(
        self, needs: Needs, catalog: Catalog, sizer: SizingCache, *, promises: bool = True, region: str | None = None
    ) -> None:
        self._needs, self._catalog, self._sizer, self._region = needs, catalog, sizer, region
        self._market, self._hosts = OfferPrices(catalog, spot=needs.placement.spot), MachineFinder(needs, catalog)
        self._promises = promises
        self._each = compute_machine_staff_usd(needs, catalog, own=False)
        self._known: dict[tuple[str, str, tuple[str, ...]], InstanceChoice | None] = {}
        self._carried: dict[tuple[object, ...], tuple[MachineCapability, ...]] = {}
        self._here: dict[str, tuple[CandidateMachine, ...]] = {}
        self._cheapest: dict[tuple[object, ...], tuple[CandidateMachine, ...]] = {}

    def select_instances(self, provider: str, tasks: tuple[WorkloadTask, ...]) -> InstanceSelection:
        """The cheapest pick of every task; followers run the model of whom they follow, chosen for both together."""
        picks, misses, notes = list[InstanceChoice](), list[ConstraintViolation](), list[str]()
        for task in tasks:
            notes += task.notes
            if task.follows is not None:
                continue
            family = (task, *(other for other in tasks if other.follows == task.name))
            together = self._select_family(provider, family)
            picks += together
            misses += [miss for pick in together for miss in pick.misses]
            if not together:
                misses += self._explain_failure(provider, family)
        return InstanceSelection(tuple(picks), tuple(dict.fromkeys(misses)), tuple(notes))

    def _select_family(self, provider: str, family: tuple[WorkloadTask, ...]) -> tuple[InstanceChoice, ...]:
        first = family[0]
        if len(family) == 1:
            pick = self.best_choice(provider, first, first.models)
            return (pick,) if pick is not None else ()
        best = tuple[InstanceChoice, ...]()
        for least, model in self._rank_models(provider, first):
            # What follows costs something too: no model whose bound is dearer than the best whole can still win.
            if best and least >= _rank_choices(best)[:3]:
                break
            first_pick = self.best_choice(provider, first, (model,))
            if first_pick is None or (best and _rank_choices((first_pick,))[:3] >= _rank_choices(best)[:3]):
                continue
            others = [self.best_choice(provider, task, (model,)) for task in family[1:]]
            picks = (first_pick, *(pick for pick in others if pick is not None))
            if len(picks) == len(family):
                best = min(best or picks, picks, key=_rank_choices)
        return best

    def _rank_models(self, provider: str, task: WorkloadTask) -> list[tuple[CostLowerBound, ModelSpec | None]]:
        found, demand = [], task.demand
        loads = LoadDurationCurve(demand) if demand is not None else None
        for model in task.models:
            least = self._lowest_cost_bound(provider, task, model, loads) if loads is not None else (0, 1.0, 0.0)
            if least is not None:
                found.append((least, model))
        return sorted(found, key=lambda pair: (pair[0], get_model_id(pair[1])))

    def _lowest_cost_bound(
        self, provider: str, task: WorkloadTask, model: ModelSpec | None, loads: LoadDurationCurve
    ) -> CostLowerBound | None:
        """Where its users are, else anywhere, as `best_choice` looks for it."""
        for near in (True, False):
            able = self._capable_machines(provider, task, (model,), near)
            least = min((_bound_cost(one, loads) for one in able), default=None)
            if least is not None and (least[0] == 0 or not near):
                return least
        return None

    def _capable_machines(
        self, provider: str, task: WorkloadTask, models: ModelOptions, near: bool
    ) -> tuple[MachineCapability, ...]:
        """Machine types, each with each of the models that it holds, that no other beats."""
        key = (provider, task.workload.name, task.place, tuple(map(get_model_id, models)), near)
        if key not in self._carried:
            found = []
            for host in self._cheapest_machines(provider, task, near):
                for model in models if task.demand is not None else ():
                    steady = self._sizer.steady(task.demand, model, host) if task.demand is not None else None
                    if steady is not None and steady.requests_per_s.value > 0:
                        found.append(MachineCapability(host, model, self._hourly_prices(host), steady))
            self._carried[key] = select_pareto_front(found)
        return self._carried[key]

    def best_choice(self, provider: str, task: WorkloadTask, models: ModelOptions) -> InstanceChoice | None:
        """The cheapest that breaks the fewest limits, near its users unless far breaks fewer; None: nothing fits."""
        key = (provider, task.name, tuple(map(get_model_id, models)))
        if key not in self._known:
            pick = self._find_best(provider, task, models, near=True)
            if pick is None or pick.misses:
                far = self._find_best(provider, task, models, near=False)
                pick = far if pick is None or (far is not None and len(far.misses) < len(pick.misses)) else pick
            if pick is not None and len(models) > 1:
                pick = self._prefer_known_quality(provider, pick)
            self._known[key] = pick
        return self._known[key]

    def _prefer_known_quality(self, provider: str, pick: InstanceChoice) -> InstanceChoice:
        """A model whose quality is known where it costs about as much, and a better one where it costs the same."""
        known = self.cheapest_known_quality(provider, pick)
        if known is not None and len(known.misses) <= len(pick.misses):
            pick = known if known.cost <= SIMILAR_COST_FACTOR * pick.cost else pick
        while (other := self.better_model_choice(provider, pick)) is not None:
            if len(other.misses) > len(pick.misses) or other.cost > pick.cost * (1 + ROUNDING):
                break
            pick = other
        return pick

    def cheapest_known_quality(self, provider: str, pick: InstanceChoice) -> InstanceChoice | None:
        """Where nobody reported the quality of a pick's model, the cheapest one of which it is known."""
        task = pick.task
        if pick.model is None or is_quality_known(task.workload, pick.model.quality):
            return None
        named = (model for model in task.models if model is not None)
        models = tuple(model for model in named if is_quality_known(task.workload, model.quality))
        return self.best_choice(provider, task, models) if models else None

    def _find_best(
        self, provider: str, task: WorkloadTask, models: ModelOptions, *, near: bool
    ) -> InstanceChoice | None:
        if task.demand is not None:
            return self._best_steady(task, task.demand, self._capable_machines(provider, task, models, near))
        return self._best_job(task, models, self._cheapest_machines(provider, task, near))

    def remote_saving(self, pick: InstanceChoice) -> tuple[float, str]:
        """USD saved over the horizon in the cheapest region far from the users, and that region; 0 and "" if none."""
        offer, task = pick.host.offer, pick.task
        if offer is None or not is_host_near_users(self._needs, self._catalog, task, pick.host):
            return 0.0, ""
        alike = (h for h in self.allowed_machines(offer.provider, task) if h.machine.id == pick.host.machine.id)
        least = min(alike, key=self._hourly_prices, default=pick.host)
        return pick.usd * (1 - self._hourly_prices(least)[0] / self._hourly_prices(pick.host)[0]), least.where.region

    def better_model_choice(self, provider: str, pick: InstanceChoice) -> InstanceChoice | None:
        task, best = pick.task, None
        for least, model in self._rank_models(provider, task) if task.demand is not None else ():
            if best is not None and least >= _rank_choices((best,))[:3]:
                break
            if model is not None and pick.model is not None and is_better_model(task.workload, model, pick.model):
                tried = self.best_choice(provider, task, (model,))
                found = [one for one in (best, tried) if one is not None]
                best = min(found, key=lambda one: _rank_choices((one,)), default=None)
        return best

    def allowed_machines(self, provider: str, task: WorkloadTask) -> tuple[CandidateMachine, ...]:
        """Machines inside the bounds of all data if the provider has such a region, else inside the task's own."""
        if provider not in self._here:
            self._here[provider] = self._hosts.list_rented(provider)
        inside = (host for host in self._here[provider] if self._region in (None, host.where.region))
        here = tuple(host for host in inside if self._hosts.is_suitable(task, host))
        regions = dict.fromkeys(host.where.region for host in here)
        near: ResidencyBounds = ((task.place,),) if task.place is not None else ()
        for bounds in (collect_all_bounds(self._needs), collect_bounds(self._needs, task.workload)):
            within = (*bounds, *near)
            allowed = {region for region in regions if is_region_inside(self._catalog, within, provider, region)}
            if allowed:
                return tuple(host for host in here if host.where.region in allowed)
        return ()

    def _best_steady(
        self, task: WorkloadTask, demand: Demand, found: tuple[MachineCapability, ...]
    ) -> InstanceChoice | None:
        best: InstanceChoice | None = None
        loads = LoadDurationCurve(demand)
        for least, _, one in sorted((_bound_cost(one, loads), index, one) for index, one in enumerate(found)):
            if best is not None and least >= _rank_choices((best,))[:3]:
                break
            pick = self._steady_choice(task, demand, one)
            best = pick if best is None else min(best, pick, key=lambda p: _rank_choices((p,)))
        return best

    def _steady_choice(self, task: WorkloadTask, demand: Demand, one: MachineCapability) -> InstanceChoice:
        capacity, ways = one.steady.requests_per_s.value, self.list_prices(one.host)
        months = compute_running_hours(demand, capacity)
        most = max(max(month.counts) for month in months)
        spares = next(s for n, s in count_peak_machines(demand, capacity) if n + s == most)
        tranches, misses, need = select_purchase_mix(months, ways), tuple(one.steady.misses), most - spares
        staff = self._staff_usd(tranches)
        return InstanceChoice(task, one.host, one.model, one.steady, None, tranches, need, spares, misses, ways, staff)

    def _staff_usd(self, tranches: tuple[PurchaseTranche, ...]) -> float:
        return self._each * sum(sum(compute_monthly_peaks(tranche.machines, tranche.peak)) for tranche in tranches)

    def _best_job(
        self, task: WorkloadTask, models: ModelOptions, hosts: tuple[CandidateMachine, ...]
    ) -> InstanceChoice | None:
        picks = []
        for host in hosts if task.job is not None else ():
            for model in models:
                batch = self._sizer.batch(task.job, model, host.machine) if task.job is not None else None
                if batch is not None and task.job is not None:
                    picks.append(self._job_choice(task, task.job, (host, model, batch)))
        return min(picks, key=lambda pick: _rank_choices((pick,)), default=None)

    def _job_choice(
        self, task: WorkloadTask, job: BatchJob, what: tuple[CandidateMachine, ModelSpec | None, BatchWork]
    ) -> InstanceChoice:
        host, model, batch = what
        listed = self.list_prices(host)[0]
        spot = self._market.price(host.offer, SPOT) if host.offer is not None and self._promises else None
        ways = [(listed, 1.0)] if spot is None else [(listed, 1.0), (spot, 1 + SPOT_REDONE_SHARE)]
        found = [price_job_runs(batch, job, price, redone) for price, redone in ways]
        found = [run for run in found if run[0].kind != KIND_BY_TERM[SPOT] or run[1] <= MAX_SPOT_MACHINES]
        best = min(found, key=lambda run: (len(run[2]), _compute_worst_overrun(run[2]), run[0].sum))
        tranche, machines, misses = best
        prices = tuple(price for price, _ in ways)
        broken, staff = (*batch.misses, *misses), self._staff_usd((tranche,))
        return InstanceChoice(task, host, model, None, batch, (tranche,), machines, 0, broken, prices, staff)

    def list_prices(self, host: CandidateMachine) -> tuple[HourlyPrice, ...]:
        ways = self._market.list_prices(host.offer) if host.offer is not None else ()
        return ways if self._promises else ways[:1]

    def _hourly_prices(self, host: CandidateMachine) -> tuple[float, ...]:
        """By the hour, for one year, for three; a way that is not sold costs what the next shorter one does."""
        by_kind = {price.kind: price.usd_per_hour for price in self.list_prices(host)}
        listed = by_kind["on-demand"]
        return (listed, by_kind.get("commit-1y", listed), by_kind.get("commit-3y", listed))

    def _cheapest_machines(self, provider: str, task: WorkloadTask, near: bool) -> tuple[CandidateMachine, ...]:
        """Of machines that carry the same, those that are not dearer in every way. With `near` only where users are."""
        # How many work together hangs on their network; one alone does not.
        joint, workload = task.job is not None, task.workload
        bounds, asked = collect_bounds(self._needs, workload), list_user_places(self._needs, workload)
        key = (provider, bounds, task.place, uses_language_model(task), joint, near, asked, workload.slo)
        if key not in self._cheapest:
            kept: dict[tuple[object, ...], list[CandidateMachine]] = {}
            inside = self.allowed_machines(provider, task)
            hosts = [host for host in inside if not near or is_host_near_users(self._needs, self._catalog, task, host)]
            hosts.sort(key=lambda host: (self._hourly_prices(host), host.offer.id if host.offer is not None else ""))
            for host in hosts:
                network = host.machine.network_bytes_per_s if joint else None
                kind = (*make_sizing_key(host.machine), self._sizer.round_trip_s(workload, host), network)
                group, prices = kept.setdefault(kind, []), self._hourly_prices(host)
                if not any(all(a <= b for a, b in zip(self._hourly_prices(o), prices, strict=True)) for o in group):
                    group.append(host)
            self._cheapest[key] = tuple(host for group in kept.values() for host in group)
        return self._cheapest[key]

    def _explain_failure(self, provider: str, family: tuple[WorkloadTask, ...]) -> list[ConstraintViolation]:
        first = family[0]
        if first.misses:
            return list(first.misses)
        hosts = self.allowed_machines(provider, first)
        driven = any(host.machine.accelerator is not None for host in hosts)
        if not hosts or (not driven and first.models != (None,)):
            return [self._explain_missing_offer(provider, first)]
        model = next((model.id for model in first.models if model is not None), first.workload.kind)
        alone = [t for t in family if not any(self.best_choice(provider, t, (model,)) for model in first.models)]
        stuck = (alone or list(family[1:]) or [first])[0]
        return [build_violation(f"{stuck.name}.model", model, "an accelerator that holds it")]

    def _explain_missing_offer(self, provider: str, task: WorkloadTask) -> ConstraintViolation:
        """Offers inside, but not of the pinned accelerators; or none inside at all."""
        bounds, pinned = collect_bounds(self._needs, task.workload), self._needs.placement.accelerators
        sold = [offer for offer in self._catalog.offers if offer.provider == provider and offer.accelerator]
        inside = [one for one in sold if is_region_inside(self._catalog, bounds, provider, one.region)]
        if pinned is not None and inside:
            wanted = self._catalog.accelerator_ids(pinned)
            here = [one for one in inside if one.accelerator in wanted]
            where = "in the regions" if self._needs.placement.regions is not None else "inside the residency"
            why = f"no offer {where}" if any(one.accelerator in wanted for one in sold) else "no offer at this provider"
            if here:
                priced = any(one.on_demand_usd_per_hour for one in here)
                why = "no engine of the catalog drives it" if priced else "no price known"
            return build_violation("accelerators", why, ", ".join(pinned))
        return build_violation("residency", "no offer inside", format_bounds(bounds))


def is_host_near_users(needs: Needs, catalog: Catalog, task: WorkloadTask, host: CandidateMachine) -> bool:
    """Whether a machine stands where the task is asked from; what is answered inside a place has its own bounds."""
    return task.place is not None or is_near_users(needs, catalog, task.workload, host.where.country)


def _rank_choices(picks: tuple[InstanceChoice, ...]) -> tuple[int, float, float, str]:
    """The fewest broken limits, these the least broken, then the least cost."""
    misses = tuple(miss for pick in picks for miss in pick.misses)
    cost, names = sum(pick.cost for pick in picks), " ".join(pick.host.machine.id for pick in picks)
    return len(misses), _compute_worst_overrun(misses), cost, names


def _compute_worst_overrun(misses: Misses) -> float:
    """By which factor the farthest limit is missed; 1 where none is, and no factor tells how far the unknown is."""
    pairs = [(miss.value, miss.limit) for miss in misses]
    known = [(v, at) for v, at in pairs if isinstance(v, int | float) and isinstance(at, int | float)]
    if len(known) < len(pairs):
        return math.inf
    return max((max(v / at, at / v) if v > 0 and at > 0 else math.inf for v, at in known), default=1.0)


class LoadDurationCurve:
    """What machines answer over the horizon: hours at each rate of requests/s, the lowest first."""

    def __init__(self, demand: Demand) -> None:
        months = Counter(map(demand.rates, range(len(demand.growth))))
        found = sorted(
            (rate, count * level.hours)
            for rates, count in months.items()
            for level, rate in zip(demand.levels, rates, strict=True)
            if is_serving(demand, rate)
        )
        self._rates = [rate for rate, _ in found]
        self._hours = [0.0, *accumulate(hours for _, hours in found)]
        self._work = [0.0, *accumulate(rate * hours for rate, hours in found)]

    def machine_hours(self, capacity: float) -> float:
        """Of parts of machines that answer `capacity` requests/s each, one of them at least."""
        whole = bisect_right(self._rates, capacity)
        return self._hours[whole] + (self._work[-1] - self._work[whole]) / capacity


def _bound_cost(one: MachineCapability, loads: LoadDurationCurve) -> CostLowerBound:
    """No way to pay is cheaper than all hours of parts of machines, none spare, at the least price."""
    hours = loads.machine_hours(one.steady.requests_per_s.value)
    return (len(one.steady.misses), _compute_worst_overrun(one.steady.misses), hours * min(one.prices))
