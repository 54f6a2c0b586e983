"""Speed of a local engine (llama.cpp and its relatives) on a processor, from a fit over public measurements.

Seconds of one step for one request, with T threads, one per core, on N memory nodes:
- answer token = layers x (a + b T) + FLOPs / (T g) + bytes / (d x bandwidth / N)
- prompt token = layers x k + FLOPs / (T g) x (1 + T / s) x N^e
FLOPs and bytes include attention at the mean context. `g` belongs to the microarchitecture where the fit has several
of its processors, else to its instruction set. Boosted trees correct the residual of the logarithm.
bench/sizing/processors.py writes the coefficients, trees and bands (catalog/data/fits/processors.json).
"""

import math
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from archwright.catalog.processor_names import CLIENT_FORMS
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.estimate import Estimate
from archwright.contract.record import Record
from archwright.sizing.model import architecture
from archwright.sizing.step_time import boosted_trees
from archwright.sizing.step_time.fitted_tables import FittedTable

TABLE = "processors"
ANY_ISA = "*"
# CPU rows state their cores in the notes, and their instruction set if it is known.
_CORES = re.compile(r"(\d+) cores(?:; ((?:avx|amx|neon)[a-z0-9-]*))?")
TokenPhase = Literal["decode", "prefill"]
METRICS: dict[TokenPhase, str] = {"decode": "tpot_s", "prefill": "ttft_s"}
# Kernels of llamafile differ from those of llama.cpp, also on the same processor.
LLAMAFILE = "llamafile"
LLAMACPP = "llamacpp"
# The build of nearly all fitted rows. On ARM it has no code for dot products and matrices, which newer builds have:
# these read prompts up to this many times as fast (ggml-org/llama.cpp pull request 11403).
FITTED_BUILD = "b4753"
NEWER_ARM_GAIN = 3.0
# A stated bandwidth is of the memory, a measured one of a benchmark: regimes of the fit with bands of their own.
MEASURED = "measured bandwidth"
STATED = "stated bandwidth"
# Size classes of models by their parameters, as bands are scored.
SMALL_MODEL = 1e9
LARGE_MODEL = 5e9
SIZES = ("small", "middle", "large")
ARM = "ARM"
CLIENT = " client"
KINDS = ("AMD", "AMD client", "Intel", "Intel client", "ARM", "ARM client")
# Feature of a fact that is not known: no logarithm of a known one is near.
UNKNOWN = -1.0
# Limit of the residual trees' logarithm: a larger residual means a mislabelled row.
MOST_RESIDUAL = 1.5


class ProcessorFacts(Record):
    """Facts of a processor from a data sheet or a probe; 0 means unknown.

    `threads`: one per core in use. `bandwidth_measured`: read by all threads in a benchmark, else the memory's."""

    vendor: str
    microarchitecture: str
    instruction_set: str
    threads: int
    bandwidth_bytes_per_s: float
    bandwidth_measured: bool = False
    memory_nodes: int = 1
    clock_hz: float = 0.0
    cache_bytes: float = 0.0
    server: bool = True

    @property
    def regime(self) -> str:
        return MEASURED if self.bandwidth_measured else STATED

    def describe_rates(self) -> str:
        return f"{self.threads} threads and a {self.regime} of {self.bandwidth_bytes_per_s / 1e9:.0f} GB/s"


class EngineWork(NamedTuple):
    """Work of one token at a mean `context`: FLOPs, and bytes of weights and KV cache."""

    phase: TokenPhase
    kernels: str
    parameters: float
    layers: int
    context: float
    flops: float
    bytes_read: float


def describe_work(
    phase: TokenPhase, model: ModelSpec, weights_bytes: float, *, context: float, kernels: str = LLAMACPP
) -> EngineWork:
    """Return the work of one prompt or answer token of `model` behind `context` tokens."""
    multiplied = architecture.body_parameters(model)
    if phase == "decode":
        multiplied += architecture.head_parameters(model)
    share_read = architecture.parameters_touched(model, 1) / model.parameters
    cache = architecture.cache_bytes(model, context)
    return EngineWork(
        phase=phase,
        kernels=kernels,
        parameters=float(model.active_parameters),
        layers=model.layers,
        context=context,
        flops=2 * multiplied + architecture.attention_flops(model, context),
        bytes_read=weights_bytes * share_read + cache,
    )


