"""Fits a server engine on processors: `python -m bench.sizing.processor_servers TRUTH [--write]`.

TRUTH holds vllm_more.csv with the columns of `archwright accuracy`; its rows stay there. A row is fitted twice: with
what a probe of the host and the engine's settings report, and with its threads alone. Scores leave out each eighth of
the chips, and each model. Bands are the 5 and 95 % quantiles of these errors; the smallest model left out does not make
them, since nothing smaller is served. `--write` replaces catalog/data/fits/processor_servers.json.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec
import numpy as np
from bench.sizing.fit import LICENCE
from bench.sizing.fitting import fit_trees
from bench.sizing.processors import find_chip_fold
from bench.sizing.validation import format_groups, quantile_band
from scipy.optimize import least_squares

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.errors import CatalogError
from archwright.sizing import benchmark_reader
from archwright.sizing.benchmark_reader import Cells
from archwright.sizing.inference import processor_servers, processor_speed, serving_prediction
from archwright.sizing.inference.processor_servers import CLOSED, OPEN, KnownTimes, RuleInputs, ServerCase, ServerLoad
from archwright.sizing.inference.processor_speed import MEASURED, STATED, HostReport
from archwright.sizing.inference.serving_prediction import ServingQuery
from archwright.sizing.model import numeric_precision
from archwright.sizing.model.engine_memory import weights_bytes
from archwright.sizing.model.parallel_layout import parse_layout
from archwright.sizing.step_time.boosted_trees import RegressionTree, sum_trees
from archwright.sizing.step_time.extrapolation import HOST_KIND
from archwright.sizing.step_time.fitted_tables import ConformalBand, FitProvenance, FittedTable

FILE = "vllm_more.csv"
ENGINE = "vllm"
FITTED = ("tpot_s", "ttft_s")
COLUMNS = {"tpot_s": "tpot_ms", "ttft_s": "ttft_ms", "pace_s": "throughput_tok_s"}
TAIL_COLUMNS = {"tpot_s": "itl", "ttft_s": "ttft"}
# A percentile of fewer finished requests is the slowest one.
LEAST_FINISHED = {"mean": 5.0, "p95": 20.0, "p99": 40.0}
TREES = {"n_estimators": 200, "num_leaves": 12, "learning_rate": 0.06}
LEAST_IN_LEAF = 20
START: dict[str, dict[str, float]] = {
    "tpot_s": {
        "step_s": 3e-3,
        "layer_s": 30e-6,
        "layer_thread_s": 1e-6,
        "node_exponent": 1.0,
        "answer_share": 0.3,
        "interleaved": 0.3,
        MEASURED: 1.0,
        STATED: 0.8,
    },
    "ttft_s": {
        "step_s": 5e-3,
        "layer_s": 30e-6,
        "crowding_threads": 150.0,
        f"crowd.{CLOSED}": 0.3,
        f"crowd.{OPEN}": 0.3,
        "crowd_exponent": 1.0,
        "slot_wait": 0.5,
    },
}
START_FLOPS = 200e9
# Weak pull to the start for coefficients; a stronger one holds microarchitectures near their instruction set.
PULL, FACTOR_PULL = 0.05, 1.5
LEAST_CHIPS = 2
TAIL = 0.05


class Row(NamedTuple):
    """A measured deployment: median seconds by metric ("pace_s": of a token of all requests), as far as stated."""

    chip: str
    model: str
    case: ServerCase
    seconds: dict[str, float]


class Fit(NamedTuple):
    """Rules and residual trees by metric, and the ratios of other statistics to medians."""

    rules: dict[str, dict[str, float]]
    trees: dict[str, tuple[RegressionTree, ...]]
    instruction_sets: tuple[str, ...]


class Miss(NamedTuple):
    """Logarithm of measured over predicted time, of the fit and of its rule alone."""

    row: Row
    metric: str
    log: float
    rule_log: float


def read_truth(path: Path, subjects: BenchmarkNameResolver) -> tuple[list[Row], list[Cells]]:
    """Return the rows to fit, two of each measured one, and the cells of the measured ones."""
    rows: list[Row] = []
    used: list[Cells] = []
    for _, cells in benchmark_reader.read_rows(path):
        own = list(read_row(cells, subjects))
        rows += own
        if own:
            used.append(cells)
    return rows, used


def read_row(cells: Cells, subjects: BenchmarkNameResolver) -> Iterator[Row]:
    query, _ = benchmark_reader.parse_serving_query(cells)
    try:
        accelerator = subjects.accelerator(query.accelerator)
        model, weak = serving_prediction.resolve_model(query.model, (None, None), subjects)
    except CatalogError:
        return
    if accelerator.kind != HOST_KIND or weak or subjects.engine_family(query.engine).id != ENGINE:
        return
    precision = numeric_precision.parse_precision(query.precision, query.model)
    weights = weights_bytes(model, precision.expert_bits)
    layout = parse_layout(query.parallelism)
    replicas = layout.dp if layout else 1
    seconds = measure_seconds(cells)
    for report, slots in ((query.host, query.slots), (HostReport(threads=query.host.threads), 0.0)):
        facts = processor_speed.describe_processor(accelerator, 1, report)
        if facts is not None:
            load = describe_load(query, slots or 0.0)
            case = processor_servers.describe_case(facts, model, weights, load=load, replicas=replicas)
            yield Row(cells["chip"], model.id, case, seconds)


def describe_load(query: ServingQuery, slots: float) -> ServerLoad:
    requests = max(query.concurrency or 1.0, 1.0)
    kind = processor_servers.classify_load(serving_prediction.find_load(query.scenario), requests)
    return ServerLoad(kind, requests, query.input_tokens or 1.0, query.output_tokens or 1.0, slots)


def measure_seconds(cells: Cells) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for metric, column in COLUMNS.items():
        measured = benchmark_reader.read_number(cells, column, [])
        if measured:
            seconds[metric] = 1 / measured if metric == "pace_s" else measured / 1e3
    return seconds


class RuleProblem:
    """Least squares of the rule of one metric, as logarithms. Loss: soft L1 of log ratios."""

    def __init__(self, rows: Sequence[Row], metric: str, tpot_s: Sequence[float]) -> None:
        self._metric = metric
        self._tpot_s: Any = np.array(tpot_s)
        self._measured = np.log([row.seconds[metric] for row in rows])
        self._instruction_sets = sorted({row.case.facts.instruction_set for row in rows})
        self._factors = list_factor_names(rows)
        start = START[metric] | {f"flops.{name}": START_FLOPS for name in self._instruction_sets}
        start |= {f"factor.{name}": 1.0 for name in self._factors}
        self._names = list(start)
        self.start = np.log(list(start.values()))
        # More rows outvote the factors' pull: it grows with their root.
        factor_pull = FACTOR_PULL * math.sqrt(len(rows) / 5000)
        self._pull = np.array([factor_pull if name.startswith("factor.") else PULL for name in self._names])
        self._rate_at = [self._names.index(f"flops.{row.case.facts.instruction_set}") for row in rows]
        self._factor_at = [self._find_factor(row) for row in rows]
        self._probed = np.array([row.case.facts.bandwidth_measured for row in rows])
        self._crowds = {kind: np.array([row.case.load.kind == kind for row in rows]) for kind in (CLOSED, OPEN)}
        plain = [processor_servers.list_rule_inputs(row.case, {"flops": 1.0}) for row in rows]
        columns: list[Any] = [np.array(column, float) for column in zip(*plain, strict=True)]
        self._inputs = RuleInputs(*columns)

    def _find_factor(self, row: Row) -> int:
        name = f"factor.{row.case.facts.microarchitecture}"
        return self._names.index(name) if name in self._names else -1

    def name_coefficients(self, logarithms: np.ndarray) -> dict[str, float]:
        return dict(zip(self._names, np.exp(logarithms).tolist(), strict=True))

    def compute_seconds(self, logarithms: np.ndarray) -> np.ndarray:
        rule = self.name_coefficients(logarithms)
        factors = np.append(logarithms, 0.0)[self._factor_at]
        inputs = self._inputs._replace(thread_rate=np.exp(logarithms[self._rate_at] + factors))
        if self._metric == "tpot_s":
            share: Any = np.where(self._probed, rule[MEASURED], rule[STATED])
            inputs = inputs._replace(bandwidth=inputs.bandwidth * share)
            return np.asarray(processor_servers.apply_answer_rule(inputs, rule))
        crowd = sum(rule[f"crowd.{kind}"] * members for kind, members in self._crowds.items())
        others = np.maximum(inputs.running - 1, 0.0) ** rule["crowd_exponent"]
        inputs = inputs._replace(crowd=crowd * others)
        return np.asarray(processor_servers.apply_prompt_rule(inputs, rule, self._tpot_s))

    def list_residuals(self, logarithms: np.ndarray) -> np.ndarray:
        misses = np.log(self.compute_seconds(logarithms)) - self._measured
        return np.concatenate([misses, self._pull * (logarithms - self.start)])


def list_factor_names(rows: Iterable[Row]) -> list[str]:
    """Return the microarchitectures that several chips have."""
    chips: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        chips[row.case.facts.microarchitecture].add(row.chip)
    return sorted(name for name, members in chips.items() if name and len(members) >= LEAST_CHIPS)


def fit_rule(rows: Sequence[Row], metric: str, tpot_s: Sequence[float]) -> dict[str, float]:
    problem = RuleProblem(rows, metric, tpot_s)
    solution = least_squares(problem.list_residuals, problem.start, loss="soft_l1", f_scale=0.3, max_nfev=60)
    rule = problem.name_coefficients(solution.x)
    rule["flops"] = median(rate for name, rate in rule.items() if name.startswith("flops."))
    return rule


def apply_fit(fit: Fit, case: ServerCase) -> dict[str, tuple[float, float]]:
    """Return the times by metric: with trees, and of the rule alone."""
    answer_rule = fit.rules["tpot_s"]
    answer_s = processor_servers.apply_answer_rule(processor_servers.list_rule_inputs(case, answer_rule), answer_rule)
    tpot_s = correct_time(fit, case, answer_s, metric="tpot_s", tpot_s=answer_s)
    times = {"tpot_s": (tpot_s, answer_s)}
    if "ttft_s" in fit.rules:
        rule = fit.rules["ttft_s"]
        prompt_s = processor_servers.apply_prompt_rule(processor_servers.list_rule_inputs(case, rule), rule, tpot_s)
        times["ttft_s"] = correct_time(fit, case, prompt_s, metric="ttft_s", tpot_s=tpot_s), prompt_s
    return times


def correct_time(fit: Fit, case: ServerCase, rule_s: float, *, metric: str, tpot_s: float) -> float:
    trees = fit.trees.get(metric, ())
    residual = sum_trees(trees, processor_servers.list_features(case, KnownTimes(rule_s, tpot_s), fit.instruction_sets))
    return rule_s * math.exp(residual)


def fit_rows(rows: Sequence[Row]) -> Fit:
    instruction_sets = tuple(sorted({row.case.facts.instruction_set for row in rows}))
    fit = Fit({}, {}, instruction_sets)
    for metric in FITTED:
        own = [row for row in rows if metric in row.seconds]
        tpot_s = [1.0] * len(own)
        if "tpot_s" in fit.trees:
            tpot_s = [apply_fit(fit, row.case)["tpot_s"][0] for row in own]
        fit.rules[metric] = fit_rule(own, metric, tpot_s)
        features: list[list[float]] = []
        residuals: list[float] = []
        for row in own:
            times = apply_fit(fit, row.case)
            corrected_s, rule_s = times[metric]
            known_s = rule_s if metric == "tpot_s" else times["tpot_s"][0]
            features.append(processor_servers.list_features(row.case, KnownTimes(rule_s, known_s), instruction_sets))
            residuals.append(math.log(row.seconds[metric] / corrected_s))
        fit.trees[metric] = fit_trees(features, residuals, TREES, LEAST_IN_LEAF)
    return fit


def find_ratios(cells_of_rows: Iterable[Cells]) -> dict[str, float]:
    """Return the ratio of each statistic to the median latency, by metric and kind of load.

    p95 over p50, and p99 over p95, are medians of rows that finished requests enough for both."""
    steps: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for cells in cells_of_rows:
        query, _ = benchmark_reader.parse_serving_query(cells)
        kind = describe_load(query, 0.0).kind
        finished = benchmark_reader.read_number(cells, "estimated_finished_requests", []) or 0.0
        for (metric, prefix), (statistic, least) in itertools.product(TAIL_COLUMNS.items(), LEAST_FINISHED.items()):
            base = f"{prefix}_p95_ms" if statistic == "p99" else COLUMNS[metric]
            base_ms = benchmark_reader.read_number(cells, base, [])
            tail_ms = benchmark_reader.read_number(cells, f"{prefix}_{statistic}_ms", [])
            if tail_ms and base_ms and finished >= least:
                steps[metric, kind, statistic].append(tail_ms / base_ms)
    ratios: dict[str, float] = {}
    for metric, kind in itertools.product(TAIL_COLUMNS, processor_servers.KINDS):
        mean, tail, tail_step = (median(steps[metric, kind, name]) for name in LEAST_FINISHED)
        for statistic, ratio in (("mean", mean), ("p95", tail), ("p99", tail * tail_step)):
            ratios[f"{metric}.{kind}.{statistic}"] = float(f"{ratio:.4g}")
    return ratios


def leave_groups_out(rows: Sequence[Row], group_of: Callable[[Row], str], ratios: Mapping[str, float]) -> list[Miss]:
    misses: list[Miss] = []
    for group in sorted({group_of(row) for row in rows}):
        fit = fit_rows([row for row in rows if group_of(row) != group])
        for row in rows:
            if group_of(row) == group:
                misses += list_misses(row, fit, ratios)
    return misses


def list_misses(row: Row, fit: Fit, ratios: Mapping[str, float]) -> Iterator[Miss]:
    times = apply_fit(fit, row.case)
    tpot_s, ttft_s = (times[metric][0] for metric in FITTED)
    pace_s = processor_servers.compute_token_interval_s(row.case.load, KnownTimes(ttft_s, tpot_s), ratios)
    times["pace_s"] = pace_s, pace_s
    for metric, measured_s in row.seconds.items():
        corrected_s, rule_s = times[metric]
        if metric == "pace_s":
            # One engine of several has its share of the throughput.
            measured_s *= row.case.replicas
        yield Miss(row, metric, math.log(measured_s / corrected_s), math.log(measured_s / rule_s))


def find_bands(chips: Sequence[Miss], models: Sequence[Miss]) -> dict[tuple[str, str, str], ConformalBand]:
    """Return a band per metric, stratum and regime, of chips left out and of both; each end is the wider one's."""
    smallest = min(models, key=lambda miss: miss.row.case.weights_bytes).row.model
    larger = [miss for miss in models if miss.row.model != smallest]
    bands: dict[tuple[str, str, str], ConformalBand] = {}
    for key in sorted({find_key(miss) for miss in chips}):
        metric, stratum, regime = key
        own = [miss for miss in chips if find_key(miss) == key]
        pooled = [miss for miss in (*chips, *larger) if find_key(miss) == key]
        ends = [quantile_band([miss.log for miss in members], TAIL) for members in (own, pooled)]
        bands[key] = ConformalBand(
            metric=metric,
            stratum=stratum,
            regime=regime,
            low=round(min(low for low, _ in ends), 4),
            high=round(max(high for _, high in ends), 4),
            rows=len(own),
            median_error=round(median(abs(math.expm1(-miss.log)) for miss in own), 4),
        )
    return bands


