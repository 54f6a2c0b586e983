"""Fits and validates the training predictor (sizing/training/token_throughput.py). Development only.

Rows that no fit may use are scored apart, with the reason: whole runs (their hours include more than steps), rows whose
source doubts them, and rows that compute more than LARGEST_SHARE of the device's stated rate.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy
from bench.sizing import fitting, validation
from bench.sizing.fitting import Coefficients
from bench.sizing.validation import Residual
from scipy.optimize import least_squares

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.contract.estimate import Estimate
from archwright.sizing import benchmark_reader
from archwright.sizing.inference import serving_prediction
from archwright.sizing.step_time import boosted_trees, fitted_tables
from archwright.sizing.training import token_throughput
from archwright.sizing.training.token_throughput import TokenTerms, TrainingJob

TABLES = ("training.csv", "training_more.csv")
# A coefficient's start, and how far its logarithm may wander.
FREE = {
    "e": (0.7, 0.3),
    "ea": (0.5, 0.5),
    "late": (0.5, 0.5),
    "d0": (100.0, 1.0),
    "moe": (1.2, 0.3),
    "x0": (500.0, 1.0),
    "narrow": (0.5, 0.3),
    "act": (5.0, 0.7),
    "adam": (1.0, 0.7),
    "launch": (100e-6, 0.3),
    "unpack": (6.0, 1.0),
    "gather": (1.0, 1.0),
    "ex": (8.0, 0.1),
    "send": (0.2, 0.4),
    "eager": (1.2, 0.1),
}
SCALE = 0.05
TREES = {"n_estimators": 150, "num_leaves": 6, "learning_rate": 0.06}
LARGEST_SHARE = 0.75
LEAST_OF_A_BAND = 8
LEAST_GROUPS = 8


CONFIGURATION_FOLDS = 8


class Row(NamedTuple):
    job: TrainingJob
    terms: TokenTerms
    token_s: float
    cells: dict[str, str]
    figures: Estimate
    table: str

    @property
    def model(self) -> str:
        return serving_prediction.model_identity(self.job.model)

    @property
    def configuration(self) -> str:
        text = f"{self.cells['parallelism']} | {self.cells['framework']}"
        return str(int(hashlib.sha256(text.encode()).hexdigest(), 16) % CONFIGURATION_FOLDS)

    @property
    def source(self) -> str:
        """The repository or page; one repository counts as one source."""
        name, _, rest = self.cells["source"].partition(":")
        return name if "/" in name else rest.strip()

    @property
    def regime(self) -> str:
        return token_throughput.classify_training_regime(self.job)

    @property
    def doubt(self) -> serving_prediction.BandWidening:
        """As a row is answered: what its cells do not state, and the figures of its device."""
        return serving_prediction.BandWidening(
            serving_prediction.WEAK_BAND_EXPONENT ** len(self.job.weak), self.figures
        )


class LeftOut(NamedTuple):
    row: Row
    reason: str


def read(folder: Path) -> tuple[list[Row], list[LeftOut]]:
    """The rows of both tables with a rate: those of the fit, and the others with the reason."""
    subjects, rows, left = BenchmarkNameResolver(Catalog(DATA)), [], []
    for table in TABLES:
        for _, cells in benchmark_reader.read_rows(folder / table):
            rate = benchmark_reader.read_number(cells, "tok_s_per_gpu", [])
            if not rate:
                continue
            if "+ packed dataset" in cells["note"]:  # the step before "+ compile" of a cumulative series
                cells["precision"] += " eager"
            asked, _ = benchmark_reader.parse_training_query(cells)
            job = token_throughput.resolve_training_job(asked, subjects)
            figures = subjects.catalog.estimate(job.accelerator, 1.0, "")
            row = Row(job, token_throughput.token_terms(job), 1 / rate, cells, figures, table)
            reason = doubted(row)
            if reason:
                left.append(LeftOut(row, reason))
            else:
                rows.append(row)
    return rows, left


def doubted(row: Row) -> str:
    """Why no fit may use a row; empty if it may."""
    job, cells = row.job, row.cells
    if cells["kind"] == "full_run":
        return "hours of a whole run"
    if cells["confidence"] == "low":
        return "doubted by its reader"
    if "(no packing)" in cells["note"]:
        return "padding counted"
    flops = token_throughput.FLOPS_ADAPTERS if job.adapters else token_throughput.FLOPS_FULL
    share = flops * job.active / row.token_s / max(job.rate, job.wide_rate)
    return f"more than {LARGEST_SHARE:.0%} of the device's rate" if share > LARGEST_SHARE else ""


def stack(rows: Sequence[Row]) -> TokenTerms:
    return TokenTerms(*numpy.array([row.terms for row in rows]).T)


def fit(rows: Sequence[Row]) -> Coefficients:
    """Robust least squares in logarithms. A row weighs 1 / sqrt(rows of its source and device)."""
    terms, measured = stack(rows), numpy.log([row.token_s for row in rows])
    alike = Counter((row.source, row.job.accelerator.id) for row in rows)
    weight = numpy.array([alike[row.source, row.job.accelerator.id] ** -0.5 for row in rows])
    weight *= len(rows) / weight.sum()
    start, spread = numpy.array([(math.log(at), wide) for at, wide in FREE.values()]).T

    def residuals(point: numpy.ndarray) -> numpy.ndarray:
        k = dict(zip(FREE, numpy.exp(point), strict=True))
        error = numpy.log(token_throughput.sum_terms(terms, k)) - measured
        soft = numpy.sign(error) * numpy.sqrt(2 * weight * (numpy.hypot(1, error / SCALE) - 1))
        return numpy.concatenate([soft, (point - start) / spread])

    found = least_squares(residuals, start, max_nfev=60)
    return {name: float(value) for name, value in zip(FREE, numpy.exp(found.x), strict=True)}


def fit_trees(rows: Sequence[Row], k: Coefficients) -> tuple[boosted_trees.RegressionTree, ...]:
    residuals = [math.log(row.token_s / token_throughput.sum_terms(row.terms, k)) for row in rows]
    seen = [token_throughput.extract_training_features(row.job, k) for row in rows]
    return fitting.fit_trees(seen, residuals, TREES, least=4)


STRATA: dict[str, Callable[[Row], str]] = {
    serving_prediction.SEEN: lambda row: row.configuration,
    serving_prediction.NEW_MODEL: lambda row: row.model,
    serving_prediction.NEW_SOURCE: lambda row: row.source,
    serving_prediction.NEW_ACCELERATOR: lambda row: row.job.accelerator.id,
}
Out = Residual[Row]


def out_of_fold(rows: Sequence[Row], stratum: str) -> list[Out]:
    group_of, found = STRATA[stratum], []
    for group in sorted({group_of(row) for row in rows}):
        kept = [row for row in rows if group_of(row) != group]
        k = fit(kept)
        table = () if stratum == serving_prediction.NEW_ACCELERATOR else fit_trees(kept, k)
        for row in rows:
            if group_of(row) == group:
                features = token_throughput.extract_training_features(row.job, k)
                centre = math.log(token_throughput.sum_terms(row.terms, k)) + boosted_trees.sum_trees(table, features)
                residual = math.log(row.token_s) - centre
                found.append(Out(row, "token_s", stratum, group, row.regime, residual, row.doubt))
    return found


def band(outs: Sequence[Out]) -> tuple[float, float]:
    """Factors (low, high) on a prediction, without the widening of weak rows; conformal as in validation.band.

    With few groups both sides are equal, because a new group may err the other way."""
    groups = len({out.group for out in outs})
    tail = (1 - validation.LEVEL) / 2 * (1 - 1 / max(groups, 2))
    errors = [out.residual / out.doubt.widen for out in outs]
    if groups < LEAST_GROUPS:
        errors += [-error for error in errors]
    beyond = (1 - tail) * (1 + 1 / len(outs))
    low, high = (validation.quantile(errors, min(max(share, 0.0), 1.0)) for share in (1 - beyond, beyond))
    return math.exp(min(low, -0.02)), math.exp(max(high, 0.02))


def check_inside(out: Out, outs: Sequence[Out]) -> tuple[bool, float]:
    """True if the row lies in the band that the other groups of its regime give; and the band's half-width."""
    others = [other for other in outs if other.regime == out.regime and other.group != out.group]
    low, high = out.doubt.combine_bands([band(others)])
    return low <= math.exp(out.residual) <= high, math.sqrt(high / low)


