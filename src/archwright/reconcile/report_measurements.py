"""Measure a plan's predictions from report files: those of other benchmark tools, and results of `bench --json`.

A report at another load than the planned one is shown, and not judged: latency depends on the load.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from archwright.contract.evidence import Measurement, Reconciliation
from archwright.contract.plan import LoadSpec, Plan
from archwright.contract.record import as_dict
from archwright.errors import ErrorLocation, ReconcileError
from archwright.reconcile.bench_result import TimeWindow
from archwright.reconcile.measurements import SourceReading, build_measurement
from archwright.reconcile.tool_reports import HINT, ToolReport, read_tool_reports

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
    readings = [reading for file in files for reading in _read_file(plan, file)]
    # The best last: judged, then measured, then only explained.
    readings.sort(key=lambda one: (one.measurement is not None, not one.gap))
    best = {one.prediction_id: one for one in readings}
    kept = [one.measurement for one in readings if one.gap == best[one.prediction_id].gap]
    gaps = {name: one.gap for name, one in best.items() if one.gap}
    return ReportReading(tuple(one for one in kept if one is not None), gaps)


def _read_file(plan: Plan, file: str) -> Iterator[_Reading]:
    try:
        document = msgspec.json.decode(Path(file).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        message = f"the report cannot be read: {error}"
        hint = f"{HINT} beside its CSV"
        raise ReconcileError("AW-REC-32", message, where=ErrorLocation(file), hint=hint) from error
    if isinstance(document, dict) and "reconciliation" in document:
        yield from _read_own_result(document["reconciliation"], file)
        return
    for report in read_tool_reports(document, file):
        for load in _find_loads(plan, report, file):
            yield from _measure_load(plan, load, report, file)


def _read_own_result(document: Any, file: str) -> Iterator[_Reading]:
    """Yield the measured values of a result of `bench --json`; those of another plan stay marked as such."""
    try:
        result = msgspec.convert(document, Reconciliation)
    except msgspec.ValidationError as error:
        hint = "give the output of: archwright bench URL --against plan.json --json"
        raise ReconcileError("AW-REC-33", str(error), where=ErrorLocation(file), hint=hint) from error
    at, digest = Path(file).stat().st_mtime, result.plan_digest
    for one in result.deviations:
        if one.measured is not None:
            named: dict[str, Any] = {
                "plan_digest": digest,
                "prediction_id": one.prediction_id,
                "at": at,
                "source": "report",
                "contention": result.contention,
            }
            evidence = f"{one.evidence}, read from {file}"
            yield _Reading(one.prediction_id, Measurement(**named, evidence=evidence, **as_dict(one.measured)))


def _find_loads(plan: Plan, report: ToolReport, file: str) -> list[LoadSpec]:
    """Return the loads whose workload or model the report names; the only load of a plan, if it names none."""
    named = [load for load in plan.loads if report.model in (load.workload, load.model)]
    if named or (not report.model and len(plan.loads) == 1):
        return named or list(plan.loads)
    known = ", ".join(f"{load.workload} ({load.model})" for load in plan.loads) or "none"
    message = f"the report is of the model {report.model or '(not named)'}; the plan has these loads: {known}"
    hint = "run the tool with a model or a workload of the plan as its model name"
    raise ReconcileError("AW-REC-34", message, where=ErrorLocation(file), hint=hint)


def _measure_load(plan: Plan, load: LoadSpec, report: ToolReport, file: str) -> Iterator[_Reading]:
    """Yield a reading for each prediction of the load that the report has a value or an explanation for."""
    window = TimeWindow(name="", started_at=report.ended_at - report.seconds, ended_at=report.ended_at)
    for prediction in (one for one in plan.predictions if one.workload == load.workload):
        value = report.values.get((prediction.metric, prediction.query.statistic))
        if prediction.metric in report.gaps:
            yield _Reading(prediction.id, None, f"{report.tool}: {report.gaps[prediction.metric]}")
        elif value is not None:
            evidence = f"{report.tool} in {file}: {report.definitions[prediction.metric]}"
            seen = SourceReading("report", window, value, report.samples, evidence)
            caveat = explain_other_load(prediction.query.phase, load, report)
            yield _Reading(prediction.id, build_measurement(plan.digest, prediction, seen), caveat)


def explain_other_load(phase: str, load: LoadSpec, ran: ToolReport) -> str:
    """Return how the load of a report differs from that of a phase; empty if by at most LOAD_TOLERANCE."""
    rate, inside = (
        ("requests/s", load.requests_per_second, "requests_per_s"),
        ("in flight", load.concurrency, "concurrency"),
    )
    planned = inside if phase == "closed" else rate
    if ran.is_open == (phase == "closed"):
        name, _, column = rate if ran.is_open else inside
        return f"other load: {ran.numbers[column] or 0:.3g} {name}; predicted for {planned[1]:.3g} {planned[0]}"
    lengths = [
        (f"{side} tokens", getattr(load, f"{side}_tokens").mean, f"{side}_tokens") for side in ("input", "output")
    ]
    other = [
        f"{'unknown' if value is None else f'{value:.3g}'} {name}, predicted for {wanted:.3g}"
        for name, wanted, column in (*lengths, planned)
        if (value := ran.numbers[column]) is None or abs(value - wanted) > LOAD_TOLERANCE * wanted
    ]
    return f"other load: {'; '.join(other)}" if other else ""
