"""Candidates for a workload: tasks, available machine types, and the capacity of one machine.

Sizing runs once per kind of machine: offers of the same accelerators at different prices or in different regions have
the same capacity. Only the Pareto front of machines is kept: a machine is dropped only if another one costs no more
with any purchase option and has at least the same capacity, so no optimal machine is lost.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import ServerSpec
from archwright.catalog.tables.records import ModelSpec, Offer
from archwright.catalog.tables.specialist_tables import PublishedRateModel
from archwright.contract.needs import SLO, TEXT_KINDS, Needs, Traffic, Workload
from archwright.contract.plan import LimitProbability
from archwright.contract.record import replace
from archwright.errors import CatalogError
from archwright.plan.accounting.fleet import Location, locate_offer
from archwright.plan.capacity.served_load import build_text_load
from archwright.plan.demand.data_residency import collect_bounds, is_country_inside, select_round_trip
from archwright.plan.demand.forecast import BatchJob, Demand, list_batch_jobs, list_steady_demands
from archwright.plan.demand.image_input import add_image_work, describe_image_tokens, keep_image_models, takes_images
from archwright.plan.demand.model_selection import get_model_id, prune_models, select_open_models
from archwright.plan.demand.specialist_models import select_specialist_models
from archwright.plan.violations import Misses, build_violation
from archwright.sizing.hardware.machine import BatchWork, LimitAssessor, Machine, SteadyCapacity
from archwright.sizing.inference.serving_capacity import size_text_serving
from archwright.sizing.training.cluster_training import size_finetuning, size_pretraining
from archwright.sizing.workloads.data_processing import size_data_processing
from archwright.sizing.workloads.embedding import size_embedding_batch, size_embedding_serving, size_rerank_serving
from archwright.sizing.workloads.published_rate import size_parsing_batch, size_speech_serving
from archwright.sizing.workloads.tabular import size_tabular_serving
from archwright.sizing.workloads.vision import size_image_serving

# Assumed: a round trip between continents takes 0.1 to 0.3 s, which is too much for a latency limit below this.
LATENCY_SENSITIVE_S = 0.5

# None: the work needs no model of the catalog.
ModelOptions = tuple[ModelSpec | None, ...]


PROCESSOR_KINDS = frozenset({"tabular-prediction", "forecast"})


class WorkloadTask(NamedTuple):
    """A steady load (`demand`) or a batch job (`job`), and the models that may serve it.

    A model of None: the work needs no model of the catalog. `follows`: the task whose model is used. `place`: the place
    that must serve the task. `better`: models of a higher score that are left out because of their size.
    `alternatives`: larger language models of a higher quality, for the choices of models. `unrated`: models without
    evidence for the floor. `others`: document parsers that are priced for comparison.
    """

    name: str
    workload: Workload
    demand: Demand | None
    job: BatchJob | None
    models: ModelOptions = ()
    follows: str | None = None
    misses: Misses = ()
    notes: tuple[str, ...] = ()
    place: str | None = None
    better: ModelOptions = ()
    alternatives: tuple[ModelSpec, ...] = ()
    unrated: tuple[str, ...] = ()
    others: tuple[ModelSpec, ...] = ()


class CandidateMachine(NamedTuple):
    """A machine type at a location: rented (`offer`), or bought or owned (`node`)."""

    where: Location
    machine: Machine
    offer: Offer | None = None
    node: ServerSpec | None = None


def fix_model(task: WorkloadTask, models: Mapping[str, str]) -> WorkloadTask:
    """Return the task with the model that `models` names for its workload, or unchanged."""
    name = models.get(task.workload.name)
    if name is None or task.follows is not None or task.demand is None:
        return task
    workload = replace(task.workload, model=name)
    left = tuple(model for model in (*task.models, *task.alternatives) if get_model_id(model) == name)
    return task._replace(
        workload=workload, demand=task.demand._replace(workload=workload), models=left, alternatives=()
    )


def uses_language_model(task: WorkloadTask) -> bool:
    return task.follows is not None or any(model is not None for model in task.models)


def needs_accelerator(task: WorkloadTask) -> bool:
    """True unless trees or short series are evaluated, which a processor does in milliseconds."""
    return task.workload.kind not in PROCESSOR_KINDS


def list_tasks(needs: Needs, catalog: Catalog) -> tuple[WorkloadTask, ...]:
    """Return the tasks of all workloads in the order of the needs; embedding may have a steady load and a job."""
    steady = {demand.workload.name: demand for demand in list_steady_demands(needs)}
    ends = {job.workload.name: job for job in list_batch_jobs(needs)}
    found = list[WorkloadTask]()
    for workload in needs.workloads:
        demand, job = steady.get(workload.name), ends.get(workload.name)
        if demand is not None:
            whole = _with_models(WorkloadTask(workload.name, workload, demand, None), catalog)
            found += _split_by_place(whole, needs, catalog)
        if job is not None and demand is not None:
            found.append(WorkloadTask(f"{workload.name}-refresh", workload, None, job, follows=workload.name))
        elif job is not None:
            found.append(_with_job_models(WorkloadTask(workload.name, workload, None, job), needs, catalog))
    return tuple(found)


def select_serving_places(workload: Workload, needs: Needs, catalog: Catalog) -> dict[str, float]:
    """Return traffic shares by place if round trips between places are too long for the limits; else nothing."""
    bounds, slo = collect_bounds(needs, workload), workload.slo
    tight = any(limit is not None and limit <= LATENCY_SENSITIVE_S for limit in (slo.ttft_p95_s, slo.latency_p95_s))
    inside = (
        any(is_country_inside(catalog, (*bounds, (place,)), country) for country in catalog.countries)
        for place in workload.regions
    )
    return dict(workload.regions) if len(workload.regions) > 1 and all(inside) and tight else {}


def _split_by_place(task: WorkloadTask, needs: Needs, catalog: Catalog) -> list[WorkloadTask]:
    """Split a task into one task per serving place; the largest comes first and the others follow its model."""
    shares = sorted(select_serving_places(task.workload, needs, catalog).items(), key=lambda pair: (-pair[1], pair[0]))
    if not shares or task.demand is None:
        return [task]
    scaled = [task._replace(place=place, demand=task.demand.scaled_by(share)) for place, share in shares]
    rest = task._replace(follows=task.name, models=(), notes=())
    names = [f"{task.name}-{place.lower()}" for place, _ in shares]
    parts = zip(names[1:], scaled[1:], strict=True)
    return [scaled[0], *(rest._replace(name=name, place=one.place, demand=one.demand) for name, one in parts)]


def _with_job_models(task: WorkloadTask, needs: Needs, catalog: Catalog) -> WorkloadTask:
    base = task.workload.base
    if task.workload.kind != "finetune" or base is None:
        return _with_models(task, catalog)
    if any(workload.name == base for workload in needs.workloads):
        return task._replace(follows=base)
    try:
        return task._replace(models=(catalog.model(base),))
    except CatalogError:
        return task._replace(misses=(build_violation(f"{task.name}.base", "not an open model", base),))


def _with_models(task: WorkloadTask, catalog: Catalog) -> WorkloadTask:
    workload = task.workload
    if workload.kind in TEXT_KINDS and task.demand is not None:
        found = select_open_models(task.demand, catalog)
        found = keep_image_models(found, task.demand, catalog) if takes_images(workload) else found
        front = prune_models(found.models, task.demand, catalog)
        found = found._replace(models=prune_models(front, task.demand, catalog, smallest=True))
        task = task._replace(alternatives=tuple(model for model in front if model not in found.models))
    elif workload.kind in catalog.specialist_rules:
        found = select_specialist_models(workload, catalog)
    else:
        return task._replace(models=(None,))
    return task._replace(**found._asdict())


class SizingCache:
    """Caches sizing results. With `needs`, a latency limit includes the round trip to the users."""

    def __init__(self, catalog: Catalog, needs: Needs | None = None) -> None:
        self._catalog, self._needs = catalog, needs
        self._steady: dict[tuple[object, ...], SteadyCapacity | None] = {}
        self._batch: dict[tuple[object, ...], BatchWork | None] = {}
        self._away: dict[tuple[str, str], float] = {}

    def steady(self, demand: Demand, model: ModelSpec | None, host: CandidateMachine) -> SteadyCapacity | None:
        """Size one machine for a steady load; None if it cannot hold the model."""
        away, machine = self.round_trip_s(demand.workload, host), host.machine
        slo = demand.workload.slo
        limits = (slo.ttft_p95_s, slo.tpot_p95_s, slo.latency_p95_s, slo.certainty)
        key = (demand.workload.name, limits, get_model_id(model), away, make_sizing_key(machine))
        if key not in self._steady:
            found = self._size_steady(_tighten_limits(demand, away), model, machine)
            self._steady[key] = found if found is None or not away else _restore_limits(found, demand, away)
        return self._steady[key]

    def round_trip_s(self, workload: Workload, host: CandidateMachine) -> float:
        """Return the round-trip time between a machine and the users; 0 for machines at the workload's sites."""
        if self._needs is None or workload.sites or not _list_latency_limits(workload.slo):
            return 0.0
        key = (workload.name, host.where.country)
        if key not in self._away:
            part = select_round_trip(self._needs, self._catalog, workload, host.where.country)
            self._away[key] = self._catalog.parameter(part).value
        return self._away[key]

    def batch(self, job: BatchJob, model: ModelSpec | None, machine: Machine) -> BatchWork | None:
        """Size one run of a job on such machines; None if they cannot run it."""
        key = (job.workload.name, get_model_id(model), make_sizing_key(machine), machine.network_bytes_per_s)
        if key not in self._batch:
            self._batch[key] = self._size_batch(job, model, machine)
        return self._batch[key]

    def list_steady(
        self, task: WorkloadTask, models: ModelOptions, host: CandidateMachine
    ) -> Iterable[tuple[Demand, ModelSpec | None, SteadyCapacity]]:
        """Yield the steady load with each model that the host can serve; nothing for a job."""
        for model in models if task.demand is not None else ():
            steady = self.steady(task.demand, model, host) if task.demand is not None else None
            if task.demand is not None and steady is not None and steady.requests_per_s.value > 0:
                yield task.demand, model, steady

    def list_batch(
        self, task: WorkloadTask, models: ModelOptions, host: CandidateMachine
    ) -> Iterable[tuple[BatchJob, ModelSpec | None, BatchWork]]:
        """Yield the job with each model that the host can run; nothing for a steady load."""
        for model in models if task.job is not None else ():
            batch = self.batch(task.job, model, host.machine) if task.job is not None else None
            if task.job is not None and batch is not None:
                yield task.job, model, batch

    def _size_steady(self, demand: Demand, model: ModelSpec | None, machine: Machine) -> SteadyCapacity | None:
        workload, catalog = demand.workload, self._catalog
        traffic, slo = workload.traffic or Traffic(), workload.slo
        if workload.kind in TEXT_KINDS or workload.kind in catalog.specialist_rules:
            return self._size_model(demand, model, machine) if model is not None else None
        if workload.kind == "image-classification":
            pixels, size = traffic.image_pixels or 0.0, traffic.parameters or 0.0
            return size_image_serving(machine, workload.name, pixels, size, slo, catalog)
        return size_tabular_serving(machine, workload.name, traffic.features or 0, slo, catalog)

    def _size_model(self, demand: Demand, model: ModelSpec, machine: Machine) -> SteadyCapacity | None:
        workload, catalog = demand.workload, self._catalog
        name, slo, read = workload.name, workload.slo, demand.input_tokens
        if workload.kind == "embedding":
            return size_embedding_serving(machine, model, name, read, slo, catalog)
        if workload.kind == "rerank":
            return size_rerank_serving(machine, model, name, read, slo, catalog)
        if isinstance(model, PublishedRateModel):
            audio_s = (workload.traffic or Traffic()).audio_s or 0.0
            return size_speech_serving(machine, model, name, audio_s, slo, catalog)
        seen = add_image_work(demand, catalog, model)
        found = size_text_serving(machine, model, build_text_load(seen), catalog)
        if found is not None and seen is not demand:
            found = found._replace(assumptions=(*found.assumptions, describe_image_tokens(workload, catalog, model)))
        return found

    def _size_batch(self, job: BatchJob, model: ModelSpec | None, machine: Machine) -> BatchWork | None:
        workload, catalog = job.workload, self._catalog
        if workload.kind == "data-processing":
            return size_data_processing(machine, job.size, workload.name, catalog)
        if workload.kind == "pretrain":
            return size_pretraining(machine, workload.parameters or 0.0, job.size, workload.name, catalog)
        if model is None:
            return None
        if workload.kind == "embedding":
            return size_embedding_batch(machine, model, workload.name, job.size, catalog)
        if isinstance(model, PublishedRateModel):
            return size_parsing_batch(machine, model, workload.name, job.size, catalog)
        return size_finetuning(machine, model, workload.method or "lora", job.size, workload.name, catalog)


