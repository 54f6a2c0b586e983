"""Step times of an engine: the fitted formulas themselves, and the roofline of a host."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sizing.conftest import CATALOG, DESK

from archwright.sizing.hardware.roofline import EngineStep, Roofline, count_token_pairs
from archwright.sizing.model.numeric_precision import NumericPrecision
from archwright.sizing.model.parallel_layout import ParallelLayout
from archwright.sizing.model.weight_groups import group_weights
from archwright.sizing.step_time import fitted_tables, step_time_model
from archwright.sizing.step_time.engine_step_times import CoefficientKey, FittedStepTimes, RooflineStepTimes
from archwright.sizing.step_time.step_time_model import RequestLoad, build_step_inputs
from archwright.sizing.step_time.step_work import DeviceSpec, ShardedModel, build_device_spec

FIT = fitted_tables.load_table("serving")
DENSE, SPARSE, WINDOWED = "Llama-3.1-8B-Instruct", "DeepSeek-V3", "gpt-oss-120b"
CASES = [(DENSE, 1, "fp8"), (DENSE, 4, "bf16"), (SPARSE, 8, "fp8"), (WINDOWED, 2, "fp8"), (WINDOWED, 1, "int4")]


def deployed(name: str, width: int, number: str, device: str = "H200-SXM-141GB") -> tuple[ShardedModel, DeviceSpec]:
    shape = group_weights(CATALOG.models[name])
    worker = ShardedModel(shape, NumericPrecision(number), ParallelLayout(tp=width, moe_tp=1, ep=width))
    return worker, build_device_spec(CATALOG.accelerators[device], NumericPrecision(number), shape.sparse)


def fitted(name: str, width: int = 1, number: str = "fp8", engine: str = "vllm") -> FittedStepTimes:
    worker, device = deployed(name, width, number)
    return FittedStepTimes(worker, device, CoefficientKey(engine, CATALOG.models[name].attention), FIT.coefficients)


def host(name: str = "SmolLM2-135M-Instruct") -> RooflineStepTimes:
    row = CATALOG.efficiency("llamacpp", "Q4_1", "avx2")
    return RooflineStepTimes(Roofline(CATALOG.models[name], 98e6, row, DESK))


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "new"])
@pytest.mark.parametrize(("name", "width", "number"), CASES)
def test_steps_are_those_of_the_fitted_formulas(name: str, width: int, number: str, engine: str) -> None:
    worker, device = deployed(name, width, number)
    pace, attention = fitted(name, width, number, engine), CATALOG.models[name].attention
    for requests, prompt, answer in ((1, 100, 50), (17, 1800, 220), (64, 5000, 1000)):
        case = build_step_inputs(worker, device, engine, attention, RequestLoad(float(requests), prompt, answer))
        tpot, ttft = FIT.coefficients["tpot"], FIT.coefficients["ttft.server"]
        assert case.requests == requests
        decode = pace.decode_step(prompt + answer / 2).step_s(requests)
        assert decode == pytest.approx(step_time_model.decode_step_s(case, tpot), rel=1e-9)
        share = requests / answer
        read = pace.prefill_s(prompt, prompt * prompt / 2)
        whole = decode + share * read - math.expm1(-share) * pace.started_s
        if name != WINDOWED:
            assert whole == pytest.approx(step_time_model.mean_tpot_s(case, tpot), rel=1e-9)
            assert pace.ttft_prefill_s(prompt) == pytest.approx(step_time_model.ttft_prefill_s(case, ttft), rel=1e-9)
        else:
            # The first tokens of a prompt attend to less than a window; the bound used here counts a full window.
            assert whole == pytest.approx(step_time_model.mean_tpot_s(case, tpot), rel=0.01)
            assert pace.ttft_prefill_s(prompt) == pytest.approx(step_time_model.ttft_prefill_s(case, ttft), rel=0.01)


def test_a_prompt_alone_takes_the_fitted_time_and_never_less_than_its_steps() -> None:
    pace, k = fitted(DENSE), FIT.coefficients["ttft.server"]
    short, scheduling = pace.uncontended_prefill(500), k["engine.vllm"]
    assert short.ttft_s(0.01) == pytest.approx(
        pace.ttft_prefill_s(500) + scheduling * (k["t0.open"] + k["ks.open"] * 0.01)
    )
    crowded = short._replace(fitted_s=0.0, fitted_steps=0.0)
    assert crowded.ttft_s(0.01) == crowded.steps_s(0.01) == pytest.approx(short.read_s + 0.015)


def test_a_device_class_has_a_factor_of_its_own_on_every_step() -> None:
    worker, device = deployed(DENSE, 1, "fp8")
    usual, key = fitted(DENSE), f"device.{device.device_class}"
    tpot, ttft = FIT.coefficients["tpot"], FIT.coefficients["ttft.server"]
    slower = {"tpot": {**tpot, key: 1.5 * tpot[key]}, "ttft.server": {**ttft, key: 1.5 * ttft[key]}}
    slow = FittedStepTimes(worker, device, CoefficientKey("vllm", "gqa"), slower)
    assert slow.decode_step(900).step_s(8) == pytest.approx(1.5 * usual.decode_step(900).step_s(8))
    assert slow.prefill_s(900, 4e5) == pytest.approx(1.5 * usual.prefill_s(900, 4e5))
    assert slow.ttft_prefill_s(900) == pytest.approx(1.5 * usual.ttft_prefill_s(900))
    for step in (EngineStep(answering=8, context_tokens=7200.0), EngineStep(prompt_tokens=64, prompt_pairs=2048.0)):
        assert slow.step_s(step) == pytest.approx(1.5 * usual.step_s(step))


@pytest.mark.parametrize(("name", "width", "number"), CASES)
def test_a_simulated_step_is_its_parts(name: str, width: int, number: str) -> None:
    pace = fitted(name, width, number)
    write = EngineStep(answering=8, context_tokens=8 * 900.0)
    read = EngineStep(prompt_tokens=700, prompt_pairs=count_token_pairs(0, 700), prompts_done=1)
    both = read._replace(answering=8, context_tokens=8 * 900.0)
    assert pace.step_s(write) == pace.decode_step(900).step_s(8)
    expected = pace.decode_step(900).step_s(8) + pace.prefill_s(700, count_token_pairs(0, 700)) + pace.started_s
    assert pace.step_s(both) == pytest.approx(expected)
    assert pace.prefill_s(700, count_token_pairs(0, 700)) < pace.step_s(read) < pace.step_s(both)


def test_chunks_of_a_prompt_cost_together_what_it_costs_whole() -> None:
    pace = fitted(SPARSE, 8)
    whole = pace.prefill_s(900, count_token_pairs(0, 900))
    first, second = pace.prefill_s(400, count_token_pairs(0, 400), 0), pace.prefill_s(500, count_token_pairs(400, 500))
    assert first + second == pytest.approx(whole)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(CASES), st.floats(0, 255), st.floats(0, 255), st.floats(1, 1e6), st.floats(0, 1e6))
def test_more_work_never_takes_less_time(
    case: tuple[str, int, str], batch: float, more: float, context: float, longer: float
) -> None:
    for pace in (fitted(*case), host()):
        assert pace.decode_step(context).step_s(batch + more) >= pace.decode_step(context).step_s(batch) * (1 - 1e-12)
        assert pace.decode_step(context + longer).step_s(batch) >= pace.decode_step(context).step_s(batch) * (1 - 1e-12)
        assert pace.prefill_s(context + longer, (context + longer) ** 2) >= pace.prefill_s(context, context**2)
        assert pace.uncontended_prefill(context + longer).ttft_s(0.01) >= pace.uncontended_prefill(context).ttft_s(0.01)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(CASES), st.floats(1, 255), st.floats(0.01, 255), st.floats(1, 1e5))
def test_answers_together_never_cost_more_each(
    case: tuple[str, int, str], batch: float, more: float, context: float
) -> None:
    """Therefore the rate of an engine rises with its batch (open_loop.py)."""
    for pace in (fitted(*case), host()):
        decode = pace.decode_step(context)
        assert decode.step_s(batch + more) / (batch + more) <= decode.step_s(batch) / batch * (1 + 1e-12)


def test_a_host_runs_at_its_roofline() -> None:
    pace = host()
    roofline = pace._roofline
    for batch in (1, 2, 3, 4, 9):
        assert pace.decode_step(300).step_s(batch) == pytest.approx(roofline.decode_s(batch, 300))
    pairs = count_token_pairs(0, 384)
    read = EngineStep(prompt_tokens=384, prompt_pairs=pairs, prompts_done=1)
    both = read._replace(answering=2, context_tokens=200.0)
    assert pace.step_s(both) == roofline.step_s(both)
    prefill_s = roofline.step_s(read)
    assert pace.prefill_s(384, pairs) == pytest.approx(prefill_s)
    assert pace.uncontended_prefill(384).ttft_s(0.01) == pytest.approx(prefill_s + 0.015)
