"""Predicts a served model under its load: latencies, throughput, memory, start-up, disk, with bands.

The load's own arrivals (policy.traffic) run through the batching model once for each of SPEED_POINTS speeds between the
fast and the slow end of the 90 % interval, so queueing widens a band if there is queueing. Value: the run at the
predicted speed. Band: the extremes of the runs, widened by a noise factor for effects that the model leaves out.
A measured engine's band has an upper limit, but not above the use BUSY_ENGINE: near its capacity a queue turns a small
change of speed into a large one, and the runs show how large.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from archwright.catalog.tables.records import Efficiency, EngineSpec, ModelSpec
from archwright.contract.estimate import Estimate, exact_estimate, sum_estimates, within_factor
from archwright.contract.evidence import Basis
from archwright.contract.percentile import percentile
from archwright.contract.plan import LoadSpec
from archwright.contract.record import Record, replace
from archwright.policy.traffic import Arrival, closed_loop_arrivals, peak_arrivals
from archwright.simulate import queue_latency
from archwright.simulate.continuous_batching import ContinuousBatching, SimulatedOutcome, SimulatedRequest
from archwright.simulate.measured_speed import MeasuredSpeed
from archwright.simulate.prediction_basis import EngineBasis, build_bases, build_basis_ids
from archwright.simulate.queue_latency import QueueLatency, QueueLatencyPrediction
from archwright.sizing.hardware.roofline import Hardware, Roofline
from archwright.sizing.hardware.uncertainty import (
    cap_band,
    is_measured,
    name_stratum,
    slowdown_factors,
    spread_factors,
    widen_band,
)
from archwright.sizing.inference.open_loop import GATEWAY_S
from archwright.sizing.model.engine_memory import EngineMemory, compute_engine_memory, fits_memory, weights_bytes
from archwright.sizing.step_time.measured_steps import MeasuredStepTimes

SPEED_POINTS = 11
# The widest band, each way, of an engine that was measured, if its use stays below BUSY_ENGINE.
WIDEST_BAND, WIDEST_TTFT_BAND = 1.6, 2.5
BUSY_ENGINE = 0.7
MOST_CLOSED = 2000
# Noise between runs at equal speed, measured on two cores: the time to first token depends on the engine's state at
# that moment, a rate over many tokens hardly does.
TTFT_NOISE = 1.25
TPOT_NOISE = 1.10
RATE_NOISE = 1.10
# The engine looks for a cached prefix only if the prefix is at least this share of the prompt (measured): a longer
# prompt takes the slot that was idle longest, usually an unused one.
LEAST_CACHED_SHARE = 0.1
# Measured for supervisor and gateway together: proportional set sizes, start-up time, and bytes written in a day.
PROCESSES_BYTES = Estimate(value=95e6, low=70e6, high=160e6, unit="bytes")
PLATFORM_START = Estimate(value=0.75, low=0.35, high=1.9, unit="s")
WRITTEN_BYTES = Estimate(value=2e6, low=0.1e6, high=25e6, unit="bytes")
START_FACTOR = 2.0
# An idle engine's share of weights + cache + overhead; at its peak it uses more than 1.
IDLE_SHARE = 0.88


class ServingSpec(Record):
    """One model served by equal replicas under one load.

    Every prompt has `template_tokens` of the chat template; the engine caches the first `shared_prefix_tokens` of them.
    `speed`: measured on this machine; None: the speed follows from `efficiency` and `hardware`, and each step takes
    `correction` times as long, as the engine here did in another format.
    """

    model: ModelSpec
    engine: EngineSpec
    efficiency: Efficiency
    hardware: Hardware
    quantisation: str
    bits_per_weight: float
    file_bytes: int | None
    load: LoadSpec
    slots: int
    context_tokens: int
    replicas: int
    batch_tokens: int
    template_tokens: int = 0
    shared_prefix_tokens: int = 0
    threads: int = 1
    speed: MeasuredSpeed | None = None
    correction: float = 1.0

    @property
    def is_measured(self) -> bool:
        """True if the speed was measured with this file or for exactly this engine, format and processor."""
        return is_measured(self.efficiency) if self.speed is None else self.speed.is_of_file

    @property
    def stratum(self) -> str:
        return name_stratum(self.efficiency) if self.speed is None else self.speed.stratum

    @property
    def weights(self) -> float:
        return weights_bytes(self.model, self.bits_per_weight, self.file_bytes)


class ServingPrediction(Record):
    """Latencies are those of the peak, `tokens_per_s` of the closed loop over all replicas."""

    ttft_p50_s: Estimate
    ttft_p95_s: Estimate
    tpot_p50_s: Estimate
    tpot_p95_s: Estimate
    tokens_per_s: Estimate
    peak_memory_bytes: Estimate
    startup_s: Estimate
    disk_bytes: Estimate
    queueing: QueueLatencyPrediction
    bases: tuple[Basis, ...]


class SimulationResult(NamedTuple):
    """The figures of one simulated run; `tokens_per_s` is 0 without a closed loop."""

    ttft_p50_s: float
    ttft_p95_s: float
    tpot_p50_s: float
    tpot_p95_s: float
    tokens_per_s: float = 0.0


def fits_hardware(spec: ServingSpec) -> bool:
    return fits_memory(spec.hardware.memory_bytes, replica_memory(spec))


def replica_memory(spec: ServingSpec) -> EngineMemory:
    slots, context = spec.slots, spec.context_tokens
    return compute_engine_memory(spec.model, spec.weights, spec.efficiency, slots, context, spec.batch_tokens)


def predict_serving(spec: ServingSpec) -> ServingPrediction:
    """Predict all figures of `spec`. Deterministic: the same spec gives the same figures."""
    replica = scale_to_replica(spec)
    factors = (1.0, *list_slowdowns(spec, SPEED_POINTS))
    peaks = [_run_peak(replica, factor) for factor in factors]
    runs = [_add_closed_loop(replica, factor, peak) for factor, peak in zip(factors, peaks, strict=True)]
    ids = build_basis_ids(spec.load.workload)
    is_capped = spec.is_measured and estimate_use(replica, runs[0].tokens_per_s) <= BUSY_ENGINE

    def band_figure(figure: str, noise: float, unit: str, basis: str) -> Estimate:
        values = [float(getattr(run, figure)) for run in runs]
        band = widen_band(values[0], (min(values), max(values)), noise, unit, basis)
        widest = WIDEST_TTFT_BAND if basis == ids.ttft else WIDEST_BAND
        return cap_band(band, max(widest, find_widest_factor(replica))) if is_capped else band

    return ServingPrediction(
        ttft_p50_s=band_figure("ttft_p50_s", TTFT_NOISE, "s", ids.ttft),
        ttft_p95_s=band_figure("ttft_p95_s", TTFT_NOISE, "s", ids.ttft),
        tpot_p50_s=band_figure("tpot_p50_s", TPOT_NOISE, "s", ids.tpot),
        tpot_p95_s=band_figure("tpot_p95_s", TPOT_NOISE, "s", ids.tpot),
        tokens_per_s=band_figure("tokens_per_s", RATE_NOISE, "tokens/s", ids.tokens_per_s).scaled(float(spec.replicas)),
        peak_memory_bytes=estimate_peak_memory(spec, ids.memory),
        startup_s=estimate_startup(spec, ids.startup),
        disk_bytes=estimate_disk(spec, ids.disk),
        queueing=queue_latency.predict_queue_latency([_measure_queue(peaks[index]) for index in (0, 1, -1)], ids.ttft),
        bases=build_bases(
            spec.load, EngineBasis(spec.efficiency, spec.hardware, spec.speed, spec.correction), replica_memory(spec)
        ),
    )


def scale_to_replica(spec: ServingSpec) -> ServingSpec:
    """Return the spec with one replica's share of the arrivals, as if they were thinned at random."""
    if spec.replicas == 1:
        return spec
    load = replace(
        spec.load,
        requests_per_second=spec.load.requests_per_second / spec.replicas,
        concurrency=math.ceil(spec.load.concurrency / spec.replicas),
    )
    return replace(spec, load=load)