# Limits that include the round trip, and the minimum that remains for the machine.
LATENCY_LIMITS, MIN_LATENCY_S = ("ttft_p95_s", "latency_p95_s"), 1e-9


def _list_latency_limits(slo: SLO) -> tuple[str, ...]:
    return tuple(field for field in LATENCY_LIMITS if getattr(slo, field) is not None)


def _tighten_limits(demand: Demand, away: float) -> Demand:
    if not away:
        return demand
    slo = demand.workload.slo
    kept = {name: max(getattr(slo, name) - away, MIN_LATENCY_S) for name in _list_latency_limits(slo)}
    return demand._replace(workload=replace(demand.workload, slo=replace(slo, **kept)))


def _restore_limits(steady: SteadyCapacity, demand: Demand, away: float) -> SteadyCapacity:
    """Restate broken limits as the needs state them, with the latency that users see."""
    name, slo = demand.workload.name, demand.workload.slo
    stated = {f"{name}.{field}": getattr(slo, field) for field in _list_latency_limits(slo)}
    misses = (
        replace(miss, value=float(miss.value) + away, limit=stated[miss.constraint])
        if miss.constraint in stated and isinstance(miss.value, int | float)
        else miss
        for miss in steady.misses
    )
    return steady._replace(misses=tuple(misses), assess=partial(_assess_at_users, steady.assess, stated, away))


