"""Simulates a pool of equal engines, rented or bought: latencies at the peak, tokens in a closed loop.

replica_dispatch.py spreads the arrivals over up to MOST_ENGINES engines by the gateway's rules. The peak windows that
contain REQUESTS requests run on one engine each (continuous_batching.py), so that a p99 does not depend on one request.
The fitted overhead beyond the steps (scheduling, host) is added to the simulated time to first token.
Value: the run at the predicted speed. Band: the fit's band of the stratum around it, extended to the runs at the fast
and the slow end of the steps' band if queueing makes them lie further out.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Basis
from archwright.contract.percentile import percentile
from archwright.contract.plan import LoadSpec
from archwright.contract.record import Record, replace
from archwright.policy.traffic import Arrival, peak_arrivals
from archwright.simulate import queue_latency
from archwright.simulate.continuous_batching import ContinuousBatching, SimulatedOutcome, SimulatedRequest, StepTimer
from archwright.simulate.queue_latency import QueueLatency, QueueLatencyPrediction
from archwright.simulate.replica_dispatch import dispatch_arrivals
from archwright.simulate.serving_simulation import (
    RATE_NOISE,
    TPOT_NOISE,
    TTFT_NOISE,
    count_tokens_per_s,
    run_closed_loop,
)
from archwright.sizing.hardware.roofline import EngineStep
from archwright.sizing.hardware.uncertainty import widen_band
from archwright.sizing.inference.engine_instance import EngineInstance
from archwright.sizing.inference.open_loop import (
    GATEWAY_S,
    OpenLoop,
    OperatingPoint,
    RequestProfile,
    build_request_profile,
)

# A window is cut at MOST_REQUESTS, since its rest is statistically the same.
REQUESTS, MOST_REQUESTS, MOST_WINDOWS = 600, 1200, 32
# Engines in one dispatch simulation: more engines hardly change how the load is spread.
MOST_ENGINES = 4
# Requests of the closed loop: more of them hardly change the rate.
MOST_CLOSED = 600
QUANTILES = (0.5, 0.95, 0.99)


class PoolScenario(NamedTuple):
    """`engines` equal engines under `load`, the load of all of them together."""

    model: str
    engine: EngineInstance
    engines: int
    load: LoadSpec


class PoolPrediction(Record):
    """Latencies are those of the peak, `tokens_per_s` of the closed loop over all engines.

    `refused` is the share of the peak that finds the gateway's queue full; the latencies include it as if it waited.
    """

    ttft_p50_s: Estimate
    ttft_p95_s: Estimate
    ttft_p99_s: Estimate
    tpot_p50_s: Estimate
    tpot_p95_s: Estimate
    tpot_p99_s: Estimate
    tokens_per_s: Estimate
    queueing: QueueLatencyPrediction
    refused: float
    bases: tuple[Basis, ...]


class PeakResult(NamedTuple):
    """One peak at one speed: percentiles in the order of QUANTILES, queue latency, refused share."""

    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]
    queue: QueueLatency
    refused: float


class _SlowedTimer(NamedTuple):
    clock: StepTimer
    factor: float

    def step_s(self, step: EngineStep) -> float:
        return self.clock.step_s(step) * self.factor


def predict_pool(spec: PoolScenario) -> PoolPrediction:
    """Predict all figures of `spec`. Deterministic."""
    speed = spec.engine.speed
    peak_basis, loop_basis = _build_bases(spec)
    runs = simulate_peaks(spec)
    tokens = simulate_closed_loop(spec)
    ends = (tokens / speed.steps.high, tokens / speed.steps.low)
    engine_rate = widen_band(tokens, ends, RATE_NOISE, "tokens/s", loop_basis.id)
    latencies = _band_latencies(spec, runs, peak_basis.id)
    queueing = queue_latency.predict_queue_latency([run.queue for run in runs], peak_basis.id)
    return PoolPrediction(
        **latencies,
        queueing=queueing,
        refused=runs[0].refused,
        tokens_per_s=engine_rate.scaled(float(spec.engines)),
        bases=(peak_basis, loop_basis),
    )


def predict_latencies(spec: PoolScenario, basis: str = "") -> dict[str, Estimate]:
    """Predict percentiles over the requests of the peak, by name (`ttft_p95_s`)."""
    return _band_latencies(spec, simulate_peaks(spec), basis)


def simulate_peaks(spec: PoolScenario) -> list[PeakResult]:
    """Simulate the peak at the predicted speed, at the fast end and at the slow end."""
    steps = spec.engine.speed.steps
    dispatch = dispatch_peak(spec)
    return [simulate_peak(spec, factor, dispatch) for factor in (1.0, steps.low, steps.high)]


def _band_latencies(spec: PoolScenario, runs: list[PeakResult], basis: str) -> dict[str, Estimate]:
    speed = spec.engine.speed
    latencies: dict[str, Estimate] = {}
    for index, share in enumerate(QUANTILES):
        percent = f"{share * 100:.0f}"
        ttft_s = [run.ttft_s[index] for run in runs]
        tpot_s = [run.tpot_s[index] for run in runs]
        latencies[f"ttft_p{percent}_s"] = _band_percentile(ttft_s, speed.first, TTFT_NOISE, basis)
        latencies[f"tpot_p{percent}_s"] = _band_percentile(tpot_s, speed.steps, TPOT_NOISE, basis)
    return latencies


def _band_percentile(values: list[float], band: Estimate, noise: float, basis: str) -> Estimate:
    middle = values[0]
    ends = (min(*values, middle * band.low), max(*values, middle * band.high))
    return widen_band(middle, ends, noise, "s", basis)


class PeakDispatch(NamedTuple):
    """The arrivals of single engines in the peak, and the share of all arrivals that finds the queue full."""

    parts: list[list[Arrival]]
    refused: float


def simulate_peak(spec: PoolScenario, factor: float, dispatch: PeakDispatch | None = None) -> PeakResult:
    """Simulate the peak with steps `factor` times as long as predicted; the dispatch stays as predicted."""
    overhead_s = model_ttft_overhead(spec, spec.load.requests_per_second / spec.engines)
    engine = build_batching(spec, factor)
    parts, refused = dispatch or dispatch_peak(spec)
    cached_share = spec.engine.pace.tokens.cached
    started: list[SimulatedOutcome] = []
    ttft_s: list[float] = []
    tpot_s: list[float] = []
    for part in parts:
        requests = [build_request(arrival, arrival.at_s, cached_share) for arrival in part]
        for outcome in engine.run(requests):
            if outcome.ttft_s is not None:
                prompt_tokens = outcome.request.new_tokens + outcome.request.cached_tokens
                started.append(outcome)
                ttft_s.append(outcome.ttft_s + GATEWAY_S + overhead_s(prompt_tokens) * factor)
            if outcome.tpot_s is not None:
                tpot_s.append(outcome.tpot_s)
    queue = queue_latency.measure_queue_latency(started, ttft_s)
    return PeakResult(_latency_percentiles(ttft_s), _latency_percentiles(tpot_s), queue, refused)


def dispatch_peak(spec: PoolScenario) -> PeakDispatch:
    """Dispatch as many windows of the peak as contain REQUESTS requests, each to one engine."""
    engines, load = min(spec.engines, MOST_ENGINES), spec.load
    share = load.requests_per_second / spec.engines
    count, seconds = count_windows(share, load.peak_s), min(load.peak_s, MOST_REQUESTS / share)
    window = replace(load, requests_per_second=share * engines, peak_s=seconds)
    holds_s = _model_slot_occupancy(spec, share)
    parts, refused, total = list[list[Arrival]](), 0, 0
    while len(parts) < count:
        arrivals = peak_arrivals(replace(window, seed=load.seed + len(parts) // engines))
        found = dispatch_arrivals(arrivals, engines, spec.engine.slots, holds_s)
        parts += found.parts
        refused += found.refused
        total += len(arrivals)
    return PeakDispatch(parts[:count], refused / total)


def _model_slot_occupancy(spec: PoolScenario, rate: float) -> Callable[[Arrival], float]:
    """Return a function for the seconds that a request occupies its slot, by the length of its answer."""
    profile, state = _find_operating_point(spec, rate)
    prefill_s = spec.engine.pace.uncontended_prefill(profile.prompt).ttft_s(state.decode_s)
    token_s = state.batch / (state.rate * profile.answer)
    return lambda arrival: prefill_s + token_s * (arrival.output_tokens - 1)


def _find_operating_point(spec: PoolScenario, rate: float) -> tuple[RequestProfile, OperatingPoint]:
    """Return one engine's mean request, and its state at `rate` requests per second."""
    engine, profile = spec.engine, build_request_profile(spec.load.input_tokens, spec.load.output_tokens)
    return profile, OpenLoop(engine.pace, profile, engine.slots, engine.chunk).at_rate(rate)


