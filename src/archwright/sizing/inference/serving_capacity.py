"""Capacity of one machine for a text workload, in requests/s within the SLO.

Among the layouts that fit (deployment_layout.py), the one that violates the fewest limits and then carries the most
requests/s within them (open_loop.py) is used. The band is that of the engine's step times, and the value is the load
at which the limits hold with the certainty of the workload.
"""

from functools import lru_cache, partial
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.estimate import Estimate, sum_estimates
from archwright.contract.evidence import Basis
from archwright.contract.needs import SLO, TokenLength
from archwright.contract.plan import ConstraintViolation, LimitProbability, assess_limit
from archwright.contract.record import replace
from archwright.sizing.hardware.device_rates import busy_power_w
from archwright.sizing.hardware.machine import Machine, SteadyCapacity
from archwright.sizing.hardware.uncertainty import widen_band
from archwright.sizing.inference import open_loop
from archwright.sizing.inference.deployment_layout import list_engine_layouts
from archwright.sizing.inference.engine_instance import EngineInstance, EngineSpeed, RequestLengths
from archwright.sizing.inference.open_loop import (
    LIMITED_LATENCIES,
    MAX_UTILISATION,
    MaxLoad,
    OpenLoop,
    RequestProfile,
    Slowdown,
    SlowdownBands,
)
from archwright.sizing.step_time.engine_step_times import StepTimes

# Error factors of the formulas against the event simulation of the same steps (`test_serving_capacity_simulation`).
TTFT_FORMULA, TPOT_FORMULA = 1.25, 1.10
CAPACITY_FORMULA = 1.15


class TextLoad(NamedTuple):
    workload: str
    input_tokens: TokenLength
    output_tokens: TokenLength
    slo: SLO

    @property
    def requests(self) -> RequestLengths:
        return RequestLengths(self.input_tokens, self.output_tokens)

    @property
    def flow(self) -> RequestProfile:
        return open_loop.build_request_profile(self.input_tokens, self.output_tokens)


def size_text_serving(machine: Machine, model: ModelSpec, load: TextLoad, catalog: Catalog) -> SteadyCapacity | None:
    """Return the capacity, or None if no engine of the catalog runs on the machine or the model does not fit."""
    found = []
    for engine in list_engine_layouts(machine, model, load.requests, catalog):
        slower = _find_bands(engine.speed).find_slowdown(load.slo.certainty)
        size = (engine.slots, engine.chunk)
        found.append((_find_max_load(engine.pace, load.flow, size, load.slo, slower), engine))
    if not found:
        return None
    most, engine = min(found, key=_rank_layout)
    return _build_text_capacity(machine, model, load, (most, engine), catalog)


def _rank_layout(chosen: tuple[MaxLoad, EngineInstance]) -> tuple[int, int, float]:
    """Rank by limits that an idle engine violates, limits below the certainty, and capacity."""
    most, engine = chosen
    return len(most.broken), most.doubts, -most.point.rate * engine.copies


@lru_cache(maxsize=4096)
def _find_max_load(pace: StepTimes, flow: RequestProfile, size: tuple[int, int], slo: SLO, slower: Slowdown) -> MaxLoad:
    """`size`: slots of the engine, and prompt tokens per step."""
    return OpenLoop(pace, flow, *size).find_max_load(slo, slower)


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
    point = OpenLoop(engine.pace, load.flow, engine.slots, engine.chunk).at_batch(full.batch / slower.steps)
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
        assumptions=(*engine.assumptions, open_loop.ASSUMPTION),
        doubts=doubts,
        assess=partial(assess_latencies, load, engine),
    )


def assess_latencies(load: TextLoad, engine: EngineInstance, rate: float) -> tuple[LimitProbability, ...]:
    """Return the latency limits of `load` with their probabilities, if one machine gets `rate` requests/s."""
    bands, share = _find_bands(engine.speed), rate / engine.copies
    loop, found = OpenLoop(engine.pace, load.flow, engine.slots, engine.chunk), list[LimitProbability]()
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
