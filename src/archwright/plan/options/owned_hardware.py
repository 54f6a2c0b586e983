"""On-site machines, bought or owned, that workloads share; the integer program selects them.

The cost of a machine over the horizon is the sum that the option will pay, so that the program compares real costs:
price, renewals, resale value, support, repairs, spare parts, energy, staff. Machines are bought at the start of each
year as the load grows. Owned machines serve at any age; their support and repairs rise with it. An owned machine costs
what running it costs, and nothing while it is idle: no option gains from a sale of what the organisation owns today.
Owned machines are used first, at any age: see `OWNED_FIRST_WEIGHT`.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import ServerSpec
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.needs import Needs, OwnedMachine
from archwright.contract.plan import PurchaseKind
from archwright.plan.accounting.fleet import Location
from archwright.plan.capacity.availability import count_spares
from archwright.plan.capacity.candidates import (
    CandidateMachine,
    MachineFinder,
    ModelOptions,
    SizingCache,
    WorkloadTask,
    fits_form,
)
from archwright.plan.capacity.machine_count import (
    ROUNDING,
    compute_longest_run_h,
    compute_machine_hours,
    count_job_machines,
    count_machines,
)
from archwright.plan.capacity.night_window import NightWindow, find_night_window, select_night_share
from archwright.plan.cost.hardware_lifecycle import (
    find_owned_node,
    plan_generations,
    read_ageing_curve,
    select_life_part,
)
from archwright.plan.cost.staffing import compute_machine_staff_usd
from archwright.plan.demand.forecast import (
    HOURS_PER_MONTH,
    MONTHS_PER_YEAR,
    SECONDS_PER_HOUR,
    BatchJob,
    Demand,
    split_into_years,
)
from archwright.plan.demand.model_selection import get_model_id
from archwright.plan.options.cloud_instances import InstanceChoice
from archwright.plan.options.option_builder import compute_busy_machines
from archwright.plan.solver.problem import AssignmentChoice, MachineSupply, SelectedChoice
from archwright.sizing.hardware.machine import BatchWork, Machine, SteadyCapacity
from archwright.sizing.hardware.power import select_pue_part

# The smallest part of a machine that a workload on a host processor uses.
MIN_MACHINE_SHARE = 1 / 16
# Weight of the running costs of owned machines in the program: they serve before any machine is bought or rented, and
# no more of them run than the work needs.
OWNED_FIRST_WEIGHT = 1e-3
# Kinds of jobs that run for months, day and night.
ALL_HOURS_KINDS = frozenset({"pretrain"})


class HardwareStock(NamedTuple):
    host: CandidateMachine
    purchase: PurchaseKind
    kind: MachineSupply
    age_months: float = 0.0


class TaskAssignment(NamedTuple):
    """A choice of the integer program, with its task and sizing.

    `pick`: rented machines; with `kept` set, they serve the load above `kept` requests/s (per month), which stay on
    site. `suffix`: distinguishes a second pool of the workload. `part`: the part of a load that machine types share;
    None if one type serves the whole load. A run of a job uses `width` machines, or slices of which a machine has
    `slices`; it takes at most `run_h` hours. `night`: the window of a job that waits for the night.
    """

    choice: AssignmentChoice
    task: WorkloadTask
    model: ModelSpec | None = None
    steady: SteadyCapacity | None = None
    batch: BatchWork | None = None
    width: int = 0
    slices: int = 1
    pick: InstanceChoice | None = None
    kept: tuple[float, ...] = ()
    suffix: str = ""
    part: SelectedChoice | None = None
    night: NightWindow | None = None
    run_h: float = 0.0

    @property
    def pool(self) -> str:
        return f"{self.task.name}{self.suffix}"

    def load_share(self, month: int) -> float:
        return 1.0 if self.part is None else self.part.shares[month // MONTHS_PER_YEAR]

    def rates(self, demand: Demand, month: int) -> tuple[float, ...]:
        """Return the requests/s that stay on site at each load level."""
        found = demand.rates(month)
        return tuple(min(rate, self.kept[month]) for rate in found) if self.kept else found

    def served_share(self, demand: Demand, month: int) -> float:
        """Return the share of a month's requests that this assignment serves."""
        if not self.kept:
            return self.load_share(month)
        levels = zip(demand.levels, self.rates(demand, month), strict=True)
        served = self.load_share(month) * sum(level.hours * rate for level, rate in levels)
        return served * SECONDS_PER_HOUR / demand.requests(month)

    @property
    def machine_hours(self) -> tuple[float, ...]:
        """Return the hours of whole machines that a job needs per month; nothing for a steady load."""
        if self.batch is None or self.task.job is None:
            return ()
        return tuple(hour / self.slices for hour in compute_machine_hours(self.batch, self.task.job, self.width))

    @property
    def sizing_result(self) -> SteadyCapacity | BatchWork:
        """Raises ValueError if no part of the task runs on site."""
        found = self.steady if self.steady is not None else self.batch
        if found is None:
            raise ValueError(f"{self.task.name}: no part of it runs on on-premises machines")
        return found


