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
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import DraftModel
from archwright.contract.estimate import Estimate
from archwright.contract.plan import EngineOptions
from archwright.contract.record import replace
from archwright.sizing.hardware.roofline import EngineStep
from archwright.sizing.inference.engine_instance import EngineInstance, EngineSpeed
from archwright.sizing.inference.open_loop import Z95, MaxLoad, OpenLoop, OperatingPoint, RequestProfile
from archwright.sizing.step_time import fitted_tables
from archwright.sizing.step_time.engine_step_times import (
    CoefficientKey,
    FittedDecodeStep,
    FittedStepTimes,
    StepTokens,
    UncontendedPrefill,
)
from archwright.sizing.step_time.step_work import DeviceSpec, ShardedModel

# Most slots of an engine and prompt tokens per step: common defaults of inference servers.
MOST_SLOTS = 256
PREFILL_CHUNK_TOKENS, SMALL_CHUNK, LARGE_CHUNK = 2048, 512, 8192
NARROW_CACHE, WIDE_CACHE = "fp8", "bf16"
OWN_DRAFT, SEPARATE_DRAFT = "mtp", "eagle3"
ADAPTER_BYTES = 2.0
ROW = "engine."
# An option that is not needed must carry this much more.
WORTH_IT, FASTER, SHORTER = 1.03, 1.015, 1.05
# A band of an option is cut here: near saturation a queue grows without limit.
MOST_EFFECT = 4.0
# Options are chosen for layouts that carry this share of the best layout's load.
NEAR_BEST = 0.8
# The cache limits an engine whose requests use this share of its slots, or this share of a step reads the cache.
CROWDED, READ_SHARE = 0.8, 0.1

Costs = Mapping[str, float]


class OptionRequest(NamedTuple):
    """The load and the device that options depend on: `shared` share of prompt tokens, adapters, the model's draft.

    `paced`: a limit includes the time per token. `narrow_cache`: the device computes in fp8."""

    shared: float
    adapters: int
    paced: bool
    draft: DraftModel | None
    narrow_cache: bool


class TunedDecodeStep(NamedTuple):
    """A decode step with options: `verify` with its `drafts`, each `draft` of a `plain` step, times `slower`."""

    plain: FittedDecodeStep
    verify: FittedDecodeStep
    drafts: int
    draft: float
    slower: float

    def cache_share(self, batch: float) -> float:
        return self.plain.cache_share(batch)

    def step_s(self, batch: float) -> float:
        if not self.drafts:
            return self.plain.step_s(batch) * self.slower
        drafting = self.drafts * self.draft * self.plain.step_s(batch)
        return (self.verify.step_s(batch * (1 + self.drafts)) + drafting) * self.slower


class TunedStepTimes(NamedTuple):
    """Step times with options. `draft`, `cache`, `chunk`, `slower`: factors as above; `adapter_s`: reads adapters."""

    plain: FittedStepTimes
    tokens: StepTokens
    draft: float
    cache: float
    chunk: float
    slower: float
    adapter_s: float

    @property
    def started_s(self) -> float:
        return self.plain.started_s * self.slower

    def decode_step(self, context: float) -> TunedDecodeStep:
        plain, verified = self.plain.decode_step(context), self.tokens.verified
        cache_s = plain.cache_s * self.cache
        plain = plain._replace(cache_s=cache_s, weights_s=plain.weights_s + self.adapter_s)
        verify = plain._replace(cache_s=cache_s / verified)
        return TunedDecodeStep(plain, verify, round(verified) - 1, self.draft, self.slower)

    def prefill_s(self, tokens: float, seen: float, prompts: int = 1) -> float:
        return self.plain.prefill_s(tokens, seen, prompts) * self.slower * self.chunk

    def uncontended_prefill(self, prompt: float) -> UncontendedPrefill:
        found, factor = self.plain.uncontended_prefill(prompt, prompt * self.tokens.cached), self.slower * self.chunk
        return UncontendedPrefill(found.fitted_s * factor, found.fitted_steps, found.read_s * factor)

    def step_s(self, step: EngineStep) -> float:
        if not step.answering:
            return self.plain.step_s(step) * self.slower * self.chunk
        wrote = self.decode_step(step.context_tokens / step.answering).step_s(step.answering)
        if not step.prompt_tokens:
            return wrote
        return wrote + self.prefill_s(step.prompt_tokens, step.prompt_pairs, step.prompts_done) + self.started_s


@lru_cache(maxsize=1024)
def build_step_times(worker: ShardedModel, device: DeviceSpec, kind: CoefficientKey) -> FittedStepTimes:
    return FittedStepTimes(worker, device, kind, fitted_tables.load_table("serving").coefficients)


