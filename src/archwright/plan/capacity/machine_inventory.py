"""Which machines of an inventory run which model for how many people.

A machine gets the best chat model that keeps the limits of latency: first in the model's own format with the usual
engine of the device, then in four bits with the local engine, as people run models on desks. The number of requests in
flight is doubled as long as the limits hold. Machines serve at most MAX_UTILISATION of the rate at that number, and a
person sends the peak rate of a person (load_rules.csv).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.tables import name_resolution
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.estimate import Estimate, exact_estimate, sum_estimates
from archwright.contract.machine_inventory import InventoryMachine, InventoryPlan, ModelAssignment
from archwright.contract.needs import SLO
from archwright.contract.number_format import format_duration, format_number, format_share
from archwright.contract.record import replace
from archwright.errors import CatalogError
from archwright.plan.capacity.inventory_file import GIGABYTE, table_error
from archwright.plan.demand.model_quality import QualityRater
from archwright.sizing.inference import serving_prediction
from archwright.sizing.inference.closed_loop_prediction import find_usual_engine
from archwright.sizing.inference.open_loop import MAX_UTILISATION
from archwright.sizing.inference.serving_prediction import DeploymentPrediction, ServingQuery
from archwright.sizing.model.numeric_precision import parse_precision
from archwright.sizing.model.parallel_layout import ParallelLayout
from archwright.sizing.model.weight_groups import group_weights
from archwright.sizing.step_time.extrapolation import HOST_KIND
from archwright.sizing.step_time.step_work import ShardedModel

CHAT = "chat"
READERS = "reading"
CLOSED_LOOP = "fixed_concurrency_agg"
LOCAL_ENGINE = "llamacpp"
LOCAL_FORMAT = "Q4_K_M"
# Unified memory and processors share their memory with the system and its programs.
USABLE_MEMORY = 0.7
CHIP_KIND = "soc"
SHARED_MEMORY_FORM = "SoC"
SECONDS_PER_HOUR = 3600.0
MOST_IN_FLIGHT = 1024
PEOPLE = "people"


class ChatLoad(NamedTuple):
    """The load of a person's chats; `rate`: requests/s of a person at the peak of a working day."""

    prompt_tokens: float
    answer_tokens: float
    rate: float
    ttft_p95_s: float
    tpot_p95_s: float

    @property
    def tokens(self) -> float:
        return self.prompt_tokens + self.answer_tokens


class InventoryDevice(NamedTuple):
    """The devices of one machine. `name`: as predictions name them, with the stated memory of a chip."""

    machine: InventoryMachine
    name: str
    devices: int
    row: Accelerator


class ServedModel(NamedTuple):
    """A model on a machine, predicted with `in_flight` requests."""

    model: ModelSpec
    query: ServingQuery
    in_flight: int
    prediction: DeploymentPrediction

    @property
    def ttft_p95_s(self) -> Estimate:
        return self.prediction.percentiles["ttft_p95_s"]

    @property
    def tpot_p95_s(self) -> Estimate:
        return self.prediction.percentiles["tpot_p95_s"]

    def exceed(self, load: ChatLoad) -> float:
        """Return the larger share of the limits that the latencies use; above 1 a limit is broken."""
        ttft_share = self.ttft_p95_s.value / load.ttft_p95_s
        tpot_share = self.tpot_p95_s.value / load.tpot_p95_s
        return max(ttft_share, tpot_share)


