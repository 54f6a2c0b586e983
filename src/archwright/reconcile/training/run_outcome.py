"""The end of a training run: what was measured, beside what was predicted."""

from archwright.contract.evidence import Deviation, MeasuredValue, Prediction, determine_verdict
from archwright.contract.lineage import TrainingRun
from archwright.contract.record import replace
from archwright.training.training_runs import RunOutcome


def measure_outcome(outcome: RunOutcome) -> dict[str, float]:
    """Return the measured values by the name of their metric."""
    speed = 0.0
    if outcome.stepping_s > 0:
        speed = outcome.units / outcome.stepping_s
    return {
        "train_s": outcome.stepping_s,
        "train_tokens_per_s": speed,
        "train_memory_bytes": float(outcome.memory_bytes),
    }


def build_finished_run(run: TrainingRun, outcome: RunOutcome) -> TrainingRun:
    """Return the record of a finished run, with a deviation for each prediction."""
    measured = measure_outcome(outcome)
    deviations: list[Deviation] = []
    for prediction in run.predictions:
        value = measured.get(prediction.metric)
        deviations.append(_build_deviation(prediction, value, outcome.stepping_s))
    return replace(
        run,
        status="finished",
        step=outcome.step,
        loss_first=outcome.loss_first,
        loss_last=outcome.loss_last,
        train_s=outcome.stepping_s,
        tokens_per_s=measured["train_tokens_per_s"],
        order_sha256=outcome.order_sha256,
        weights_sha256=outcome.weights_sha256,
        error="",
        deviations=tuple(deviations),
    )


def _build_deviation(prediction: Prediction, value: float | None, window_s: float) -> Deviation:
    measured: MeasuredValue | None = None
    evidence = "not measured"
    if value is not None:
        evidence = "measured by the training process"
        measured = MeasuredValue(
            value=value,
            unit=prediction.estimate.unit,
            statistic=prediction.query.statistic,
            samples=1,
            window_s=window_s,
        )
    return Deviation(
        prediction_id=prediction.id,
        metric=prediction.metric,
        workload=prediction.workload,
        predicted=prediction.estimate,
        measured=measured,
        verdict=determine_verdict(prediction.metric, prediction.estimate, value),
        evidence=evidence,
    )
