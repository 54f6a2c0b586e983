"""What a pool of equal engines, rented or bought, does under its load: latencies at the peak, tokens in a closed loop.

replica_dispatch.py spreads the arrivals over as many engines as tell how the gateway's rules spread the load. As many
windows of a peak as hold REQUESTS requests run on one engine each (continuous_batching.py), so that a p99 is not one
request's luck. To the simulated time to a first token comes what the fit says beyond the steps: scheduling, host.
Value: the run at the predicted speed. Band: the fit's band of the stratum around it, and the runs at the fast and
the slow end of the steps' band where queueing carries further than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Basis
from archwright.contract.percentile import percentile
from archwright.contract.plan import LoadSpec
from archwright.contract.record import Record, replace
from archwright.policy.traffic import Arrival, peak_arrivals
from archwright.simulate import queue_latency
from archwright.simulate.continuous_batching import ContinuousBatching, SimulatedRequest, StepTimer
from archwright.simulate.queue_latency import QueueLatency, QueueLatencyPrediction
from archwright.simulate.replica_dispatch import dispatch_arrivals
from archwright.simulate.serving_simulation import RATE_NOISE, TPOT_NOISE, TTFT_NOISE, run_closed_loop
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

# A window with more requests is cut: what comes later is like what came.
REQUESTS, MOST_REQUESTS, MOST_WINDOWS = 600, 1200, 32
# Engines that are dealt to together: more spread the load hardly better.
MOST_ENGINES = 4
# Of the closed loop: more tokens would say nothing new.
MOST_CLOSED = 600
QUANTILES = (0.5, 0.95, 0.99)


class PoolScenario(NamedTuple):
    """`engines` equal engines under `load`, which is all of theirs."""

    model: str
    engine: EngineInstance
    engines: int
    load: LoadSpec


class PoolPrediction(Record):
    """Latencies hold under the peak, `tokens_per_s` in the closed loop over all engines. `refused` is the share of the
    peak that finds the gateway's queue full; it is in the latencies as if it had waited."""

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
    """Percentiles of an engine's peak at one speed, in the order of QUANTILES; its queue, and the share refused."""

    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]
    queue: QueueLatency
    refused: float


class _SlowedTimer(NamedTuple):
    """An engine whose steps take `factor` times as long."""

    clock: StepTimer
    factor: float

    def step_s(self, step: EngineStep) -> float:
        return self.clock.step_s(step) * self.factor


def predict_pool(spec: PoolScenario) -> PoolPrediction:
    """All promises for `spec`. Deterministic."""
    speed = spec.engine.speed
    at_peak, in_loop = bases = _build_bases(spec)
    runs = simulate_peaks(spec)
    tokens = simulate_closed_loop(spec)
    ends = (tokens / speed.steps.high, tokens / speed.steps.low)
    return PoolPrediction(
        **_band_latencies(spec, runs, at_peak.id),
        queueing=queue_latency.predict_queue_latency([one.queue for one in runs], at_peak.id),
        refused=runs[0].refused,
        tokens_per_s=widen_band(tokens, ends, RATE_NOISE, "tokens/s", in_loop.id).scaled(float(spec.engines)),
        bases=bases,
    )


def predict_latencies(spec: PoolScenario, basis: str = "") -> dict[str, Estimate]:
    """Percentiles over the requests of the peak by name, `ttft_p95_s`."""
    return _band_latencies(spec, simulate_peaks(spec), basis)


def simulate_peaks(spec: PoolScenario) -> list[PeakResult]:
    """At the predicted speed, at the fast end and at the slow one."""
    speed, dealt = spec.engine.speed, dispatch_peak(spec)
    return [simulate_peak(spec, factor, dealt) for factor in (1.0, speed.steps.low, speed.steps.high)]


def _band_latencies(spec: PoolScenario, runs: list[PeakResult], basis: str) -> dict[str, Estimate]:
    speed, found = spec.engine.speed, dict[str, Estimate]()
    for place, share in enumerate(QUANTILES):
        first, between = [run.ttft_s[place] for run in runs], [run.tpot_s[place] for run in runs]
        found[f"ttft_p{share * 100:.0f}_s"] = _band_percentile(first, speed.first, TTFT_NOISE, basis)
        found[f"tpot_p{share * 100:.0f}_s"] = _band_percentile(between, speed.steps, TPOT_NOISE, basis)
    return found


def _band_percentile(values: list[float], band: Estimate, noise: float, basis: str) -> Estimate:
    middle = values[0]
    ends = (min(*values, middle * band.low), max(*values, middle * band.high))
    return widen_band(middle, ends, noise, "s", basis)


class PeakDispatch(NamedTuple):
    """What single engines are given of the peak, and the share of all that finds the queue full."""

    parts: list[list[Arrival]]
    refused: float


def simulate_peak(spec: PoolScenario, factor: float, dealt: PeakDispatch | None = None) -> PeakResult:
    """The engines' peak when their steps take `factor` times as long as predicted; who takes what is as predicted."""
    share = spec.load.requests_per_second / spec.engines
    beyond, engine = model_ttft_overhead(spec, share), build_batching(spec, factor)
    parts, refused = dealt or dispatch_peak(spec)
    found = [one for part in parts for one in engine.run([build_request(arrival, arrival.at_s) for arrival in part])]
    begun = [one for one in found if one.ttft_s is not None]
    ttft = [one.ttft_s + GATEWAY_S + beyond(one.request.new_tokens) * factor for one in begun if one.ttft_s is not None]
    tpot = _latency_percentiles([one.tpot_s for one in found if one.tpot_s is not None])
    return PeakResult(_latency_percentiles(ttft), tpot, queue_latency.measure_queue_latency(begun, ttft), refused)