@lru_cache(maxsize=8)
def read_option_rows(catalog: Catalog) -> dict[str, Estimate]:
    """Return the rows of engine_options.csv by name, without the prefix of their ids."""
    return {name.removeprefix(ROW): catalog.parameter(name) for name in catalog.parts if name.startswith(ROW)}


def read_costs(catalog: Catalog) -> Costs:
    return {name: row.value for name, row in read_option_rows(catalog).items()}


def list_uncertain_rows(options: EngineOptions) -> dict[str, tuple[str, ...]]:
    """Return the rows whose bands widen the times of an engine, by option in use."""
    method = draft_method(options)
    found = {
        "prefix": ("prefix.hits",) if options.prefix_hits else (),
        "chunk": ("chunk-512.prefill",) if options.chunk_tokens == SMALL_CHUNK else (),
        "drafts": (f"{method}.acceptance", f"{method}.step") if method else (),
        "kv": ("kv-fp8.read",) if options.kv_format == NARROW_CACHE else (),
        "adapters": ("lora.step", "lora.size") if options.adapters else (),
    }
    return {option: rows for option, rows in found.items() if rows}


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


def _tune_step_times(engine: EngineInstance, costs: Costs) -> FittedStepTimes | TunedStepTimes:
    frame, options = engine.frame, engine.options
    assert frame is not None
    worker = frame.worker._replace(number=frame.worker.number._replace(cache=options.kv_format))
    plain = build_step_times(worker, frame.device, frame.kind)
    if not list_uncertain_rows(options):
        return plain
    method, size = draft_method(options), options.adapters * costs["lora.size"] * worker.shape.trunk
    return TunedStepTimes(
        plain=plain,
        tokens=_count_step_tokens(options),
        draft=costs[f"{method}.step"] if method else 0.0,
        cache=costs["kv-fp8.read"] if options.kv_format == NARROW_CACHE else 1.0,
        chunk=costs["chunk-512.prefill"] if engine.chunk == SMALL_CHUNK else 1.0,
        slower=costs["lora.step"] if options.adapters else 1.0,
        adapter_s=size * ADAPTER_BYTES / worker.layout.tp / frame.device.bandwidth,
    )


def _count_step_tokens(options: EngineOptions) -> StepTokens:
    """Return the tokens per step: 1 + the drafted tokens before the first refusal."""
    drafts, accepted = options.draft_tokens, options.acceptance
    shares = [accepted**count * (1 - accepted * (count < drafts)) for count in range(drafts + 1)]
    mean = sum(share * (count + 1) for count, share in enumerate(shares))
    square = sum(share * (count + 1) ** 2 for count, share in enumerate(shares))
    return StepTokens(options.prefix_hits, mean, 1.0 + drafts, math.sqrt(max(square / mean**2 - 1, 0.0)))


class EngineLoad(NamedTuple):
    """The highest load of an engine; `planned`: its requests/s with the certainty of the limits."""

    most: MaxLoad
    engine: EngineInstance
    planned: float

    @property
    def rank(self) -> tuple[int, int]:
        """Limits that an idle engine violates, then limits below the certainty; lower is better."""
        return len(self.most.broken), self.most.doubts

    def is_better(self, than: "EngineLoad") -> bool:
        return self.rank < than.rank or (self.rank == than.rank and self.planned >= WORTH_IT * than.planned)


class OptionChooser(NamedTuple):
    """Chooses the options of engines for requests of `flow`; `find_load` uses the bands of an engine's speed."""

    asked: OptionRequest
    flow: RequestProfile
    find_load: Callable[[EngineInstance], EngineLoad]
    catalog: Catalog

    def start(self, engine: EngineInstance) -> EngineLoad | None:
        """Return the engine with what the load needs, prefix cache and adapters, and its load; None if it does not fit.

        An engine whose row names no flags, or without a frame, has no options."""
        if engine.frame is None or not engine.product.option_flags:
            return self.find_load(engine)
        asked, costs = self.asked, read_costs(self.catalog)
        stated = replace(engine.options, prefix_hits=asked.shared * costs["prefix.hits"], adapters=asked.adapters)
        formats = dict.fromkeys((stated.kv_format, NARROW_CACHE if asked.narrow_cache else stated.kv_format))
        tuned = (tune_engine(engine, replace(stated, kv_format=kv), costs) for kv in formats)
        best = next((one for one in tuned if one is not None), None)
        return None if best is None else self._assess(best, math.sqrt(best.slots))

    def improve(self, found: EngineLoad, plain: EngineSpeed) -> EngineLoad:
        """Return the engine with the options that violate the fewest limits and then carry the most, and its load.

        A further option must carry WORTH_IT times as much with its band: ties go to the simpler setting. `plain`: the
        speed without the bands of options."""
        asked, costs = self.asked, read_costs(self.catalog)
        if found.engine.frame is None or not found.engine.product.option_flags:
            return found
        for changes in _list_changes(asked, costs):
            best = found.engine
            if not _is_applicable(best, found.most, changes, asked):
                continue
            trial = tune_engine(best._replace(speed=plain), replace(best.options, **changes), costs)
            if trial is None or not self._may_help(trial, found):
                continue
            rough = self.find_load(trial)
            judged = self._assess(trial, rough.most.point.batch) if rough.is_better(found) else found
            found = judged if judged.is_better(found) else found
        return found

    def _may_help(self, trial: EngineInstance, found: EngineLoad) -> bool:
        """Return False if `trial` has no more slots and is hardly faster at the batch of the highest load."""
        if trial.slots > found.engine.slots:
            return True
        old, new = found.most.point, open_loop_of(trial, self.flow).at_batch(found.most.point.batch)
        if trial.chunk == SMALL_CHUNK != found.engine.chunk:  # it only shortens the steps of running answers
            return old.tpot_p95_s / new.tpot_p95_s >= SHORTER
        gains = (new.rate / old.rate, old.ttft_p95_s / new.ttft_p95_s, old.tpot_p95_s / new.tpot_p95_s)
        return max(gains) >= FASTER

    def _assess(self, engine: EngineInstance, batch: float) -> EngineLoad:
        """Return the load and the engine with the bands of its options, at about `batch` requests in decode."""
        return self.find_load(widen_for_options(engine, self.flow, batch, self.catalog))


