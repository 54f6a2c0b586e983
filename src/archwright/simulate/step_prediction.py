"""Predicts single steps of an embedded engine, to compare them with a measurement."""

from archwright.contract.engine_measurement import StepTime
from archwright.contract.estimate import Estimate
from archwright.simulate.serving_simulation import (
    RATE_NOISE,
    WIDEST_BAND,
    ServingSpec,
    build_step_times,
    find_widest_factor,
    list_slowdowns,
)
from archwright.sizing.hardware.roofline import EngineStep, count_token_pairs
from archwright.sizing.hardware.uncertainty import cap_band, widen_band


def predict_step(spec: ServingSpec, step: StepTime) -> Estimate:
    """Return the predicted time of a measured kind of step, in seconds, with its 90 % interval."""
    prompt_pairs = count_token_pairs(0, step.prompt_tokens)
    work = EngineStep(
        prompt_tokens=step.prompt_tokens,
        prompt_pairs=prompt_pairs,
        prompts_done=min(step.prompt_tokens, 1),
        answering=step.answering,
        context_tokens=float(step.answering * step.context_tokens),
    )
    fast, slow = list_slowdowns(spec, 2)
    middle_s = build_step_times(spec).step_s(work)
    band = widen_band(middle_s, (middle_s * fast, middle_s * slow), RATE_NOISE, "s", "")
    if not spec.is_measured:
        return band
    return cap_band(band, max(WIDEST_BAND, find_widest_factor(spec)))
