"""Engine options as physics: prefix cache, prompt chunks, speculative decoding, format of the KV cache, adapters.

Let c be the share of a prompt that the cache holds, k the draft tokens of a step, a their acceptance, n the adapters:
- prefix: a prompt of P tokens costs P (1 - c) tokens that attend to all: (1 - c^2) P^2 / 2 pairs. Requests share the
  memory of the c P tokens.
- drafts: a step verifies 1 + k tokens per request and gives m = (1 - a^(k+1)) / (1 - a) of them. It reads the weights
  and each cache once. Each draft takes a share of a plain step.
- KV cache in fp8: half the bytes, read slower by a factor. Chunks of 512 tokens: slower prefill.
- adapters: their weights take memory and are read in each step; a factor on all steps.
The factors and their bands are rows of engine_options.csv. Each band widens the band of the engine's speed.
"""

import math
from collections.abc import Mapping
from functools import lru_cache

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import DraftModel
from archwright.contract.estimate import Estimate
from archwright.contract.plan import EngineOptions
from archwright.contract.record import replace
from archwright.sizing.inference.engine_instance import EngineInstance, EngineSpeed
from archwright.sizing.inference.open_loop import OpenLoop, OperatingPoint, RequestProfile, build_open_loop
from archwright.sizing.step_time import fitted_tables
from archwright.sizing.step_time.engine_step_times import CoefficientKey, FittedStepTimes, StepTokens, Tuning
from archwright.sizing.step_time.step_work import DeviceSpec, ShardedModel

# Most slots of an engine and prompt tokens per step: common defaults of inference servers.
MOST_SLOTS = 256
PREFILL_CHUNK_TOKENS, SMALL_CHUNK, LARGE_CHUNK = 2048, 512, 8192
NARROW_CACHE, WIDE_CACHE = "fp8", "bf16"
OWN_DRAFT, SEPARATE_DRAFT = "mtp", "eagle3"
ADAPTER_BYTES = 2.0
ROW = "engine."
# A band of an option is cut here: near saturation a queue grows without limit.
MOST_EFFECT = 4.0
# Options by the names of the catalog's flags, with their field and its plain values.
OPTIONS: dict[str, tuple[str, tuple[object, ...]]] = {
    "prefix": ("prefix_hits", (0.0,)),
    "chunk": ("chunk_tokens", (0, PREFILL_CHUNK_TOKENS)),
    "drafts": ("draft_tokens", (0,)),
    "kv": ("kv_format", ("", WIDE_CACHE)),
    "adapters": ("adapters", (0,)),
}

Costs = Mapping[str, float]


@lru_cache(maxsize=4096)
def build_step_times(worker: ShardedModel, device: DeviceSpec, kind: CoefficientKey) -> FittedStepTimes:
    return FittedStepTimes(worker, device, kind, fitted_tables.load_table("serving").coefficients)


# One object for equal tunings, so that loads are found once.
tune_step_times = lru_cache(maxsize=16384)(FittedStepTimes.tune)


@lru_cache(maxsize=8)
def read_option_rows(catalog: Catalog) -> dict[str, Estimate]:
    """Return the rows of engine_options.csv by name, without the prefix of their ids."""
    return {name.removeprefix(ROW): catalog.parameter(name) for name in catalog.parts if name.startswith(ROW)}


@lru_cache(maxsize=8)
def read_costs(catalog: Catalog) -> Costs:
    return {name: row.value for name, row in read_option_rows(catalog).items()}


def list_used(options: EngineOptions) -> tuple[str, ...]:
    """Return the names of the options that differ from plain settings."""
    return tuple(name for name, (field, plain) in OPTIONS.items() if getattr(options, field) not in plain)


@lru_cache(maxsize=4096)
def list_uncertain_rows(options: EngineOptions) -> dict[str, tuple[str, ...]]:
    """Return the rows whose bands widen the times of an engine, by option in use."""
    method = draft_method(options)
    rows = {
        "prefix": ("prefix.hits",),
        "chunk": ("chunk-512.prefill",) if options.chunk_tokens == SMALL_CHUNK else (),
        "drafts": (f"{method}.acceptance", f"{method}.step"),
        "kv": ("kv-fp8.read",),
        "adapters": ("lora.step", "lora.size"),
    }
    return {name: rows[name] for name in list_used(options) if rows[name]}


def draft_method(options: EngineOptions) -> str:
    return "" if not options.draft_tokens else OWN_DRAFT if options.draft == OWN_DRAFT else SEPARATE_DRAFT


def tune_engine(engine: EngineInstance, options: EngineOptions, costs: Costs) -> EngineInstance | None:
    """Return the engine with `options`; None if the weights and one request no longer fit.

    An engine without a frame (a host processor) has no options and stays as it is."""
    frame = engine.frame
    if frame is None:
        return engine
    worker = frame.worker._replace(number=frame.worker.number._replace(cache=options.kv_format))
    shape, tp = worker.shape, worker.layout.tp
    reserved = options.adapters * costs["lora.size"] * shape.trunk * ADAPTER_BYTES / tp
    reserved += costs["draft.bytes"] / tp if draft_method(options) == SEPARATE_DRAFT else 0.0
    shared = options.prefix_hits * frame.requests.reads.mean
    reserved += worker.request_cache_bytes(shared)
    memory = frame.device.memory
    slots = math.floor(worker.capacity(memory, frame.requests.mean_cached_tokens - shared, reserved))
    if slots < 1 or worker.capacity(memory, engine.context_tokens, reserved) < 1:
        return None
    chunk = options.chunk_tokens or PREFILL_CHUNK_TOKENS
    tuned = engine._replace(options=options, slots=min(slots, MOST_SLOTS), chunk=chunk)
    return tuned._replace(pace=_tune_step_times(tuned, costs))


