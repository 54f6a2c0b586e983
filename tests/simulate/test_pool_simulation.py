"""A pool of engines: its percentiles, their bands, and what moves them."""

from __future__ import annotations

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.estimate import Estimate
from archwright.contract.needs import TokenLength
from archwright.contract.record import replace
from archwright.simulate import pool_simulation
from archwright.simulate.continuous_batching import ContinuousBatching, SimulatedRequest
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.inference.deployment_layout import list_engine_layouts
from archwright.sizing.inference.engine_instance import RequestLengths
from archwright.sizing.inference.open_loop import GATEWAY_S, OpenLoop, build_request_profile

from .conftest import build_load

NAMES = tuple(
    name for name in pool_simulation.PoolPrediction.__struct_fields__ if name not in ("queueing", "refused", "bases")
)
LENGTHS = ((1800, 4200), (220, 600))
READS, WRITES = (TokenLength(mean=mean, p95=p95) for mean, p95 in LENGTHS)


def pool_on(
    device: str | None, model: str, *, rate: float, engines_: int = 1, concurrency: int = 32
) -> pool_simulation.PoolScenario:
    catalog = load_catalog()
    row = catalog.accelerators[device] if device else None
    machine = Machine("m", row, 1 if device else 0, 32, 2e11)
    (engine,) = list_engine_layouts(machine, catalog.models[model], RequestLengths(READS, WRITES), catalog)
    load = build_load("support", model, rate, LENGTHS, concurrency)
    return pool_simulation.PoolScenario(model, engine, engines_, load)


@pytest.fixture(scope="module")
def one() -> pool_simulation.PoolScenario:
    return pool_on("H100-SXM-80GB", "Llama-3.1-8B-Instruct", rate=8.0)


@pytest.fixture(scope="module")
def found(one: pool_simulation.PoolScenario) -> pool_simulation.PoolPrediction:
    return pool_simulation.predict_pool(one)


def estimates(prediction: pool_simulation.PoolPrediction) -> dict[str, Estimate]:
    return {name: getattr(prediction, name) for name in NAMES}


def test_the_same_pool_gives_the_same_predictions(
    one: pool_simulation.PoolScenario, found: pool_simulation.PoolPrediction
) -> None:
    assert pool_simulation.predict_pool(one) == found


def test_every_number_has_a_band_a_unit_and_a_basis_that_is_there(found: pool_simulation.PoolPrediction) -> None:
    known = {basis.id for basis in found.bases}
    for name, estimate in estimates(found).items():
        assert estimate.low < estimate.value < estimate.high, name
        assert estimate.basis in known, name
        assert estimate.unit == ("tokens/s" if name == "tokens_per_s" else "s")
    for basis in found.bases:
        assert basis.kind == "simulated"
        assert basis.stratum == "seen configuration, physics alone"
        assert basis.definition and basis.formula and basis.facts


def test_percentiles_are_in_order(found: pool_simulation.PoolPrediction) -> None:
    assert found.ttft_p50_s.value < found.ttft_p95_s.value < found.ttft_p99_s.value
    assert found.tpot_p50_s.value < found.tpot_p95_s.value < found.tpot_p99_s.value


def test_a_request_alone_takes_what_the_fit_says(one: pool_simulation.PoolScenario) -> None:
    """Its steps, and beyond them what is fitted for the way there; half a step of waiting is in the mean, not here."""
    engine, prompt = one.engine, 1000
    (alone,) = ContinuousBatching(engine.pace, engine.slots, engine.chunk).run([SimulatedRequest(0.0, prompt, 0, 50)])
    step = OpenLoop(engine.pace, build_request_profile(READS, WRITES), engine.slots, engine.chunk).at_rate(0.0).decode_s
    assert alone.ttft_s is not None
    whole = alone.ttft_s + pool_simulation.model_ttft_overhead(one, 0.0)(prompt)
    assert whole == pytest.approx(engine.pace.uncontended_prefill(prompt).ttft_s(step), abs=1.5 * step)