def _assess_at_users(
    assess: LimitAssessor, stated: Mapping[str, float], away: float, rate: float
) -> tuple[LimitProbability, ...]:
    """Judge the limits as users see them: with the round trip in limit and latency."""

    def add_trip(one: LimitProbability) -> LimitProbability:
        seen = one.predicted
        seen = replace(seen, value=seen.value + away, low=seen.low + away, high=seen.high + away)
        return replace(one, stated=stated[one.limit], predicted=seen)

    return tuple(add_trip(one) if one.limit in stated else one for one in assess(rate))


def make_sizing_key(machine: Machine) -> tuple[object, ...]:
    """Return a key that is equal for machines with equal sizing results; the host of accelerators hardly matters."""
    if machine.accelerator is not None:
        return (machine.accelerator.id, machine.accelerator_count)
    return ("", machine.cores, machine.ram_bytes)


# Burstable machines run at full speed only for a limited time, so no load is planned on them.
BURSTABLE = "burstable"


# A small enterprise has fewer employees (EU recommendation 2003/361). A larger one has a server room and its rules.
SMALL_EMPLOYEES = 50
# Assumed: a desk-side machine has one power supply and no remote management, and a shop replaces it within two days.
MAX_DESK_AVAILABILITY = 0.995
# Assumed: the most desk-side machines of one type; more need a server room, where rack machines belong.
MAX_DESK_MACHINES = 4