def _tune_step_times(engine: EngineInstance, costs: Costs) -> FittedStepTimes:
    frame, options = engine.frame, engine.options
    assert frame is not None
    worker = frame.worker._replace(number=frame.worker.number._replace(cache=options.kv_format))
    plain = build_step_times(worker, frame.device, frame.kind)
    if not list_uncertain_rows(options):
        return plain
    method, size = draft_method(options), options.adapters * costs["lora.size"] * worker.shape.trunk
    tuning = Tuning(
        tokens=_count_step_tokens(options),
        draft=costs[f"{method}.step"] if method else 0.0,
        cache=costs["kv-fp8.read"] if options.kv_format == NARROW_CACHE else 1.0,
        chunk=costs["chunk-512.prefill"] if engine.chunk == SMALL_CHUNK else 1.0,
        slower=costs["lora.step"] if options.adapters else 1.0,
        adapter_s=size * ADAPTER_BYTES / worker.layout.tp / frame.device.bandwidth,
    )
    return tune_step_times(plain, tuning)


def _count_step_tokens(options: EngineOptions) -> StepTokens:
    """Return the tokens per step: 1 + the drafted tokens before the first refusal."""
    drafts, accepted = options.draft_tokens, options.acceptance
    shares = [accepted**count * (1 - accepted * (count < drafts)) for count in range(drafts + 1)]
    mean = sum(share * (count + 1) for count, share in enumerate(shares))
    square = sum(share * (count + 1) ** 2 for count, share in enumerate(shares))
    return StepTokens(options.prefix_hits, mean, 1.0 + drafts, math.sqrt(max(square / mean**2 - 1, 0.0)))


def draft_options(row: DraftModel, costs: Costs) -> dict[str, object]:
    """Return the options of speculative decoding with the draft of a model."""
    draft = OWN_DRAFT if row.method == OWN_DRAFT else row.repository
    return {"draft_tokens": row.draft_tokens, "acceptance": costs[f"{row.method}.acceptance"], "draft": draft}


def vary_engine(engine: EngineInstance, option: str, catalog: Catalog) -> list[tuple[EngineInstance, EngineInstance]]:
    """Return the engine with each row of `option` at its low and at its high end; its slots stay."""
    rows = read_option_rows(catalog)

    def at_end(name: str, value: float) -> EngineInstance:
        changed, ratio = engine.options, value / rows[name].value
        if name == "prefix.hits":
            changed = replace(changed, prefix_hits=min(changed.prefix_hits * ratio, 1.0))
        elif name.endswith(".acceptance"):
            changed = replace(changed, acceptance=changed.acceptance * ratio)
        varied = engine._replace(options=changed)
        return varied._replace(pace=_tune_step_times(varied, {**read_costs(catalog), name: value}))

    names = list_uncertain_rows(engine.options).get(option, ())
    return [(at_end(name, rows[name].low), at_end(name, rows[name].high)) for name in names]


def open_loop_of(engine: EngineInstance, flow: RequestProfile) -> OpenLoop:
    return build_open_loop(engine.pace, flow, engine.slots, engine.chunk)


def widen_for_options(engine: EngineInstance, flow: RequestProfile, batch: float, catalog: Catalog) -> EngineInstance:
    """Return the engine with the bands of its options added to those of its speed, at `batch` requests in decode."""
    uncertain = list_uncertain_rows(engine.options)
    if not uncertain:
        return engine
    steps, first = engine.speed.steps, engine.speed.first
    base = open_loop_of(engine, flow).at_batch(batch)
    for option in uncertain:
        for ends in vary_engine(engine, option, catalog):
            found = [open_loop_of(varied, flow).at_batch(batch) for varied in ends]
            steps = _widen(steps, [_step_ratio(at, base) for at in found])
            first = _widen(first, [at.ttft_p95_s / base.ttft_p95_s for at in found])
    return engine._replace(speed=EngineSpeed(steps, first, engine.speed.stratum, engine.speed.facts))


def _step_ratio(at: OperatingPoint, base: OperatingPoint) -> float:
    """Return the time per token over that of `base`: of the p95, or by the rate if that differs more."""
    ratios = (at.tpot_p95_s / base.tpot_p95_s, base.rate / at.rate)
    return max(ratios, key=lambda ratio: abs(math.log(ratio)))


def _widen(band: Estimate, ratios: list[float]) -> Estimate:
    """Add the band between `ratios` in quadrature of logarithms, on each side of 1."""
    ends = (max(min(*ratios, 1.0), 1 / MOST_EFFECT), min(max(*ratios, 1.0), MOST_EFFECT))
    low, high = (math.hypot(math.log(own), math.log(end)) for own, end in zip((band.low, band.high), ends, strict=True))
    return replace(band, low=math.exp(-low), high=math.exp(high))
