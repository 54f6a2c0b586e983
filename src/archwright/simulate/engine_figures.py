"""Predicts a calibration run of one engine, and turns its measured figures into an efficiency row.

A step takes max(FLOPs / (share x compute), bytes / (share x bandwidth)), so a ratio measured / predicted of a phase
divides the shares of that phase. Which side binds is not observed: both sides of decode get the same correction.
"""

import math
from typing import NamedTuple

from archwright.catalog.tables.records import Efficiency
from archwright.contract.estimate import Estimate
from archwright.contract.record import replace
from archwright.simulate.continuous_batching import SimulatedRequest
from archwright.simulate.serving_simulation import (
    RATE_NOISE,
    WIDEST_BAND,
    ServingSpec,
    binding_rate,
    build_batching,
    estimate_engine_memory,
    estimate_engine_startup,
)
from archwright.sizing.hardware.uncertainty import cap_band, is_measured, slowdown_factors, widen_band

# The least band of a calibrated row, each way: runs of one engine on one machine differ by 5 to 10 % over a day.
CALIBRATED_BAND = 1.15
SOLVER_STEPS = 8


class EngineRun(NamedTuple):
    """The questions of a run: one prompt alone, then answers of `answer_tokens` alone and in all slots at once."""

    prompt_tokens: int
    answer_tokens: int


class EngineFigures(NamedTuple):
    """Seconds of the prompt, seconds per token alone and with all slots busy, start-up, memory at the peak."""

    prompt_s: float
    token_alone_s: float
    token_together_s: float
    startup_s: float
    memory_bytes: float


def simulate_engine_run(spec: ServingSpec, run: EngineRun, factor: float = 1.0) -> EngineFigures:
    """Return the predicted figures if every step takes `factor` times as long."""
    engine = build_batching(spec, factor)
    prompt = engine.run([SimulatedRequest(0.0, run.prompt_tokens, 0, 1)])[0].ttft_s or 0.0
    alone, together = (
        max(one.tpot_s or 0.0 for one in engine.run([SimulatedRequest(0.0, 1, 0, run.answer_tokens)] * count))
        for count in (1, spec.slots)
    )
    startup, memory = estimate_engine_startup(spec), estimate_engine_memory(spec)
    return EngineFigures(prompt, alone, together, startup.value, memory.value)


def predict_engine_run(spec: ServingSpec, run: EngineRun) -> dict[str, Estimate]:
    """Return the figures with their 90 % intervals, by name."""
    middle, *ends = (
        simulate_engine_run(spec, run, factor)
        for factor in (1.0, *slowdown_factors(spec.efficiency, binding_rate(spec), 2))
    )

    def band_speed(name: str) -> Estimate:
        low, high = (float(getattr(end, name)) for end in ends)
        band = widen_band(float(getattr(middle, name)), (low, high), RATE_NOISE, "s", "")
        return cap_band(band, WIDEST_BAND) if is_measured(spec.efficiency) else band

    speeds = {name: band_speed(name) for name in EngineFigures._fields[:3]}
    return {**speeds, "startup_s": estimate_engine_startup(spec), "memory_bytes": estimate_engine_memory(spec)}


def calibrate_efficiency(spec: ServingSpec, run: EngineRun, measured: EngineFigures, spread: float) -> Efficiency:
    """Return the row with which the prediction equals `measured`; its band is the runs' `spread`, at least 15 %."""
    before, row = simulate_engine_run(spec, run), spec.efficiency
    slower = measured.token_alone_s / before.token_alone_s
    for name in ("decode_share_of_matmul", "decode_share_of_bandwidth", "decode_share_of_matmul_batched"):
        row = replace(row, **{name: getattr(row, name) / slower})
    corrections = [("prompt_s", "prefill_share_of_matmul")]
    if spec.slots >= row.batched_from:
        corrections.append(("token_together_s", "decode_share_of_matmul_batched"))
    for figure, share in corrections:
        # Attention and the memory side do not scale with the share, so one division is not exact.
        for _ in range(SOLVER_STEPS):
            found = simulate_engine_run(replace(spec, efficiency=row), run)
            row = replace(row, **{share: getattr(row, share) * getattr(found, figure) / getattr(measured, figure)})
    later = measured.startup_s / before.startup_s
    more = max(measured.memory_bytes - before.memory_bytes, -float(row.memory_overhead_bytes))
    return replace(
        row,
        low_factor=max(spread, CALIBRATED_BAND),
        high_factor=max(spread, CALIBRATED_BAND),
        startup_s=row.startup_s * later,
        load_bytes_per_s=None if row.load_bytes_per_s is None else row.load_bytes_per_s / later,
        memory_overhead_bytes=round(row.memory_overhead_bytes + more),
    )


def measure_spread(values: list[float]) -> float:
    """Return the factor between the geometric mean and the furthest of repeated measurements."""
    logs = [math.log(value) for value in values]
    middle = sum(logs) / len(logs)
    return math.exp(max(abs(one - middle) for one in logs))
