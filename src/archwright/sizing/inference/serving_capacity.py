"""Capacity of one machine for a text workload, in requests/s within the SLO.

Among the layouts that fit (deployment_layout.py), the one that violates the fewest limits and then carries the most
requests/s within them (open_loop.py) is used, with the engine options that do the same (engine_options.py). The band is
that of the engine's step times and options. The value is the load at which the limits hold with the certainty of the
workload.
"""

import math
from functools import lru_cache, partial
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import DraftModel, ModelSpec
from archwright.contract.estimate import Estimate, sum_estimates
from archwright.contract.evidence import Basis
from archwright.contract.needs import SLO, TokenLength
from archwright.contract.plan import ConstraintViolation, LimitProbability, assess_limit
from archwright.contract.record import replace
from archwright.sizing.hardware.device_rates import busy_power_w
from archwright.sizing.hardware.machine import Machine, SteadyCapacity
from archwright.sizing.hardware.uncertainty import widen_band
from archwright.sizing.inference import engine_options, open_loop
from archwright.sizing.inference.deployment_layout import list_engine_layouts
from archwright.sizing.inference.engine_instance import EngineInstance, EngineSpeed, RequestLengths
from archwright.sizing.inference.engine_options import (
    LARGE_CHUNK,
    MOST_SLOTS,
    NARROW_CACHE,
    SMALL_CHUNK,
)
from archwright.sizing.inference.open_loop import (
    LIMITED_LATENCIES,
    MAX_UTILISATION,
    Z95,
    MaxLoad,
    RequestProfile,
    Slowdown,
    SlowdownBands,
    build_open_loop,
)
from archwright.sizing.step_time.engine_step_times import FittedDecodeStep, StepTimes

# Error factors of the formulas against the event simulation of the same steps (`test_serving_capacity_simulation`).
TTFT_FORMULA, TPOT_FORMULA = 1.25, 1.10
CAPACITY_FORMULA = 1.15
# An option that is not needed must carry this much more; it is tried if a figure improves by the other two.
WORTH_IT, FASTER, SHORTER = 1.03, 1.015, 1.05
# Options are chosen for layouts that carry this share of the best layout's load.
NEAR_BEST = 0.8
# The cache limits an engine whose requests use this share of its slots, or this share of a step reads the cache.
CROWDED, READ_SHARE = 0.8, 0.1


class TextLoad(NamedTuple):
    """`shared_prefix`: share of prompt tokens common to many requests; `adapters`: fine-tuned variants of the model."""

    workload: str
    input_tokens: TokenLength
    output_tokens: TokenLength
    slo: SLO
    shared_prefix: float = 0.0
    adapters: int = 0

    @property
    def requests(self) -> RequestLengths:
        return RequestLengths(self.input_tokens, self.output_tokens)

    @property
    def flow(self) -> RequestProfile:
        return open_loop.build_request_profile(self.input_tokens, self.output_tokens)


class OfferedOptions(NamedTuple):
    """The draft of the model, and whether the device computes in fp8."""

    draft: DraftModel | None
    narrow_cache: bool


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


def size_text_serving(
    machine: Machine, model: ModelSpec, load: TextLoad, catalog: Catalog, *, remote_drafts: bool = True
) -> SteadyCapacity | None:
    """Return the capacity, or None if no engine of the catalog runs on the machine or the model does not fit.

    `remote_drafts`: the engine may fetch a draft model of its own."""
    device, draft = machine.accelerator, catalog.drafts.get(model.id)
    if draft is not None and draft.repository and not remote_drafts:
        draft = None
    offered = OfferedOptions(draft, device is not None and NARROW_CACHE in device.flops)
    layouts = list_engine_layouts(machine, model, load.requests, catalog)
    copies = {layout.devices: layout.copies for layout in layouts}
    started = (_start_options(layout._replace(copies=1), offered, load, catalog) for layout in layouts)
    found = [one for one in started if one is not None]

    def rank(one: EngineLoad) -> tuple[int, int, float]:
        return *one.rank, -one.planned * copies[one.engine.devices]

    if not found:
        return None
    best = min(map(rank, found))
    near = (one for one in found if one.rank == best[:2] and rank(one)[2] <= NEAR_BEST * best[2])
    most, engine, _ = min((_improve_options(one, layouts[0].speed, offered, load, catalog) for one in near), key=rank)
    return _build_text_capacity(machine, model, load, (most, engine._replace(copies=copies[engine.devices])), catalog)