def bands_of(outs: Sequence[Out]) -> list[fitted_tables.ConformalBand]:
    """A band per stratum and regime; the whole stratum's comes last."""
    made = []
    for stratum in STRATA:
        whole = [out for out in outs if out.stratum == stratum]
        for regime in (*sorted({out.regime for out in whole}), "any"):
            own = [out for out in whole if regime in (out.regime, "any")]
            if len(own) >= LEAST_OF_A_BAND:
                low, high = (round(end, 4) for end in band(own))
                error = round(validation.median_error(own), 4)
                made.append(
                    fitted_tables.ConformalBand(
                        metric="token_s",
                        stratum=stratum,
                        regime=regime,
                        low=low,
                        high=high,
                        rows=len(own),
                        median_error=error,
                    )
                )
    return made


def training_fit(
    folder: Path, provenance: Callable[[Sequence[Path], int, int, str], fitted_tables.FitProvenance]
) -> fitted_tables.FittedTable:
    rows, left = read(folder)
    k = fit(rows)
    outs = [out for stratum in STRATA for out in out_of_fold(rows, stratum)]
    paths = [folder / table for table in TABLES]
    return fitted_tables.FittedTable(
        provenance=provenance(paths, len(rows), len(left), "soft L1 of log ratios; trees L1"),
        coefficients={"token": {name: float(f"{value:.5g}") for name, value in sorted(k.items())}},
        residuals={"token": fit_trees(rows, k)},
        seen={
            "model": tuple(sorted({row.model for row in rows})),
            "accelerator": tuple(sorted({row.job.accelerator.id for row in rows})),
            "framework": tuple(sorted({row.job.framework for row in rows} - {""})),
            "regime": tuple(sorted({f"{row.regime} {row.job.format}" for row in rows})),
        },
        bands=tuple(bands_of(outs)),
    )
