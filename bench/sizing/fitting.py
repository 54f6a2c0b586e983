"""Fits the serving predictor's coefficients and residual trees to measured rows. Development only: numpy, lightgbm.

A coefficient is free (a start and how far its logarithm may wander) or fixed: those that fitted worse left out than
fixed were fixed, judged by grouped cross-validation of the stratum that uses them (docs/accuracy.md). Rows of one
device, source and kind of load err alike, so a cell of them weighs at most as a stated number of rows.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import lightgbm
import numpy
from numpy.typing import NDArray

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.sizing import benchmark_reader
from archwright.sizing.inference import serving_prediction
from archwright.sizing.step_time import extrapolation, step_time_model
from archwright.sizing.step_time.boosted_trees import RegressionTree
from archwright.sizing.step_time.residual_features import extract_features
from archwright.sizing.step_time.step_time_model import StepTimeInputs

Coefficients = dict[str, float]
Free = dict[str, tuple[float, float]]
Array = NDArray[numpy.float64]

TABLES = ("inference.csv", "inference_more.csv")
FAMILIES = (
    *("trtllm", "vllm", "sglang", "trtllm-2024", "vllm-2024", "llamacpp", "lmdeploy", "deepspeed"),
    *("gaudi", "neuron", "tpu", "transformers", "mlx", "tgi", "other"),
)
LOADS = (
    *(step_time_model.CLOSED, step_time_model.BURST, step_time_model.OPEN, step_time_model.SINGLE),
    *(step_time_model.BARE, step_time_model.STATIC, step_time_model.OFFLINE),
)
GGUF = ("q4", "q5", "q6", "q8")
# Stacked inputs name a coefficient by the dimension that its label is of.
DIMENSIONS = {
    **dict.fromkeys(("engine", "em", "o", "epf"), "engine"),
    **dict.fromkeys(("compute", "format"), "format"),
    **dict.fromkeys(("device", "launch"), "device"),
    **dict.fromkeys(("t0", "ks", "kb"), "load"),
    **dict.fromkeys(("o_tp", "el", "elp"), "link"),
}
WORDS = ("mla", "hybrid_linear", "dsa")

TPOT_FIXED = {"compute.fp8": 1.4, "compute.fp4": 2.0, "compute.int8": 1.4, "pool": 1.0}
TPOT_FREE: Free = {
    "em": (0.8, 0.3),
    "ec": (0.7, 0.5),
    "o": (30e-6, 1.0),
    "o_tp.own": (6e-6, 1.0),
    "o_tp.bus": (20e-6, 1.0),
    "el.own": (0.5, 0.5),
    "el.bus": (0.5, 0.5),
    "fixed": (3e-4, 1.0),
    "seq": (2e-5, 1.0),
    "routed": (1.5e4, 1.0),
    "attention.mla": (10e-6, 1.0),
    "attention.hybrid_linear": (30e-6, 1.0),
    "attention.dsa": (50e-6, 1.0),
    "epf": (0.6, 0.5),
    "opf": (60e-6, 1.0),
    "engine.vllm": (1.0, 0.2),
    **{f"engine.{name}": (1.0, 0.3) for name in ("vllm-2024", "trtllm-2024", "lmdeploy", "gaudi", "tpu", "other")},
    "engine.deepspeed": (1.0, 0.5),
    "engine.neuron": (3.0, 1.0),
    "epf.trtllm-2024": (1.0, 0.3),
    "epf.vllm-2024": (1.0, 0.3),
    "em.llamacpp": (1.0, 0.3),
    "o.llamacpp": (1.0, 1.0),
    "format.int4": (1.0, 0.25),
    "compute.int4": (1.2, 0.4),
    "format.nf4": (2.0, 0.5),
    "compute.nf4": (1.2, 0.4),
    **{f"format.{name}": (1.0, 0.3) for name in GGUF},
}
# The spread of a device class: a class with few rows stays near 1.
TPOT_CLASSES = {"device": 0.1, "launch": 0.3}
CLOSED_FIXED = {"pe": 4.0, "epf": 0.5, "em": 0.5, "elp.own": 0.5, "elp.bus": 0.5, "launch": 0.0, "kq": 1.0}
CLOSED_FIXED |= {"t0.closed": 0.01, "t0.burst": 0.01, "kb.burst": 0.1, "engine.sglang": 1.5}
CLOSED_FREE: Free = {
    "compute.fp8": (1.4, 0.1),
    "compute.fp4": (1.5, 0.1),
    "compute.int4": (1.0, 0.1),
    "ks.closed": (1.5, 0.7),
    "ks.burst": (1.5, 0.7),
    "kb.closed": (0.3, 1.0),
    "burst": (1.0, 0.5),
    "engine.vllm": (1.0, 0.5),
}
POOL_FREE: Free = {"p_t0": (0.3, 1.0), "p_kb": (0.3, 1.0)}
# A server adds about 5 ms to a prompt, and an evenly loaded one makes it wait for hardly any other.
SERVER_FIXED = {"pe": 4.0, "kq": 1.0, "ks.bare": 0.0, "ks.offline": 1.0}
SERVER_FREE: Free = {
    "epf": (0.5, 0.3),
    "em": (0.5, 0.5),
    "elp.own": (0.5, 0.5),
    "elp.bus": (0.3, 0.7),
    "launch": (5e-5, 1.0),
    "compute.fp8": (1.4, 0.1),
    "compute.fp4": (1.5, 0.1),
    "compute.int4": (1.0, 0.2),
    "compute.nf4": (1.0, 0.4),
    **{f"compute.{name}": (1.0, 0.3) for name in GGUF},
    **{f"t0.{load}": (0.005, 0.5) for load in ("open", "single", "static", "offline")},
    "t0.bare": (0.003, 1.0),
    "ks.open": (1.0, 0.5),
    "ks.single": (1.0, 0.5),
    "ks.static": (1.0, 0.5),
    "kb.open": (0.01, 0.5),
    "kb.static": (0.5, 0.5),
    "kb.offline": (0.5, 0.5),
    "engine.vllm": (1.0, 0.3),
    "engine.sglang": (1.0, 0.3),
    "engine.neuron": (10.0, 3.0),
    "epf.neuron": (0.5, 1.0),
    "epf.llamacpp": (1.0, 0.5),
    "epf.trtllm-2024": (1.0, 0.3),
}
SERVER_CLASSES = {"device": 0.2, "epf.llamacpp": 0.3}
TREES = {"n_estimators": 200, "num_leaves": 16, "learning_rate": 0.07}
# Columns of extract_features that neither name a model nor a device.
DIMENSIONLESS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 14)
FAR = f"ttft.closed.{serving_prediction.NEW_ACCELERATOR}"
TABLE_NAMES = ("tpot", "tpot.pool", "ttft", "ttft.pool", FAR)
SIZES: dict[str, Any] = {
    "ttft": ({**TREES, "n_estimators": 500, "learning_rate": 0.05},),
    FAR: ({**TREES, "learning_rate": 0.06}, 20),
}


class Row(NamedTuple):
    """A measured row: what is asked (`found`) and what was measured, in seconds or tokens/s."""

    id: str
    table: str
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
    def source(self) -> str:
        return self.cells["source"].split(":")[0]

    @property
    def configuration(self) -> str:
        return f"{self.cells['parallelism']} | {self.cells['engine']}"

    @property
    def load(self) -> str:
        return self.found.case.load

    @property
    def pooled(self) -> bool:
        return self.found.case.prefill_ranks > 0

    @property
    def step_s(self) -> float | None:
        """TPOT; of a row that states only the throughput of a full engine, its requests over it."""
        full = self.load in (step_time_model.STATIC, step_time_model.OFFLINE)
        if self.tpot_s or not full or not self.tokens_per_s:
            return self.tpot_s
        case = self.found.case
        return case.requests * case.ranks / self.tokens_per_s / self.found.beams

    @property
    def fitted(self) -> bool:
        """False for rows that say too little, and for GB200 in one pool, whose times contradict each other."""
        named = bool(self.cells["input_len"] or self.cells["output_len"])
        loaded = self.load != step_time_model.OPEN or bool(self.cells["concurrency_or_batch"])
        contradicts = self.accelerator == "GB200" and not self.pooled
        ambiguous = "ambiguous" in self.cells["note"] and self.load == step_time_model.OFFLINE
        return named and loaded and not contradicts and not ambiguous


def read(folder: Path) -> tuple[list[Row], int]:
    """Rows on accelerators that are known by name, and how many others there were."""
    subjects, rows, left_out = BenchmarkNameResolver(Catalog(DATA)), [], 0
    for table in TABLES:
        for _, stated in benchmark_reader.read_rows(folder / table):
            cells = state_load(stated)
            unnamed = "unnamed" in cells["accelerator"] or cells["scenario"] == "embedding_batch"
            if unnamed or subjects.accelerator(cells["accelerator"]).kind == extrapolation.HOST_KIND:
                left_out += 1
            else:
                rows.append(_parse_row(table, cells, subjects))
    return rows, left_out


def list_engine_vendors(rows: Iterable[Row]) -> tuple[str, ...]:
    found = (row.found for row in rows if row.found.case.engine != "other")
    return tuple(sorted({extrapolation.pair_engine(one.case.engine, one.accelerator) for one in found}))


def _parse_row(table: str, cells: dict[str, str], subjects: BenchmarkNameResolver) -> Row:
    asked, _ = benchmark_reader.parse_serving_query(cells)
    found = serving_prediction.resolve_deployment(asked, subjects)
    tpot, ttft, rate = (
        benchmark_reader.read_number(cells, name, []) for name in ("tpot_ms", "ttft_ms", "throughput_tok_s")
    )
    seen = extract_features(found.case, found.worker, found.device, asked.engine, FAMILIES)
    return Row(cells["row_id"], table, found, tpot and tpot / 1e3, ttft and ttft / 1e3, rate, cells, seen)


def state_load(cells: dict[str, str]) -> dict[str, str]:
    """Fill columns from a row's note: requests in flight, requests of the run, mean latencies beside p99."""
    cells, note = dict(cells), cells["note"]
    flight, requests = re.search(r"mean in flight ~ ([\d.]+)", note), re.search(r"[; ](\d+) prompts", f" {note}")
    if flight and not cells["concurrency_or_batch"]:
        cells["concurrency_or_batch"] = flight[1]
    if requests and "few: start-up" in note:
        cells["requests"] = requests[1]
    for name in ("ttft", "tpot"):
        mean = re.search(name + r" mean/p50=([\d.e+]+)/", note)
        if mean:
            cells[f"{name}_ms"], cells[f"{name}_stat"] = mean[1], "mean"
    return cells