def _list_changes(asked: OptionRequest, costs: Costs) -> Iterator[dict[str, object]]:
    yield {"kv_format": NARROW_CACHE}
    yield {"chunk_tokens": LARGE_CHUNK}
    yield {"chunk_tokens": SMALL_CHUNK}
    if asked.draft is not None:
        yield draft_options(asked.draft, costs)


def draft_options(row: DraftModel, costs: Costs, tokens: int = 0) -> dict[str, object]:
    """Return the options of speculative decoding with the draft of a model."""
    draft = OWN_DRAFT if row.method == OWN_DRAFT else row.repository
    return {"draft_tokens": tokens or row.draft_tokens, "acceptance": costs[f"{row.method}.acceptance"], "draft": draft}


def _is_applicable(engine: EngineInstance, load: MaxLoad, changes: dict[str, object], asked: OptionRequest) -> bool:
    """Return False if the change can hardly raise the capacity, or if the device lacks its format."""
    frame, point = engine.frame, load.point
    assert frame is not None
    if "draft_tokens" in changes:
        return True
    new = frame.requests.reads.p95 * (1 - engine.options.prefix_hits)
    if "chunk_tokens" in changes:
        large = changes["chunk_tokens"] == LARGE_CHUNK
        return new > PREFILL_CHUNK_TOKENS if large else asked.paced and new > SMALL_CHUNK
    decode = engine.pace.decode_step(frame.requests.reads.mean)
    crowded = point.inside + Z95 * math.sqrt(point.inside) > CROWDED * engine.slots and engine.slots < MOST_SLOTS
    reads = isinstance(decode, FittedDecodeStep | TunedDecodeStep) and decode.cache_share(1 + point.batch) > READ_SHARE
    return asked.narrow_cache and engine.options.kv_format != NARROW_CACHE and (crowded or reads)


def vary_engine(
    engine: EngineInstance, option: str, catalog: Catalog, end: str
) -> Iterator[tuple[str, EngineInstance]]:
    """Yield the engine with each row of `option` at its `end` ("low" or "high"); its slots stay."""
    rows, options = read_option_rows(catalog), engine.options
    for name in list_uncertain_rows(options).get(option, ()):
        value = getattr(rows[name], end)
        changed = options
        if name == "prefix.hits":
            changed = replace(options, prefix_hits=min(options.prefix_hits * value / rows[name].value, 1.0))
        elif name.endswith(".acceptance"):
            changed = replace(options, acceptance=options.acceptance * value / rows[name].value)
        varied = engine._replace(options=changed)
        yield name, varied._replace(pace=_tune_step_times(varied, {**read_costs(catalog), name: value}))


def open_loop_of(engine: EngineInstance, flow: RequestProfile) -> OpenLoop:
    return OpenLoop(engine.pace, flow, engine.slots, engine.chunk)


def widen_for_options(engine: EngineInstance, flow: RequestProfile, batch: float, catalog: Catalog) -> EngineInstance:
    """Return the engine with the bands of its options added to those of its speed, at `batch` requests in decode."""
    uncertain = list_uncertain_rows(engine.options)
    if not uncertain:
        return engine
    steps, first = engine.speed.steps, engine.speed.first
    base = open_loop_of(engine, flow).at_batch(batch)
    for option in uncertain:
        for ends in zip(*(vary_engine(engine, option, catalog, end) for end in ("low", "high")), strict=True):
            found = [open_loop_of(varied, flow).at_batch(batch) for _, varied in ends]
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
