"""Fits local engines on graphics cards, Macs and APUs: `python -m bench.sizing.local_devices TRUTH [--write]`.

TRUTH holds local.csv with the columns of `archwright accuracy`; its rows stay there. Trees are fitted on the residual
of the serving fit's physics. Scores leave out each eighth of the devices, and each eighth of the models. Bands are the
5 and 95 % quantiles of these errors by maker. Prompts behind a filled cache are left out: no column states its depth.
`--write` replaces catalog/data/fits/local_devices.json.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
from bench.sizing.fit import LICENCE
from bench.sizing.fitting import fit_trees
from bench.sizing.validation import quantile, quantile_band

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.errors import CatalogError
from archwright.sizing import benchmark_reader
from archwright.sizing.inference import local_devices, serving_prediction
from archwright.sizing.inference.local_devices import METRICS, LocalDeployment
from archwright.sizing.step_time.boosted_trees import RegressionTree, sum_trees
from archwright.sizing.step_time.extrapolation import HOST_KIND
from archwright.sizing.step_time.fitted_tables import ConformalBand, FitProvenance, FittedTable, load_table

FILE = "local.csv"
FILLED_CACHE = "depth"
# Servers' engines have their own fit.
SERVERS = ("vllm", "sglang")
FOLDS = 8
LEAST_ROWS = 40
TREES = {"n_estimators": 200, "num_leaves": 12, "learning_rate": 0.05}
LEAST_IN_LEAF = 15
TAIL = 0.05


class Row(NamedTuple):
    """One measured time, and the physics' mean of it, in seconds."""

    deployment: LocalDeployment
    metric: str
    mean_s: float
    seconds: float

    @property
    def residual(self) -> float:
        return math.log(self.seconds / self.mean_s)


class Miss(NamedTuple):
    """Logarithm of measured over predicted time."""

    row: Row
    log: float


def read_truth(path: Path, subjects: BenchmarkNameResolver) -> tuple[list[Row], int]:
    """Return the rows to fit, and how many rows of the file are not used."""
    rows: list[Row] = []
    left_out = 0
    for _, cells in benchmark_reader.read_rows(path):
        usable = list(read_row(cells, subjects))
        rows += usable
        left_out += not usable
    return rows, left_out


def read_row(cells: Mapping[str, str], subjects: BenchmarkNameResolver) -> Iterator[Row]:
    query, _ = benchmark_reader.parse_serving_query(cells)
    try:
        if subjects.accelerator(query.accelerator).kind == HOST_KIND:
            return
        resolved = serving_prediction.resolve_deployment(query, subjects)
    except CatalogError:
        return
    deployment = serving_prediction.describe_local_deployment(resolved)
    if resolved.case.engine in SERVERS or resolved.case.load not in local_devices.LOADS:
        return
    means = serving_prediction.predict_means(resolved, load_table("serving"), serving_prediction.NEW_BOTH)
    for metric, mean_s in zip(METRICS, means, strict=True):
        measured_ms = benchmark_reader.read_number(cells, f"{metric}_ms", [])
        hidden = metric == "ttft" and FILLED_CACHE in cells["note"]
        if measured_ms and mean_s > 0 and not hidden:
            yield Row(deployment, metric, mean_s, measured_ms / 1e3)


