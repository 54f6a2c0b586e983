"""Step times of an engine from measured steps of the same engine, for the measured model or for another shape.

A step costs seconds per FLOP of its weights, which depend on the number of its tokens, and the attention of the tokens
that it generates:

    step = FLOPs of weights and prompt attention x s(tokens) + context tokens x c

`s` is linear between measured steps and constant outside of them. Decode steps of b requests and prompts of n tokens
are points of the same curve, since an engine computes both in one batch. `c` follows from answers at two depths;
without such a pair it is that of the derived row. Another model has the same `s`, and a `c` in proportion to its
attention.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.tables.records import ModelSpec
from archwright.contract.engine_measurement import EngineMeasurement, StepTime
from archwright.contract.record import replace
from archwright.sizing.hardware.roofline import EngineStep, count_token_pairs
from archwright.sizing.model import architecture


class CostPoint(NamedTuple):
    """Seconds per FLOP of a step with so many tokens."""

    tokens: int
    s_per_flop: float


class StepCosts(NamedTuple):
    """The curve `s`, sorted by tokens, and `c`: seconds per context token of a request that answers."""

    points: tuple[CostPoint, ...]
    context_s: float

    def s_per_flop(self, tokens: int) -> float:
        """Return the seconds per FLOP of a step with `tokens` tokens."""
        index = bisect_left(self.points, tokens, key=lambda point: point.tokens)
        if index == 0:
            return self.points[0].s_per_flop
        if index == len(self.points):
            return self.points[-1].s_per_flop
        below = self.points[index - 1]
        above = self.points[index]
        share = (tokens - below.tokens) / (above.tokens - below.tokens)
        return below.s_per_flop + share * (above.s_per_flop - below.s_per_flop)


class MeasuredStepTimes:
    """Step times of `model`; `slowness` multiplies every time."""

    def __init__(self, model: ModelSpec, costs: StepCosts, slowness: float = 1.0) -> None:
        self._model = model
        self._costs = costs
        self._slowness = slowness

    def step_s(self, step: EngineStep) -> float:
        tokens = step.prompt_tokens + step.answering
        weights_s = count_step_flops(self._model, step) * self._costs.s_per_flop(tokens)
        return (weights_s + step.context_tokens * self._costs.context_s) * self._slowness

    def decode_s(self, batch: int, context: float) -> float:
        """Return the decode step of `batch` requests with `context` tokens on average: their TPOT."""
        return self.step_s(EngineStep(answering=batch, context_tokens=batch * context))


def count_step_flops(model: ModelSpec, step: EngineStep) -> float:
    """Return the FLOPs of the weights and of the attention of prompt tokens."""
    tokens = step.prompt_tokens + step.answering
    body = 2 * architecture.body_parameters(model) * tokens
    head = 2 * architecture.head_parameters(model) * (step.prompts_done + step.answering)
    attention = architecture.attention_flops(model, 1.0) * step.prompt_pairs
    return body + head + attention


def fit_step_costs(
    measurement: EngineMeasurement, measured: ModelSpec, model: ModelSpec, context_s: float
) -> StepCosts:
    """Return the costs of `model` from the steps of a measurement of `measured`.

    `context_s`: the derived time per context token of `model`, if no pair of answers shows it.
    """
    attention_ratio = architecture.attention_flops(model, 1.0) / architecture.attention_flops(measured, 1.0)
    seen_context_s = _measure_context_s(measurement.steps)
    measured_context_s = context_s / attention_ratio if seen_context_s is None else seen_context_s
    points: dict[int, CostPoint] = {}
    for step_time in sorted(measurement.steps, key=lambda step_time: -step_time.context_tokens):
        # The answer with the shorter context comes last and stays: less of its time is attention.
        point = _locate_point(step_time, measured, measured_context_s)
        points[point.tokens] = point
    ordered = tuple(points[tokens] for tokens in sorted(points))
    return StepCosts(ordered, measured_context_s * attention_ratio)


def describe_measured_model(model: ModelSpec, measurement: EngineMeasurement) -> ModelSpec:
    """Return the model whose file was measured: `model` itself, or a file with fewer layers and tokens in its shape."""
    if measurement.is_of_file:
        return model
    share = measurement.layers / model.layers
    head = architecture.head_parameters(model)
    return replace(
        model,
        layers=measurement.layers,
        full_attention_layers=max(1, round(model.full_attention_layers * share)),
        vocabulary=measurement.vocabulary,
        active_parameters=round((model.active_parameters - head) * share) + measurement.vocabulary * model.hidden,
    )


def _locate_point(step_time: StepTime, measured: ModelSpec, context_s: float) -> CostPoint:
    prompt = step_time.prompt_tokens
    step = EngineStep(
        prompt_tokens=prompt,
        prompt_pairs=count_token_pairs(0, prompt),
        prompts_done=1 if prompt else 0,
        answering=step_time.answering,
    )
    attention_s = step_time.answering * step_time.context_tokens * context_s
    # Attention cannot take all of a step: noise of a short measurement leaves at least a tenth to the weights.
    weights_s = max(step_time.step_s - attention_s, 0.1 * step_time.step_s)
    return CostPoint(prompt + step_time.answering, weights_s / count_step_flops(measured, step))


def _measure_context_s(steps: Iterable[StepTime]) -> float | None:
    """Return the seconds per context token from the answers with the same batch at the shortest and longest context."""
    by_batch: dict[int, list[StepTime]] = {}
    for step_time in steps:
        if step_time.answering:
            by_batch.setdefault(step_time.answering, []).append(step_time)
    for batch, answers in by_batch.items():
        shallow = min(answers, key=lambda answer: answer.context_tokens)
        deep = max(answers, key=lambda answer: answer.context_tokens)
        added_tokens = batch * (deep.context_tokens - shallow.context_tokens)
        if added_tokens > 0:
            return max(deep.step_s - shallow.step_s, 0.0) / added_tokens
    return None
