"""Reports of other benchmark tools in our definitions. The formats are rows of tool_reports.csv, by tool.

TPOT is (last - first token) / (tokens - 1) of a finished request; its percentiles count every request once. A tool that
counts every token once gives long answers more weight, and single gaps spread wider than means over a request.
If a row has `requests`, percentiles are computed from the single requests; else the tool's own percentiles are ours.
"""

import csv
import functools
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from archwright.contract.evidence import QUANTILE
from archwright.contract.percentile import percentile
from archwright.errors import ErrorLocation, ReconcileError

STATISTICS = (*QUANTILE, "mean")
RATE_DEFINITION = "output tokens of finished requests / duration"


class ToolLoad(NamedTuple):
    """The load that a tool ran: requests/s and requests in flight, mean tokens of a request; None if unknown.

    `is_open`: requests were sent at their own times; else a fixed number of them was in flight.
    """

    is_open: bool
    requests_per_second: float | None
    concurrency: float | None
    input_tokens: float | None
    output_tokens: float | None


class ToolReport(NamedTuple):
    """One run. `values` by (metric, statistic) in our units, `definitions` by metric: the tool's, and the conversion.

    `gaps`: why a metric has no value. `model` is empty, and `ended_at` (epoch seconds) 0, if the report does not say.
    """

    tool: str
    model: str
    load: ToolLoad
    values: Mapping[tuple[str, str], float]
    definitions: Mapping[str, str]
    gaps: Mapping[str, str]
    samples: int
    seconds: float
    ended_at: float


@functools.cache
def list_formats() -> tuple[dict[str, str], ...]:
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def read_tool_reports(document: Any, file: str) -> list[ToolReport]:
    """Return the runs of a report. Raises ReconcileError: AW-REC-32 (no known tool), AW-REC-33 (a field is missing)."""
    row = next((row for row in list_formats() if _get(document, row["detect"]) is not None), None)
    if row is None:
        known = ", ".join(row["tool"] for row in list_formats())
        hint = f"give a JSON report of {known}, or the output of archwright bench --json"
        raise ReconcileError("AW-REC-32", "the file is no report of a known tool", where=ErrorLocation(file), hint=hint)
    version = _get(document, row["version"])
    tool = f"{row['tool']} {version}" if version else row["tool"]
    try:
        runs = _get(document, row["runs"]) if row["runs"] else [document]
        return [_read_run(run, row, tool) for run in runs]
    except (KeyError, TypeError, ValueError) as error:
        message = f"the report of {tool} has no field {error}, or a field of another form"
        hint = "give the JSON report of a finished run, as the tool wrote it"
        raise ReconcileError("AW-REC-33", message, where=ErrorLocation(file), hint=hint) from error


def _read_run(run: Any, row: Mapping[str, str], tool: str) -> ToolReport:
    def number(name: str) -> float | None:
        value = _get(run, row[name])
        return None if value is None else float(value)

    def required(name: str) -> float:
        value = number(name)
        if value is None:
            raise KeyError(row[name])
        return value

    values: dict[tuple[str, str], float] = {("tokens_per_s", "rate"): required("tokens_per_s")}
    definitions, gaps = {"tokens_per_s": RATE_DEFINITION}, dict[str, str]()
    for metric in ("ttft", "tpot"):
        found = {(f"{metric}_s", name): value for name, value in _read_statistics(run, row, metric)}
        values |= found
        (definitions if found else gaps)[f"{metric}_s"] = row[f"{metric}_definition"] if found else row["without"]
    concurrency = number("concurrency")
    ended_at = _get(run, row["ended_at"]) or 0.0
    return ToolReport(
        tool=tool,
        model=str(_get(run, row["model"]) or ""),
        load=ToolLoad(
            is_open=concurrency is None if not row["rate"] else number("rate") is not None,
            requests_per_second=required("requests_per_s"),
            concurrency=concurrency,
            input_tokens=number("input_tokens"),
            output_tokens=number("output_tokens"),
        ),
        values=values,
        definitions=definitions,
        gaps=gaps,
        samples=int(required("count")),
        seconds=required("seconds"),
        ended_at=datetime.fromisoformat(ended_at).timestamp() if isinstance(ended_at, str) else float(ended_at),
    )


def _read_statistics(run: Any, row: Mapping[str, str], metric: str) -> Iterator[tuple[str, float]]:
    """Yield our statistics of a metric in seconds: those of the tool, or computed from its single requests."""
    scale = float(row["scale"])
    if not row["requests"]:
        summary = _get(run, row[metric]) or {}
        for ours, theirs in zip(STATISTICS, row["percentiles"].split(), strict=True):
            if summary.get(theirs) is not None:
                yield ours, float(summary[theirs]) * scale
        return
    single = [one.get(row[metric]) for one in _get(run, row["requests"]) or ()]
    measured = [float(value) * scale for value in single if value is not None]
    if measured:
        yield from ((name, percentile(measured, share)) for name, share in QUANTILE.items())
        yield "mean", sum(measured) / len(measured)


def _get(document: Any, path: str) -> Any:
    """Return the value at `path` ("a.0.b"), None if there is none or the path is empty."""
    value = document if path else None
    for part in path.split(".") if path else ():
        if isinstance(value, list) and part.lstrip("-").isdigit() and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value
