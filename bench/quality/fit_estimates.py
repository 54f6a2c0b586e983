"""Estimates of missing scores: `python -m bench.quality.fit_estimates --scores FILE`.

Fits the latent-factor model to one row per cell, and writes score_estimates.csv and the section of docs/accuracy.md. A
score of any licence class may be used in the fit; none is redistributed, and no estimate sees its own cell or another
table of the same benchmark: a cell with a score is predicted by a fit without a tenth of all cells, its own among them.
Bands are calibrated: the half-width is the 90 % quantile of |error| / standard deviation over the held-out cells.
A model predicted to be weaker than every model measured on a benchmark has no estimate there. A stronger one counts as
the strongest that was measured; its band has at least the low end of that model. If EDGE_SHARE of the models, the
strongest of a benchmark, are hidden together, the bands are widened until they hold 90 % of the hidden scores.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import Counter, defaultdict
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from bench.quality import latent_factors
from bench.quality.latent_factors import Matrix, Scale
from bench.quality.score_rows import family, group_cells, read_scores, usable_rows

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.tables.csv_table import DATA

TABLE = "score_estimates.csv"
SECTION = Path(__file__).parent / "accuracy.section.md"
ACCURACY = Path(__file__).parents[2] / "docs" / "accuracy.md"
COLUMNS = ("model", "table", "benchmark", "value", "low", "high", "scores_used", "method", "source", "as_of")
METHOD, BEYOND = "latent factors", "latent factors, beyond the models measured"
FOLDS, SEED = 10, 1
LEVEL = 0.9
HALVES = 200
# The share of strongest models that is hidden to calibrate the bands beyond a range.
EDGE_SHARE = 0.2
# A benchmark with fewer models, or a model with fewer scores, is left out of the fit.
LEAST_MODELS, LEAST_SCORES = 8, 3
# Vendors with fewer held-out cells on a benchmark have no coverage of their own.
LEAST_OF_VENDOR = 8

MAKERS = {
    "openai": ("gpt", "o"),
    "google": ("gemini", "gemma"),
    "mistral": ("mistral", "ministral", "mixtral", "open", "voxtral"),
    "zhipu": ("glm", "zai"),
}
ModelKey = tuple[str, str]


class ScoreTable(NamedTuple):
    """Scores as a matrix of models x benchmarks (nan if unknown), the newest date, and how many rows they are from."""

    models: list[ModelKey]
    benchmarks: list[str]
    scores: Matrix
    as_of: str
    rows: int


class Prediction(NamedTuple):
    """A predicted score on the standardised scale; `actual` is nan if it is unknown."""

    model: int
    benchmark: int
    actual: float
    mean: float
    deviation: float
    scores_used: int

    @property
    def miss(self) -> float:
        return abs(self.actual - self.mean) / self.deviation


def read_score_table(path: Path, catalog: Catalog) -> ScoreTable:
    """Read one score per cell; a hosted model whose scores are another model's counts as that model."""
    same = {row.id for row in catalog.hosted if row.scores_of} - {row.id for row in catalog.hosted if not row.scores_of}
    rows = [row for row in read_scores(path) if row.table == "open" or row.model not in same]
    cells = {cell: usable_rows(of_cell)[0] for cell, of_cell in group_cells(rows).items()}
    kept = {((cell[0], cell[1]), cell[2]): row.score for cell, row in cells.items()}
    before = 0
    while before != len(kept):
        before = len(kept)
        of_model, of_benchmark = Counter(model for model, _ in kept), Counter(name for _, name in kept)
        kept = {
            key: score
            for key, score in kept.items()
            if of_model[key[0]] >= LEAST_SCORES and of_benchmark[key[1]] >= LEAST_MODELS
        }
    models, benchmarks = sorted({model for model, _ in kept}), sorted({name for _, name in kept})
    scores = np.full((len(models), len(benchmarks)), np.nan)
    for (model, name), score in kept.items():
        scores[models.index(model), benchmarks.index(name)] = score
    return ScoreTable(models, benchmarks, scores, max(row.as_of for row in rows), len(rows))


def unit_of(benchmark: str) -> str:
    return "rank" if benchmark.endswith("_rank") else "rating" if "_elo" in benchmark else "share"


class Edge(NamedTuple):
    """The strongest models of a benchmark, hidden together: the share in the usual band, and the quantile they need."""

    inside: float
    quantile: float


