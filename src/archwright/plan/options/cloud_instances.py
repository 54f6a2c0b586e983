"""Rented machines: the cheapest model, machine type, region and purchase option of each task at one provider.

A steady load gets machines for every month and load level: load / capacity of one machine, at least one machine, plus
the spares for its availability target. Machines follow the load or are committed (`purchase_options`). A job gets the
fewest machines that keep its deadline, for the hours that it runs.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.needs import Needs
from archwright.contract.number_format import format_money
from archwright.contract.plan import ConstraintViolation
from archwright.plan.accounting.fleet import compute_monthly_peaks
from archwright.plan.capacity import candidates, machine_count, purchase_options
from archwright.plan.capacity.candidates import CandidateMachine, MachineCapability, ModelOptions, WorkloadTask
from archwright.plan.capacity.purchase_options import SPOT, HourlyPrice, PurchaseTranche
from archwright.plan.cost.staffing import compute_machine_staff_usd
from archwright.plan.demand import data_residency as residency
from archwright.plan.demand.forecast import BatchJob, Demand
from archwright.plan.demand.model_selection import get_model_id
from archwright.plan.violations import VALID_PRICE, Misses, build_violation
from archwright.sizing.hardware.machine import BatchWork, SteadyCapacity

# A model of a higher score is taken if it costs at most these shares more, of its workload's machines or of all.
BETTER_SHARE_OF_OWN, BETTER_SHARE_OF_ALL = 0.1, 0.02

SizedJob = tuple[CandidateMachine, ModelSpec | None, BatchWork]
# Number of broken limits, the largest overrun, and USD: a lower bound of the ranking.
CostLowerBound = tuple[float, float, float]


class InstanceChoice(NamedTuple):
    """Rented machines of a task; `needed` and `spares` at the busiest moment; `staff_usd`: staff for these machines.

    `list_usd`: what the runs of a job cost at list prices.
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
    prices: tuple[HourlyPrice, ...] = ()
    staff_usd: float = 0.0
    list_usd: float = 0.0

    @property
    def usd(self) -> float:
        return sum(tranche.sum for tranche in self.tranches)

    @property
    def weakness(self) -> float:
        return len(self.misses) + (self.steady.doubts / 100 if self.steady is not None else 0.0)

    @property
    def cost(self) -> float:
        """Return the cost that decides between machines."""
        return self.usd + self.staff_usd


class InstanceSelection(NamedTuple):
    """The chosen machines of each task; `misses`: why a task has none."""

    picks: tuple[InstanceChoice, ...]
    misses: Misses
    notes: tuple[str, ...] = ()