def fits_form(host: CandidateMachine, machines: float) -> bool:
    """True unless the work needs more desk-side machines than an office holds."""
    return host.node is None or host.node.form != "desk" or machines <= MAX_DESK_MACHINES


class MachineFinder:
    def __init__(self, needs: Needs, catalog: Catalog) -> None:
        self._needs, self._catalog = needs, catalog
        named = needs.placement.accelerators
        self._pinned = None if named is None else catalog.accelerator_ids(named)
        self._driven = {engine.kind for engine in catalog.engines.values()}
        employees, owned = needs.organisation.employees, {one.machine for one in needs.placement.owned}
        desks = {node.id for node in catalog.nodes.values() if node.form == "desk"}
        self._has_desks = (employees is not None and employees < SMALL_EMPLOYEES) or bool(desks & owned)

    def is_suitable(self, task: WorkloadTask, host: CandidateMachine) -> bool:
        """True if the host may run the task: language models need a pinned accelerator, other work a known host.

        Edge machines serve workloads of sites, with an accelerator only those that need one. Desk-side machines serve
        models of a small organisation, or of one that owns such machines, without a strict availability target.
        """
        form, target = host.node.form if host.node is not None else "rack", task.workload.slo.availability
        if form == "edge" and (not task.workload.sites or (host.machine.accelerator and not needs_accelerator(task))):
            return False
        if form == "desk":
            strict = target is not None and target > MAX_DESK_AVAILABILITY
            return self._has_desks and uses_language_model(task) and not strict and not task.workload.sites
        if not uses_language_model(task):
            return host.machine.cores > 0
        return self._pinned is None or host.machine.accelerator is not None

    def list_rented(self, provider: str) -> tuple[CandidateMachine, ...]:
        """Return whole machines with a valid list price; accelerators need an engine that supports them."""
        found = []
        for offer in self._catalog.sold_offers(provider):
            machine = self._build_machine(offer, offer.instance_type, offer.vcpu)
            if machine is not None and not offer.notes.startswith(BURSTABLE):
                found.append(CandidateMachine(locate_offer(self._catalog, offer), machine, offer=offer))
        return tuple(found)

    def list_purchasable(self, where: Location) -> tuple[CandidateMachine, ...]:
        built = ((node, self._build_machine(node, node.id, node.cores)) for node in self._catalog.sold_nodes())
        return tuple(CandidateMachine(where, machine, node=node) for node, machine in built if machine is not None)

    def _build_machine(self, row: Offer | ServerSpec, name: str, cores: int) -> Machine | None:
        """Build a machine; None if no engine supports its accelerator, or if the needs pin other accelerators."""
        device = self._catalog.accelerators.get(row.accelerator or "")
        driven = device is not None and device.kind in self._driven
        if row.accelerator is not None and not (driven and (self._pinned is None or row.accelerator in self._pinned)):
            return None
        ram, network = float(row.ram_bytes), row.network_bytes_per_s
        return Machine(name, device, row.accelerator_count, cores, ram, network)


class MachineCapability(NamedTuple):
    host: CandidateMachine
    model: ModelSpec | None
    prices: tuple[float, ...]
    steady: SteadyCapacity


def select_pareto_front(found: Iterable[MachineCapability]) -> tuple[MachineCapability, ...]:
    """Drop machines that another one dominates: no higher price, no less capacity, no more broken limits."""

    def rank(one: MachineCapability) -> tuple[float, float, float, str, str]:
        size = float(one.model.parameters) if one.model is not None else 0.0
        place = f"{one.host.where.region} {get_model_id(one.model)}"
        return (one.prices[0], -one.steady.requests_per_s.value, size, one.host.machine.id, place)

    kept: list[MachineCapability] = []
    for one in sorted(found, key=rank):
        if not any(
            other.steady.weakness <= one.steady.weakness
            and other.steady.requests_per_s.value >= one.steady.requests_per_s.value
            and all(a <= b for a, b in zip(other.prices, one.prices, strict=True))
            for other in kept
        ):
            kept.append(one)
    return tuple(kept)