def find_kernels(engine: str) -> str:
    """Return the kernels of the engine that a text names."""
    named = (kernels for kernels in (LLAMAFILE, FITTED_BUILD) if kernels in engine.lower())
    return next(named, LLAMACPP)


class StepParts(NamedTuple):
    """Parts of a token's time in seconds."""

    fixed_s: float
    compute_s: float
    memory_s: float

    @property
    def total_s(self) -> float:
        return self.fixed_s + self.compute_s + self.memory_s


class StepInputs(NamedTuple):
    """Inputs of the rule: numbers, or arrays of equal length while it is fitted.

    `thread_rate` in FLOP/s; `bandwidth` in bytes/s, as drawn from all memory nodes."""

    threads: float
    memory_nodes: float
    layers: float
    flops: float
    bytes_read: float
    thread_rate: float
    bandwidth: float


def apply_rule(phase: TokenPhase, inputs: StepInputs, rule: Mapping[str, float]) -> StepParts:
    """Return the parts of the rule with the coefficients `rule` of the phase."""
    compute_s = inputs.flops / (inputs.threads * inputs.thread_rate)
    if phase == "prefill":
        crowding = 1 + inputs.threads / rule["crowding_threads"]
        spread = inputs.memory_nodes ** rule["node_exponent"]
        return StepParts(inputs.layers * rule["layer_s"], compute_s * crowding * spread, 0.0)
    fixed_s = inputs.layers * (rule["layer_s"] + rule["layer_thread_s"] * inputs.threads)
    memory_s = inputs.bytes_read * inputs.memory_nodes / inputs.bandwidth
    return StepParts(fixed_s, compute_s, memory_s)


def compute_step_parts(facts: ProcessorFacts, work: EngineWork, rule: Mapping[str, float]) -> StepParts:
    """Return the parts of a token's time on the processor of `facts`."""
    thread_rate = find_thread_rate(facts, rule)
    if work.kernels == LLAMAFILE:
        thread_rate *= rule["llamafile"]
    share = rule.get(facts.regime, 1.0)
    inputs = StepInputs(
        threads=facts.threads,
        memory_nodes=facts.memory_nodes,
        layers=work.layers,
        flops=work.flops,
        bytes_read=work.bytes_read,
        thread_rate=thread_rate,
        bandwidth=facts.bandwidth_bytes_per_s * share,
    )
    return apply_rule(work.phase, inputs, rule)


def find_thread_rate(facts: ProcessorFacts, rule: Mapping[str, float]) -> float:
    """Return FLOP/s of one thread: of the microarchitecture, else of the instruction set, else the usual one."""
    by_instruction_set = rule.get(f"flops.{facts.instruction_set}", rule["flops"])
    return rule.get(f"flops.{facts.microarchitecture}", by_instruction_set)


def list_features(
    facts: ProcessorFacts, work: EngineWork, parts: StepParts, *, orders: Mapping[str, tuple[str, ...]]
) -> list[float]:
    """Return the features of the residual trees; their order is part of the fit.

    `orders`: the fitted names by kind ("vendor", "instruction_set", "microarchitecture"); a feature is a position."""
    bandwidth = facts.bandwidth_bytes_per_s
    memory = [math.log(bandwidth), float(facts.memory_nodes), float(facts.bandwidth_measured)]
    processor = [math.log(facts.threads), math.log(bandwidth / facts.threads), *memory]
    vendor = boosted_trees.find_position(facts.vendor, orders["vendor"])
    instruction_set = boosted_trees.find_position(facts.instruction_set, orders["instruction_set"])
    microarchitecture = boosted_trees.find_position(facts.microarchitecture, orders["microarchitecture"])
    maker = [vendor, instruction_set, microarchitecture]
    unsure = [_log_known(facts.clock_hz), _log_known(facts.cache_bytes / facts.threads), float(facts.server)]
    kernels = [float(work.kernels == LLAMAFILE)]
    model = [math.log(work.parameters), float(work.layers), math.log(max(work.context, 1.0))]
    fixed_share = parts.fixed_s / parts.total_s
    compute_share = parts.compute_s / parts.total_s
    step = [math.log(parts.total_s), math.log(fixed_share), math.log(compute_share)]
    return [*processor, *maker, *unsure, *kernels, *model, *step]


