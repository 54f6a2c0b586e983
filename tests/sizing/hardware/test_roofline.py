"""Step times of the roofline: against measurements of the engine, and properties of any roofline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sizing.conftest import CATALOG, DESK, EIGHT, SMALL

from archwright.contract.estimate import exact_estimate
from archwright.contract.plan import MachineFacts
from archwright.contract.record import replace
from archwright.sizing.hardware.roofline import (
    EngineStep,
    Roofline,
    build_machine_hardware,
    count_engine_threads,
    count_token_pairs,
)

ROW = CATALOG.efficiency("llamacpp", "Q4_1", "avx2")


def small(slowness: float = 1.0) -> Roofline:
    return Roofline(SMALL, 98_362_432, ROW, DESK, slowness)


def prefill_s(roofline: Roofline, tokens: int, context: int = 0) -> float:
    pairs = count_token_pairs(context, tokens)
    return roofline.step_s(EngineStep(prompt_tokens=tokens, prompt_pairs=pairs, prompts_done=1))


# Seconds on one thread of a quiet machine with a matrix rate of 100 GFLOP/s (bench/engine/measure.py).
@pytest.mark.parametrize(
    ("tokens", "measured"), [(16, 0.0900), (48, 0.259), (128, 0.690), (384, 2.167), (512, 3.05), (1024, 6.40)]
)
def test_reading_a_prompt_takes_as_long_as_measured(tokens: int, measured: float) -> None:
    assert prefill_s(small(), tokens) == pytest.approx(measured, rel=0.08)


@pytest.mark.parametrize(
    ("batch", "context", "measured"),
    [(1, 28, 0.0106), (2, 28, 0.0218), (3, 28, 0.0330), (4, 28, 0.0354), (1, 784, 0.0176)],
)
def test_writing_takes_as_long_as_measured(batch: int, context: int, measured: float) -> None:
    assert small().decode_s(batch, context) == pytest.approx(measured, rel=0.08)


def test_a_small_model_on_one_core_is_limited_by_arithmetic_and_a_large_one_on_many_by_memory() -> None:
    assert small().bound == "compute"
    wide = replace(DESK, compute_flops_per_s=exact_estimate(1e13, "FLOP/s"))
    roofline = Roofline(EIGHT, 5.0e9, ROW, wide)
    assert roofline.bound == "memory"
    assert roofline.decode_s(1, 500) == pytest.approx(5.07e9 / (31e9 * 0.9), rel=0.01)


def test_a_chunk_behind_a_context_costs_what_the_whole_costs_together() -> None:
    assert count_token_pairs(0, 300) == pytest.approx(count_token_pairs(0, 100) + count_token_pairs(100, 200))


def test_slowness_scales_every_time() -> None:
    assert small(1.5).decode_s(2, 100) == pytest.approx(1.5 * small().decode_s(2, 100))
    assert prefill_s(small(1.5), 200) == pytest.approx(1.5 * prefill_s(small(), 200))


def test_an_answer_beside_a_prompt_costs_like_a_prompt_token() -> None:
    alone = EngineStep(prompt_tokens=100, prompt_pairs=count_token_pairs(0, 100))
    beside = alone._replace(answering=1, context_tokens=50)
    assert small().step_s(beside) - small().step_s(alone) < small().decode_s(1, 50)


@given(st.integers(4, 64), st.integers(1, 64), st.floats(1, 4000), st.floats(0, 4000))
def test_more_work_never_takes_less_time(batch: int, more: int, context: float, longer: float) -> None:
    roofline = small()
    assert roofline.decode_s(batch + more, context) >= roofline.decode_s(batch, context)
    assert roofline.decode_s(batch, context + longer) >= roofline.decode_s(batch, context)
    assert prefill_s(roofline, batch + more) >= prefill_s(roofline, batch)
    assert prefill_s(roofline, batch, round(longer)) >= prefill_s(roofline, batch)


def test_a_step_of_nothing_still_reads_the_weights() -> None:
    assert small().step_s(EngineStep()) == pytest.approx(98_362_432 / (31e9 * ROW.decode_share_of_bandwidth))


def test_one_core_is_kept_for_the_gateway(machine: MachineFacts) -> None:
    assert [count_engine_threads(replace(machine, cores_usable=cores)) for cores in (1, 2, 9)] == [1, 1, 8]


def test_one_thread_runs_at_the_probed_rate_with_half_of_its_spread(machine: MachineFacts) -> None:
    found = build_machine_hardware(machine)
    assert found.compute_flops_per_s.value == 100e9
    assert found.compute_flops_per_s.high == pytest.approx(100e9 * 1.1**0.5)
    assert found.bandwidth_bytes_per_s.low == pytest.approx(31e9 / 1.2**0.5)


def test_many_threads_are_faster_and_less_certain(machine: MachineFacts) -> None:
    one, many = build_machine_hardware(machine), build_machine_hardware(replace(machine, cores_usable=17))
    for few, lots in (
        (one.compute_flops_per_s, many.compute_flops_per_s),
        (one.bandwidth_bytes_per_s, many.bandwidth_bytes_per_s),
    ):
        assert few.value < lots.value <= 16 * few.value
        assert lots.factor > few.factor
