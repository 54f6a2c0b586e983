"""Rows of a table of collected scores, and the one row that stands for a cell (table, model, benchmark).

A row has a licence class: `open` rows may ship, `secondhand-open` rows after a check against another row of their cell,
`facts-only` rows never. All may be used in a fit, which does not redistribute them.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

OPEN, SECOND_HAND = "open", "secondhand-open"
# Two rows of a cell agree within this many points, or this many rating points.
AGREES_SHARE, AGREES_RATING = 0.03, 30.0
# Suffix of tables of one benchmark: they say nearly the same, so an estimate of one must not see the others.
FAMILIES = {
    "lmarena_text_elo": "lmarena",
    "lmarena_vision_elo": "lmarena",
    "mmlu_pro_5shot_nocot": "mmlu_pro",
    "gpqa_ollb_0shot": "gpqa",
    "ifeval_ollb": "ifeval",
    "hle_no_tools": "hle",
    "hle_tools": "hle",
    "livecodebench_v5": "livecodebench",
    "livecodebench_v6": "livecodebench",
    "swe_rebench": "swe_bench_verified",
    "bfcl": "bfcl_v4",
    "bfcl_v3": "bfcl_v4",
}
Cell = tuple[str, str, str]


class ScoreRow(NamedTuple):
    """One collected score; `table` is open or hosted."""

    table: str
    model: str
    benchmark: str
    score: float
    method: str
    reported_by: str
    original_source: str
    source: str
    as_of: str
    independent: str
    licence: str
    licence_class: str
    confidence: str

    @property
    def cell(self) -> Cell:
        return self.table, self.model, self.benchmark

    @property
    def of_rival(self) -> bool:
        return "for a rival" in self.method

    @property
    def rank(self) -> tuple[bool, bool, bool, float]:
        """Sort key of the row that stands for its cell, best first: trusted, not a rival's, independent, highest."""
        return self.confidence == "low", self.of_rival, self.independent != "yes", -self.score

    def agrees(self, other: ScoreRow) -> bool:
        limit = AGREES_SHARE if max(self.score, other.score) <= 1 else AGREES_RATING
        return abs(self.score - other.score) <= limit


class SelectedRows(NamedTuple):
    """Rows that may ship, by cell, and how many rows were left out by reason."""

    cells: dict[Cell, list[ScoreRow]]
    left_out: dict[str, int]


def family(benchmark: str) -> str:
    """Return the name under which the tables of one benchmark are hidden together."""
    plain = re.sub(r"_(20\d{4})?(_.*)?$", "", benchmark) if benchmark.startswith("livebench") else benchmark
    for start in ("lmarena", "euroeval", "livebench", "swe_bench_verified", "bfcl_v4"):
        if plain.startswith(start):
            return start
    return FAMILIES.get(benchmark, benchmark)


def read_scores(path: Path) -> list[ScoreRow]:
    with path.open(encoding="utf-8", newline="") as file:
        return [_parse_row(cells) for cells in csv.DictReader(file)]


def _parse_row(cells: dict[str, str]) -> ScoreRow:
    names = {"model": "model_id"}
    texts = {name: cells[names.get(name, name)] for name in ScoreRow._fields if name not in ("score", "benchmark")}
    return ScoreRow(**texts, score=float(cells["score"]), benchmark=cells["benchmark"].replace("-", "_"))


def group_cells(rows: Iterable[ScoreRow]) -> dict[Cell, list[ScoreRow]]:
    found: dict[Cell, list[ScoreRow]] = defaultdict(list)
    for row in rows:
        found[row.cell].append(row)
    return dict(found)


def usable_rows(rows: list[ScoreRow]) -> list[ScoreRow]:
    """Return the rows that bound a cell, best first.

    Rows of low confidence or by a rival count only if no better row exists. A tool benchmark run by prompts counts only
    if native calls were not run: the caller chooses the mode.
    """
    native = [row for row in rows if not row.method.startswith("mode prompt")] or rows
    trusted = [row for row in native if row.confidence != "low"] or native
    own = [row for row in trusted if not row.of_rival] or trusted
    return sorted(own, key=lambda row: row.rank)


def select_rows(rows: list[ScoreRow], benchmarks: frozenset[str], models: frozenset[tuple[str, str]]) -> SelectedRows:
    """Return the rows of known benchmarks and models that may ship, each checked against the other rows of its cell."""
    found: dict[Cell, list[ScoreRow]] = {}
    left_out: dict[str, int] = defaultdict(int)
    for cell, of_cell in group_cells(rows).items():
        for row in of_cell:
            reason = _find_reason(row, of_cell, benchmarks, models)
            if reason:
                left_out[reason] += 1
            else:
                found.setdefault(cell, []).append(row)
    return SelectedRows(found, dict(left_out))


def _find_reason(
    row: ScoreRow, of_cell: list[ScoreRow], benchmarks: frozenset[str], models: frozenset[tuple[str, str]]
) -> str:
    """Return why a row does not ship, empty if it does."""
    others = [other for other in of_cell if other.source != row.source]
    if row.licence_class not in (OPEN, SECOND_HAND):
        return "facts-only"
    if row.benchmark not in benchmarks or (row.table, row.model) not in models:
        return "benchmark or model not in the catalog"
    if row.licence_class == SECOND_HAND and not any(row.agrees(other) for other in others):
        return "second-hand, contradicted by every other source" if others else "second-hand, no other source to check"
    sources = {other.source for other in others if not row.agrees(other)}
    if row.confidence == "low" and len(sources) > 1 and not any(row.agrees(other) for other in others):
        return "low confidence, contradicted by two sources"
    return ""
