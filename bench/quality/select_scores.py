"""The shipped scores from a table of collected ones: `python -m bench.quality.select_scores --scores FILE`.

Writes llm_quality.csv (one row per model and benchmark, with the range of the usable rows of the cell) and the columns
`spread` and `pairs` of benchmarks.csv. Prints how many rows were left out, by reason.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import defaultdict
from pathlib import Path

from bench.quality.score_rows import Cell, ScoreRow, group_cells, read_scores, select_rows, usable_rows

from archwright.catalog.load import load_catalog
from archwright.catalog.tables.csv_table import DATA

TABLE, BENCHMARKS = "llm_quality.csv", "benchmarks.csv"
COLUMNS = (
    *("model_id", "table", "benchmark", "score", "low", "high", "rows", "method", "reported_by", "original_source"),
    *("source", "as_of", "independent", "confidence", "licence"),
)
# The spread of a benchmark is the 90th percentile of the differences between rows of one cell by different reporters.
# If one reporter runs a benchmark, its runs of a model's variants count. With too few pairs, all benchmarks' pairs do.
LEAST_PAIRS, LEAST_OWN_PAIRS = 10, 4
LEAST_SPREAD = 0.01
QUANTILE = 0.9
LEAST_SHARE, MOST_SHARE = 0.001, 0.999


def measure_spreads(rows: list[ScoreRow]) -> dict[str, tuple[float, int]]:
    """Return spread and number of pairs by benchmark: the row that stands for a cell against the cell's other rows."""
    of_others, of_all = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for (_, _, benchmark), of_cell in group_cells(rows).items():
        best = usable_rows(of_cell)[0]
        for row in of_cell:
            if row is not best and not row.method.startswith("mode prompt"):
                of_all[benchmark].append(abs(row.score - best.score))
                if row.reported_by != best.reported_by:
                    of_others[benchmark].append(abs(row.score - best.score))
    pooled = [gap for name, gaps in of_others.items() if not name.endswith(("_elo", "_rank")) for gap in gaps]
    found = {}
    for name in {row.benchmark for row in rows}:
        others, own = of_others[name], of_all[name]
        gaps = others if len(others) >= LEAST_PAIRS else own if not others and len(own) >= LEAST_OWN_PAIRS else pooled
        found[name] = (max(_quantile(gaps), LEAST_SPREAD), 0 if gaps is pooled else len(gaps))
    return found


def _quantile(gaps: list[float]) -> float:
    return sorted(gaps)[min(len(gaps) - 1, int(QUANTILE * len(gaps)))]


def name_work(source: str) -> str:
    """Return the source as `work:path in the work`, which the notice cuts at the colon."""
    if source.startswith("BenchLM"):
        return "benchlm.ai:models.json" + source.removeprefix("BenchLM models.json")
    spelled = source.replace("llm-leaderboard:", "llm-leaderboard (CC BY 4.0):")
    spelled = re.sub(r"^([\w.-]+/[\w.-]+) (?=\S)", r"\1:", spelled)
    return re.sub(r"^((?:DeepSeek|Qwen|Gemma|NVIDIA)\S*(?: \d)? model card) ", r"\1:", spelled)


def build_line(cell: Cell, rows: list[ScoreRow], spread: float) -> dict[str, object]:
    usable = usable_rows(rows)
    best, scores = usable[0], [row.score for row in usable]
    low, high = min(scores), max(scores)
    if low == high:
        low, high = low - spread, high + spread
        if best.score <= 1:
            low, high = max(low, LEAST_SHARE), min(high, MOST_SHARE)
        if cell[2].endswith("_rank"):
            low = max(low, 1.0)
    table, model, benchmark = cell
    stated = {name: getattr(best, name) for name in COLUMNS if hasattr(best, name)}
    figures = {"score": best.score, "low": min(low, best.score), "high": max(high, best.score)}
    rounded = {name: f"{figure:.5g}" for name, figure in figures.items()}
    rounded["source"] = name_work(best.source)
    return {**stated, **rounded, "model_id": model, "table": table, "benchmark": benchmark, "rows": len(usable)}


def write_spreads(path: Path, spreads: dict[str, tuple[float, int]]) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        spread, line["pairs"] = (str(part) for part in spreads.get(line["id"], ("", 0)))
        line["spread"] = f"{float(spread):.3g}" if spread else ""
    write_table(path, tuple(lines[0]), lines)


def write_table(path: Path, columns: tuple[str, ...], lines: list[dict[str, object]] | list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=DATA)
    options = parser.parse_args()
    catalog, rows = load_catalog(), read_scores(options.scores)
    models = {("open", name) for name in catalog.models}
    models |= {("hosted", row.id) for row in catalog.hosted if not row.scores_of}
    spreads = measure_spreads(rows)
    chosen = select_rows(rows, frozenset(catalog.benchmark_table), frozenset(models))
    lines = [build_line(cell, of_cell, spreads[cell[2]][0]) for cell, of_cell in sorted(chosen.cells.items())]
    write_table(options.output / TABLE, COLUMNS, lines)
    write_spreads(options.output / BENCHMARKS, spreads)
    print(f"{len(lines)} cells of {len({cell[:2] for cell in chosen.cells})} models")
    for reason, count in sorted(chosen.left_out.items()):
        print(f"left out, {reason}: {count}")


if __name__ == "__main__":
    main()
