"""Reports of other benchmark tools in our definitions. The formats are rows of tool_reports.csv, by tool.

TPOT is (last - first token) / (tokens - 1) of a finished request; its percentiles count every request once. A tool that
counts every token once gives long answers more weight, and single gaps spread wider than means over a request.
If a row has `requests`, percentiles are computed from the single requests; else the tool's own percentiles are ours.
"""

import csv
import functools
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from archwright.contract.evidence import QUANTILE
from archwright.contract.percentile import percentile
from archwright.errors import ErrorLocation, ReconcileError

STATISTICS = (*QUANTILE, "mean")
RATE = "tokens_per_s"
OPTIONAL = ("rate", "concurrency", "input_tokens", "output_tokens")
REQUIRED = ("requests_per_s", "count", RATE, "seconds")
HINT = "give the JSON report of a finished run, as the tool wrote it"


class ToolReport(NamedTuple):
    """One run. `values` by (metric, statistic) in our units, `definitions` by metric: the tool's, and the conversion.

    `gaps`: why a metric has no value. `numbers`: its load, by column of OPTIONAL (None if unknown) and REQUIRED.
    `is_open`: requests were sent at their own times; else a fixed number of them was in flight. `model` is empty, and
    `ended_at` (epoch seconds) 0, if the report does not say.
    """

    tool: str
    model: str
    is_open: bool
    numbers: Mapping[str, float | None]
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
        hint = f"{HINT}: {', '.join(row['tool'] for row in list_formats())}, or archwright bench --json"
        raise ReconcileError("AW-REC-32", "the file is no report of a known tool", where=ErrorLocation(file), hint=hint)
    tool = f"{row['tool']} {_get(document, row['version']) or ''}".strip()
    try:
        runs = _get(document, row["runs"]) if row["runs"] else [document]
        return [_read_run(run, row, tool) for run in runs]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        message = f"the report of {tool} has no field {error}, or a field of another form"
        raise ReconcileError("AW-REC-33", message, where=ErrorLocation(file), hint=HINT) from error


def _read_run(run: Any, row: Mapping[str, str], tool: str) -> ToolReport:
    found = {name: _get(run, row[name]) for name in (*OPTIONAL, *REQUIRED)}
    if missing := [row[name] for name in REQUIRED if found[name] is None]:
        raise KeyError(missing[0])
    numbers = {name: None if value is None else _to_number(value) for name, value in found.items()}
    values, definitions = (
        {(RATE, "rate"): _to_number(found[RATE])},
        {RATE: "output tokens of finished requests / duration"},
    )
    gaps = dict[str, str]()
    for metric in ("ttft", "tpot"):
        read = {(f"{metric}_s", name): value for name, value in _read_statistics(run, row, metric)}
        values |= read
        (definitions if read else gaps)[f"{metric}_s"] = row[f"{metric}_definition"] if read else row["without"]
    ended_at = _get(run, row["ended_at"]) or 0.0
    return ToolReport(
        tool=tool,
        model=str(_get(run, row["model"]) or ""),
        is_open=numbers["rate"] is not None if row["rate"] else numbers["concurrency"] is None,
        numbers=numbers,
        values=values,
        definitions=definitions,
        gaps=gaps,
        samples=int(found["count"]),
        seconds=_to_number(found["seconds"]),
        ended_at=datetime.fromisoformat(ended_at).timestamp() if isinstance(ended_at, str) else _to_number(ended_at),
    )


def _read_statistics(run: Any, row: Mapping[str, str], metric: str) -> Iterator[tuple[str, float]]:
    """Yield our statistics of a metric in seconds: those of the tool, or computed from its single requests."""
    scale = float(row["scale"])
    if not row["requests"]:
        summary = _get(run, row[metric]) or {}
        names = zip(STATISTICS, row["percentiles"].split(), strict=True)
        yield from ((ours, _to_number(summary[name]) * scale) for ours, name in names if summary.get(name) is not None)
        return
    single = [one.get(row[metric]) for one in _get(run, row["requests"]) or ()]
    if measured := [_to_number(value) * scale for value in single if value is not None]:
        yield from ((name, percentile(measured, share)) for name, share in QUANTILE.items())
        yield "mean", sum(measured) / len(measured)


def _to_number(value: Any) -> float:
    """Raises ValueError for a number that nothing can be compared with."""
    if not math.isfinite(number := float(value)) or number < 0:
        raise ValueError(value)
    return number


def _get(document: Any, path: str) -> Any:
    """Return the value at `path` ("a.0.b"), None if there is none or the path is empty."""
    value = document if path else None
    for part in filter(None, path.split(".")):
        if isinstance(value, list) and part.lstrip("-").isdigit() and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value