def estimate_use(spec: ServingSpec, tokens_per_s: float) -> float:
    """Return the share of the engine's capacity that the peak asks for; `tokens_per_s` is that of the closed loop."""
    asked_tokens_per_s = spec.load.requests_per_second * spec.load.output_tokens.mean
    return asked_tokens_per_s / tokens_per_s if tokens_per_s else 0.0


def find_widest_factor(spec: ServingSpec) -> float:
    """Return the larger factor of a measured speed's band, 1 without a measurement."""
    return 1.0 if spec.speed is None else max(spec.speed.low_factor, spec.speed.high_factor)


def list_slowdowns(spec: ServingSpec, points: int) -> tuple[float, ...]:
    """Return factors on time from the fast to the slow end of the speed's interval."""
    if spec.speed is not None:
        return spread_factors(spec.speed.low_factor, spec.speed.high_factor, points)
    return slowdown_factors(spec.efficiency, _find_binding_rate(spec), points)


def _find_binding_rate(spec: ServingSpec) -> Estimate:
    """Return the rate of the hardware that limits a single answer; its band counts."""
    bound = build_roofline(spec).bound
    return spec.hardware.compute_flops_per_s if bound == "compute" else spec.hardware.bandwidth_bytes_per_s


def build_step_times(spec: ServingSpec, factor: float = 1.0) -> Roofline | MeasuredStepTimes:
    """Return the step times of a replica whose steps take `factor` times as long as predicted."""
    if spec.speed is not None:
        return MeasuredStepTimes(spec.model, spec.speed.costs, spec.speed.slowdown * factor)
    return build_roofline(spec, factor)