class InventoryPlanner:
    """Assigns models to the machines of an inventory."""

    def __init__(self, subjects: BenchmarkNameResolver, slo: SLO) -> None:
        """`slo`: limits that replace those at which people read; its other fields are not used."""
        self._subjects = subjects
        self._catalog = subjects.catalog
        usual = read_chat_load(subjects)
        ttft_p95_s = slo.ttft_p95_s or usual.ttft_p95_s
        tpot_p95_s = slo.tpot_p95_s or usual.tpot_p95_s
        self._load = usual._replace(ttft_p95_s=ttft_p95_s, tpot_p95_s=tpot_p95_s)
        self._rater = QualityRater(self._catalog, CHAT)
        permitted = filter(self._may_serve, self._catalog.models.values())
        self._models = sorted(permitted, key=self._order_model)

    def _may_serve(self, model: ModelSpec) -> bool:
        has_score = self._rate(model) > 0
        return has_score and model.commercial_use != "no"

    def _rate(self, model: ModelSpec) -> float:
        return self._rater.rate(model.id).share

    def _order_model(self, model: ModelSpec) -> tuple[float, float]:
        """Return a key with the best model first, and of equal models the one that computes less."""
        return -self._rate(model), model.active_parameters

    def plan(
        self, machines: Sequence[InventoryMachine], path: Path, *, model: str = "", people: int | None = None
    ) -> InventoryPlan:
        """Assign to each machine its best model, or `model`, or the best that all machines share for `people`.

        Raises PlanFileError AW-FILE-23 if a name of `path` is unknown, CatalogError AW-CAT-01 if `model` is."""
        devices = []
        for machine in machines:
            device = self._resolve_machine(machine, path)
            devices.append(device)

        if model:
            shared = self._subjects.meant_model(model)
            return self._share_model(devices, shared)
        if people is not None:
            return self._find_shared_model(devices, people)
        assignments = []
        for device in devices:
            assignment = self._assign(device, self._models)
            assignments.append(assignment)
        return self._build_plan(assignments, model="")

    def _share_model(self, devices: Sequence[InventoryDevice], model: ModelSpec) -> InventoryPlan:
        assignments = []
        for device in devices:
            assignment = self._assign(device, [model])
            assignments.append(assignment)
        return self._build_plan(assignments, model=model.id)

    def _find_shared_model(self, devices: Sequence[InventoryDevice], people: int) -> InventoryPlan:
        """Return the plan of the best model that serves this many people, else of the one that serves the most."""
        widest: InventoryPlan | None = None
        for model in self._models:
            shared = self._share_model(devices, model)
            if shared.people.value >= people:
                return shared
            if widest is None or shared.people.value > widest.people.value:
                widest = shared
        if widest is None:
            return self._build_plan([], model="")
        return widest

    def _build_plan(self, assignments: Sequence[ModelAssignment], *, model: str) -> InventoryPlan:
        served = []
        for assignment in assignments:
            if assignment.people is not None:
                served.append(assignment.people)
        people = exact_estimate(0.0, PEOPLE)
        if served:
            people = sum_estimates(served, PEOPLE)
        return InventoryPlan(
            assignments=tuple(assignments),
            people=people,
            model=model,
            limits=self._describe_limits(),
            assumed=self._describe_load(),
        )

    def _describe_limits(self) -> tuple[str, ...]:
        load = self._load
        ttft = f"TTFT p95 at most {format_duration(load.ttft_p95_s)}"
        tpot = f"TPOT p95 at most {format_duration(load.tpot_p95_s)}"
        return (ttft, tpot)

    def _describe_load(self) -> tuple[str, ...]:
        load = self._load
        prompt = format_number(load.prompt_tokens)
        answer = format_number(load.answer_tokens)
        tokens = f"a chat request reads {prompt} tokens and writes {answer}"
        hourly = format_number(load.rate * SECONDS_PER_HOUR)
        requests = f"a person sends {hourly} requests in the busiest hour"
        used = format_share(MAX_UTILISATION)
        share = f"machines are used to {used} of what they carry within the limits"
        return (tokens, requests, share)

    def _resolve_machine(self, machine: InventoryMachine, path: Path) -> InventoryDevice:
        """Raises PlanFileError AW-FILE-23 for a name without a row."""
        count, name = name_resolution.parse_machine(machine.name)
        try:
            row = self._subjects.accelerator(name)
            if row.kind == CHIP_KIND and machine.memory_bytes:
                name = _state_memory(name, machine.memory_bytes)
                row = self._subjects.accelerator(name)
        except CatalogError as error:
            what = f"names a machine without a row: {error.message}"
            raise table_error(path, machine.line, what, hint=error.hint) from None
        return InventoryDevice(machine, name, max(count, 1), row)

    def _assign(self, device: InventoryDevice, models: Sequence[ModelSpec]) -> ModelAssignment:
        machine = device.machine
        nothing = ModelAssignment(machine=machine.name, device=device.row.id, count=machine.count)
        if device.row.kind == HOST_KIND and machine.memory_bytes is None:
            return replace(nothing, reason="state its memory: a processor's name does not tell it")
        nearest: ServedModel | None = None
        for model in models:
            for query in self._list_queries(device, model):
                served = self._predict(device, model, query)
                if served is None:
                    continue
                if served.exceed(self._load) <= 1:
                    fullest = self._fill_machine(device, served)
                    return self._describe(device, fullest)
                if nearest is None or served.exceed(self._load) < nearest.exceed(self._load):
                    nearest = served
        return replace(nothing, reason=self._explain_refusal(nearest))

    def _explain_refusal(self, nearest: ServedModel | None) -> str:
        if nearest is None:
            return "no model fits its memory"
        ttft = format_duration(nearest.ttft_p95_s.value)
        tpot = format_duration(nearest.tpot_p95_s.value)
        return f"{nearest.model.id} comes nearest: TTFT p95 {ttft}, TPOT p95 {tpot}"

    def _list_queries(self, device: InventoryDevice, model: ModelSpec) -> list[ServingQuery]:
        """Return one request to the usual engine in the model's format, and to the local engine in four bits."""
        engine = find_usual_engine(device.row, self._subjects)
        usual = ServingQuery(
            model=model.id,
            accelerator=device.name,
            devices=device.devices,
            native_format=True,
            engine=engine,
            scenario=CLOSED_LOOP,
            concurrency=1.0,
            input_tokens=self._load.prompt_tokens,
            output_tokens=self._load.answer_tokens,
        )
        local = replace(usual, engine=LOCAL_ENGINE, precision=LOCAL_FORMAT)
        is_local = device.row.kind in (HOST_KIND, CHIP_KIND) or engine == LOCAL_ENGINE
        if is_local:
            return [local]
        return [usual, local]

    def _predict(self, device: InventoryDevice, model: ModelSpec, query: ServingQuery) -> ServedModel | None:
        """Return the model at the query's load, None if it does not fit or if its engine does not run there."""
        in_flight = query.concurrency or 1.0
        if self._count_fitting(device, model, query) < in_flight:
            return None
        try:
            prediction = serving_prediction.predict_deployment(query, self._subjects)
        except CatalogError:
            return None
        return ServedModel(model, query, int(in_flight), prediction)

    def _fill_machine(self, device: InventoryDevice, served: ServedModel) -> ServedModel:
        """Double the requests in flight while they fit the memory and keep the limits."""
        fullest = served
        while fullest.in_flight < MOST_IN_FLIGHT:
            doubled = replace(served.query, concurrency=2.0 * fullest.in_flight)
            fuller = self._predict(device, served.model, doubled)
            if fuller is None or fuller.exceed(self._load) > 1:
                break
            fullest = fuller
        return fullest

    def _count_fitting(self, device: InventoryDevice, model: ModelSpec, query: ServingQuery) -> float:
        """Return the requests whose cache fits beside the weights."""
        if device.row.kind == HOST_KIND:
            return self._count_in_host_memory(device, model, query)
        resolved = serving_prediction.resolve_deployment(query, self._subjects)
        memory_bytes = resolved.device.memory
        if device.row.form == SHARED_MEMORY_FORM:
            memory_bytes *= USABLE_MEMORY
        return resolved.worker.capacity(memory_bytes, self._load.tokens)

    def _count_in_host_memory(self, device: InventoryDevice, model: ModelSpec, query: ServingQuery) -> float:
        shape = group_weights(model)
        number = parse_precision(query.precision, model.id)
        weights = ShardedModel(shape, number, ParallelLayout())
        usable_bytes = USABLE_MEMORY * (device.machine.memory_bytes or 0.0)
        free_bytes = usable_bytes - weights.weight_bytes()
        cache_bytes = weights.request_cache_bytes(self._load.tokens)
        return free_bytes / cache_bytes

    def _describe(self, device: InventoryDevice, served: ServedModel) -> ModelAssignment:
        machine = device.machine
        prediction = served.prediction
        tokens_per_s_of_person = self._load.answer_tokens * self._load.rate
        usable_machines = MAX_UTILISATION * machine.count
        people = prediction.tokens_per_s.scaled(usable_machines / tokens_per_s_of_person, unit=PEOPLE)
        return ModelAssignment(
            machine=machine.name,
            device=device.row.id,
            count=machine.count,
            model=served.model.id,
            format=self._name_format(device, served.query),
            engine=served.query.engine or self._catalog.default_engine.id,
            quality=self._rate(served.model),
            in_flight=served.in_flight,
            people=people,
            ttft_p95_s=served.ttft_p95_s,
            tpot_p95_s=served.tpot_p95_s,
            stratum=prediction.stratum,
            weak=prediction.weak,
        )

    def _name_format(self, device: InventoryDevice, query: ServingQuery) -> str:
        if device.row.kind == HOST_KIND:
            return query.precision
        resolved = serving_prediction.resolve_deployment(query, self._subjects)
        return resolved.worker.number.name