class Stack:
    """Inputs of many rows as arrays, so that the formulas of the product run on all of them at once."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows, cases = rows, [row.found.case for row in rows]
        labels = {"engine", "format", "device", "load", "link"}
        self.codes = {
            name: numpy.unique([getattr(case, name) for case in cases], return_inverse=True) for name in labels
        }
        self.pairs = [f"{case.engine}.{case.device}" for case in cases]
        self.words = {word: numpy.array([float(word in case.attention) for case in cases]) for word in WORDS}
        numbers: dict[str, Any] = {
            name: numpy.array([float(getattr(case, name)) for case in cases])
            for name in StepTimeInputs._fields
            if name not in {*labels, "attention", "sparse", "prefill_ranks"}
        }
        names: dict[str, Any] = {**dict.fromkeys(labels, "*"), "attention": ("*",), "sparse": False, "prefill_ranks": 0}
        self.case = StepTimeInputs(**{**numbers, **names})

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def weights(self) -> Array:
        """Rows of each row's cell of device, source and load."""
        cells = [(row.accelerator, row.source, row.load) for row in self.rows]
        counts = Counter(cells)
        return numpy.array([float(counts[cell]) for cell in cells])

    def touches(self, name: str) -> tuple[str, Any]:
        """Return the block of a coefficient and the rows that it touches: labels of a block touch different rows."""
        prefix, _, label = name.partition(".")
        if "." in label:
            return "pairs", numpy.array([pair == label for pair in self.pairs])
        if prefix not in DIMENSIONS or not label:
            return name, slice(None)
        names, index = self.codes[DIMENSIONS[prefix]]
        return prefix, index == list(names).index(label) if label in names else numpy.zeros(len(self), bool)