def build_roofline(spec: ServingSpec, factor: float = 1.0) -> Roofline:
    """Return the derived step times, which measured steps replace."""
    return Roofline(spec.model, spec.weights, spec.efficiency, spec.hardware, factor * spec.correction)


def simulate_replica(spec: ServingSpec, factor: float) -> SimulationResult:
    """Simulate peak and closed loop of one replica whose steps take `factor` times as long as predicted."""
    return _add_closed_loop(spec, factor, _run_peak(spec, factor))


def _add_closed_loop(spec: ServingSpec, factor: float, peak: list[SimulatedOutcome]) -> SimulationResult:
    rate = count_tokens_per_s(_run_closed(spec, factor), closed_loop_seconds(spec, factor))
    return _summarise_peak(peak)._replace(tokens_per_s=rate)


def _run_closed(spec: ServingSpec, factor: float) -> list[SimulatedOutcome]:
    engine, seconds = build_batching(spec, factor), closed_loop_seconds(spec, factor)
    return run_closed_loop(engine, spec.load, spec.load.concurrency, seconds, partial(build_request, spec=spec))


def build_batching(spec: ServingSpec, factor: float) -> ContinuousBatching:
    return ContinuousBatching(build_step_times(spec, factor), spec.slots, spec.batch_tokens)


def simulate_peak(spec: ServingSpec, factor: float) -> SimulationResult:
    """Simulate the peak phase alone; tokens_per_s is 0."""
    return _summarise_peak(_run_peak(spec, factor))


def _summarise_peak(peak: list[SimulatedOutcome]) -> SimulationResult:
    ttft = [one.ttft_s + GATEWAY_S for one in peak if one.ttft_s is not None]
    tpot = [one.tpot_s for one in peak if one.tpot_s is not None]
    figures = (percentile(values, share) for values in (ttft, tpot) for share in (0.5, 0.95))
    return SimulationResult(*figures)


def _run_peak(spec: ServingSpec, factor: float) -> list[SimulatedOutcome]:
    """Run the peak; without a rate, its requests are those of the closed loop."""
    if spec.load.requests_per_second <= 0:
        return _run_closed(spec, factor)
    requests = [build_request(arrival, arrival.at_s, spec) for arrival in peak_arrivals(spec.load)]
    return build_batching(spec, factor).run(requests)