def _latency_percentiles(values: list[float]) -> tuple[float, ...]:
    return tuple(percentile(values, q) for q in QUANTILES)


def count_windows(rate: float, seconds: float) -> int:
    """Return the number of windows that contain REQUESTS requests."""
    return max(1, min(MOST_WINDOWS, math.ceil(REQUESTS / max(1.0, rate * seconds))))


def model_ttft_overhead(spec: PoolScenario, rate: float) -> Callable[[int], float]:
    """Return a function from prompt tokens to the fitted time to first token beyond the request's steps."""
    decode_s = _find_operating_point(spec, rate)[1].decode_s

    def overhead_s(prompt: int) -> float:
        prefill = spec.engine.pace.uncontended_prefill(float(prompt))
        return prefill.ttft_s(decode_s) - prefill.steps_s(decode_s)

    return overhead_s


def build_batching(spec: PoolScenario, factor: float) -> ContinuousBatching:
    engine = spec.engine
    return ContinuousBatching(_SlowedTimer(engine.pace, factor), engine.slots, engine.chunk, engine.pace.tokens)


def build_request(arrival: Arrival, at_s: float, cached: float) -> SimulatedRequest:
    """Build a request of which the prefix cache holds the share `cached`, at most all but one token."""
    kept = min(round(arrival.input_tokens * cached), arrival.input_tokens - 1)
    return SimulatedRequest(at_s, arrival.input_tokens - kept, kept, arrival.output_tokens)


