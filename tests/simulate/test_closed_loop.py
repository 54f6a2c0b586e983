"""The closed loop's formula against the event simulation of the same steps, from its burst on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.needs import TokenLength
from archwright.contract.percentile import percentile
from archwright.simulate.continuous_batching import ContinuousBatching, SimulatedRequest
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.inference.closed_loop import QUANTILES, ClosedLoopLatency, parse_statistic, predict_engine_loop
from archwright.sizing.inference.deployment_layout import list_engine_layouts
from archwright.sizing.inference.engine_instance import EngineInstance, RequestLengths

CATALOG = load_catalog()
# A benchmark sends so many requests for each that is in flight.
WAVES = 10
# The formula over the simulation, of TTFT over its mean.
TTFT_HELD = {"p50": (0.7, 1.3), "p95": (0.7, 1.6), "p99": (0.5, 1.3)}
CASES = (
    ("H100-SXM-80GB", "Llama-3.1-8B-Instruct", 16, 1024, 256),
    ("H100-SXM-80GB", "Llama-3.1-8B-Instruct", 64, 512, 512),
    ("B200-SXM", "gpt-oss-120b", 32, 1024, 512),
    (None, "SmolLM2-135M-Instruct", 8, 256, 128),
)


def engine_on(device: str | None, model: str, prompt: int, answer: int) -> EngineInstance:
    row = CATALOG.accelerators[device] if device else None
    reads, writes = (TokenLength(mean=float(size), p95=float(size)) for size in (prompt, answer))
    machine = Machine("m", row, 1 if device else 0, 32, 2e11)
    return list_engine_layouts(machine, CATALOG.models[model], RequestLengths(reads, writes), CATALOG)[0]


def simulated(engine: EngineInstance, sent: int, prompt: int, answer: int) -> tuple[list[float], list[float]]:
    """TTFT and TPOT of requests whose lengths are 0.8 to 1.2 of the stated, all there at once, each replaced."""
    left = iter(range(sent * (WAVES - 1)))
    shares = _shares()

    def request(now: float) -> SimulatedRequest:
        return SimulatedRequest(now, round(prompt * next(shares)), 0, round(answer * next(shares)))

    def next_one(now: float) -> SimulatedRequest:
        return request(now) if next(left, None) is not None else SimulatedRequest(now, 1, 0, 1)

    run = ContinuousBatching(engine.pace, engine.slots, engine.chunk)
    step = engine.pace.decode_step(prompt + answer / 2).step_s(sent)
    seconds = WAVES * (answer * step + sent * engine.pace.prefill_s(prompt, prompt * prompt / 2)) * 0.9
    found = run.run([request(0.0) for _ in range(sent)], refill=next_one, until=seconds)
    long = [one for one in found if one.request.output_tokens > 1]
    alone = engine.pace.uncontended_prefill(float(prompt))
    beyond = alone.ttft_s(step) - alone.steps_s(step)
    firsts = [one.ttft_s + beyond for one in long if one.ttft_s is not None]
    return firsts, [one.tpot_s for one in long if one.tpot_s is not None]


def _shares() -> Iterator[float]:
    """0.8 to 1.2, each tenth as often, without a pattern that a loop could keep step with."""
    at = 0
    while True:
        at = (at * 1103515245 + 12345) % 2**31
        yield 0.8 + 0.4 * at / 2**31


@pytest.mark.parametrize(("device", "model", "sent", "prompt", "answer"), CASES)
def test_percentiles_over_the_mean_are_as_simulated(
    device: str | None, model: str, sent: int, prompt: int, answer: int
) -> None:
    engine = engine_on(device, model, prompt, answer)
    loop = predict_engine_loop(engine, float(sent), float(prompt), float(answer))
    firsts, betweens = simulated(engine, sent, prompt, answer)
    for name, share in QUANTILES.items():
        first = percentile(firsts, share) / (sum(firsts) / len(firsts))
        between = percentile(betweens, share) / (sum(betweens) / len(betweens))
        low, high = TTFT_HELD[name]
        assert low < loop.ratio_to_mean("ttft_s", name) / first < high, name
        assert loop.ratio_to_mean("tpot_s", name) == pytest.approx(between, rel=0.12), name


def loop(**changes: float) -> ClosedLoopLatency:
    plain = ClosedLoopLatency(0.02, 1.0, 0.3, 0.2, 3.0, 0.02, 0.002)
    changed: dict[str, Any] = {**changes}
    return plain._replace(**changed)


def test_the_statistics_are_in_order_and_the_mean_is_itself() -> None:
    for metric in ("ttft_s", "tpot_s"):
        low, middle, high = (loop().ratio_to_mean(metric, name) for name in QUANTILES)
        assert 0 < low < middle < high
        assert loop().ratio_to_mean(metric, "mean") == 1.0
    assert loop().ratio_to_mean("tpot_s", "p50") == 1.0
    alone = loop(crowd_s=0.0, burst_s=0.0, tpot_spread_s=0.0)
    assert alone.ratio_to_mean("tpot_s", "p99") == 1.0
    assert 1.0 <= alone.ratio_to_mean("ttft_s", "p99") < 1.02


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("mean", ("", "mean", "mean/median (unstated)", "batch 1")),
        ("p50", ("median",)),
        ("p95", ("P95",)),
        ("p99", ("p99 of all",)),
    ],
)
def test_the_statistic_a_table_asks_for(name: str, texts: tuple[str, ...]) -> None:
    assert {parse_statistic(text) for text in texts} == {name}
