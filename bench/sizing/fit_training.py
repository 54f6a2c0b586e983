"""Fits and validates the training predictor (sizing/training/token_throughput.py). Development only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.sizing import fitting
from bench.sizing.fitting import Coefficients
from bench.sizing.validation import Residual

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.contract.estimate import Estimate
from archwright.sizing import benchmark_reader
from archwright.sizing.inference import serving_prediction
from archwright.sizing.step_time import boosted_trees, extrapolation, fitted_tables
from archwright.sizing.training import token_throughput

FIXED = {"eager": 1.15}
FREE = {
    "e": (0.7, 0.3),
    "ea": (0.5, 0.5),
    "d0": (100.0, 1.0),
    "act": (60.0, 0.7),
    "gather": (1.0, 1.0),
    "ex": (8.0, 0.7),
    "moe": (2.0, 0.5),
    "format.fp8": (1.2, 0.3),
}
SCALE = 0.05
TREES = {"n_estimators": 150, "num_leaves": 6, "learning_rate": 0.06}


class Row(NamedTuple):
    job: token_throughput.TrainingJob
    token_s: float
    cells: dict[str, str]
    figures: Estimate

    @property
    def model(self) -> str:
        return serving_prediction.model_identity(self.job.model)

    @property
    def configuration(self) -> str:
        return str(fitting.fold_of(f"{self.cells['parallelism']} | {self.cells['framework']}"))


def read(path: Path) -> tuple[list[Row], int]:
    subjects, rows, left_out = BenchmarkNameResolver(Catalog(DATA)), [], 0
    for _, cells in benchmark_reader.read_rows(path):
        asked, _ = benchmark_reader.parse_training_query(cells)
        rate = benchmark_reader.read_number(cells, "tok_s_per_gpu", [])
        if not rate:
            left_out += 1
            continue
        job = token_throughput.resolve_training_job(asked, subjects)
        rows.append(Row(job, 1 / rate, cells, extrapolation.spec_uncertainty(job.accelerator, subjects.catalog)))
    return rows, left_out


def fit(rows: Sequence[Row]) -> Coefficients:
    own = [(row.job, math.log(row.token_s)) for row in rows]

    def errors(tried: Coefficients) -> list[float]:
        k = {**FIXED, **tried}
        return [math.log(token_throughput.seconds_per_token(job, k)) - measured for job, measured in own]

    return {**FIXED, **fitting.solved(FREE, errors, SCALE)}


def fit_trees(rows: Sequence[Row], k: Coefficients) -> tuple[boosted_trees.RegressionTree, ...]:
    residuals = [math.log(row.token_s / token_throughput.seconds_per_token(row.job, k)) for row in rows]
    return fitting.fit_trees(
        [token_throughput.extract_training_features(row.job) for row in rows], residuals, TREES, least=4
    )


STRATA: dict[str, Callable[[Row], str]] = {
    serving_prediction.SEEN: lambda row: row.configuration,
    serving_prediction.NEW_MODEL: lambda row: row.model,
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
                seconds = token_throughput.seconds_per_token(row.job, k) * math.exp(
                    boosted_trees.sum_trees(table, token_throughput.extract_training_features(row.job))
                )
                doubt = serving_prediction.BandWidening(
                    serving_prediction.WEAK_BAND_EXPONENT ** len(row.job.weak), row.figures
                )
                found.append(Out(row, "token_s", stratum, group, "", math.log(row.token_s / seconds), doubt))
    return found


def training_fit(
    path: Path, provenance: Callable[[Path, int, int, str], fitted_tables.FitProvenance]
) -> fitted_tables.FittedTable:
    from bench.sizing.fit import bands_of  # noqa: PLC0415

    rows, left_out = read(path)
    k = fit(rows)
    outs = [out for stratum in STRATA for out in out_of_fold(rows, stratum)]
    return fitted_tables.FittedTable(
        provenance=provenance(path, len(rows), left_out, "soft L1 of log ratios; trees L1"),
        coefficients={"token": {name: float(f"{value:.5g}") for name, value in sorted(k.items())}},
        residuals={"token": fit_trees(rows, k)},
        seen={
            "model": tuple(sorted({row.model for row in rows})),
            "accelerator": tuple(sorted({row.job.accelerator.id for row in rows})),
        },
        bands=tuple(bands_of(outs, list(STRATA))),
    )