# Machines that differ in the count of accelerators have equal engines.
@lru_cache(maxsize=4096)
def _start_options(
    engine: EngineInstance, offered: OfferedOptions, load: TextLoad, catalog: Catalog
) -> EngineLoad | None:
    """Return the engine with what the load needs, prefix cache and adapters, and its load; None if it does not fit."""
    if not has_options(engine):
        return find_engine_load(load, engine)
    costs = engine_options.read_costs(catalog)
    hits = load.shared_prefix * costs["prefix.hits"]
    stated = replace(engine.options, prefix_hits=hits, adapters=load.adapters)
    formats = (stated.kv_format, NARROW_CACHE) if offered.narrow_cache else (stated.kv_format,)
    tuned = (engine_options.tune_engine(engine, replace(stated, kv_format=kv), costs) for kv in formats)
    best = next((one for one in tuned if one is not None), None)
    return None if best is None else _assess(best, math.sqrt(best.slots), load, catalog)


@lru_cache(maxsize=4096)
def _improve_options(
    found: EngineLoad, plain: EngineSpeed, offered: OfferedOptions, load: TextLoad, catalog: Catalog
) -> EngineLoad:
    """Return the engine with the options that violate the fewest limits and then carry the most, and its load.

    A further option must carry WORTH_IT times as much with its band: ties go to the simpler setting. `plain`: the
    speed without the bands of options."""
    if not has_options(found.engine):
        return found
    costs, changes = engine_options.read_costs(catalog), list[dict[str, object]]()
    changes += [{"kv_format": NARROW_CACHE}] if offered.narrow_cache else []
    long = load.input_tokens.p95 * (1 - found.engine.options.prefix_hits)
    changes += [{"chunk_tokens": size} for size in (LARGE_CHUNK, SMALL_CHUNK) if long > found.engine.chunk]
    changes += [engine_options.draft_options(offered.draft, costs)] if offered.draft is not None else []
    for change in changes:
        best = found.engine
        trial = engine_options.tune_engine(best._replace(speed=plain), replace(best.options, **change), costs)
        if trial is None or not _may_help(trial, found, load):
            continue
        rough = find_engine_load(load, trial)
        judged = _assess(trial, rough.most.point.batch, load, catalog) if rough.is_better(found) else found
        found = judged if judged.is_better(found) else found
    return found


def has_options(engine: EngineInstance) -> bool:
    return engine.frame is not None and bool(engine.product.option_flags)


def _may_help(trial: EngineInstance, found: EngineLoad, load: TextLoad) -> bool:
    """Return False if the slots or bytes that `trial` saves are not needed, or it is hardly faster at this batch."""
    old, slots = found.most.point, found.engine.slots
    if trial.options.kv_format != found.engine.options.kv_format:
        decode = found.engine.pace.decode_step(load.input_tokens.mean)
        crowded = slots < MOST_SLOTS and old.inside + Z95 * math.sqrt(old.inside) > CROWDED * slots
        return crowded or (isinstance(decode, FittedDecodeStep) and decode.cache_share(1 + old.batch) > READ_SHARE)
    new = engine_options.open_loop_of(trial, load.flow).at_batch(old.batch)
    gains = (new.rate / old.rate, old.ttft_p95_s / new.ttft_p95_s, old.tpot_p95_s / new.tpot_p95_s)
    return max(gains) >= (SHORTER if trial.chunk == SMALL_CHUNK != found.engine.chunk else FASTER)


def _assess(engine: EngineInstance, batch: float, load: TextLoad, catalog: Catalog) -> EngineLoad:
    """Return the load and the engine with the bands of its options, at about `batch` requests in decode."""
    return find_engine_load(load, engine_options.widen_for_options(engine, load.flow, batch, catalog))


def find_engine_load(load: TextLoad, engine: EngineInstance) -> EngineLoad:
    """Return the highest load of an engine with the bands of its speed."""
    size, slower = (engine.slots, engine.chunk), _find_bands(engine.speed).find_slowdown(load.slo.certainty)
    most = _find_max_load(engine.pace, load.flow, size, load.slo, slower)
    return EngineLoad(most, engine, most.point.rate / slower.steps)


@lru_cache(maxsize=4096)
def _find_max_load(pace: StepTimes, flow: RequestProfile, size: tuple[int, int], slo: SLO, slower: Slowdown) -> MaxLoad:
    """`size`: slots of the engine, and prompt tokens per step."""
    return build_open_loop(pace, flow, *size).find_max_load(slo, slower)


@lru_cache(maxsize=1024)
def _find_bands(speed: EngineSpeed) -> SlowdownBands:
    """Return the bands of an engine's times, widened by the errors of the formulas."""
    steps, first = _band_latency(1.0, speed.steps, TPOT_FORMULA, ""), _band_latency(1.0, speed.first, TTFT_FORMULA, "")
    return SlowdownBands(steps, first)