def dispatch_peak(spec: PoolScenario) -> PeakDispatch:
    """As many windows of the peak as hold REQUESTS requests, each of one engine."""
    engines, load = min(spec.engines, MOST_ENGINES), spec.load
    share = load.requests_per_second / spec.engines
    count, seconds = count_windows(share, load.peak_s), min(load.peak_s, MOST_REQUESTS / share)
    together = replace(load, requests_per_second=share * engines, peak_s=seconds)
    holds_s = _model_slot_occupancy(spec, share)
    parts, refused, came = list[list[Arrival]](), 0, 0
    while len(parts) < count:
        arrivals = peak_arrivals(replace(together, seed=load.seed + len(parts) // engines))
        found = dispatch_arrivals(arrivals, engines, spec.engine.slots, holds_s)
        parts += found.parts
        refused += found.refused
        came += len(arrivals)
    return PeakDispatch(parts[:count], refused / came)


def _model_slot_occupancy(spec: PoolScenario, rate: float) -> Callable[[Arrival], float]:
    """How long a request keeps its slot at that rate, by the length of its answer."""
    flow, at = _find_operating_point(spec, rate)
    begins_s = spec.engine.pace.uncontended_prefill(flow.prompt).ttft_s(at.decode_s)
    token_s = at.batch / (at.rate * flow.answer)
    return lambda arrival: begins_s + token_s * (arrival.output_tokens - 1)


def _find_operating_point(spec: PoolScenario, rate: float) -> tuple[RequestProfile, OperatingPoint]:
    """One engine's requests, and its state at so many of them a second."""
    engine, flow = spec.engine, build_request_profile(spec.load.input_tokens, spec.load.output_tokens)
    return flow, OpenLoop(engine.pace, flow, engine.slots, engine.chunk).at_rate(rate)


def _latency_percentiles(values: list[float]) -> tuple[float, ...]:
    return tuple(percentile(values, q) for q in QUANTILES)


def count_windows(rate: float, seconds: float) -> int:
    """How many windows hold REQUESTS requests."""
    return max(1, min(MOST_WINDOWS, math.ceil(REQUESTS / max(1.0, rate * seconds))))


def model_ttft_overhead(spec: PoolScenario, rate: float) -> Callable[[int], float]:
    """For a prompt: what its time to a first token is fitted to take beyond the steps it takes part in."""
    decode_s = _find_operating_point(spec, rate)[1].decode_s

    def beyond(prompt: int) -> float:
        alone = spec.engine.pace.uncontended_prefill(float(prompt))
        return alone.ttft_s(decode_s) - alone.steps_s(decode_s)

    return beyond


def build_batching(spec: PoolScenario, factor: float) -> ContinuousBatching:
    return ContinuousBatching(_SlowedTimer(spec.engine.pace, factor), spec.engine.slots, spec.engine.chunk)


def build_request(arrival: Arrival, at_s: float) -> SimulatedRequest:
    return SimulatedRequest(at_s, arrival.input_tokens, 0, arrival.output_tokens)


def simulate_closed_loop(spec: PoolScenario) -> float:
    """Answer tokens/s of one engine in the closed loop."""
    at_once = math.ceil(spec.load.concurrency / spec.engines)
    return run_closed_loop(build_batching(spec, 1.0), spec.load, at_once, closed_loop_seconds(spec), build_request)


def closed_loop_seconds(spec: PoolScenario) -> float:
    """The closed loop's length, cut where MOST_CLOSED requests have been answered: each takes a step for each token."""
    load = spec.load
    at_once = max(min(load.concurrency / spec.engines, spec.engine.slots), 1.0)
    step_s = spec.engine.pace.decode_step(load.input_tokens.mean).step_s(at_once)
    return min(load.closed_s, max(MOST_CLOSED / at_once, 2.0) * step_s * load.output_tokens.mean)


def _build_bases(spec: PoolScenario) -> tuple[Basis, Basis]:
    load, engine, speed = spec.load, spec.engine, spec.engine.speed
    share = load.requests_per_second / spec.engines
    where = f"{engine.devices} accelerators each" if engine.devices else "a host processor each"
    steps = f"{engine.slots} places, {engine.chunk} prompt tokens a step"
    stands = f"{spec.engines} x {engine.product.id} on {where}, {engine.quantisation}, {steps}"
    peak = (
        f"peak {load.requests_per_second:g} requests/s, {share:g} to an engine, each to that with the least work, "
        f"{count_windows(share, load.peak_s)} windows of {load.peak_s:g} s, seed {load.seed}"
    )
    at_peak = Basis(
        id=f"{load.workload}.serving.latency",
        kind="simulated",
        stratum=speed.stratum,
        definition="percentile over the requests of the peak phase: request received to first content; "
        "(last - first token) / (tokens - 1) of finished requests",
        formula="continuous batching event by event with the fitted steps; TTFT: and what the fit adds beyond them",
        facts=(*speed.facts, stands, peak),
    )
    in_loop = Basis(
        id=f"{load.workload}.serving.tokens",
        kind="simulated",
        stratum=speed.stratum,
        definition="answer tokens delivered within the closed phase / its length, unfinished requests included",
        formula="continuous batching event by event with the fitted steps",
        facts=(*speed.facts, stands, f"closed loop of {load.concurrency}, seed {load.seed}"),
    )
    return at_peak, in_loop
