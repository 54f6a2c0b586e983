"""Step times from measured steps: the measured steps themselves, what lies between them, and other shapes."""

from __future__ import annotations

import pytest

from archwright.contract.engine_measurement import StepTime
from archwright.contract.record import replace
from archwright.sizing.hardware.roofline import EngineStep, count_token_pairs
from archwright.sizing.step_time.measured_steps import (
    MeasuredStepTimes,
    count_step_flops,
    describe_measured_model,
    fit_step_costs,
)

from ...catalog.layers.test_engine_measurements import measurement
from ..conftest import EIGHT, SMALL

STEPS = (
    StepTime(answering=1, context_tokens=8, step_s=0.020),
    StepTime(answering=1, context_tokens=264, step_s=0.023),
    StepTime(answering=4, context_tokens=8, step_s=0.060),
    StepTime(prompt_tokens=16, step_s=0.130),
    StepTime(prompt_tokens=256, step_s=2.1),
)
MEASURED = measurement(steps=STEPS)


def prompt(tokens: int) -> EngineStep:
    return EngineStep(prompt_tokens=tokens, prompt_pairs=count_token_pairs(0, tokens), prompts_done=1)


def times_of(*steps: StepTime, slowness: float = 1.0) -> MeasuredStepTimes:
    costs = fit_step_costs(measurement(steps=steps), SMALL, SMALL, context_s=1e-5)
    return MeasuredStepTimes(SMALL, costs, slowness)


def test_every_measured_step_is_reproduced() -> None:
    times = times_of(*STEPS)
    assert times.decode_s(1, 8) == pytest.approx(0.020)
    assert times.decode_s(1, 264) == pytest.approx(0.023)
    assert times.decode_s(4, 8) == pytest.approx(0.060)
    assert times.step_s(prompt(16)) == pytest.approx(0.130)
    assert times.step_s(prompt(256)) == pytest.approx(2.1)
    assert times_of(*STEPS, slowness=3.0).step_s(prompt(16)) == pytest.approx(0.390)


def test_a_step_between_two_measured_steps_lies_between_them() -> None:
    times = times_of(*STEPS)
    assert 0.020 < times.decode_s(2, 8) < 0.060
    assert 0.130 < times.step_s(prompt(64)) < 2.1
    # Beyond the largest step, the cost of a token stays.
    assert times.step_s(prompt(512)) == pytest.approx(2 * 2.1, rel=0.1)


def test_answers_beside_a_prompt_cost_as_much_as_tokens_of_the_prompt() -> None:
    times = times_of(*STEPS)
    alone, beside = times.step_s(prompt(252)), times.step_s(prompt(252)._replace(answering=4, context_tokens=400.0))
    assert alone < beside < alone + 0.060


def test_a_short_measurement_takes_the_derived_cost_of_context() -> None:
    times = times_of(STEPS[0], STEPS[3])
    assert times.decode_s(1, 1008) - times.decode_s(1, 8) == pytest.approx(1000 * 1e-5)
    assert times_of(STEPS[0]).step_s(prompt(16)) > 0


def test_noise_never_makes_a_step_free() -> None:
    faster_with_context = (STEPS[0], replace(STEPS[1], step_s=0.010))
    assert times_of(*faster_with_context).decode_s(1, 5000) == pytest.approx(0.020)
    only_attention = fit_step_costs(measurement(steps=STEPS[:1]), SMALL, SMALL, context_s=1.0)
    assert only_attention.points[0].s_per_flop > 0


def test_random_weights_stand_for_all_layers_and_the_whole_vocabulary() -> None:
    stack = measurement(model_sha256="", layers=3, vocabulary=8192, steps=STEPS)
    measured = describe_measured_model(SMALL, stack)
    assert (measured.layers, measured.vocabulary) == (3, 8192)
    assert describe_measured_model(SMALL, MEASURED) is SMALL
    costs = fit_step_costs(stack, measured, SMALL, context_s=1e-5)
    whole = MeasuredStepTimes(SMALL, costs)
    ratio = count_step_flops(SMALL, EngineStep(answering=1)) / count_step_flops(measured, EngineStep(answering=1))
    added_s = (0.023 - 0.020) / 256 * 8
    assert whole.decode_s(1, 0) == pytest.approx((0.020 - added_s) * ratio)
    assert whole.decode_s(1, 1000) - whole.decode_s(1, 0) == pytest.approx(1000 * 0.003 / 256 * SMALL.layers / 3)


def test_another_model_in_the_format_is_scaled_by_its_arithmetic() -> None:
    costs = fit_step_costs(MEASURED, SMALL, EIGHT, context_s=1e-5)
    large = MeasuredStepTimes(EIGHT, costs)
    ratio = count_step_flops(EIGHT, prompt(16)) / count_step_flops(SMALL, prompt(16))
    assert large.step_s(prompt(16)) == pytest.approx(0.130 * ratio)
    assert 30 < ratio < 100