class StackedCoefficients(dict[str, float]):
    """Coefficients of a stack: a name that ends with * is the array of every row's own coefficient."""

    def __init__(self, values: Mapping[str, float], stack: Stack) -> None:
        super().__init__(values)
        self._stack = stack

    def get(self, name: str, default: Any = None) -> Any:
        if not name.endswith("*"):
            return super().get(name, default)
        prefix = name.split(".")[0]
        if prefix == "attention":
            return sum(self[f"attention.{word}"] * rows for word, rows in self._stack.words.items())
        if name.count("*") > 1:
            known = {
                pair: super(StackedCoefficients, self).get(f"{prefix}.{pair}", default) for pair in self._stack.pairs
            }
            return numpy.array([known[pair] for pair in self._stack.pairs])
        names, index = self._stack.codes[DIMENSIONS[prefix]]
        return numpy.array([super(StackedCoefficients, self).get(f"{prefix}.{label}", default) for label in names])[
            index
        ]

    def __getitem__(self, name: str) -> Any:
        return self.get(name, math.nan) if name.endswith("*") else super().__getitem__(name)


def _logarithms(values: Iterable[float | None]) -> Array:
    return numpy.log([value for value in values if value])


Formula = Callable[[Coefficients], Array]


class Loss(NamedTuple):
    """Soft L1 at `scale` of logarithms; a cell of rows weighs at most as `most` rows."""

    scale: float
    most: float = math.inf