def _build_text_capacity(
    machine: Machine, model: ModelSpec, load: TextLoad, chosen: tuple[MaxLoad, EngineInstance], catalog: Catalog
) -> SteadyCapacity:
    (full, broken, doubts), engine = chosen
    steps, first = engine.speed.steps, engine.speed.first
    capacity, latency = bases = _build_bases(machine, model, load, engine)
    # Requests/s are proportional to 1 / step time.
    most, slower = full.rate * engine.copies, _find_bands(engine.speed).find_slowdown(load.slo.certainty)
    planned = most / slower.steps
    # A step with fewer requests is not longer, so this batch carries at least the planned rate.
    point = engine_options.open_loop_of(engine, load.flow).at_batch(full.batch / slower.steps)
    rate = widen_band(most, (most / steps.high, most / steps.low), CAPACITY_FORMULA, "requests/s", capacity.id)
    rate = replace(rate, value=planned, low=min(rate.low, planned))
    ttft = _band_latency(point.ttft_p95_s, first, TTFT_FORMULA, latency.id)
    tpot = _band_latency(point.tpot_p95_s, steps, TPOT_FORMULA, latency.id)
    later_tokens = max(load.output_tokens.mean - 1, 0.0)
    return SteadyCapacity(
        model=model.id,
        requests_per_s=rate,
        latency_p95_s=sum_estimates([ttft, tpot.scaled(later_tokens)], "s", latency.id),
        ttft_p95_s=ttft,
        tpot_p95_s=tpot,
        engine=engine.product.id,
        quantisation=engine.quantisation,
        engines=engine.copies,
        devices=engine.devices,
        parallelism=engine.parallelism,
        slots=engine.slots,
        context_tokens=engine.context_tokens,
        busy_w=busy_power_w(machine, catalog, accelerated=engine.devices > 0),
        bases=bases,
        misses=_list_misses(model, load, broken),
        options=engine.options,
        assumptions=(*engine.assumptions, open_loop.ASSUMPTION),
        doubts=doubts,
        assess=partial(assess_latencies, load, engine),
    )


def assess_latencies(load: TextLoad, engine: EngineInstance, rate: float) -> tuple[LimitProbability, ...]:
    """Return the latency limits of `load` with their probabilities, if one machine gets `rate` requests/s."""
    bands, share = _find_bands(engine.speed), rate / engine.copies
    loop, found = engine_options.open_loop_of(engine, load.flow), list[LimitProbability]()
    at, basis = loop.at_rate(share), "the load per engine, against the bands of step time and TTFT: open_loop.py"
    for name in LIMITED_LATENCIES:
        if (limit := getattr(load.slo, name)) is not None:
            band = bands.first if name == "ttft_p95_s" else bands.steps
            predicted = _band_latency(getattr(at, name), band, 1.0, "")
            one = assess_limit((f"{load.workload}.{name}", limit, load.slo.certainty), predicted, basis=basis)
            found.append(replace(one, probability=loop.chance_within(name, limit, share, bands)))
    return tuple(found)


def _band_latency(value: float, band: Estimate, formula: float, basis: str) -> Estimate:
    return widen_band(value, (value * band.low, value * band.high), formula, "s", basis)


def _list_misses(
    model: ModelSpec, load: TextLoad, broken: tuple[tuple[str, float], ...]
) -> tuple[ConstraintViolation, ...]:
    """Return the limits that an idle machine violates, and the context if p95 requests are longer than the model's."""
    found = [
        ConstraintViolation(constraint=f"{load.workload}.{name}", value=at, limit=getattr(load.slo, name))
        for name, at in broken
    ]
    longest = load.input_tokens.p95 + load.output_tokens.p95
    if longest > model.context_tokens:
        limit = float(model.context_tokens)
        found.append(ConstraintViolation(constraint=f"{load.workload}.context_tokens", value=longest, limit=limit))
    return tuple(found)


def _build_bases(machine: Machine, model: ModelSpec, load: TextLoad, engine: EngineInstance) -> tuple[Basis, Basis]:
    name, speed = f"{load.workload}.{{}}.{model.id}.{machine.id}", engine.speed
    reads, writes = load.input_tokens, load.output_tokens
    facts = (
        *speed.facts,
        f"prompts of {reads.mean:g} tokens (p95 {reads.p95:g}), answers of {writes.mean:g} (p95 {writes.p95:g}); "
        f"{engine.copies} x {engine.product.id} on {engine.devices or 'no'} accelerators, {engine.quantisation}, "
        f"{engine.slots} slots",
    )
    capacity = Basis(
        id=name.format("capacity"),
        kind="calibrated",
        stratum=speed.stratum,
        definition="highest Poisson rate in requests/s at which one machine holds every p95 limit with "
        f"{load.slo.certainty:.0%} certainty; at most {MAX_UTILISATION:.0%} of the saturation rate",
        formula="engines x b / (O T): b requests in decode, O output tokens each, T = decode step + prefill between",
        facts=facts,
    )
    latency = replace(
        capacity,
        id=name.format("latency"),
        definition="p95 over requests at that load. TTFT: request received to first content. TPOT: (last - first "
        "token) / (tokens - 1). Latency = TTFT p95 + TPOT p95 x (mean output - 1)",
        formula="TTFT: prefill + M/G/1 wait of prompts; TPOT: decode step + prefill between, batch 1 + b + z sqrt(b)",
    )
    return capacity, latency