def list_names(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    engines = {row.deployment.case.engine for row in rows}
    vendors = {row.deployment.accelerator.vendor for row in rows}
    return {"engine": tuple(sorted(engines)), "vendor": tuple(sorted(vendors))}


def fit_rows(rows: Sequence[Row], names: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[RegressionTree, ...]]:
    """Return the trees by metric."""
    trees = {}
    for metric in METRICS:
        own = [row for row in rows if row.metric == metric]
        features = [local_devices.list_features(row.deployment, row.mean_s, names) for row in own]
        trees[metric] = fit_trees(features, [row.residual for row in own], TREES, LEAST_IN_LEAF)
    return trees


def leave_groups_out(rows: Sequence[Row], name_of: Callable[[Row], str]) -> list[Miss]:
    names = list_names(rows)
    folds: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        digest = hashlib.sha256(name_of(row).encode()).hexdigest()
        folds[int(digest, 16) % FOLDS].append(row)
    misses: list[Miss] = []
    for number, members in sorted(folds.items()):
        others = [row for other, own in folds.items() if other != number for row in own]
        trees = fit_rows(others, names)
        for row in members:
            features = local_devices.list_features(row.deployment, row.mean_s, names)
            misses.append(Miss(row, row.residual - sum_trees(trees[row.metric], features)))
    return misses


def select_misses(misses: Sequence[Miss], metric: str, vendor: str) -> list[Miss]:
    """Return the misses of a maker's devices; of all makers if they are few."""
    own = [miss for miss in misses if miss.row.metric == metric]
    made = [miss for miss in own if miss.row.deployment.accelerator.vendor == vendor]
    return made if len(made) >= LEAST_ROWS else own


def find_bands(
    devices: Sequence[Miss], models: Sequence[Miss], vendors: Sequence[str]
) -> dict[tuple[str, str], ConformalBand]:
    """Return a band per metric and maker, of devices left out and of both; each end is the wider one's."""
    bands: dict[tuple[str, str], ConformalBand] = {}
    for metric, vendor in itertools.product(METRICS, vendors):
        own = select_misses(devices, metric, vendor)
        pooled = select_misses([*devices, *models], metric, vendor)
        ends = [quantile_band([miss.log for miss in members], TAIL) for members in (own, pooled)]
        bands[metric, vendor] = ConformalBand(
            metric=f"{metric}_s",
            stratum=vendor,
            regime="any",
            low=round(min(low for low, _ in ends), 4),
            high=round(max(high for _, high in ends), 4),
            rows=len(own),
            median_error=round(median(abs(math.expm1(-miss.log)) for miss in own), 4),
        )
    return bands


def format_scores(title: str, misses: Sequence[Miss], bands: Mapping[tuple[str, str], ConformalBand]) -> str:
    groups: dict[tuple[str, str], list[Miss]] = defaultdict(list)
    for miss in misses:
        vendor = miss.row.deployment.accelerator.vendor
        groups[miss.row.metric, ""].append(miss)
        groups[miss.row.metric, vendor].append(miss)
    lines = [title]
    for (metric, vendor), members in sorted(groups.items()):
        errors = [abs(math.expm1(-miss.log)) for miss in members]
        physics = [abs(math.expm1(-miss.row.residual)) for miss in members]
        inside = sum(holds(miss, bands) for miss in members) / len(members)
        shares = f"{100 * quantile(errors, 0.5):5.1f} % p90 {100 * quantile(errors, 0.9):5.1f} %"
        lines.append(
            f"  {metric} {vendor:10} {len(members):5} {shares} physics {100 * median(physics):5.1f} % in {inside:.0%}"
        )
    return "\n".join(lines) + "\n"


def holds(miss: Miss, bands: Mapping[tuple[str, str], ConformalBand]) -> bool:
    band = bands[miss.row.metric, miss.row.deployment.accelerator.vendor]
    return band.low <= math.exp(miss.log) <= band.high


def main() -> None:
    path = Path(sys.argv[1]) / FILE
    rows, left_out = read_truth(path, BenchmarkNameResolver(Catalog(DATA)))
    names = list_names(rows)
    devices = leave_groups_out(rows, lambda row: row.deployment.accelerator.id)
    models = leave_groups_out(rows, lambda row: row.deployment.model.id)
    bands = find_bands(devices, models, names["vendor"])
    sys.stdout.write(format_scores("device left out", devices, bands))
    sys.stdout.write(format_scores("model left out", models, bands))
    if "--write" in sys.argv:
        provenance = FitProvenance(
            file=FILE,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            rows_used=len(rows),
            rows_left_out=left_out,
            date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            command="python -m bench.sizing.local_devices TRUTH --write",
            licence=LICENCE,
            loss="L1 of log ratios",
        )
        trees = fit_rows(rows, names)
        bands_used = tuple(bands.values())
        table = FittedTable(provenance=provenance, coefficients={}, residuals=trees, seen=names, bands=bands_used)
        (DATA / "fits" / f"{local_devices.TABLE}.json").write_bytes(msgspec.json.encode(table) + b"\n")


if __name__ == "__main__":
    main()