def _measure_queue(peak: list[SimulatedOutcome]) -> QueueLatency:
    started = [one for one in peak if one.ttft_s is not None]
    ttft = [one.ttft_s + GATEWAY_S for one in started if one.ttft_s is not None]
    return queue_latency.measure_queue_latency(started, ttft)


def closed_loop_seconds(spec: ServingSpec, factor: float) -> float:
    """Return the closed loop's length, cut at MOST_CLOSED requests of at least one step per output token."""
    at_once, load = min(spec.load.concurrency, spec.slots), spec.load
    shortest = build_step_times(spec, factor).decode_s(at_once, load.input_tokens.mean) * load.output_tokens.mean
    return min(load.closed_s, MOST_CLOSED * shortest / at_once)


def run_closed_loop(
    engine: ContinuousBatching,
    load: LoadSpec,
    at_once: int,
    seconds: float,
    to_request: Callable[[Arrival, float], SimulatedRequest],
) -> list[SimulatedOutcome]:
    """Return the requests of an engine from an idle start, unfinished ones included.

    `at_once` requests run at any time: each finished request is followed by the next one.
    """
    arrivals = closed_loop_arrivals(load)

    def next_request(now: float) -> SimulatedRequest:
        return to_request(next(arrivals), now)

    return engine.run([next_request(0.0) for _ in range(at_once)], refill=next_request, until=seconds)


def count_tokens_per_s(outcomes: list[SimulatedOutcome], seconds: float) -> float:
    """Return the answer tokens/s within a phase."""
    return sum(outcome.tokens for outcome in outcomes) / seconds


def build_request(arrival: Arrival, at_s: float, spec: ServingSpec) -> SimulatedRequest:
    """Build a request: a prompt of at least the template and one token, less the cached prefix."""
    prompt = max(arrival.input_tokens, spec.template_tokens + 1)
    cached = spec.shared_prefix_tokens if spec.shared_prefix_tokens >= LEAST_CACHED_SHARE * prompt else 0
    return SimulatedRequest(at_s, prompt - cached, cached, arrival.output_tokens)


def estimate_peak_memory(spec: ServingSpec, basis: str) -> Estimate:
    """Add the peak of all engines and the platform's own processes."""
    engines = estimate_engine_memory(spec).scaled(float(spec.replicas))
    return sum_estimates([engines, PROCESSES_BYTES], "bytes", basis)


def estimate_engine_memory(spec: ServingSpec) -> Estimate:
    """Return the peak of one engine: cache and overhead grow while it works, weights do not."""
    memory = replica_memory(spec)
    growth = spec.efficiency.memory_peak_share * (memory.cache + memory.overhead)
    return Estimate(
        value=memory.total + growth / 2, low=memory.total * IDLE_SHARE, high=memory.total + 2 * growth, unit="bytes"
    )


def estimate_startup(spec: ServingSpec, basis: str) -> Estimate:
    """Add the engines, which start one after another, and the gateway."""
    engines = estimate_engine_startup(spec).scaled(float(spec.replicas))
    return sum_estimates([engines, PLATFORM_START], "s", basis)


def estimate_engine_startup(spec: ServingSpec) -> Estimate:
    """Return the start of one engine. Value: the model's file is in the page cache. High end: it is read from the
    disk, at least at the rate of writing."""
    disk = spec.hardware.disk_bytes_per_s
    startup = within_factor(_find_startup_s(spec), START_FACTOR, "s")
    return startup if disk is None else replace(startup, high=startup.high + spec.weights / disk.low)


def _find_startup_s(spec: ServingSpec) -> float:
    row = spec.efficiency
    if spec.speed is not None and spec.speed.startup_s is not None:
        return spec.speed.startup_s
    loading_s = spec.weights / row.load_bytes_per_s if row.load_bytes_per_s else 0.0
    return row.startup_s + loading_s


def estimate_disk(spec: ServingSpec, basis: str) -> Estimate:
    """Add the model's file and the growth of store and logs in a day of this load."""
    return sum_estimates([exact_estimate(spec.weights, "bytes"), WRITTEN_BYTES], "bytes", basis)