def _log_known(value: float) -> float:
    return math.log(value) if value else UNKNOWN


def predict_token_s(facts: ProcessorFacts, work: EngineWork, fit: FittedTable) -> Estimate:
    """Return the seconds of one token with the band of the vendor, the model's size and the kind of bandwidth."""
    parts = compute_step_parts(facts, work, fit.coefficients[work.phase])
    features = list_features(facts, work, parts, orders=fit.seen)
    residual = boosted_trees.sum_trees(fit.residuals[work.phase], features)
    limited = min(max(residual, -MOST_RESIDUAL), MOST_RESIDUAL)
    seconds = parts.total_s * math.exp(limited)
    stratum = name_stratum(facts, work.parameters)
    band = fit.find_band(METRICS[work.phase], stratum, facts.regime)
    low = seconds * band.low
    if work.phase == "prefill" and work.kernels == LLAMACPP and stratum.startswith(ARM):
        low /= NEWER_ARM_GAIN
    return Estimate(value=seconds, low=low, high=seconds * band.high, unit="s")


def name_stratum(facts: ProcessorFacts, parameters: float) -> str:
    """Return kind of processor and size class of the model, by which bands are fitted and scored."""
    kind = facts.vendor
    if kind not in KINDS:
        kind = ARM
    if not facts.server:
        kind += CLIENT
    return f"{kind} {name_size(parameters)}"


def name_size(parameters: float) -> str:
    small, middle, large = SIZES
    if parameters < SMALL_MODEL:
        return small
    if parameters < LARGE_MODEL:
        return middle
    return large


class HostReport(Record):
    """Columns of a benchmark row, or a probe's findings, about the host; 0 or "" means unstated."""

    threads: int = 0
    instruction_set: str = ""
    bandwidth_bytes_per_s: float = 0.0
    memory_nodes: int = 0
    clock_hz: float = 0.0
    cache_bytes: float = 0.0


def describe_processor(accelerator: Accelerator, count: int, report: HostReport) -> ProcessorFacts | None:
    """Return the facts of `count` processors, the report's first; None if neither row nor report states cores."""
    cores = count_cores(accelerator)
    threads = report.threads or cores * count
    if threads == 0:
        return None
    bandwidth = accelerator.memory_bandwidth_bytes_per_s * count
    measured = report.bandwidth_bytes_per_s
    return ProcessorFacts(
        vendor=accelerator.vendor,
        microarchitecture=accelerator.arch.replace(" ", ""),
        instruction_set=report.instruction_set or read_instruction_set(accelerator),
        threads=threads,
        bandwidth_bytes_per_s=measured or bandwidth,
        bandwidth_measured=measured > 0,
        memory_nodes=report.memory_nodes or max(accelerator.scale_up_domain * count, 1),
        clock_hz=report.clock_hz,
        cache_bytes=report.cache_bytes,
        server=accelerator.form not in CLIENT_FORMS,
    )


def count_cores(accelerator: Accelerator) -> int:
    """Return the cores that the row states, 0 if it states none."""
    noted = _CORES.search(accelerator.notes)
    return int(noted[1]) if noted else 0


def read_instruction_set(accelerator: Accelerator) -> str:
    noted = _CORES.search(accelerator.notes)
    return (noted and noted[2]) or ANY_ISA