class InstanceSelector:
    """Selects the cheapest machines of a provider. `commitments` False: only on demand. `region`: the only region."""

    def __init__(
        self,
        needs: Needs,
        catalog: Catalog,
        sizer: candidates.SizingCache,
        *,
        commitments: bool = True,
        region: str | None = None,
    ) -> None:
        self._needs, self._catalog, self._sizer, self._region = needs, catalog, sizer, region
        self._market = purchase_options.OfferPrices(catalog, spot=needs.placement.spot)
        self._hosts = candidates.MachineFinder(needs, catalog)
        self._commitments = commitments
        self._each = compute_machine_staff_usd(needs, catalog, own=False)
        self._known: dict[tuple[str, str, tuple[str, ...]], InstanceChoice | None] = {}
        self._carried: dict[tuple[object, ...], tuple[MachineCapability, ...]] = {}
        self._regional: dict[str, InstanceSelector] = {}
        self._here: dict[str, tuple[CandidateMachine, ...]] = {}
        self._cheapest: dict[tuple[object, ...], tuple[CandidateMachine, ...]] = {}

    def limit_to(self, region: str) -> "InstanceSelector":
        """Return the selector of one region; it is kept, with its choices."""
        if region not in self._regional:
            needs, catalog, sizer = self._needs, self._catalog, self._sizer
            self._regional[region] = InstanceSelector(
                needs, catalog, sizer, commitments=self._commitments, region=region
            )
        return self._regional[region]

    def select_instances(self, provider: str, tasks: tuple[WorkloadTask, ...]) -> InstanceSelection:
        """Select the cheapest machines of every task; a task and its followers share one model, chosen together."""
        picks, misses, notes = (
            list[InstanceChoice](),
            list[ConstraintViolation](),
            [n for one in tasks for n in one.notes],
        )
        families = [(task, *(o for o in tasks if o.follows == task.name)) for task in tasks if task.follows is None]
        cheapest = [self._select_family(provider, family) for family in families]
        whole = sum(pick.cost for together in cheapest for pick in together)
        for family, least in zip(families, cheapest, strict=True):
            together = self._prefer_better(provider, family, least, whole)
            picks += together
            notes += self._price_others(provider, family[0], together)
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
            # Followers cost something too, so a model whose bound exceeds the best total cannot win.
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
        found, demand = list[tuple[CostLowerBound, ModelSpec | None]](), task.demand
        loads = LoadDurationCurve(demand) if demand is not None else None
        for model in task.models:
            if loads is None:
                found.append(((0, 1.0, 0.0), model))
                continue
            # Near the users, else anywhere, in the order of `best_choice`.
            for near in (True, False):
                able = self._capable_machines(provider, task, (model,), near)
                least = min((_bound_cost(one, loads) for one in able), default=None)
                if least is not None and (least[0] == 0 or not near):
                    found.append((least, model))
                    break
        return sorted(found, key=lambda pair: (pair[0], get_model_id(pair[1])))

    def _capable_machines(
        self, provider: str, task: WorkloadTask, models: ModelOptions, near: bool
    ) -> tuple[MachineCapability, ...]:
        """Return machine types with each model that they can serve, without dominated ones."""
        key = (provider, task.workload.name, task.place, tuple(map(get_model_id, models)), near)
        if key not in self._carried:
            self._carried[key] = candidates.select_pareto_front(
                MachineCapability(host, model, self._hourly_prices(host), steady)
                for host in self._cheapest_machines(provider, task, near)
                for _, model, steady in self._sizer.list_steady(task, models, host)
            )
        return self._carried[key]

    def best_choice(self, provider: str, task: WorkloadTask, models: ModelOptions) -> InstanceChoice | None:
        """Return the cheapest machines with the fewest broken limits, near the users if equal; None if none fits."""
        key = (provider, task.name, tuple(map(get_model_id, models)))
        if key not in self._known:
            pick = self._find_best(provider, task, models, near=True)
            if pick is None or pick.misses:
                far = self._find_best(provider, task, models, near=False)
                pick = far if pick is None or (far is not None and len(far.misses) < len(pick.misses)) else pick
            self._known[key] = pick
        return self._known[key]

    def price_models(self, provider: str, task: WorkloadTask) -> dict[str, float]:
        """Estimate the cost in USD over the horizon of a task by each model that keeps all limits.

        The costs of models are proportional to their lower bounds; the cheapest model has its real cost.
        """
        pick = self.best_choice(provider, task, task.models)
        every = self._rank_models(provider, task._replace(models=(*task.models, *task.alternatives)))
        bounds = {get_model_id(model): least[2] for least, model in every if not least[0]}
        own = bounds.get(get_model_id(pick.model)) if pick is not None else None
        if pick is None or not own:
            return {}
        return {model: pick.cost * bound / own for model, bound in bounds.items()}

    def _find_best(
        self, provider: str, task: WorkloadTask, models: ModelOptions, *, near: bool
    ) -> InstanceChoice | None:
        if task.demand is not None:
            return self._best_steady(task, task.demand, self._capable_machines(provider, task, models, near))
        every = [
            (host, model, batch)
            for host in self._cheapest_machines(provider, task, near)
            for _, model, batch in self._sizer.list_batch(task, models, host)
        ]
        return self._best_job(task, task.job, every) if task.job is not None else None

    def remote_saving(self, pick: InstanceChoice) -> tuple[float, str]:
        """Return the USD saved over the horizon in the cheapest remote region, and this region; (0, "") if none."""
        offer, task = pick.host.offer, pick.task
        if offer is None or not self._is_near_users(task, pick.host):
            return 0.0, ""
        alike = (h for h in self.allowed_machines(offer.provider, task) if h.machine.id == pick.host.machine.id)
        least = min(alike, key=self._hourly_prices, default=pick.host)
        return pick.usd * (1 - self._hourly_prices(least)[0] / self._hourly_prices(pick.host)[0]), least.where.region

    def _prefer_better(
        self, provider: str, family: tuple[WorkloadTask, ...], picks: tuple[InstanceChoice, ...], whole: float
    ) -> tuple[InstanceChoice, ...]:
        """Return machines for a left-out model of a higher score if they cost little more than `picks`.

        `whole`: the cost of the cheapest machines of all tasks.
        """
        first, own = family[0], sum(pick.cost for pick in picks)
        limit = own + max(BETTER_SHARE_OF_OWN * own, BETTER_SHARE_OF_ALL * whole)
        for model in first.better if picks else ():
            found = self._select_family(provider, (first._replace(models=(model,)), *family[1:]))
            broken = [sum(pick.weakness for pick in one) for one in (found, picks)]
            if len(found) == len(picks) and broken[0] <= broken[1] and sum(pick.cost for pick in found) <= limit:
                return found
        return picks

    def _price_others(self, provider: str, task: WorkloadTask, picks: tuple[InstanceChoice, ...]) -> Iterable[str]:
        """Yield a note with the cost of other parsers that the licence permits, whose page scores may not compare."""
        found = {model.id: self.best_choice(provider, task, (model,)) for model in task.others if picks}
        months = self._needs.budget.horizon_months
        named = [f"{name} {format_money(one.cost / months)}" for name, one in found.items() if one is not None]
        if named:
            own = f"{get_model_id(picks[0].model)} {format_money(picks[0].cost / months)}"
            costs = f"{own}; {', '.join(named)}"
            yield f"{task.name}: machines in USD a month by parser: {costs}. Compare them on 500 pages"

    def allowed_machines(self, provider: str, task: WorkloadTask) -> tuple[CandidateMachine, ...]:
        """Return machines inside the bounds of all data, or else inside the bounds of the task's own data."""
        if provider not in self._here:
            self._here[provider] = self._hosts.list_rented(provider)
        inside = (host for host in self._here[provider] if self._region in (None, host.where.region))
        here = tuple(host for host in inside if self._hosts.is_suitable(task, host))
        regions = dict.fromkeys(host.where.region for host in here)
        near: residency.ResidencyBounds = ((task.place,),) if task.place is not None else ()
        every, own = residency.collect_all_bounds(self._needs), residency.collect_bounds(self._needs, task.workload)
        for bounds in ((*every, *near), (*own, *near)):
            allowed = {one for one in regions if residency.is_region_inside(self._catalog, bounds, provider, one)}
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

    def _best_job(self, task: WorkloadTask, job: BatchJob, every: list[SizedJob]) -> InstanceChoice | None:
        best: InstanceChoice | None = None
        # Machine types of equal capacity share one sizing.
        runs = {id(batch): _bound_hours(batch, job) for *_, batch in every}
        bounds = [
            ((count, overrun, hours * min(price.usd_per_hour for price in self._list_job_prices(one[0]))), index, one)
            for index, one in enumerate(every)
            for count, overrun, hours in (runs[id(one[2])],)
        ]
        for least, _, one in sorted(bounds, key=lambda bound: bound[:2]):
            if best is not None and least > _rank_choices((best,))[:3]:
                break
            pick = self._job_choice(task, job, one)
            best = pick if best is None else min(best, pick, key=lambda p: _rank_choices((p,)))
        return best

    def _steady_choice(self, task: WorkloadTask, demand: Demand, one: MachineCapability) -> InstanceChoice:
        capacity, prices = one.steady.requests_per_s.value, self.list_prices(one.host)
        months = machine_count.compute_running_hours(demand, capacity)
        most = max(max(month.counts) for month in months)
        spares = next(s for n, s in machine_count.count_peak_machines(demand, capacity) if n + s == most)
        tranches, misses = purchase_options.select_purchase_mix(months, prices), tuple(one.steady.misses)
        pick = InstanceChoice(task, one.host, one.model, one.steady, None, tranches, most - spares, spares, misses)
        return pick._replace(prices=prices, staff_usd=self._staff_usd(tranches))

    def _staff_usd(self, tranches: tuple[PurchaseTranche, ...]) -> float:
        return self._each * sum(sum(compute_monthly_peaks(tranche.machines, tranche.peak)) for tranche in tranches)

    def _job_choice(self, task: WorkloadTask, job: BatchJob, what: SizedJob) -> InstanceChoice:
        host, model, batch = what
        prices = self.list_prices(host)
        listed = machine_count.price_job_runs(batch, job, prices[0], 1.0)
        runs = [machine_count.commit_job_runs(listed, batch, job, prices) if len(prices) > 1 else listed]
        every = self._list_job_prices(host)
        for spot in every[len(prices) :]:
            run = machine_count.price_job_runs(batch, job, spot, 1 + purchase_options.SPOT_REDONE_SHARE)
            runs += [run] if run.machines <= purchase_options.MAX_SPOT_MACHINES else []
        best = min(runs, key=lambda run: (len(run.misses), _compute_worst_overrun(run.misses), run.sum))
        broken = (*batch.misses, *best.misses)
        pick = InstanceChoice(task, host, model, None, batch, best.tranches, best.machines, 0, broken, every)
        return pick._replace(staff_usd=self._staff_usd(best.tranches), list_usd=listed.sum)

    def list_prices(self, host: CandidateMachine) -> tuple[HourlyPrice, ...]:
        prices = self._market.list_prices(host.offer) if host.offer is not None else ()
        return prices if self._commitments else prices[:1]

    def _list_job_prices(self, host: CandidateMachine) -> tuple[HourlyPrice, ...]:
        """Return the prices for a job: those of `list_prices`, then that of spot machines, if there is one."""
        spot = self._market.price(host.offer, SPOT) if host.offer is not None and self._commitments else None
        return self.list_prices(host) if spot is None else (*self.list_prices(host), spot)

    def _hourly_prices(self, host: CandidateMachine) -> tuple[float, ...]:
        """Return prices on demand, for one year and for three years; the on-demand price if there is no offer."""
        by_kind = {price.kind: price.usd_per_hour for price in self.list_prices(host)}
        listed = by_kind["on-demand"]
        return (listed, by_kind.get("commit-1y", listed), by_kind.get("commit-3y", listed))

    def _cheapest_machines(self, provider: str, task: WorkloadTask, near: bool) -> tuple[CandidateMachine, ...]:
        """Return machines without those of equal capacity that cost more in every way. `near`: only near the users."""
        # The network matters only if machines work together.
        joint, workload = task.job is not None, task.workload
        bounds = residency.collect_bounds(self._needs, workload)
        users, language = residency.list_user_places(self._needs, workload), candidates.uses_language_model(task)
        key = (provider, bounds, task.place, language, joint, near, users, workload.slo)
        if key not in self._cheapest:
            kept: dict[tuple[object, ...], list[CandidateMachine]] = {}
            inside = self.allowed_machines(provider, task)
            hosts = [host for host in inside if not near or self._is_near_users(task, host)]
            hosts.sort(key=lambda host: (self._hourly_prices(host), host.offer.id if host.offer is not None else ""))
            for host in hosts:
                network = host.machine.network_bytes_per_s if joint else None
                kind = (*candidates.make_sizing_key(host.machine), self._sizer.round_trip_s(workload, host), network)
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
        """Explain why no offer inside the bounds fits: pinned accelerators, price, engine, or residency."""
        bounds, pinned = residency.collect_bounds(self._needs, task.workload), self._needs.placement.accelerators
        sold = [offer for offer in self._catalog.offers if offer.provider == provider and offer.accelerator]
        inside = [one for one in sold if residency.is_region_inside(self._catalog, bounds, provider, one.region)]
        if inside and not any(map(self._catalog.has_valid_price, inside)):
            types = ", ".join(sorted({one.instance_type for one in inside}))
            return build_violation("stale_facts", types, VALID_PRICE)
        if pinned is not None and inside:
            wanted = self._catalog.accelerator_ids(pinned)
            here = [one for one in inside if one.accelerator in wanted]
            where = "in the regions" if self._needs.placement.regions is not None else "inside the residency"
            why = f"no offer {where}" if any(one.accelerator in wanted for one in sold) else "no offer at this provider"
            if here:
                priced = any(one.on_demand_usd_per_hour for one in here)
                why = "no engine of the catalog supports it" if priced else "no price known"
            return build_violation("accelerators", why, ", ".join(pinned))
        return build_violation("residency", "no offer inside", residency.format_bounds(bounds))

    def _is_near_users(self, task: WorkloadTask, host: CandidateMachine) -> bool:
        """True if a machine is near the task's users; a task with a `place` has its own bounds."""
        country = host.where.country
        return task.place is not None or residency.is_near_users(self._needs, self._catalog, task.workload, country)