def solved(
    free: Free, formula: Formula, stack: Stack, measured: Array, by: Loss, start: Coefficients | None
) -> Coefficients:
    """Robust least squares in logarithms by Gauss-Newton; a start takes only a few steps.

    Each coefficient is held to its own start by its spread."""
    names = list(free)
    at = numpy.log([free[name][0] for name in names])
    held = 1 / numpy.array([free[name][1] for name in names]) ** 2
    point = at.copy() if start is None else numpy.log([start[name] for name in names])
    blocks: dict[str, list[tuple[int, Any]]] = {}
    for place, name in enumerate(names):
        block, rows = stack.touches(name)
        blocks.setdefault(block, []).append((place, rows))
    weights, scale = numpy.minimum(1.0, by.most / stack.weights), by.scale

    def errors(point: Array) -> Array:
        tried = dict(zip(names, numpy.exp(point).tolist(), strict=True))
        found: Array = numpy.log(formula(tried)) - measured
        return found

    def loss(error: Array, point: Array) -> float:
        soft = 2 * (numpy.hypot(1, error / scale) - 1)
        return float(numpy.sum(weights * soft) + numpy.sum(held * (point - at) ** 2))

    error, step = errors(point), 1e-4
    best = loss(error, point)
    for _ in range(25 if start is None else 5):
        slopes = numpy.zeros((len(stack), len(names)))
        for members in blocks.values():
            moved = point.copy()
            moved[[place for place, _ in members]] += step
            change = (errors(moved) - error) / step
            for place, rows in members:
                slopes[rows, place] = change[rows]
        weight = weights / numpy.hypot(1, error / scale) / scale**2
        curve = (slopes * weight[:, None]).T @ slopes + numpy.diag(held)
        towards = -numpy.linalg.solve(curve, slopes.T @ (weight * error) + held * (point - at))
        for share in (1.0, 0.5, 0.25, 0.1):
            moved = point + numpy.clip(share * towards, -1, 1)
            missed = errors(moved)
            if loss(missed, moved) < best:
                break
        else:
            break
        gained, best = best - loss(missed, moved), loss(missed, moved)
        point, error = moved, missed
        if gained < 1e-4 * best:
            break
    return dict(zip(names, numpy.exp(point).tolist(), strict=True))


def _with_classes(free: Free, spreads: Mapping[str, float], rows: Sequence[Row]) -> Free:
    classes = sorted({row.found.case.device for row in rows})
    return {**free, **{f"{name}.{label}": (1.0, spread) for name, spread in spreads.items() for label in classes}}


class Fit(NamedTuple):
    """Coefficients by target, as FittedTable has them."""

    tpot: Coefficients
    closed: Coefficients
    server: Coefficients

    @property
    def by_name(self) -> dict[str, Coefficients]:
        return {"tpot": self.tpot, "ttft.closed": self.closed, "ttft.server": self.server}


def fit_all(rows: Sequence[Row], start: Fit | None = None, classes: Sequence[Row] = ()) -> Fit:
    """Fit every coefficient; `classes`: rows whose device classes get coefficients (default: `rows`)."""
    tpot = fit_tpot(rows, start and start.tpot, classes or rows)
    return Fit(tpot, *(fit_ttft(rows, tpot, name, start, classes or rows) for name in ("closed", "server")))