class Estimator:
    """Predictions of the `targets` for every model, held out where the score is known."""

    def __init__(self, table: ScoreTable, targets: frozenset[str]) -> None:
        self.table = table
        self.scale = Scale.fit(table.scores, [unit_of(name) for name in table.benchmarks])
        self._standard = self.scale.standardise(table.scores)
        families = [family(name) for name in table.benchmarks]
        self._siblings = [[at for at, one in enumerate(families) if one == own] for own in families]
        self.targets = [at for at, name in enumerate(table.benchmarks) if name in targets]
        self.predictions = self._predict_all()
        self.quantiles = {on: conformal_quantile([one.miss for one in self.measured(on)]) for on in self.targets}

    def measured(self, benchmark: int) -> list[Prediction]:
        return [one for one in self.predictions if one.benchmark == benchmark and not np.isnan(one.actual)]

    @cached_property
    def ranges(self) -> dict[int, tuple[float, float]]:
        means = {on: [one.mean for one in self.measured(on)] for on in self.targets}
        return {on: (min(found), max(found)) for on, found in means.items()}

    def _predict_all(self) -> list[Prediction]:
        known = np.argwhere(~np.isnan(self._standard))
        np.random.default_rng(SEED).shuffle(known)
        found = []
        for fold in range(FOLDS):
            held = known[fold::FOLDS]
            rest = self._standard.copy()
            rest[held[:, 0], held[:, 1]] = np.nan
            model = latent_factors.fit_factors(rest)
            found += [self._predict(model, int(one), int(on)) for one, on in held if on in self.targets]
        whole = latent_factors.fit_factors(self._standard)
        empty = np.argwhere(np.isnan(self._standard))
        found += [self._predict(whole, int(one), int(on)) for one, on in empty if on in self.targets]
        return [one for one in found if one.scores_used >= LEAST_SCORES]

    def _predict(self, model: latent_factors.FactorModel, one: int, on: int) -> Prediction:
        """Predict a score from all scores of the model but those of the same benchmark's tables."""
        known = self._standard[one].copy()
        known[self._siblings[on]] = np.nan
        means, deviations = model.predict(known)
        used = int((~np.isnan(known)).sum())
        return Prediction(one, on, float(self._standard[one, on]), float(means[on]), float(deviations[on]), used)

    def band(self, one: Prediction) -> tuple[float, float, float]:
        """Return value, low and high in the benchmark's unit."""
        most = self.ranges[one.benchmark][1]
        factor = self.quantiles[one.benchmark] if one.mean <= most else self.edges[one.benchmark].quantile
        half, value = factor * one.deviation, min(one.mean, most)
        restored = [self.scale.restore(end, one.benchmark) for end in (value, value - half, one.mean + half)]
        return restored[0], min(restored), max(restored)

    def method_of(self, one: Prediction) -> str:
        """Return how the estimate was made, empty if there is none."""
        least, most = self.ranges[one.benchmark]
        if one.mean > most:
            return BEYOND
        return METHOD if one.mean >= least else ""

    @cached_property
    def edges(self) -> dict[int, Edge]:
        return {on: self._hide_strongest(sorted(self.measured(on), key=lambda one: one.mean)) for on in self.targets}

    def _hide_strongest(self, cells: list[Prediction]) -> Edge:
        count = max(1, round(EDGE_SHARE * len(cells)))
        hidden, most, scores = cells[-count:], cells[-count - 1].mean, self._standard.copy()
        scores[[one.model for one in hidden], hidden[0].benchmark] = np.nan
        model = latent_factors.fit_factors(scores)
        misses = []
        for one in hidden:
            again = self._predict(model, one.model, one.benchmark)
            least = min(again.mean, most) - one.actual
            misses.append(max(least, one.actual - again.mean) / again.deviation)
        usual = self.quantiles[hidden[0].benchmark]
        inside = float(np.mean([miss <= usual for miss in misses]))
        return Edge(inside, max(usual, conformal_quantile(misses)))


def conformal_quantile(misses: list[float]) -> float:
    ordered = sorted(misses)
    return ordered[min(len(ordered) - 1, int(np.ceil(LEVEL * (len(ordered) + 1))) - 1)]


def list_lines(estimator: Estimator) -> list[dict[str, str]]:
    table = estimator.table
    source = f"python -m bench.quality.fit_estimates: {table.rows} scores of {len(table.models)} models"
    lines = []
    for one in estimator.predictions:
        if not (method := estimator.method_of(one)):
            continue
        (kind, model), figures = table.models[one.model], estimator.band(one)
        digits = ".0f" if unit_of(table.benchmarks[one.benchmark]) == "rating" else ".3f"
        value, low, high = (format(figure, digits) for figure in figures)
        benchmark, used = table.benchmarks[one.benchmark], str(one.scores_used)
        cells = (model, kind, benchmark, value, low, high, used, method, source, table.as_of)
        lines.append(dict(zip(COLUMNS, cells, strict=True)))
    return sorted(lines, key=lambda line: (line["table"], line["model"].lower(), line["benchmark"]))


def vendor_of(model: str) -> str:
    """Return the maker of a model by the first word of its name; a maker with one family has the family's name."""
    family_name = re.split(r"[-\d.]", model.lower())[0]
    return next((maker for maker, names in MAKERS.items() if family_name in names), family_name)


class Coverage(NamedTuple):
    """Shares of held-out cells in the band when other cells calibrate it."""

    halves: float
    vendors: float
    worst: str