def _rank_choices(picks: tuple[InstanceChoice, ...]) -> tuple[float, float, float, str]:
    """Rank by broken and uncertain limits, the largest overrun, cost, and machine names."""
    misses = tuple(miss for pick in picks for miss in pick.misses)
    cost, names = sum(pick.cost for pick in picks), " ".join(pick.host.machine.id for pick in picks)
    return sum(pick.weakness for pick in picks), _compute_worst_overrun(misses), cost, names


def _compute_worst_overrun(misses: Misses) -> float:
    """Return the largest factor by which a limit is missed; 1 if none is, infinite if a value is no number."""
    pairs = [(miss.value, miss.limit) for miss in misses]
    known = [(v, at) for v, at in pairs if isinstance(v, int | float) and isinstance(at, int | float)]
    if len(known) < len(pairs):
        return math.inf
    return max((max(v / at, at / v) if v > 0 and at > 0 else math.inf for v, at in known), default=1.0)


class LoadDurationCurve:
    """Hours over the horizon at each request rate, sorted by rate."""

    def __init__(self, demand: Demand) -> None:
        months = Counter(map(demand.rates, range(len(demand.growth))))
        found = sorted(
            (rate, count * level.hours)
            for rates, count in months.items()
            for level, rate in zip(demand.levels, rates, strict=True)
            if machine_count.is_serving(demand, rate)
        )
        self._rates = [rate for rate, _ in found]
        self._hours = [0.0, *accumulate(hours for _, hours in found)]
        self._work = [0.0, *accumulate(rate * hours for rate, hours in found)]

    def machine_hours(self, capacity: float) -> float:
        """Return the hours of fractional machines with this capacity in requests/s, at least one machine."""
        whole = bisect_right(self._rates, capacity)
        return self._hours[whole] + (self._work[-1] - self._work[whole]) / capacity


def _bound_cost(one: MachineCapability, loads: LoadDurationCurve) -> CostLowerBound:
    """Bound the cost from below: hours of fractional machines, without spares, at the lowest price."""
    hours = loads.machine_hours(one.steady.requests_per_s.value)
    return (one.steady.weakness, _compute_worst_overrun(one.steady.misses), hours * min(one.prices))


def _bound_hours(batch: BatchWork, job: BatchJob) -> CostLowerBound:
    """Return the broken limits and machine-hours over the horizon of a job without repeated work on spot machines."""
    machines, misses = machine_count.count_job_machines(batch, job)
    hours = sum(machine_count.compute_machine_hours(batch, job, machines)) * (1 - machine_count.ROUNDING)
    broken = (*batch.misses, *misses)
    return (len(broken), _compute_worst_overrun(broken), hours)
