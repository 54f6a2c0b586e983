"""Evidence of a model's quality: a measured score, else an estimate from its other scores, by benchmark.

Several measured rows of one benchmark (a refresh brings them) are one piece of evidence: the best row by independence,
within the range of all rows. One row without a range has the benchmark's spread.
"""

from collections.abc import Iterable, Mapping

from archwright.catalog.tables.csv_table import CsvRow
from archwright.catalog.tables.records import Benchmark, QualityScore, ScoreEstimate, ScoreUnit
from archwright.contract.decision import ScoreEvidence

ModelKey = tuple[str, str]
# For a benchmark without a spread in the table; of shares the 90th percentile over all benchmarks.
ASSUMED_SPREAD: Mapping[ScoreUnit, float] = {"share": 0.1, "rating": 30.0, "rank": 0.5}
# A band of shares ends before 0 and 1.
LEAST_SHARE, MOST_SHARE = 0.001, 0.999
BEST_RANK = 1.0


class ModelScores:
    """Evidence by table and model, built on first use; `estimates` are rows of score_estimates.csv by model."""

    def __init__(
        self,
        benchmarks: Mapping[str, Benchmark],
        scores: Iterable[QualityScore],
        estimates: Mapping[ModelKey, Iterable[CsvRow]],
    ) -> None:
        self._benchmarks, self._estimates = benchmarks, estimates
        self._measured: dict[ModelKey, dict[str, list[QualityScore]]] = {}
        for row in scores:
            self._measured.setdefault((row.table, row.model), {}).setdefault(row.benchmark, []).append(row)
        self._evidence: dict[ModelKey, Mapping[str, ScoreEvidence]] = {}

    def evidence(self, table: str, model: str) -> Mapping[str, ScoreEvidence]:
        key = (table, model)
        if key not in self._evidence:
            measured = self._measured.get(key, {})
            rows = (row for row in self._estimates.get(key, ()) if row.cells["benchmark"] not in measured)
            found = [self._build_measured(rows) for rows in measured.values()]
            found += [self._build_estimated(row.to_record(ScoreEstimate)) for row in rows]
            self._evidence[key] = {one.benchmark: one for one in sorted(found, key=lambda one: one.benchmark)}
        return self._evidence[key]

    def _describe(self, benchmark: str, score: float) -> tuple[str, ScoreUnit, float]:
        """Return axis, unit and spread of a benchmark; a refresh may bring one that the table lacks."""
        known = self._benchmarks.get(benchmark)
        if known is None:
            unit: ScoreUnit = "share" if score <= 1 else "rating"
            return "", unit, ASSUMED_SPREAD[unit]
        return known.axis, known.unit, known.spread if known.spread is not None else ASSUMED_SPREAD[known.unit]

    def _build_measured(self, rows: list[QualityScore]) -> ScoreEvidence:
        best = max(rows, key=lambda row: (row.independent == "yes", row.score))
        axis, unit, spread = self._describe(best.benchmark, best.score)
        low = min(row.score if row.low is None else row.low for row in rows)
        high = max(row.score if row.high is None else row.high for row in rows)
        if low == high:
            low, high = low - spread, high + spread
        if unit == "share":
            low, high = max(low, LEAST_SHARE), min(high, MOST_SHARE)
        if unit == "rank":
            low = max(low, BEST_RANK)
        return ScoreEvidence(
            benchmark=best.benchmark,
            axis=axis,
            value=best.score,
            low=min(low, best.score),
            high=max(high, best.score),
            estimated=False,
            scores_used=max(best.rows, len(rows)),
            source=best.source,
            as_of=best.as_of,
            independent=best.independent,
            unit=unit,
        )

    def _build_estimated(self, row: ScoreEstimate) -> ScoreEvidence:
        axis, unit, _ = self._describe(row.benchmark, row.value)
        return ScoreEvidence(
            benchmark=row.benchmark,
            axis=axis,
            value=row.value,
            low=row.low,
            high=row.high,
            estimated=True,
            scores_used=row.scores_used,
            source=row.source,
            as_of=row.as_of,
            unit=unit,
        )