def fit_tpot(rows: Sequence[Row], start: Coefficients | None, classes: Sequence[Row]) -> Coefficients:
    own = [row for row in rows if row.fitted and row.step_s and not row.pooled]
    stack, measured = Stack(own), _logarithms(row.step_s for row in own)

    def formula(tried: Coefficients) -> Array:
        k = StackedCoefficients({**TPOT_FIXED, **tried}, stack)
        found: Array = step_time_model.mean_tpot_s(stack.case, k)  # type: ignore[assignment]
        return found

    free = _with_classes(TPOT_FREE, TPOT_CLASSES, classes)
    k = {**TPOT_FIXED, **solved(free, formula, stack, measured, Loss(0.1, 30), start)}
    pooled = [(row.found.case, row.tpot_s) for row in rows if row.pooled and row.tpot_s]
    apart = [math.log(tpot / step_time_model.mean_tpot_s(case, k)) for case, tpot in pooled]
    if apart:
        k["pool"] = math.exp(sorted(apart)[len(apart) // 2])
    return k


def fit_ttft(
    rows: Sequence[Row], tpot: Coefficients, name: str, start: Fit | None, classes: Sequence[Row]
) -> Coefficients:
    closed = name == "closed"
    own = [row for row in rows if row.fitted and row.ttft_s and not row.pooled and (row.load in LOADS[:2]) == closed]
    stack, measured = Stack(own), _logarithms(row.ttft_s for row in own)
    steps = StackedCoefficients(tpot, stack)
    step, pace = step_time_model.decode_step_s(stack.case, steps), step_time_model.mean_tpot_s(stack.case, steps)
    fixed = CLOSED_FIXED if closed else SERVER_FIXED

    def formula(tried: Coefficients) -> Array:
        k = StackedCoefficients({**fixed, **tried}, stack)
        found: Array = step_time_model.mean_ttft_s(stack.case, k, step, pace)  # type: ignore[assignment]
        return found

    free = CLOSED_FREE if closed else _with_classes(SERVER_FREE, SERVER_CLASSES, classes)
    loss = Loss(0.3) if closed else Loss(0.2, 100)
    known = None if start is None else start.closed if closed else start.server
    k = {**fixed, **solved(free, formula, stack, measured, loss, known)}
    return {**k, **_fit_pool(rows, tpot, k, known)} if closed else k


def _fit_pool(rows: Sequence[Row], tpot: Coefficients, k: Coefficients, start: Coefficients | None) -> Coefficients:
    own = [row for row in rows if row.pooled and row.ttft_s]
    known = {name: value for name, (value, _) in POOL_FREE.items()}
    if not own:
        return known
    cases = [row.found.case for row in own]
    steps = [(step_time_model.decode_step_s(case, tpot), step_time_model.mean_tpot_s(case, tpot)) for case in cases]

    def formula(tried: Coefficients) -> Array:
        pairs = zip(cases, steps, strict=True)
        return numpy.array([step_time_model.mean_ttft_s(case, {**k, **tried}, *step) for case, step in pairs])

    measured = _logarithms(row.ttft_s for row in own)
    return solved(POOL_FREE, formula, Stack(own), measured, Loss(0.3), start)


def fit_tables(
    rows: Sequence[Row], fit: Fit, names: Sequence[str] = TABLE_NAMES
) -> dict[str, tuple[RegressionTree, ...]]:
    """Residual trees of closed loops by name, as the predictor asks for them: disaggregated rows apart."""
    own = [row for row in rows if row.fitted and row.load in LOADS[:2]]
    centres = {row.id: physics(row, fit) for row in own}
    made = {}
    for name in names:
        part = [row for row in own if row.pooled == name.endswith("pool")]
        place = 0 if name.startswith("tpot") else 1
        measured = [(row, row.ttft_s if place else row.tpot_s) for row in part]
        residuals = [math.log(value / centres[row.id][place]) for row, value in measured if value]
        seen = [row.seen for row, value in measured if value]
        if name == FAR:
            seen = [[value if at in DIMENSIONLESS else 0.0 for at, value in enumerate(row)] for row in seen]
        made[name] = fit_trees(seen, residuals, *SIZES.get(name, (TREES,))) if seen else ()
    return made


def physics(row: Row, fit: Fit) -> tuple[float, float]:
    case, k = row.found.case, fit.by_name
    pace = step_time_model.mean_tpot_s(case, fit.tpot)
    ttft = k[step_time_model.select_ttft(case.load)]
    return pace, step_time_model.mean_ttft_s(case, ttft, step_time_model.decode_step_s(case, fit.tpot), pace)


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
