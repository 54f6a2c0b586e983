"""Fits the serving predictor's coefficients and residual trees to measured rows. Development only: scipy, lightgbm.

A coefficient is free (a start and how far its logarithm may wander) or fixed: those that fitted worse left out than
fixed were fixed, judged by grouped cross-validation of the stratum that uses them (docs/accuracy.md).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightgbm
import numpy
from scipy.optimize import least_squares

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.sizing import benchmark_reader
from archwright.sizing.inference import serving_prediction
from archwright.sizing.step_time import step_time_model
from archwright.sizing.step_time.boosted_trees import RegressionTree
from archwright.sizing.step_time.residual_features import extract_features

Coefficients = dict[str, float]

TPOT_FIXED = {
    "p": 3.0,
    "el": 0.5,
    "seq": 2e-5,
    "compute.fp8": 1.4,
    "compute.fp4": 2.0,
    "compute.int8": 1.4,
    "pool": 1.0,
}
TPOT_FREE = {
    "em": (0.8, 0.3),
    "ec": (0.7, 0.5),
    "o": (30e-6, 1.0),
    "o_tp": (6e-6, 1.0),
    "routed": (1.5e4, 1.0),
    "attention.mla": (10e-6, 1.0),
    "attention.hybrid_linear": (30e-6, 1.0),
    "attention.dsa": (50e-6, 1.0),
    "epf": (0.6, 0.5),
    "opf": (60e-6, 1.0),
    "engine.vllm": (1.0, 0.2),
    "format.int4": (1.0, 0.25),
    "compute.int4": (1.2, 0.4),
}
TTFT_FIXED = {"pe": 4.0, "epf": 0.5, "em": 0.5, "elp": 0.5, "t0": 0.01, "kq": 1.0, "engine.sglang": 1.5}
TTFT_FREE = {
    "compute.fp8": (1.4, 0.1),
    "compute.fp4": (1.5, 0.1),
    "compute.int4": (1.0, 0.1),
    "ks": (1.5, 0.7),
    "kb": (0.3, 1.0),
    "engine.vllm": (1.0, 0.5),
}
POOL_FREE = {"p_t0": (0.3, 1.0), "p_kb": (0.3, 1.0)}
TREES = {"n_estimators": 200, "num_leaves": 16, "learning_rate": 0.07}


class Row(NamedTuple):
    """A measured row: what is asked (`found`) and what was measured, in seconds or tokens/s."""

    id: str
    found: serving_prediction.ResolvedDeployment
    tpot_s: float | None
    ttft_s: float | None
    tokens_per_s: float | None
    cells: dict[str, str]
    seen: list[float]

    @property
    def model(self) -> str:
        return serving_prediction.model_identity(self.found.model)

    @property
    def accelerator(self) -> str:
        return self.found.accelerator.id

    @property
    def configuration(self) -> str:
        return f"{self.cells['parallelism']} | {self.cells['engine']}"

    @property
    def pooled(self) -> bool:
        return self.found.case.prefill_ranks > 0


def read(path: Path) -> tuple[list[Row], int]:
    """Rows whose model and accelerator are known by name, and how many others there were."""
    subjects, rows, left_out = BenchmarkNameResolver(Catalog(DATA)), [], 0
    for _, cells in benchmark_reader.read_rows(path):
        if "unnamed" in cells["accelerator"]:
            left_out += 1
            continue
        asked, _ = benchmark_reader.parse_serving_query(cells)
        found = serving_prediction.resolve_deployment(asked, subjects)
        measured = {
            name: benchmark_reader.read_number(cells, name, []) for name in ("tpot_ms", "ttft_ms", "throughput_tok_s")
        }
        tpot, ttft = measured["tpot_ms"], measured["ttft_ms"]
        seen = extract_features(found.case, found.worker, found.device, asked.engine, FAMILIES)
        row = Row(
            cells["row_id"], found, tpot and tpot / 1e3, ttft and ttft / 1e3, measured["throughput_tok_s"], cells, seen
        )
        rows.append(row)
    return rows, left_out


FAMILIES = ("trtllm", "vllm", "sglang")


def loops(rows: Sequence[Row]) -> list[Row]:
    """Closed-loop rows with both latencies, what coefficients and trees are fitted on."""
    return [row for row in rows if row.tpot_s and row.ttft_s and row.cells["scenario"].startswith("fixed_concurrency")]


def fold_of(group: str, folds: int = 8) -> int:
    return int(hashlib.sha256(group.encode()).hexdigest(), 16) % folds


def solved(
    free: dict[str, tuple[float, float]], errors: Callable[[Coefficients], list[float]], scale: float
) -> Coefficients:
    """Robust least squares (soft L1 at `scale`) in logarithms, each coefficient held to its start by its spread."""
    names = list(free)
    start = [math.log(free[name][0]) for name in names]

    def residuals(point: Any) -> list[float]:
        tried = {name: math.exp(value) for name, value in zip(names, point, strict=True)}
        soft = [math.copysign(math.sqrt(2 * (math.hypot(1, error / scale) - 1)), error) for error in errors(tried)]
        held = [(value - at) / free[name][1] for name, value, at in zip(names, point, start, strict=True)]
        return soft + held

    found = least_squares(residuals, start, max_nfev=60)
    return {name: math.exp(value) for name, value in zip(names, found.x, strict=True)}


def fit_tpot(rows: Sequence[Row]) -> Coefficients:
    own = [(row.found.case, math.log(row.tpot_s)) for row in loops(rows) if not row.pooled]  # type: ignore[arg-type]

    def errors(tried: Coefficients) -> list[float]:
        k = {**TPOT_FIXED, **tried}
        return [math.log(step_time_model.mean_tpot_s(case, k)) - measured for case, measured in own]

    k = {**TPOT_FIXED, **solved(TPOT_FREE, errors, 0.1)}
    apart = [math.log(row.tpot_s / step_time_model.mean_tpot_s(row.found.case, k)) for row in loops(rows) if row.pooled]  # type: ignore[operator]
    if apart:
        k["pool"] = math.exp(sorted(apart)[len(apart) // 2])
    return k


def fit_ttft(rows: Sequence[Row], tpot: Coefficients) -> Coefficients:
    ready = [
        (
            row.found.case,
            step_time_model.decode_step_s(row.found.case, tpot),
            step_time_model.mean_tpot_s(row.found.case, tpot),
            math.log(row.ttft_s),  # type: ignore[arg-type]
        )
        for row in loops(rows)
    ]

    def errors(fixed: Coefficients, pooled: bool) -> Callable[[Coefficients], list[float]]:
        own = [item for item in ready if (item[0].prefill_ranks > 0) == pooled]

        def of(tried: Coefficients) -> list[float]:
            k = {**fixed, **tried}
            return [
                math.log(step_time_model.mean_ttft_s(case, k, step, pace)) - measured
                for case, step, pace, measured in own
            ]

        return of

    start = {name: value for name, (value, _) in POOL_FREE.items()}
    k = {**TTFT_FIXED, **start, **solved(TTFT_FREE, errors({**TTFT_FIXED, **start}, False), 0.3)}
    return {**k, **solved(POOL_FREE, errors(k, True), 0.3)}


def fit_tables(rows: Sequence[Row], tpot: Coefficients, ttft: Coefficients) -> dict[str, tuple[RegressionTree, ...]]:
    """Residual trees by name, as the predictor asks for them: those of TPOT apart for disaggregated rows."""
    own = loops(rows)
    centres = {row.id: physics(row, tpot, ttft) for row in own}
    made = {}
    for name, part in (
        ("tpot", [row for row in own if not row.pooled]),
        ("tpot.pool", [row for row in own if row.pooled]),
    ):
        paces = [math.log(row.tpot_s / centres[row.id][0]) for row in part]  # type: ignore[operator]
        made[name] = fit_trees([row.seen for row in part], paces) if part else ()
    firsts = [math.log(row.ttft_s / centres[row.id][1]) for row in own]  # type: ignore[operator]
    return {**made, "ttft": fit_trees([row.seen for row in own], firsts)}


def physics(row: Row, tpot: Coefficients, ttft: Coefficients) -> tuple[float, float]:
    case = row.found.case
    pace = step_time_model.mean_tpot_s(case, tpot)
    return pace, step_time_model.mean_ttft_s(case, ttft, step_time_model.decode_step_s(case, tpot), pace)


def fit_trees(
    seen: list[list[float]], residuals: list[float], size: dict[str, float] = TREES, least: int = 8
) -> tuple[RegressionTree, ...]:
    model = lightgbm.LGBMRegressor(
        **size,
        min_child_samples=least,
        reg_lambda=5,
        objective="l1",
        subsample=0.8,
        subsample_freq=1,
        colsample_bytree=0.7,
        random_state=1,
        deterministic=True,
        force_row_wise=True,
        n_jobs=1,
        verbose=-1,
    )
    model.fit(numpy.array(seen), numpy.array(residuals))
    return tuple(_table(tree["tree_structure"]) for tree in model.booster_.dump_model()["tree_info"])


def _table(root: dict[str, Any]) -> RegressionTree:
    feature: list[int] = []
    threshold, value = [], []
    left: list[int] = []
    right: list[int] = []

    def add(node: dict[str, Any]) -> int:
        at = len(feature)
        leaf = "leaf_value" in node
        feature.append(-1 if leaf else int(node["split_feature"]))
        threshold.append(0.0 if leaf else float(f"{node['threshold']:.6g}"))
        value.append(float(f"{node['leaf_value']:.4g}") if leaf else 0.0)
        left.append(0)
        right.append(0)
        if not leaf:
            left[at], right[at] = add(node["left_child"]), add(node["right_child"])
        return at

    add(root)
    return RegressionTree(
        feature=tuple(feature), threshold=tuple(threshold), left=tuple(left), right=tuple(right), value=tuple(value)
    )