Assignments = tuple[TaskAssignment, ...]
# Replaced when the work of a job is known.
_UNASSIGNED = AssignmentChoice("", "", None)


def require_node(host: CandidateMachine) -> ServerSpec:
    """Return the catalog row of a bought or owned machine. Raises ValueError for a rented machine."""
    if host.node is None:
        raise ValueError(f"{host.machine.id} is not an on-premises machine")
    return host.node


class OnPremisesSite:
    """A central site with its owned machines, and those with a valid price. `name`: of a further site."""

    def __init__(self, needs: Needs, catalog: Catalog, sizer: SizingCache, *, name: str = "") -> None:
        self._needs, self._catalog, self._sizer = needs, catalog, sizer
        self._years = split_into_years(needs.budget.horizon_months)
        site = needs.placement.site
        self.country = site.country if site is not None else needs.organisation.country
        self.where = Location("on-premises", "on-premises", f"{self.country} {name}".strip(), self.country)
        # PUE: total power of the site / power of its machines.
        pue_part = select_pue_part("on-premises", colocated=site is None, catalog=catalog)
        self._pue = catalog.parameter(pue_part).value if pue_part is not None else 1.0
        own_price = site.electricity_usd_per_kwh if site is not None else None
        self._usd_per_kwh = catalog.electricity_usd_per_kwh(self.country).value if own_price is None else own_price
        self._allowed = MachineFinder(needs, catalog)
        self._night = find_night_window(needs, catalog)
        self._hosts = self._allowed.list_purchasable(self.where)
        self._found: dict[tuple[str, tuple[str, ...], bool], list[TaskAssignment]] = {}
        self.notes: list[str] = []
        bought = (host for host in self._hosts if catalog.has_valid_price(require_node(host)))
        priced = (HardwareStock(host, "bought", self._machine_kind(host, None)) for host in bought)
        self.stocks = (*self._owned_stocks(), *priced)

    @property
    def owned_types(self) -> frozenset[str]:
        return frozenset(stock.kind.machine for stock in self.stocks if stock.purchase == "owned")

    def _owned_stocks(self) -> Iterable[HardwareStock]:
        for owned in self._needs.placement.owned:
            node = find_owned_node(self._catalog, owned)
            # By id: the price of a machine to buy may stand at the upper end of its band.
            host = next((one for one in self._hosts if node is not None and require_node(one).id == node.id), None)
            if host is None:
                why = "the catalog has no such machine" if node is None else "the needs or export rules exclude it"
                self.notes.append(f"owned {owned.count} x {owned.machine} are not used: {why}")
                continue
            host = host._replace(node=node)
            yield HardwareStock(host, "owned", self._machine_kind(host, owned), owned.age_months)

    def _machine_kind(self, host: CandidateMachine, owned: OwnedMachine | None) -> MachineSupply:
        """`owned`: machines that need not be bought. Costs are the sums of `plan.cost`, before the weight."""
        node, months, part = require_node(host), self._needs.budget.horizon_months, self._catalog.parameter
        curve, price = read_ageing_curve(part, select_life_part(node), node), node.price_usd
        kw = node.power_w / 1000 * self._pue
        energy = kw * part("idle.draw").value * HOURS_PER_MONTH * self._usd_per_kwh
        staff = compute_machine_staff_usd(self._needs, self._catalog, own=True)
        if owned is not None:
            spans = [(len(year), owned.age_months + year[0]) for year in self._years]
            paid = [price * curve.upkeep(*span) + energy * span[0] for span in spans]
            whole = tuple(
                OWNED_FIRST_WEIGHT * (usd + staff * length) for usd, (length, _) in zip(paid, spans, strict=True)
            )
            none, most = (0.0,) * len(spans), (owned.count,) * len(spans)
            return MachineSupply(node.id, whole, tuple(usd / months for usd in paid), none, kw, node.rack_units, most)
        spares, whole_usd, spent_usd, capex = part("spares").value * price, list[float](), list[float](), list[float]()
        for left in (months - year[0] for year in self._years):
            kept = plan_generations(curve, left)
            whole_usd.append(price * sum(map(curve.hold, kept)) + spares + (energy + staff) * left)
            spent_usd.append((price * sum(map(curve.upkeep, kept)) + energy * left) / months)
            capex.append(price * len(kept) + spares)
        return MachineSupply(node.id, tuple(whole_usd), tuple(spent_usd), tuple(capex), kw, node.rack_units)

    def list_assignments(self, task: WorkloadTask, models: ModelOptions, *, followed: bool) -> list[TaskAssignment]:
        """Return the on-site assignments of a task; only those that keep all limits, for certain if they can."""
        key = (task.name, tuple(get_model_id(model) for model in models), followed)
        if key not in self._found:
            self._found[key] = self._find_assignments(task, models, followed=followed)
        return self._found[key]

    def _find_assignments(self, task: WorkloadTask, models: ModelOptions, *, followed: bool) -> list[TaskAssignment]:
        hosts = {stock.host.machine.id: stock.host for stock in self.stocks}.values()
        suitable = (host for host in hosts if self._allowed.is_suitable(task, host))
        found = [each for host in suitable for each in self._size_assignments(task, models, host)]
        kept = [each for each in found if not count_broken_limits(each)] or found
        kept = [each for each in kept if each.steady is None or not each.steady.doubts] or kept
        if followed:
            return kept
        # A load that machine types share has one model, so all models of each type are needed.
        shareable = task.demand is not None and any(stock.purchase == "owned" for stock in self.stocks)
        return kept if shareable else _select_strongest_models(kept)

    def _size_assignments(
        self, task: WorkloadTask, models: ModelOptions, host: CandidateMachine
    ) -> Iterable[TaskAssignment]:
        for demand, model, steady in self._sizer.list_steady(task, models, host):
            choice = build_steady_choice(task.name, demand, model, steady, host.machine.id)
            if not fits_form(host, choice.most_machines):
                continue
            busy = tuple(compute_busy_machines(demand, steady, one) * HOURS_PER_MONTH for one in demand.growth)
            yield TaskAssignment(self._add_work_cost(choice, host, steady.busy_w, busy), task, model, steady)
        for job, model, batch in self._sizer.list_batch(task, models, host):
            work = TaskAssignment(_UNASSIGNED, task, model, None, batch)
            yield from self._size_job(work, job, host)
            if self._night is not None and job.workload.kind not in ALL_HOURS_KINDS:
                yield from self._size_night_job(work, job, host)

    def _size_job(self, work: TaskAssignment, job: BatchJob, host: CandidateMachine) -> Iterable[TaskAssignment]:
        """Yield the work of a job on whole machines, or on slices of one; nothing if an office holds too few."""
        batch = work.batch
        if batch is None:
            return
        width = count_job_machines(batch, job)[0]
        slices = 1
        if (sliced := self._slice_job(job, work.model, host.machine)) is not None:
            whole_w, (batch, width, slices) = batch.busy_w, sliced
            # The host is busy once, not in every slice.
            batch = batch._replace(busy_w=whole_w / slices)
        share = width / slices
        if not fits_form(host, share):
            return
        assigned = work._replace(batch=batch, width=width, slices=slices)
        hours = assigned.machine_hours
        most = tuple(max(hours[month] for month in year) for year in self._years)
        choice = AssignmentChoice(work.task.name, get_model_id(work.model), host.machine.id, width=share, hours=most)
        yield assigned._replace(choice=self._add_work_cost(choice, host, batch.busy_w * slices, hours))

    def _size_night_job(self, work: TaskAssignment, job: BatchJob, host: CandidateMachine) -> Iterable[TaskAssignment]:
        """Yield the work of a job that waits for the night; nothing if its longest run takes longer than a night."""
        night = self._night
        if night is None:
            return
        nightly = job._replace(deadline_h=min(job.deadline_h, night.lasts_h))
        for assigned in self._size_job(work, nightly, host):
            if assigned.batch is None or count_broken_limits(assigned):
                continue
            run_h = compute_longest_run_h(assigned.batch, job, assigned.width)
            if run_h <= nightly.deadline_h:
                choice = assigned.choice._replace(night_share=run_h / night.lasts_h)
                yield assigned._replace(choice=choice, night=night, run_h=run_h)

    def _slice_job(self, job: BatchJob, model: ModelSpec | None, machine: Machine) -> tuple[BatchWork, int, int] | None:
        """Return the work on a slice, the slices of a run, and those of a machine; None if a run needs whole machines.

        A slice has one accelerator, so that a job runs beside loads that leave accelerators of the machine idle.
        """
        devices = machine.accelerator_count if model is not None else 0
        count = devices or round(1 / MIN_MACHINE_SHARE)
        if count < 2 or machine.cores < count:
            return None
        one = machine._replace(
            accelerator=machine.accelerator if devices else None,
            accelerator_count=min(devices, 1),
            cores=machine.cores // count,
            ram_bytes=machine.ram_bytes / count,
        )
        batch = self._sizer.batch(job, model, one)
        if batch is None or batch.misses:
            return None
        width, late = count_job_machines(batch, job)
        return None if late or width > count else (batch, width, count)

    def _add_work_cost(
        self, choice: AssignmentChoice, host: CandidateMachine, busy_w: float, hours: tuple[float, ...]
    ) -> AssignmentChoice:
        """Add the electricity of busy machines beyond idling; `hours`: busy machine-hours per month."""
        idle = self._catalog.parameter("idle.draw").value * max(require_node(host).power_w, busy_w)
        usd = max(0.0, busy_w - idle) / 1000 * self._pue * self._usd_per_kwh
        return choice._replace(work_usd=tuple(usd * sum(hours[month] for month in year) for year in self._years))


