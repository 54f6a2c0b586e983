"""Scoring of predictions against a benchmark table (verb `accuracy`).

The prediction of a row uses only columns that a user would state; the measured columns are used for scoring alone.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.contract.estimate import Estimate
from archwright.contract.record import Record
from archwright.errors import CatalogError, ErrorLocation, PlanFileError, argument_error
from archwright.sizing import benchmark_reader
from archwright.sizing.benchmark_reader import BenchmarkKind, Cells, read_text
from archwright.sizing.inference import serving_prediction
from archwright.sizing.inference.serving_prediction import predict_deployment
from archwright.sizing.reference_predictors import list_predictors
from archwright.sizing.scoreboard import PredictorScore, Scoreboard
from archwright.sizing.training.token_throughput import predict_stated_run

# Measured columns per kind of table; predicted columns have the prefix `pred_`.
COLUMNS: dict[BenchmarkKind, tuple[str, ...]] = {
    "serving": ("tpot_ms", "ttft_ms", "throughput_tok_s"),
    "training": ("tok_s_per_gpu", "gpu_hours", "step_time_s"),
}
MOST_CAUSES = 5

FileWriter = Callable[[Path, str], None]


class RowPrediction(NamedTuple):
    """Prediction of one row, per measured column; `remark`: what is weak or assumed."""

    row_id: str
    guesses: dict[str, Estimate | None]
    stratum: str
    remark: str


class AccuracyScore(Record):
    """Score of one quantity in one stratum; errors in percent of the measured value."""

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
    scoreboard: tuple[PredictorScore, ...] = ()


def predict_row(cells: Cells, kind: BenchmarkKind, subjects: BenchmarkNameResolver) -> RowPrediction:
    """Predict one row. A row that cannot be predicted gets no predictions and the reason: it never ends the scoring."""
    row_id = read_text(cells, "row_id")
    values: tuple[Estimate | None, ...]
    try:
        if kind == "serving":
            query, wrong = benchmark_reader.parse_serving_query(cells)
            served = predict_deployment(query, subjects)
            stratum, regime, weak, assumed = served.stratum, served.regime, served.weak, served.assumed
            times = (time and time.scaled(1e3) for time in (served.tpot_s, served.ttft_s))
            values = (*times, served.tokens_per_s)
        else:
            run, wrong = benchmark_reader.parse_training_query(cells)
            token_s, stratum, weak = predict_stated_run(run, subjects)
            regime, assumed = "", ()
            hours = token_s.scaled(run.tokens / 3600, unit="h") if run.tokens else None
            step = token_s.scaled(run.batch_tokens / run.devices) if run.batch_tokens and run.devices else None
            values = (token_s.divide_amount(1.0, "tokens/s"), hours, step)
    except CatalogError as error:
        nearest = f" (nearest: {', '.join(error.nearest)})" if error.nearest else ""
        return _refuse_row(row_id, kind, f"{error.message[:200]}{nearest}")
    except (ArithmeticError, LookupError, ValueError) as error:
        return _refuse_row(row_id, kind, f"a bug in archwright: {type(error).__name__}: {str(error)[:200]}")
    reasons = (*(f"weak: {reason}" for reason in (*weak, *wrong)), *(f"assumed {text}" for text in assumed))
    remark = "; ".join(filter(None, (regime, *reasons)))
    return RowPrediction(row_id, dict(zip(COLUMNS[kind], values, strict=True)), stratum, remark)


def _refuse_row(row_id: str, kind: BenchmarkKind, reason: str) -> RowPrediction:
    return RowPrediction(row_id, dict.fromkeys(COLUMNS[kind]), "not answered", reason)


def score_benchmark(
    path: Path, subjects: BenchmarkNameResolver, rows_out: Path | None, *, write: FileWriter, against: str = ""
) -> AccuracyReport:
    """Predict and score every row of `path`; `write` writes the predictions to `rows_out` atomically.

    `against`: predictors to score on the same rows of a serving table (reference_predictors.py). Raises UsageError
    AW-USE-23 for an unknown one, or for a table of training."""
    predictors = list_predictors(against, subjects)
    scoreboard = Scoreboard(predictors)
    kind: BenchmarkKind | None = None
    predicted: list[RowPrediction] = []
    measured: list[dict[str, float | None]] = []
    for _, cells in benchmark_reader.read_rows(path):
        kind = kind or benchmark_reader.detect_kind(frozenset(cells), path)
        if predictors and kind != "serving":
            hint = "leave out --against: it compares predictions of serving"
            raise argument_error("AW-USE-23", f"{path} is a table of training", "against", hint)
        prediction = predict_row(cells, kind, subjects)
        is_seen = prediction.stratum == serving_prediction.SEEN
        scoreboard.add_row(cells, prediction.guesses, is_seen=is_seen)
        predicted.append(prediction)
        measured.append({column: benchmark_reader.read_number(cells, column, []) for column in COLUMNS[kind]})
    if kind is None:
        where, hint = ErrorLocation(str(path)), benchmark_reader.COLUMNS_HINT
        raise PlanFileError("AW-FILE-22", "the table has no rows", where=where, hint=hint)
    if rows_out is not None:
        write(rows_out, render_predictions_csv(predicted, kind))
    unanswered = [f"{row.row_id}: {row.remark}" for row in predicted if not any(row.guesses.values())]
    return AccuracyReport(
        file=str(path),
        kind=kind,
        rows=len(predicted),
        answered=len(predicted) - len(unanswered),
        weak=sum("weak:" in row.remark for row in predicted),
        not_answered=tuple(unanswered[:MOST_CAUSES]),
        scores=tuple(score_predictions(predicted, measured, kind)),
        rows_out=None if rows_out is None else str(rows_out),
        scoreboard=tuple(scoreboard.list_scores(COLUMNS[kind])),
    )


def render_predictions_csv(predicted: Iterable[RowPrediction], kind: BenchmarkKind) -> str:
    """Return the CSV of the predictions: row_id, each prediction with _lo and _hi, stratum with remark."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = [f"pred_{column}{end}" for column in COLUMNS[kind] for end in ("", "_lo", "_hi")]
    writer.writerow(["row_id", *header, "stratum"])
    for row in predicted:
        cells: list[str] = []
        for column in COLUMNS[kind]:
            guess = row.guesses[column]
            cells += ["", "", ""] if guess is None else [f"{part:.6g}" for part in (guess.value, guess.low, guess.high)]
        writer.writerow([row.row_id, *cells, f"{row.stratum}; {row.remark}" if row.remark else row.stratum])
    return text.getvalue()


def score_predictions(
    predicted: list[RowPrediction], measured: list[dict[str, float | None]], kind: BenchmarkKind
) -> Iterator[AccuracyScore]:
    """Yield the scores per quantity: of all rows, then per stratum; nothing without measured values."""
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


def _score_stratum(metric: str, stratum: str, own: list[tuple[Estimate, float]]) -> AccuracyScore:
    errors = sorted(abs(guess.value / truth - 1) * 100 for guess, truth in own)
    widths = sorted(math.sqrt(guess.high / guess.low) for guess, _ in own)
    inside = sum(guess.contains(truth) for guess, truth in own)
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