def simulate_closed_loop(spec: PoolScenario) -> float:
    """Return the answer tokens/s of one engine in the closed loop."""
    at_once = math.ceil(spec.load.concurrency / spec.engines)
    seconds = closed_loop_seconds(spec)
    request = partial(build_request, cached=spec.engine.pace.tokens.cached)
    outcomes = run_closed_loop(build_batching(spec, 1.0), spec.load, at_once, seconds, request)
    return count_tokens_per_s(outcomes, seconds)


def closed_loop_seconds(spec: PoolScenario) -> float:
    """Return the closed loop's length, cut at MOST_CLOSED requests of one step per output token."""
    load = spec.load
    at_once = max(min(load.concurrency / spec.engines, spec.engine.slots), 1.0)
    pace = spec.engine.pace
    step_s = pace.decode_step(load.input_tokens.mean).step_s(at_once) / pace.tokens.output
    return min(load.closed_s, max(MOST_CLOSED / at_once, 2.0) * step_s * load.output_tokens.mean)


def _build_bases(spec: PoolScenario) -> tuple[Basis, Basis]:
    load = spec.load
    engine = spec.engine
    speed = engine.speed
    share = load.requests_per_second / spec.engines
    hardware = f"{engine.devices} accelerators each" if engine.devices else "a host processor each"
    steps = f"{engine.slots} slots, {engine.chunk} prompt tokens per step"
    pool = f"{spec.engines} x {engine.product.id} on {hardware}, {engine.quantisation}, {steps}"
    peak = (
        f"peak {load.requests_per_second:g} requests/s, {share:g} per engine, each to the engine with the least work, "
        f"{count_windows(share, load.peak_s)} windows of {load.peak_s:g} s, seed {load.seed}"
    )
    formula = "continuous batching event by event with the fitted steps"

    def build_basis(name: str, definition: str, formula: str, load_fact: str) -> Basis:
        return Basis(
            id=f"{load.workload}.serving.{name}",
            kind="simulated",
            stratum=speed.stratum,
            definition=definition,
            formula=formula,
            facts=(*speed.facts, pool, load_fact),
        )

    definition = (
        "percentile over the requests of the peak phase: request received to first content; "
        "(last - first token) / (tokens - 1) of finished requests"
    )
    peak_basis = build_basis("latency", definition, f"{formula}; TTFT: plus the fitted overhead beyond them", peak)
    definition = "answer tokens delivered within the closed phase / its length, unfinished requests included"
    loop = f"closed loop of {load.concurrency}, seed {load.seed}"
    return peak_basis, build_basis("tokens", definition, formula, loop)