def measure_coverage(estimator: Estimator, cells: list[Prediction]) -> Coverage:
    """Calibrate on random halves of the models, and on the other vendors; score the rest."""
    misses = np.array([one.miss for one in cells])
    random = np.random.default_rng(SEED)
    halves = []
    for _ in range(HALVES):
        order = random.permutation(len(cells))
        first, second = order[: len(cells) // 2], order[len(cells) // 2 :]
        halves.append(float((misses[second] <= conformal_quantile(list(misses[first]))).mean()))
    by_vendor: dict[str, list[int]] = defaultdict(list)
    for at, one in enumerate(cells):
        by_vendor[vendor_of(estimator.table.models[one.model][1])].append(at)
    inside = np.zeros(len(cells), dtype=bool)
    for own in by_vendor.values():
        limit = conformal_quantile(list(np.delete(misses, own)))
        inside[own] = misses[own] <= limit
    rated = [
        (float(inside[own].mean()), name, len(own)) for name, own in by_vendor.items() if len(own) >= LEAST_OF_VENDOR
    ]
    worst = min(rated, default=(0.0, "", 0))
    return Coverage(
        float(np.mean(halves)), float(inside.mean()), f"{worst[1]} {worst[0]:.2f} of {worst[2]}" if rated else "-"
    )


def format_section(estimator: Estimator, lines: list[dict[str, str]]) -> str:
    table = estimator.table
    filled = float(np.isfinite(table.scores).mean())
    written = Counter(line["benchmark"] for line in lines)
    body = (Path(__file__).parent / "accuracy.template.md").read_text(encoding="utf-8").rstrip("\n")
    rows = []
    for on in estimator.targets:
        name, cells = table.benchmarks[on], estimator.measured(on)
        actual = np.array([estimator.scale.restore(one.actual, on) for one in cells])
        bands = np.array([estimator.band(one) for one in cells])
        error = bands[:, 0] - actual
        guess = float(np.abs(actual - np.median(actual)).mean())
        r2 = 1 - float((error**2).sum() / ((actual - actual.mean()) ** 2).sum())
        coverage = measure_coverage(estimator, cells)
        plain = float(np.mean([one.miss <= 1.645 for one in cells]))
        unit = (100.0, "{:.1f}") if unit_of(name) == "share" else (1.0, "{:.3g}")
        mean, median, width = (
            unit[1].format(figure * unit[0])
            for figure in (float(np.abs(error).mean()), guess, float(np.median(bands[:, 2] - bands[:, 1])))
        )
        rows.append(
            f"| {name} | {len(cells)} | {mean} | {median} | {r2:.2f} | {plain:.2f} | {coverage.halves:.2f} | "
            f"{coverage.vendors:.2f} | {coverage.worst} | {width} | "
            f"{estimator.edges[on].inside:.2f} | {written[name]} |"
        )
    parts = {
        "MODELS": str(len(table.models)),
        "BENCHMARKS": str(len(table.benchmarks)),
        "ROWS": str(table.rows),
        "FILLED": f"{filled:.0%}".replace("%", " %"),
        "OUTSIDE": str(len(estimator.predictions) - len(lines)),
        "BEYOND": str(sum(line["method"] == BEYOND for line in lines)),
        "WRITTEN": str(len(lines)),
        "TABLE": "\n".join(rows),
        "VENDORS": format_vendors(estimator),
    }
    for name, text in parts.items():
        body = body.replace(f"{{{name}}}", text)
    return body


def format_vendors(estimator: Estimator) -> str:
    """Return error and coverage by vendor over all benchmarks of shares, other vendors calibrating."""
    found: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for on in estimator.targets:
        if unit_of(estimator.table.benchmarks[on]) == "share":
            cells = estimator.measured(on)
            vendors = [vendor_of(estimator.table.models[one.model][1]) for one in cells]
            for vendor in set(vendors):
                limit = conformal_quantile([one.miss for one, of in zip(cells, vendors, strict=True) if of != vendor])
                for one, of in zip(cells, vendors, strict=True):
                    if of == vendor:
                        miss = estimator.band(one)[0] - estimator.scale.restore(one.actual, on)
                        found[vendor].append((miss, one.miss <= limit))
    return "\n".join(
        f"| {vendor} | {len(cells)} | {np.mean([abs(miss) for miss, _ in cells]) * 100:.1f} | "
        f"{np.mean([miss for miss, _ in cells]) * 100:+.1f} | {np.mean([inside for _, inside in cells]):.2f} |"
        for vendor, cells in sorted(found.items(), key=lambda item: -len(item[1]))
        if len(cells) >= 2 * LEAST_OF_VENDOR
    )


def replace_section(document: str, section: str) -> str:
    """Return the document with `section` in the place of the section of the same heading."""
    heading = section.split("\n", 1)[0]
    return re.sub(rf"^{re.escape(heading)}\n.*?(?=^## |\Z)", lambda _: section + "\n\n", document, flags=re.S | re.M)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=Path, required=True)
    options = parser.parse_args()
    catalog = load_catalog()
    targets = frozenset(row.id for row in catalog.benchmark_table.values() if row.estimated == "yes")
    estimator = Estimator(read_score_table(options.scores, catalog), targets)
    lines = list_lines(estimator)
    with (DATA / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    section = format_section(estimator, lines)
    SECTION.write_text(section + "\n", encoding="utf-8")
    ACCURACY.write_text(replace_section(ACCURACY.read_text(encoding="utf-8"), section), encoding="utf-8")
    print(section)


if __name__ == "__main__":
    main()
