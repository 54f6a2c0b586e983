"""Measure a plan's predictions from report files: those of other benchmark tools, and results of `bench --json`.

A report at another load than the planned one is shown, and not judged: latency depends on the load.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from archwright.contract.evidence import Measurement, Prediction, Reconciliation
from archwright.contract.plan import LoadSpec, Plan
from archwright.contract.record import as_dict
from archwright.errors import ErrorLocation, ReconcileError
from archwright.reconcile.bench_result import TimeWindow
from archwright.reconcile.measurements import SourceReading, build_measurement
from archwright.reconcile.tool_reports import ToolLoad, ToolReport, read_tool_reports

# Share by which a report's load may differ from the planned one.
LOAD_TOLERANCE = 0.1


class ReportReading(NamedTuple):
    """The measurements of the files. `gaps`: why a prediction has none, or why its measurement is not judged."""

    measurements: tuple[Measurement, ...]
    gaps: dict[str, str]


class _Reading(NamedTuple):
    """A measurement, or None; `gap`: why there is none, or why it is not judged."""

    prediction_id: str
    measurement: Measurement | None
    gap: str = ""


def read_report_files(plan: Plan, files: Sequence[str]) -> ReportReading:
    """Measure the predictions by all files; a measurement at the planned load precedes those at other loads.

    Raises ReconcileError: AW-REC-32 (no known report), AW-REC-33 (a field is missing), AW-REC-34 (another model).
    """
    readings: list[_Reading] = []
    for file in files:
        document = _read_document(file)
        if isinstance(document, dict) and "reconciliation" in document:
            readings += _read_own_result(document["reconciliation"], file)
        else:
            for report in read_tool_reports(document, file):
                readings += measure_report(plan, report, file)
    # The best last: judged, then measured, then only explained.
    readings.sort(key=lambda one: (one.measurement is not None, not one.gap))
    best = {one.prediction_id: one for one in readings}
    kept = [one for one in readings if one.gap == best[one.prediction_id].gap and one.measurement is not None]
    gaps = {name: one.gap for name, one in best.items() if one.gap}
    return ReportReading(tuple(one.measurement for one in kept if one.measurement is not None), gaps)


def _read_document(file: str) -> Any:
    hint = "give the JSON report that the tool wrote beside its CSV, or the output of archwright bench --json"
    try:
        return msgspec.json.decode(Path(file).read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        message = f"the report cannot be read: {reason}"
        raise ReconcileError("AW-REC-32", message, where=ErrorLocation(file), hint=hint) from error


def _read_own_result(document: Any, file: str) -> list[_Reading]:
    """Return the measured values of a result of `bench --json`; those of another plan stay marked as such."""
    try:
        result = msgspec.convert(document, Reconciliation)
    except msgspec.ValidationError as error:
        hint = "give the output of: archwright bench URL --against plan.json --json"
        raise ReconcileError("AW-REC-33", str(error), where=ErrorLocation(file), hint=hint) from error
    at = Path(file).stat().st_mtime
    readings = []
    for one in result.deviations:
        if one.measured is not None:
            measurement = Measurement(
                plan_digest=result.plan_digest,
                prediction_id=one.prediction_id,
                at=at,
                source="report",
                evidence=f"{one.evidence}, read from {file}",
                **as_dict(one.measured),
            )
            readings.append(_Reading(one.prediction_id, measurement))
    return readings


def measure_report(plan: Plan, report: ToolReport, file: str) -> Iterator[_Reading]:
    """Yield a reading for each prediction that the report has a value or an explanation for."""
    for load in _find_loads(plan, report, file):
        for prediction in plan.predictions:
            if prediction.workload == load.workload:
                if prediction.metric in report.gaps:
                    yield _Reading(prediction.id, None, f"{report.tool}: {report.gaps[prediction.metric]}")
                elif (measurement := _measure_prediction(plan, prediction, report, file)) is not None:
                    caveat = explain_other_load(prediction.query.phase, load, report.load)
                    yield _Reading(prediction.id, measurement, caveat)


def _measure_prediction(plan: Plan, prediction: Prediction, report: ToolReport, file: str) -> Measurement | None:
    value = report.values.get((prediction.metric, prediction.query.statistic))
    if value is None:
        return None
    window = TimeWindow(name="", started_at=report.ended_at - report.seconds, ended_at=report.ended_at)
    evidence = f"{report.tool} in {file}: {report.definitions[prediction.metric]}"
    return build_measurement(plan.digest, prediction, SourceReading("report", window, value, report.samples, evidence))


def _find_loads(plan: Plan, report: ToolReport, file: str) -> list[LoadSpec]:
    """Return the loads whose workload or model the report names; all loads of a plan with one, if it names none."""
    named = [load for load in plan.loads if report.model in (load.workload, load.model)]
    if named or (not report.model and len(plan.loads) == 1):
        return named or list(plan.loads)
    known = ", ".join(f"{load.workload} ({load.model})" for load in plan.loads) or "none"
    subject = f"model {report.model}" if report.model else "no model"
    message = f"the report names {subject}; the plan has these loads: {known}"
    hint = "run the tool with a model or a workload of the plan as its model name"
    raise ReconcileError("AW-REC-34", message, where=ErrorLocation(file), hint=hint)


def explain_other_load(phase: str, load: LoadSpec, ran: ToolLoad) -> str:
    """Return how the load of a report differs from that of a phase; empty if by at most LOAD_TOLERANCE."""
    closed = phase == "closed"
    if ran.is_open == closed:
        ran_as = (
            f"{ran.requests_per_second or 0:.3g} requests/s" if ran.is_open else f"{ran.concurrency or 0:g} in flight"
        )
        planned = f"{load.concurrency} in flight" if closed else f"{load.requests_per_second:.3g} requests/s"
        return f"other load: {ran_as}; predicted for {planned}"
    pairs = [
        ("input tokens", ran.input_tokens, load.input_tokens.mean),
        ("output tokens", ran.output_tokens, load.output_tokens.mean),
    ]
    if closed:
        pairs.append(("in flight", ran.concurrency, float(load.concurrency)))
    else:
        pairs.append(("requests/s", ran.requests_per_second, load.requests_per_second))
    other = [
        f"{'unknown' if value is None else f'{value:.3g}'} {name}, predicted for {planned:.3g}"
        for name, value, planned in pairs
        if value is None or abs(value - planned) > LOAD_TOLERANCE * planned
    ]
    return f"other load: {'; '.join(other)}" if other else ""
