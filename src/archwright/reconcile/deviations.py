"""Compare a plan with measurements: one Deviation per prediction, and the share of bands that held."""

import math
from collections.abc import Iterable, Mapping

from archwright.contract.contention import Contention
from archwright.contract.evidence import (
    Deviation,
    MeasuredValue,
    Measurement,
    Prediction,
    Reconciliation,
    Statistic,
    determine_verdict,
)
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.reconcile.contention import explain_contention, find_planned_contention

# In order of precedence: the platform records every request, a client its own requests, a Prometheus only buckets.
SOURCES = ("gateway", "supervisor", "client", "prometheus", "report")

# The displayed statistic: a rate is a mean over its window; for a single last value all statistics are equal.
_DISPLAYED_STATISTICS: dict[str, Statistic] = {"rate": "mean", "last": "max", "share": "mean"}


def reconcile_plan(
    plan: Plan,
    measurements: Mapping[str, Measurement],
    gaps: Mapping[str, str] | None = None,
    costs: tuple[Deviation, ...] = (),
) -> Reconciliation:
    """Return every prediction in the plan's order with its verdict (`determine_verdict`).

    The verdict is unknown if there is no measurement, or if it is of another plan or unit, has no samples or is not
    finite. `gaps`: why a prediction has no measurement, or why its measurement is not judged. `costs` are compared
    already, and follow the predictions. `coverage` = within / judged; None if nothing was judged. A speed is not judged
    if its bench ran under more contention than the plan was made for (`explain_contention`).
    """
    digest = plan.digest
    planned_contention = find_planned_contention(plan)
    known_gaps = gaps or {}
    deviations: list[Deviation] = []
    for prediction in plan.predictions:
        measurement = measurements.get(prediction.id)
        gap = known_gaps.get(prediction.id, "")
        if measurement is not None:
            gap = gap or explain_contention(prediction.metric, planned_contention, measurement.contention)
        deviations.append(_build_deviation(prediction, digest, measurement, gap))
    judged = [one.verdict for one in (*deviations, *costs) if one.verdict != "unknown"]
    coverage = judged.count("within") / len(judged) if judged else None
    return Reconciliation(
        plan_digest=digest,
        coverage=coverage,
        deviations=(*deviations, *costs),
        contention=_find_contention(measurements.values()),
        planned_contention=planned_contention,
    )


def _find_contention(measurements: Iterable[Measurement]) -> Contention | None:
    """Return the contention of the newest bench among the measurements."""
    newest: Measurement | None = None
    for measurement in measurements:
        if measurement.contention is None:
            continue
        if newest is None or measurement.at > newest.at:
            newest = measurement
    return newest.contention if newest is not None else None


def select_measurements(measurements: Iterable[Measurement]) -> dict[str, Measurement]:
    """Select one measurement per prediction: the newest window; among overlapping windows, the order of SOURCES."""
    grouped: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        grouped.setdefault(measurement.prediction_id, []).append(measurement)
    return {name: _select_measurement(group) for name, group in grouped.items()}


def _select_measurement(group: list[Measurement]) -> Measurement:
    newest = max(group, key=lambda m: m.at)
    overlapping = [m for m in group if m.at >= newest.at - newest.window_s]
    ranks = {source: rank for rank, source in enumerate(SOURCES)}
    return min(overlapping, key=lambda m: (ranks.get(m.source, len(SOURCES)), -m.at))


def _build_deviation(prediction: Prediction, digest: str, measurement: Measurement | None, gap: str) -> Deviation:
    measured, evidence = None, prediction.query.promql()
    if measurement is not None:
        evidence = measurement.evidence
        unusable = _explain_unusable(prediction, digest, measurement)
        measured = None if unusable else _to_displayed(measurement)
        gap = unusable or gap
    judged = None if measured is None or gap else measured.value
    return Deviation(
        prediction_id=prediction.id,
        metric=prediction.metric,
        workload=prediction.workload,
        predicted=prediction.estimate,
        measured=measured,
        verdict=determine_verdict(prediction.metric, prediction.estimate, judged),
        evidence=f"{evidence}  # {gap}" if gap else evidence,
    )


def _explain_unusable(prediction: Prediction, digest: str, measurement: Measurement) -> str:
    if measurement.plan_digest != digest:
        return "measured for another plan"
    if measurement.unit != prediction.estimate.unit:
        return f"measured in {measurement.unit}, predicted in {prediction.estimate.unit}"
    if measurement.samples < 1:
        return "no samples"
    return "" if math.isfinite(measurement.value) else "not a finite number"


def _to_displayed(measurement: Measurement) -> MeasuredValue:
    measured = measurement.to_measured_value()
    statistic = _DISPLAYED_STATISTICS.get(measured.statistic, measured.statistic)
    samples = 1 if measured.statistic == "last" else measured.samples
    return replace(measured, statistic=statistic, samples=samples)