def test_beyond_the_steps_is_never_negative_and_includes_the_gateway_once(one: pool_simulation.PoolScenario) -> None:
    beyond = pool_simulation.model_ttft_overhead(one, 8.0)
    assert all(beyond(prompt) >= 0 for prompt in (1, 100, 10_000, 100_000))
    slow = one._replace(engine=one.engine._replace(chunk=1 << 30))
    assert min(pool_simulation.simulate_peak(slow, 1.0).ttft_s) > GATEWAY_S


def test_engines_share_the_load_and_add_their_tokens(
    one: pool_simulation.PoolScenario, found: pool_simulation.PoolPrediction
) -> None:
    four = one._replace(engines=4, load=replace(one.load, requests_per_second=32.0, concurrency=128))
    together = pool_simulation.predict_pool(four)
    assert together.ttft_p95_s.value <= found.ttft_p95_s.value, "no worse than a share at random"
    assert together.refused == found.refused == 0
    assert together.tokens_per_s.value == pytest.approx(4 * found.tokens_per_s.value)


def test_slower_steps_are_slower_in_everything_and_a_queue_widens_the_band(one: pool_simulation.PoolScenario) -> None:
    fast, slow = pool_simulation.simulate_peak(one, 1.0), pool_simulation.simulate_peak(one, 1.5)
    assert all(a < b for a, b in zip((*fast.ttft_s, *fast.tpot_s), (*slow.ttft_s, *slow.tpot_s), strict=True))
    crowded = pool_on("H100-SXM-80GB", "Llama-3.1-8B-Instruct", rate=22.0)
    assert pool_simulation.predict_pool(crowded).ttft_p95_s.factor > 3 * one.engine.speed.first.factor


def test_an_unknown_accelerator_is_less_sure(found: pool_simulation.PoolPrediction) -> None:
    other = pool_simulation.predict_pool(pool_on("B300-SXM", "Llama-3.1-8B-Instruct", rate=2.0))
    assert other.tpot_p50_s.factor > 1.5
    assert other.bases[0].stratum == "unseen accelerator"


def test_a_host_processor_is_a_pool_too() -> None:
    found = pool_simulation.predict_pool(pool_on(None, "SmolLM2-135M-Instruct", rate=0.1, concurrency=1))
    assert "a host processor each" in found.bases[0].facts[-2]
    assert found.tpot_p50_s.low < found.tpot_p50_s.value < found.tpot_p50_s.high


def test_windows_hold_enough_requests() -> None:
    assert pool_simulation.count_windows(15.0, 40.0) == 1
    assert pool_simulation.count_windows(1.0, 45.0) == 14
    assert (
        pool_simulation.count_windows(0.1, 45.0)
        == pool_simulation.count_windows(1e-9, 45.0)
        == pool_simulation.MOST_WINDOWS
    )


def test_a_window_of_very_many_requests_is_cut(
    one: pool_simulation.PoolScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archwright.simulate.pool_simulation.MOST_REQUESTS", 100)
    monkeypatch.setattr("archwright.simulate.pool_simulation.REQUESTS", 1)
    cut = one._replace(load=replace(one.load, peak_s=12.5))
    assert pool_simulation.simulate_peak(one, 1.0) == pool_simulation.simulate_peak(cut, 1.0)


def test_the_closed_loop_is_cut_where_more_would_say_nothing(one: pool_simulation.PoolScenario) -> None:
    assert pool_simulation.closed_loop_seconds(one) == one.load.closed_s
    long = one._replace(load=replace(one.load, closed_s=1e6))
    cut = pool_simulation.closed_loop_seconds(long)
    assert cut < 1e3
    assert pool_simulation.simulate_closed_loop(long) == pytest.approx(
        pool_simulation.simulate_closed_loop(one), rel=0.25
    )
    many = long._replace(load=replace(long.load, concurrency=100_000))
    step = many.engine.pace.decode_step(1800).step_s(256)
    assert many.engine.slots == 256
    assert pool_simulation.closed_loop_seconds(many) == pytest.approx(pool_simulation.MOST_CLOSED / 256 * 220 * step)