def find_key(miss: Miss) -> tuple[str, str, str]:
    return miss.metric, processor_servers.name_server_stratum(miss.row.case), miss.row.case.facts.regime


def format_scores(title: str, misses: Sequence[Miss], bands: Mapping[tuple[str, str, str], ConformalBand]) -> str:
    groups: dict[tuple[str, str, str], list[Miss]] = defaultdict(list)
    for miss in misses:
        facts = miss.row.case.facts
        for name in ("", miss.row.case.load.kind, miss.row.model, find_key(miss)[1].split()[0]):
            groups[miss.metric, facts.regime, name].append(miss)
    return format_groups(title, groups, lambda miss: holds(miss, bands), width=22)


def holds(miss: Miss, bands: Mapping[tuple[str, str, str], ConformalBand]) -> bool:
    band = bands[find_key(miss)]
    return band.low <= math.exp(miss.log) <= band.high


def build_table(
    path: Path, rows: Sequence[Row], used: int, *, ratios: dict[str, float], bands: Iterable[ConformalBand]
) -> FittedTable:
    fit = fit_rows(rows)
    measured = sum(1 for _ in benchmark_reader.read_rows(path))
    rules = {
        metric: {name: float(f"{value:.5g}") for name, value in sorted(rule.items())}
        for metric, rule in fit.rules.items()
    }
    return FittedTable(
        provenance=FitProvenance(
            file=FILE,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            rows_used=used,
            rows_left_out=measured - used,
            date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            command="python -m bench.sizing.processor_servers TRUTH --write",
            licence=LICENCE,
            loss="soft L1 of log ratios; trees L1",
        ),
        coefficients=rules | {"ratios": ratios},
        residuals=dict(fit.trees),
        seen={"instruction_set": fit.instruction_sets, "engine": (ENGINE,)},
        bands=tuple(bands),
    )


def main() -> None:
    path = Path(sys.argv[1]) / FILE
    rows, used = read_truth(path, BenchmarkNameResolver(Catalog(DATA)))
    ratios = find_ratios(used)
    chips = leave_groups_out(rows, lambda row: find_chip_fold(row.chip), ratios)
    models = leave_groups_out(rows, lambda row: row.model, ratios)
    bands = find_bands(chips, models)
    sys.stdout.write(format_scores("chip left out", chips, bands))
    sys.stdout.write(format_scores("model left out", models, bands))
    if "--write" in sys.argv:
        table = build_table(path, rows, len(used), ratios=ratios, bands=bands.values())
        (DATA / "fits" / f"{processor_servers.TABLE}.json").write_bytes(msgspec.json.encode(table) + b"\n")


if __name__ == "__main__":
    main()