def build_steady_choice(
    task: str,
    demand: Demand,
    model: ModelSpec | None,
    steady: SteadyCapacity,
    machine: str,
    kept: tuple[float, ...] = (),
) -> AssignmentChoice:
    """Build a choice from the busiest month of each year; `kept`: upper limit of the requests/s in each month."""
    machines = list[tuple[float, ...]]()
    for year in split_into_years(len(demand.growth)):
        busiest = max(year, key=lambda month: demand.growth[month])
        rates = demand.rates(busiest)
        if kept:
            rates = tuple(min(rate, kept[busiest]) for rate in rates)
        machines.append(tuple(compute_machine_share(rate, steady) for rate in rates))
    peak = tuple(levels[0] for levels in machines)
    target = demand.workload.slo.availability
    spares = tuple(count_spares(count_machines(most, 1.0), target) if most else 0 for most in peak)
    parts = round(1 / MIN_MACHINE_SHARE)
    if steady.devices:
        parts = steady.engines
    return AssignmentChoice(
        task,
        get_model_id(model),
        machine,
        peak=peak,
        mean=tuple(levels[1] for levels in machines),
        hours=tuple(map(demand.sum_machine_hours, machines)),
        spares=spares,
        beside=spares,
        night=tuple(select_night_share(demand, steady, levels) for levels in machines),
        parts=parts,
    )