def _state_memory(name: str, memory_bytes: float) -> str:
    """Return the name of a chip with this memory instead of the one that the name states."""
    bare = name_resolution.MEMORY_SIZE.sub("", name)
    size_gb = memory_bytes / GIGABYTE
    return f"{bare.strip()} {size_gb:.0f} GB"


def read_chat_load(subjects: BenchmarkNameResolver) -> ChatLoad:
    """Return the load of a person's chats and the limits at which people read (slo_presets.csv)."""
    catalog = subjects.catalog
    rules: dict[str, float] = {}
    for rule in catalog.load_rules:
        if rule.kind in ("*", CHAT):
            rules[rule.quantity] = rule.typical
    requests_per_day = rules["requests_per_user_day"] * rules["turns"]
    open_s = rules["hours_per_day"] * SECONDS_PER_HOUR
    mean_rate = requests_per_day / open_s

    limits: dict[str, float] = {}
    for row in catalog.slo_limits:
        if row.preset == READERS and row.kind == CHAT:
            limits[row.field] = row.value
    return ChatLoad(
        prompt_tokens=rules["input_tokens.mean"],
        answer_tokens=rules["output_tokens.mean"],
        rate=mean_rate * rules["peak_over_mean"],
        ttft_p95_s=limits["ttft_p95_s"],
        tpot_p95_s=limits["tpot_p95_s"],
    )
