"""Machines in the house: bought, or owned already; shared by the workloads, chosen by the integer program.

What a machine costs over the horizon is summed here as the option will pay for it, so that the program compares what
the bill says: price, renewals, what is left at the end, support, spare parts, energy, people. Machines are bought at
the start of each year, as the load grows. Owned ones are there until the end of the year next to that of their economic
life, cost no purchase, and are not renewed as such: what follows them is bought then, of the type that is best.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import ServerSpec
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.needs import Needs, OwnedMachine
from archwright.contract.plan import PurchaseKind
from archwright.errors import CatalogError
from archwright.plan.accounting.fleet import Location, MachineFleet
from archwright.plan.capacity.availability import count_spares
from archwright.plan.capacity.candidates import CandidateMachine, MachineFinder, ModelOptions, SizingCache, WorkloadTask
from archwright.plan.capacity.machine_count import ROUNDING, compute_machine_hours, count_job_machines, count_machines
from archwright.plan.cost.hardware_lifecycle import GPU_LIFE, MONTHS_PER_YEAR, SERVER_LIFE
from archwright.plan.cost.prices import MIN_RESIDUAL_SHARE
from archwright.plan.cost.staffing import compute_machine_staff_usd
from archwright.plan.demand.forecast import HOURS_PER_MONTH, BatchJob, Demand, split_into_years
from archwright.plan.demand.model_selection import get_model_id, is_better_model
from archwright.plan.options.cloud_instances import InstanceChoice
from archwright.plan.options.option_builder import compute_busy_machines
from archwright.plan.solver.problem import AssignmentChoice, MachineSupply, SelectedChoice
from archwright.sizing.hardware.machine import BatchWork, SteadyCapacity
from archwright.sizing.hardware.power import select_pue_part

# On a host processor a workload takes parts of a machine no smaller than this.
MIN_MACHINE_SHARE = 1 / 16


class HardwareStock(NamedTuple):
    host: CandidateMachine
    purchase: PurchaseKind
    kind: MachineSupply


class TaskAssignment(NamedTuple):
    """A choice of the program, and what it stands for. `pick`: rented machines; with `kept` those of the load above so
    many requests/s in each month, which stay in the house. `suffix` sets a second pool of the same workload apart;
    `part` says what it does of a load that is shared among types of machines, None where it does all of it.
    """

    choice: AssignmentChoice
    task: WorkloadTask
    model: ModelSpec | None = None
    steady: SteadyCapacity | None = None
    batch: BatchWork | None = None
    width: int = 0
    pick: InstanceChoice | None = None
    kept: tuple[float, ...] = ()
    suffix: str = ""
    part: SelectedChoice | None = None

    def load_share(self, month: int) -> float:
        """Of its task's load, in a month."""
        return 1.0 if self.part is None else self.part.shares[month // MONTHS_PER_YEAR]

    def rates(self, demand: Demand, month: int) -> tuple[float, ...]:
        """Requests/s at each level of the day that stay in the house."""
        found = demand.rates(month)
        return tuple(min(rate, self.kept[month]) for rate in found) if self.kept else found

    def served_share(self, demand: Demand, month: int) -> float:
        """The part of a month's requests that is served so."""
        if not self.kept:
            return self.load_share(month)
        here = zip(demand.levels, self.rates(demand, month), strict=True)
        return self.load_share(month) * sum(level.hours * rate for level, rate in here) * 3600 / demand.requests(month)

    @property
    def sizing_result(self) -> SteadyCapacity | BatchWork:
        """Raises ValueError where the house does nothing of it."""
        found = self.steady if self.steady is not None else self.batch
        if found is None:
            raise ValueError(f"{self.task.name}: nothing of it runs in the house")
        return found


Assignments = tuple[TaskAssignment, ...]


def require_node(host: CandidateMachine) -> ServerSpec:
    """Raises ValueError for a rented machine: what one of the house costs is in a row of its own."""
    if host.node is None:
        raise ValueError(f"{host.machine.id} is no machine of a house")
    return host.node


class OnPremisesSite:
    """The own site: which machines may stand there, what tasks take of them. `expired`: too old prices too."""

    def __init__(self, needs: Needs, catalog: Catalog, sizer: SizingCache, *, expired: bool = True) -> None:
        self._needs, self._catalog, self._sizer = needs, catalog, sizer
        self._years = split_into_years(needs.budget.horizon_months)
        site = needs.placement.site
        self.country = site.country if site is not None else needs.organisation.country
        self.where = Location("on-premises", "on-premises", self.country, self.country)
        self._allowed = MachineFinder(needs, catalog)
        self._hosts = self._allowed.list_purchasable(self.where)
        self._found: dict[tuple[str, tuple[str, ...], bool], list[TaskAssignment]] = {}
        self.notes: list[str] = []
        bought = (host for host in self._hosts if expired or catalog.may_advise_buying(require_node(host)))
        priced = (HardwareStock(host, "bought", self._machine_kind(host, None)) for host in bought)
        self.stocks = (*self._owned_stocks(), *priced)

    @property
    def owned_types(self) -> frozenset[str]:
        return frozenset(stock.kind.machine for stock in self.stocks if stock.purchase == "owned")

    @property
    def pue(self) -> float:
        """What cooling and conversion add to a machine's draw."""
        name = select_pue_part("on-premises", colocated=self._needs.placement.site is None, catalog=self._catalog)
        return self._catalog.parameter(name).value if name is not None else 1.0

    @property
    def usd_per_kwh(self) -> float:
        site = self._needs.placement.site
        if site is not None and site.electricity_usd_per_kwh is not None:
            return site.electricity_usd_per_kwh
        return self._catalog.electricity_usd_per_kwh(self.country).value

    def _owned_stocks(self) -> Iterable[HardwareStock]:
        for owned in self._needs.placement.owned:
            host = self._find_host(owned)
            months = self._life_months(host) - owned.age_months if host is not None else 0
            left = round(months / MONTHS_PER_YEAR)
            if host is None or left <= 0:
                why = "no row of a bought machine is like them" if host is None else "their economic life is over"
                self.notes.append(f"owned {owned.count} x {owned.machine} are left out: {why}")
                continue
            most = tuple(owned.count if year < left else 0 for year in range(len(self._years)))
            yield HardwareStock(host, "owned", self._machine_kind(host, most))

    def _life_months(self, host: CandidateMachine) -> int:
        name = GPU_LIFE if host.machine.accelerator is not None else SERVER_LIFE
        return max(1, round(MONTHS_PER_YEAR * self._catalog.parameter(name).value))

    def _find_host(self, owned: OwnedMachine) -> CandidateMachine | None:
        try:
            count, device = self._catalog.resolve_machine(owned.machine)
        except CatalogError:
            return None
        alike = ((host, host.machine.accelerator) for host in self._hosts if host.machine.accelerator_count == count)
        return next((host for host, own in alike if own is not None and own.id == device.id), None)

    def _machine_kind(self, host: CandidateMachine, most: tuple[int, ...] | None) -> MachineSupply:
        """`most`: of machines that are owned. The same sums as in `plan.cost`."""
        node, months, part = require_node(host), self._needs.budget.horizon_months, self._catalog.parameter
        kw = node.power_w / 1000 * self.pue
        support = node.price_usd * part("support").value / MONTHS_PER_YEAR
        monthly = kw * part("idle.draw").value * HOURS_PER_MONTH * self.usd_per_kwh + support
        staff = compute_machine_staff_usd(self._needs, self._catalog, own=True)
        if most is not None:
            used = tuple(float(len(year)) for year in self._years)
            spent = tuple(monthly * months_used / months for months_used in used)
            whole = tuple((monthly + staff) * months_used for months_used in used)
            return MachineSupply(node.id, whole, spent, (0.0,) * len(used), kw, node.rack_units, most)
        left = tuple(float(months - year[0]) for year in self._years)
        life, residual = self._life_months(host), max(MIN_RESIDUAL_SHARE, part("residual").value)
        generations = tuple(math.ceil(one / life) for one in left)
        again = tuple(n - residual ** ((one - (n - 1) * life) / life) for n, one in zip(generations, left, strict=True))
        spares = part("spares").value * node.price_usd
        each = zip(again, left, strict=True)
        whole = tuple(node.price_usd * paid + spares + (monthly + staff) * one for paid, one in each)
        spent = tuple(monthly * one / months for one in left)
        capex = tuple(node.price_usd * n + spares for n in generations)
        return MachineSupply(node.id, whole, spent, capex, kw, node.rack_units)

    def describe_idle_machines(self, fleets: tuple[MachineFleet, ...]) -> tuple[str, ...]:
        used = {fleet.machine.id: fleet.peak for fleet in fleets if fleet.purchase == "owned"}
        currency = self._needs.budget.currency
        rate = self._catalog.exchange_rate("USD", currency).value
        return tuple(
            f"{left} of {max(stock.kind.most)} owned {stock.host.machine.id} have no work: one costs "
            f"{sum(stock.kind.usd) * rate:,.0f} {currency} over the horizon for support, energy and people: more than "
            "it would save"
            for stock in self.stocks
            if stock.kind.most is not None and (left := max(stock.kind.most) - used.get(stock.host.machine.id, 0)) > 0
        )

    def list_assignments(self, task: WorkloadTask, models: ModelOptions, *, followed: bool) -> list[TaskAssignment]:
        """Every way to do the task in the house; those that keep all limits, when there are any."""
        key = (task.name, tuple(get_model_id(model) for model in models), followed)
        if key not in self._found:
            self._found[key] = self._find_assignments(task, models, followed=followed)
        return self._found[key]

    def _find_assignments(self, task: WorkloadTask, models: ModelOptions, *, followed: bool) -> list[TaskAssignment]:
        list_ways = self._steady_assignments if task.demand is not None else self._job_assignments
        hosts = {stock.host.machine.id: stock.host for stock in self.stocks}.values()
        suitable = (host for host in hosts if self._allowed.is_suitable(task, host))
        found = [way for host in suitable for way in list_ways(task, models, host)]
        kept = [way for way in found if not count_broken_limits(way)] or found
        kept = kept if followed else _prefer_better_models(task, kept)
        # Where a load may be shared among types, all of it has one model: the strongest of each type is not enough.
        owns = any(stock.purchase == "owned" for stock in self.stocks)
        return kept if followed or (owns and task.demand is not None) else _select_strongest_models(kept)

    def _steady_assignments(
        self, task: WorkloadTask, models: ModelOptions, host: CandidateMachine
    ) -> Iterable[TaskAssignment]:
        for model in models:
            demand = task.demand
            steady = self._sizer.steady(demand, model, host) if demand is not None else None
            if demand is not None and steady is not None and steady.requests_per_s.value > 0:
                choice = build_steady_choice(task.name, demand, model, steady, host.machine.id)
                working = tuple(compute_busy_machines(demand, steady, one) * HOURS_PER_MONTH for one in demand.growth)
                yield TaskAssignment(self._add_work_cost(choice, host, steady.busy_w, working), task, model, steady)

    def _add_work_cost(
        self, choice: AssignmentChoice, host: CandidateMachine, busy_w: float, hours: tuple[float, ...]
    ) -> AssignmentChoice:
        """With what its work costs: the electricity of machines that work `hours` in each month, beyond idling."""
        idle = self._catalog.parameter("idle.draw").value * max(require_node(host).power_w, busy_w)
        usd = max(0.0, busy_w - idle) / 1000 * self.pue * self.usd_per_kwh
        return choice._replace(work_usd=tuple(usd * sum(hours[month] for month in year) for year in self._years))

    def _job_assignments(
        self, task: WorkloadTask, models: ModelOptions, host: CandidateMachine
    ) -> Iterable[TaskAssignment]:
        job, machine = task.job, host.machine
        for model in models if job is not None else ():
            batch = self._sizer.batch(job, model, machine) if job is not None else None
            if job is not None and batch is not None:
                width, _ = count_job_machines(batch, job)
                hours = compute_machine_hours(batch, job, width)
                most = tuple(max(hours[month] for month in year) for year in self._years)
                choice = AssignmentChoice(task.name, get_model_id(model), machine.id, width=float(width), hours=most)
                choice = self._add_work_cost(choice, host, batch.busy_w, hours)
                yield TaskAssignment(choice, task, model, None, batch, width)


def build_steady_choice(
    task: str,
    demand: Demand,
    model: ModelSpec | None,
    steady: SteadyCapacity,
    machine: str,
    kept: tuple[float, ...] = (),
) -> AssignmentChoice:
    """What the busiest month of each year takes; where `kept` says so only up to so many requests/s in each month."""
    busiest = [max(year, key=lambda month: demand.growth[month]) for year in split_into_years(len(demand.growth))]
    rates = [[min(rate, kept[month]) if kept else rate for rate in demand.rates(month)] for month in busiest]
    taken = [[compute_machine_share(rate, steady) for rate in month] for month in rates]
    peak = tuple(one[0] for one in taken)
    target = demand.workload.slo.availability
    spares = tuple(count_spares(count_machines(one, 1.0), target) if one else 0 for one in peak)
    return AssignmentChoice(
        task,
        get_model_id(model),
        machine,
        peak=peak,
        mean=tuple(one[1] for one in taken),
        hours=tuple(sum(level.hours * part for level, part in zip(demand.levels, one, strict=True)) for one in taken),
        spares=spares,
        beside=spares,
        parts=steady.engines if steady.devices else round(1 / MIN_MACHINE_SHARE),
    )


def add_shared_spares(ways: list[TaskAssignment], owned: frozenset[str]) -> list[TaskAssignment]:
    """With the spares of loads that may be shared among types: so many stand for the machines of all of them. A load
    that is shared takes no more machines than the type takes alone of which it takes the most, and one of each other.
    """
    found, most = list[TaskAssignment](), dict[tuple[str, str, str], list[int]]()
    for way in ways:
        if way.choice.machine in owned and way.choice.peak:
            one, known = [count_machines(peak, 1.0) for peak in way.choice.peak], most.get(_make_load_key(way), [])
            most[_make_load_key(way)] = [max(pair) for pair in zip(one, known or one, strict=True)]
    types = len(owned)
    for way in ways:
        choice, others, demand = way.choice, most.get(_make_load_key(way)), way.task.demand
        if choice.machine is not None and choice.peak and others is not None and demand is not None:
            needed = [max(count_machines(peak, 1.0), n) + types for peak, n in zip(choice.peak, others, strict=True)]
            target = demand.workload.slo.availability
            way = way._replace(choice=choice._replace(beside=tuple(count_spares(n, target) for n in needed)))
        found.append(way)
    return found


def _make_load_key(way: TaskAssignment) -> tuple[str, str, str]:
    return (way.choice.task, way.choice.model, way.choice.outside)


def compute_machine_share(rate: float, steady: SteadyCapacity) -> float:
    """Machines that `rate` takes: whole engines where accelerators run them, else parts of a host processor."""
    if rate <= 0:
        return 0.0
    share = rate / steady.requests_per_s.value
    if steady.devices:
        return max(1, math.ceil(share * steady.engines - ROUNDING)) / steady.engines
    return max(1, math.ceil(share / MIN_MACHINE_SHARE - ROUNDING)) * MIN_MACHINE_SHARE


def count_broken_limits(way: TaskAssignment) -> int:
    """Limits it breaks even on an idle machine, and deadlines."""
    job: BatchJob | None = way.task.job
    misses = len(way.steady.misses) if way.steady is not None else 0
    if way.batch is not None and job is not None:
        misses += len(way.batch.misses) + len(count_job_machines(way.batch, job)[1])
    return misses


def _select_strongest_models(ways: list[TaskAssignment]) -> list[TaskAssignment]:
    """Of each machine type the model that takes the least of it: nothing else tells them apart in the house."""
    best: dict[str | None, TaskAssignment] = {}
    for way in ways:
        known = best.get(way.choice.machine)
        if known is None or _rank_by_load(way) < _rank_by_load(known):
            best[way.choice.machine] = way
    return list(best.values())


def _prefer_better_models(task: WorkloadTask, ways: list[TaskAssignment]) -> list[TaskAssignment]:
    """Of models that take the same of a machine, only the better one: electricity of their work is no difference."""
    best: dict[object, TaskAssignment] = {}
    for way in ways:
        key = way.choice._replace(model="", usd=0.0, work_usd=()) if way.model is not None else way.choice
        other = best.setdefault(key, way)
        if way.model is not None and other.model is not None and is_better_model(task.workload, way.model, other.model):
            best[key] = way
    return list(best.values())


def _rank_by_load(way: TaskAssignment) -> tuple[int, float, float, float]:
    choice = way.choice
    size = float(way.model.parameters) if way.model is not None else 0.0
    taken = max(max(choice.peak, default=0.0), max(choice.mean, default=0.0) + choice.width)
    return (count_broken_limits(way), taken, max(choice.hours, default=0.0), size)
