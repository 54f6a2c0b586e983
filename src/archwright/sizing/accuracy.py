"""`accuracy`: predicts each row of a benchmark table, then, apart from it, holds the predictions against the table.

The prediction of a row sees only what a user would know; measured columns are read when all predictions are made.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.contract.record import Record
from archwright.errors import CatalogError
from archwright.sizing import benchmark_reader
from archwright.sizing.benchmark_reader import BenchmarkKind, Cells, read_text
from archwright.sizing.inference.serving_prediction import PredictionInterval, predict_deployment
from archwright.sizing.training.token_throughput import predict_throughput

# Measured columns by kind of table; the predicted ones are called the same with `pred_` before.
COLUMNS: dict[BenchmarkKind, tuple[str, ...]] = {
    "serving": ("tpot_ms", "ttft_ms", "throughput_tok_s"),
    "training": ("tok_s_per_gpu", "gpu_hours", "step_time_s"),
}
MOST_CAUSES = 5

FileWriter = Callable[[Path, str], None]


class RowPrediction(NamedTuple):
    """One row answered: guesses by measured column; `stratum` also says what is weak or assumed."""

    row_id: str
    guesses: dict[str, PredictionInterval | None]
    stratum: str
    remark: str


class AccuracyScore(Record):
    """How the predictions of one quantity and stratum held; errors in percent of the measured value."""

    metric: str
    stratum: str
    rows: int
    median_error_percent: float
    mean_error_percent: float
    p90_error_percent: float
    covered_percent: float
    median_half_width: float


class AccuracyReport(Record):
    file: str
    kind: str
    rows: int
    answered: int
    weak: int
    not_answered: tuple[str, ...]
    scores: tuple[AccuracyScore, ...]
    rows_out: str | None = None


def predict_row(cells: Cells, kind: BenchmarkKind, subjects: BenchmarkNameResolver) -> RowPrediction:
    """Never raises for what a row says: a row that names nothing known comes back without guesses."""
    try:
        return _predict_serving_row(cells, subjects) if kind == "serving" else _predict_training_row(cells, subjects)
    except CatalogError as error:
        near = f" (nearest: {', '.join(error.nearest)})" if error.nearest else ""
        guesses = dict.fromkeys(COLUMNS[kind])
        return RowPrediction(read_text(cells, "row_id"), guesses, "not answered", f"{error.message[:200]}{near}")


def _predict_serving_row(cells: Cells, subjects: BenchmarkNameResolver) -> RowPrediction:
    asked, wrong = benchmark_reader.parse_serving_query(cells)
    found = predict_deployment(asked, subjects)
    scaled = (time and time.scaled(1e3) for time in (found.tpot_s, found.ttft_s))
    guesses = dict(zip(COLUMNS["serving"], (*scaled, found.tokens_per_s), strict=True))
    weak = (f"weak: {why}" for why in (*found.weak, *wrong))
    remark = "; ".join(filter(None, (found.regime, *weak, *(f"assumed {what}" for what in found.assumed))))
    return RowPrediction(read_text(cells, "row_id"), guesses, found.stratum, remark)


def _predict_training_row(cells: Cells, subjects: BenchmarkNameResolver) -> RowPrediction:
    asked, wrong = benchmark_reader.parse_training_query(cells)
    found = predict_throughput(asked, subjects)
    guesses = dict(zip(COLUMNS["training"], (found.tokens_per_s, found.device_hours, found.step_s), strict=True))
    remark = "; ".join(f"weak: {why}" for why in (*found.weak, *wrong))
    return RowPrediction(read_text(cells, "row_id"), guesses, found.stratum, remark)


def score_benchmark(
    path: Path, subjects: BenchmarkNameResolver, rows_out: Path | None, write: FileWriter
) -> AccuracyReport:
    """Predicts every row of `path`; `write` puts the text of OUT at a path in one piece."""
    kind: BenchmarkKind | None = None
    predicted: list[RowPrediction] = []
    measured: list[dict[str, float | None]] = []
    for _, cells in benchmark_reader.read_rows(path):
        kind = kind or benchmark_reader.detect_kind(frozenset(cells), path)
        predicted.append(predict_row(cells, kind, subjects))
        measured.append({column: benchmark_reader.read_number(cells, column, []) for column in COLUMNS[kind]})
    if kind is None:
        raise benchmark_reader.empty_table_error(path)
    if rows_out is not None:
        write(rows_out, render_predictions_csv(predicted, kind))
    lost = [f"{row.row_id}: {row.remark}" for row in predicted if not any(row.guesses.values())]
    return AccuracyReport(
        file=str(path),
        kind=kind,
        rows=len(predicted),
        answered=len(predicted) - len(lost),
        weak=sum("weak:" in row.remark for row in predicted),
        not_answered=tuple(lost[:MOST_CAUSES]),
        scores=tuple(score_predictions(predicted, measured, kind)),
        rows_out=None if rows_out is None else str(rows_out),
    )


def render_predictions_csv(predicted: Iterable[RowPrediction], kind: BenchmarkKind) -> str:
    """OUT: row_id, each prediction with _lo and _hi, stratum with its remarks."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [f"pred_{column}{end}" for column in COLUMNS[kind] for end in ("", "_lo", "_hi")]
    writer.writerow(["row_id", *heads, "stratum"])
    for row in predicted:
        cells: list[str] = []
        for column in COLUMNS[kind]:
            guess = row.guesses[column]
            cells += ["", "", ""] if guess is None else [f"{part:.6g}" for part in guess]
        writer.writerow([row.row_id, *cells, f"{row.stratum}; {row.remark}" if row.remark else row.stratum])
    return text.getvalue()


def score_predictions(
    predicted: list[RowPrediction], measured: list[dict[str, float | None]], kind: BenchmarkKind
) -> Iterator[AccuracyScore]:
    """Per quantity: the whole, then each stratum; nothing where nothing was measured."""
    for column in COLUMNS[kind]:
        pairs = [
            (row.stratum, guess, truth)
            for row, cells in zip(predicted, measured, strict=True)
            if (guess := row.guesses[column]) is not None and (truth := cells[column])
        ]
        for stratum in ("all", *sorted({stratum for stratum, _, _ in pairs})):
            own = [(guess, truth) for other, guess, truth in pairs if stratum in ("all", other)]
            if own:
                yield _score_stratum(column, stratum, own)


def _score_stratum(metric: str, stratum: str, own: list[tuple[PredictionInterval, float]]) -> AccuracyScore:
    errors = sorted(abs(guess.value / truth - 1) * 100 for guess, truth in own)
    widths = sorted(math.sqrt(guess.high / guess.low) for guess, _ in own)
    inside = sum(guess.low <= truth <= guess.high for guess, truth in own)
    return AccuracyScore(
        metric=metric,
        stratum=stratum,
        rows=len(own),
        median_error_percent=round(errors[len(errors) // 2], 2),
        mean_error_percent=round(sum(errors) / len(errors), 2),
        p90_error_percent=round(errors[min(int(0.9 * len(errors)), len(errors) - 1)], 2),
        covered_percent=round(100 * inside / len(own), 1),
        median_half_width=round(widths[len(widths) // 2], 3),
    )
