"""Scores of several predictors on the same rows: what each answers, and the errors where all of them answer."""

from collections.abc import Iterator, Mapping
from statistics import fmean, median
from typing import NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.record import Record
from archwright.sizing import benchmark_reader
from archwright.sizing.benchmark_reader import Cells
from archwright.sizing.reference_predictors import Guess, ReferencePredictor

OWN_NAME = "archwright"


class PredictorScore(Record):
    """One predictor on the rows with a measured `metric`; errors in percent over `common_rows`, which all answered.

    `seen_rows`: of these, rows of a configuration that the own fit has rows of. `covered_percent`: common rows in the
    own 90 % interval; None for a predictor without intervals."""

    metric: str
    predictor: str
    measured_rows: int
    answered_rows: int
    common_rows: int
    seen_rows: int
    median_error_percent: float | None
    mean_error_percent: float | None
    covered_percent: float | None


class ScoredRow(NamedTuple):
    """Measured values, guesses by predictor, and the own intervals of one row, each by measured column."""

    measured: Guess
    guesses: Mapping[str, Guess]
    intervals: Mapping[str, Estimate]
    is_seen: bool

    def is_common(self, metric: str) -> bool:
        return all(metric in guess for guess in self.guesses.values())

    def find_error_percent(self, predictor: str, metric: str) -> float:
        ratio = self.guesses[predictor][metric] / self.measured[metric]
        return abs(ratio - 1) * 100

    def is_covered(self, metric: str) -> bool:
        truth = self.measured[metric]
        return self.intervals[metric].contains(truth)


class Scoreboard:
    """Collects the rows of a table with the guesses of `predictors` and the own ones."""

    def __init__(self, predictors: Mapping[str, ReferencePredictor]) -> None:
        self._predictors = predictors
        self._rows: list[ScoredRow] = []

    def add_row(self, cells: Cells, own: Mapping[str, Estimate | None], *, is_seen: bool) -> None:
        """Predict a row with every predictor; `own`: the estimates by measured column."""
        measured: dict[str, float] = {}
        intervals: dict[str, Estimate] = {}
        own_values: dict[str, float] = {}
        for metric, estimate in own.items():
            truth = benchmark_reader.read_number(cells, metric, [])
            if truth:
                measured[metric] = truth
            if estimate is not None:
                intervals[metric] = estimate
                own_values[metric] = estimate.value
        guesses: dict[str, Guess] = {OWN_NAME: own_values}
        for name, predict in self._predictors.items():
            guesses[name] = predict(cells)
        self._rows.append(ScoredRow(measured, guesses, intervals, is_seen))

    def list_scores(self, metrics: tuple[str, ...]) -> Iterator[PredictorScore]:
        """Yield the scores by metric, the own predictions first; nothing without other predictors."""
        if not self._predictors:
            return
        for metric in metrics:
            rows = [row for row in self._rows if metric in row.measured]
            if not rows:
                continue
            for name in (OWN_NAME, *self._predictors):
                yield _score_predictor(name, metric, rows)


def _score_predictor(name: str, metric: str, rows: list[ScoredRow]) -> PredictorScore:
    errors: list[float] = []
    answered_rows = 0
    seen_rows = 0
    covered_rows = 0
    for row in rows:
        answered_rows += metric in row.guesses[name]
        if row.is_common(metric):
            error = row.find_error_percent(name, metric)
            errors.append(error)
            seen_rows += row.is_seen
            covered_rows += row.is_covered(metric)
    median_error = None
    mean_error = None
    covered_percent = None
    if errors:
        median_error = round(median(errors), 2)
        mean_error = round(fmean(errors), 2)
        if name == OWN_NAME:
            covered_percent = round(100 * covered_rows / len(errors), 1)
    return PredictorScore(
        metric=metric,
        predictor=name,
        measured_rows=len(rows),
        answered_rows=answered_rows,
        common_rows=len(errors),
        seen_rows=seen_rows,
        median_error_percent=median_error,
        mean_error_percent=mean_error,
        covered_percent=covered_percent,
    )