def add_shared_spares(assignments: list[TaskAssignment], owned: frozenset[str]) -> list[TaskAssignment]:
    """Add the spares for loads that machine types may share; they back the machines of all these types."""
    # A shared load needs at most the machines of the type that alone needs the most, plus one of each other type.
    found, most = list[TaskAssignment](), dict[tuple[str, str, str], list[int]]()
    for each in assignments:
        if each.choice.machine in owned and each.choice.peak:
            key, counts = _make_load_key(each), [count_machines(peak, 1.0) for peak in each.choice.peak]
            most[key] = [max(pair) for pair in zip(counts, most.get(key) or counts, strict=True)]
    types = len(owned)
    for each in assignments:
        choice, others, demand = each.choice, most.get(_make_load_key(each)), each.task.demand
        if choice.machine is not None and choice.peak and others is not None and demand is not None:
            needed = [max(count_machines(peak, 1.0), n) + types for peak, n in zip(choice.peak, others, strict=True)]
            target = demand.workload.slo.availability
            each = each._replace(choice=choice._replace(beside=tuple(count_spares(n, target) for n in needed)))
        found.append(each)
    return found


def _make_load_key(assigned: TaskAssignment) -> tuple[str, str, str]:
    return (assigned.choice.task, assigned.choice.model, assigned.choice.outside)


def compute_machine_share(rate: float, steady: SteadyCapacity) -> float:
    """Return the machines for `rate`: in whole engines with accelerators, else in parts of a host processor."""
    if rate <= 0:
        return 0.0
    share = rate / steady.requests_per_s.value
    if steady.devices:
        return max(1, math.ceil(share * steady.engines - ROUNDING)) / steady.engines
    return max(1, math.ceil(share / MIN_MACHINE_SHARE - ROUNDING)) * MIN_MACHINE_SHARE


def count_broken_limits(assigned: TaskAssignment) -> int:
    """Count the limits that even an idle machine breaks, and missed deadlines."""
    job, misses = assigned.task.job, len(assigned.steady.misses) if assigned.steady is not None else 0
    if assigned.batch is not None and job is not None:
        misses += len(assigned.batch.misses) + len(count_job_machines(assigned.batch, job)[1])
    return misses


def _select_strongest_models(assignments: list[TaskAssignment]) -> list[TaskAssignment]:
    """Keep the model with the smallest load for each machine type; on-site costs of models differ in nothing else."""

    def rank(assigned: TaskAssignment) -> tuple[int, float, float, float]:
        choice = assigned.choice
        size = float(assigned.model.parameters) if assigned.model is not None else 0.0
        return (count_broken_limits(assigned), choice.most_machines, max(choice.hours, default=0.0), size)

    best: dict[tuple[str | None, bool], TaskAssignment] = {}
    for each in assignments:
        key = (each.choice.machine, each.choice.runs_at_night)
        best[key] = min(best.get(key, each), each, key=rank)
    return list(best.values())
