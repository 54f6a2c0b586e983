"""Fits the speed of local engines on processors: `python -m bench.sizing.processors TRUTH [--write]`.

TRUTH holds cpu.csv and local.csv with the columns of `archwright accuracy`; their rows stay there. A row is fitted
twice: with what a probe of the host reports, and with its name alone. Scores leave out each eighth of the chips, and
each model. Bands are the 5 and 95 % quantiles of these errors. `--write` replaces catalog/data/fits/processors.json.
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
from bench.sizing.validation import format_groups, quantile_band
from scipy.optimize import least_squares

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.errors import CatalogError
from archwright.sizing import benchmark_reader
from archwright.sizing.inference import cpu_inference, processor_speed, serving_prediction
from archwright.sizing.inference.processor_speed import (
    MEASURED,
    STATED,
    EngineWork,
    HostReport,
    ProcessorFacts,
    StepInputs,
    StepParts,
    TokenPhase,
)
from archwright.sizing.model.engine_memory import weights_bytes
from archwright.sizing.step_time.boosted_trees import RegressionTree, sum_trees
from archwright.sizing.step_time.extrapolation import HOST_KIND
from archwright.sizing.step_time.fitted_tables import ConformalBand, FitProvenance, FittedTable

FILES = ("cpu.csv", "local.csv")
USUAL_FORMAT = "Q4_K_M"
FOLDS = 8
# A rate of its own needs several chips of the microarchitecture; a band of its own needs rows enough.
LEAST_CHIPS = 2
LEAST_ROWS = 40
TREES = {"n_estimators": 150, "num_leaves": 12, "learning_rate": 0.06}
LEAST_IN_LEAF = 30
PHASES: tuple[TokenPhase, ...] = ("decode", "prefill")
START: dict[TokenPhase, dict[str, float]] = {
    "decode": {"layer_s": 47e-6, "layer_thread_s": 2.4e-6, MEASURED: 1.0, STATED: 0.8},
    "prefill": {"layer_s": 1e-5, "crowding_threads": 150.0, "node_exponent": 0.1},
}
START_FLOPS, START_LLAMAFILE = 40e9, 2.0
# Coefficients stay within this factor of their start; a weak pull holds those without rows there.
MOST_CHANGE = 100.0
PULL = 0.05
TAIL = 0.05


class Row(NamedTuple):
    """Measured seconds of a token of `work` on the processor of `facts`."""

    chip: str
    model: str
    facts: ProcessorFacts
    work: EngineWork
    seconds: float


class Fit(NamedTuple):
    """Coefficients of the rule and trees of its residual, by phase; `orders`: the fitted names by kind."""

    rules: dict[TokenPhase, dict[str, float]]
    trees: dict[TokenPhase, tuple[RegressionTree, ...]]
    orders: dict[str, tuple[str, ...]]

    def compute_parts(self, row: Row) -> StepParts:
        return processor_speed.compute_step_parts(row.facts, row.work, self.rules[row.work.phase])

    def list_features(self, row: Row) -> list[float]:
        parts = self.compute_parts(row)
        return processor_speed.list_features(row.facts, row.work, parts, orders=self.orders)


class Miss(NamedTuple):
    """Logarithm of measured over predicted time, of the fit and of its rule alone."""

    row: Row
    log: float
    rule_log: float


def read_truth(folder: Path, subjects: BenchmarkNameResolver) -> tuple[list[Row], int]:
    """Return the rows of processors, and how many measured times are not used."""
    rows: list[Row] = []
    left_out = 0
    for name in FILES:
        for _, cells in benchmark_reader.read_rows(folder / name):
            seconds = measure_seconds(cells)
            usable = list(read_row(cells, seconds, subjects))
            rows += usable
            left_out += 0 if usable else len(seconds)
    return rows, left_out


def measure_seconds(cells: Mapping[str, str]) -> dict[TokenPhase, float]:
    """Return the measured seconds of an answer token and of a prompt token."""
    seconds: dict[TokenPhase, float] = {}
    tpot_ms = benchmark_reader.read_number(cells, "tpot_ms", [])
    ttft_ms = benchmark_reader.read_number(cells, "ttft_ms", [])
    prompt = benchmark_reader.read_number(cells, "input_len", [])
    if tpot_ms:
        seconds["decode"] = tpot_ms / 1e3
    if ttft_ms and prompt:
        seconds["prefill"] = ttft_ms / 1e3 / prompt
    return seconds


def read_row(
    cells: Mapping[str, str], seconds: Mapping[TokenPhase, float], subjects: BenchmarkNameResolver
) -> Iterator[Row]:
    """Yield each measured time with the row's report of the host, and with its threads alone."""
    query, _ = benchmark_reader.parse_serving_query(cells)
    try:
        accelerator = subjects.accelerator(query.accelerator)
        counts = query.parameters, query.active_parameters
        model, weak = serving_prediction.resolve_model(query.model, counts, subjects)
    except CatalogError:
        return
    if accelerator.kind != HOST_KIND or weak:
        return
    _, bits = cpu_inference.find_quantisation(query.precision, USUAL_FORMAT, subjects.catalog)
    weights = weights_bytes(model, bits)
    prompt, answer = query.input_tokens or 0.0, query.output_tokens or 0.0
    contexts = {"decode": prompt + answer / 2, "prefill": prompt / 2}
    reports = dict.fromkeys((query.host, HostReport(threads=query.host.threads)))
    for phase, report in itertools.product(seconds, reports):
        facts = processor_speed.describe_processor(accelerator, max(query.devices, 1), report)
        if facts is not None:
            kernels = processor_speed.find_kernels(query.engine)
            work = processor_speed.describe_work(phase, model, weights, context=contexts[phase], kernels=kernels)
            yield Row(cells.get("chip") or accelerator.id, model.id, facts, work, seconds[phase])


class RuleProblem:
    """Least squares of the rule's coefficients of one phase, as logarithms. Loss: soft L1 of log ratios."""

    def __init__(self, rows: Sequence[Row], phase: TokenPhase) -> None:
        self._phase = phase
        several = list_rate_names(rows)
        start = START[phase] | {"llamafile": START_LLAMAFILE, "flops": START_FLOPS}
        start |= {f"flops.{name}": START_FLOPS for name in several}
        self._names = list(start)
        self.start = np.log(list(start.values()))
        self._measured = np.log([row.seconds for row in rows])
        self._rate_at = np.array([self._find_rate(row, several) for row in rows])
        self._llamafile = np.array([row.work.kernels == processor_speed.LLAMAFILE for row in rows], float)
        self._probed = np.array([row.facts.bandwidth_measured for row in rows])
        self._facts: dict[str, Any] = {
            name: np.array([getattr(row.facts, name) for row in rows], float)
            for name in ("threads", "memory_nodes", "bandwidth_bytes_per_s")
        }
        self._work: dict[str, Any] = {
            name: np.array([getattr(row.work, name) for row in rows], float)
            for name in ("layers", "flops", "bytes_read")
        }

    def _find_rate(self, row: Row, several: Sequence[str]) -> int:
        """Return the position of the row's rate among the coefficients, as `find_thread_rate` chooses it."""
        for name in (row.facts.microarchitecture, row.facts.instruction_set):
            if name in several:
                return self._names.index(f"flops.{name}")
        return self._names.index("flops")

    def name_coefficients(self, logarithms: np.ndarray) -> dict[str, float]:
        return dict(zip(self._names, np.exp(logarithms).tolist(), strict=True))

    def list_residuals(self, logarithms: np.ndarray) -> np.ndarray:
        rule = self.name_coefficients(logarithms)
        share = np.where(self._probed, rule.get(MEASURED, 1.0), rule.get(STATED, 1.0))
        inputs = StepInputs(
            threads=self._facts["threads"],
            memory_nodes=self._facts["memory_nodes"],
            layers=self._work["layers"],
            flops=self._work["flops"],
            bytes_read=self._work["bytes_read"],
            thread_rate=np.exp(logarithms[self._rate_at]) * rule["llamafile"] ** self._llamafile,
            bandwidth=self._facts["bandwidth_bytes_per_s"] * share,
        )
        seconds = processor_speed.apply_rule(self._phase, inputs, rule).total_s
        return np.concatenate([np.log(seconds) - self._measured, PULL * (logarithms - self.start)])


def list_rate_names(rows: Iterable[Row]) -> list[str]:
    """Return the microarchitectures and instruction sets that several chips have."""
    chips: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        chips[row.facts.microarchitecture].add(row.chip)
        chips[row.facts.instruction_set].add(row.chip)
    unknown = ("", processor_speed.ANY_ISA)
    return sorted(name for name, members in chips.items() if name not in unknown and len(members) >= LEAST_CHIPS)


def fit_rule(rows: Sequence[Row], phase: TokenPhase) -> dict[str, float]:
    problem = RuleProblem(rows, phase)
    reach = math.log(MOST_CHANGE)
    bounds = (problem.start - reach, problem.start + reach)
    solution = least_squares(
        problem.list_residuals, problem.start, bounds=bounds, loss="soft_l1", f_scale=0.2, max_nfev=40
    )
    rule = problem.name_coefficients(solution.x)
    # A processor of an unknown microarchitecture is as fast as the median one of its instruction set.
    members: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        members[row.facts.instruction_set].add(row.facts.microarchitecture)
    for instruction_set, microarchitectures in members.items():
        rates = [rule[f"flops.{name}"] for name in microarchitectures if f"flops.{name}" in rule]
        if rates and instruction_set != processor_speed.ANY_ISA:
            rule[f"flops.{instruction_set}"] = median(rates)
    rule["flops"] = median(rate for name, rate in rule.items() if name.startswith("flops."))
    return rule


def fit_rows(rows: Sequence[Row]) -> Fit:
    fit = Fit({}, {}, order_names(rows))
    for phase in PHASES:
        own = [row for row in rows if row.work.phase == phase]
        fit.rules[phase] = fit_rule(own, phase)
        features = [fit.list_features(row) for row in own]
        residuals = [math.log(row.seconds / fit.compute_parts(row).total_s) for row in own]
        fit.trees[phase] = fit_trees(features, residuals, TREES, LEAST_IN_LEAF)
    return fit


def order_names(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    orders = {}
    for kind in ("vendor", "instruction_set", "microarchitecture"):
        names = {getattr(row.facts, kind) for row in rows}
        orders[kind] = tuple(sorted(names - {""}))
    return orders


def list_misses(rows: Iterable[Row], fit: Fit) -> Iterator[Miss]:
    for row in rows:
        rule_log = math.log(row.seconds / fit.compute_parts(row).total_s)
        residual = sum_trees(fit.trees[row.work.phase], fit.list_features(row))
        yield Miss(row, rule_log - residual, rule_log)


def leave_groups_out(rows: Sequence[Row], group_of: Callable[[Row], str]) -> list[Miss]:
    misses: list[Miss] = []
    for group in sorted({group_of(row) for row in rows}):
        fit = fit_rows([row for row in rows if group_of(row) != group])
        misses += list_misses((row for row in rows if group_of(row) == group), fit)
    return misses


def find_fold(row: Row) -> str:
    return find_chip_fold(row.chip)


def find_chip_fold(chip: str) -> str:
    digest = hashlib.sha256(chip.encode()).hexdigest()
    return str(int(digest, 16) % FOLDS)


def find_model(row: Row) -> str:
    """Clients have few rows of many models: they are one group."""
    return row.model if row.facts.server else "client"


def find_stratum(row: Row) -> str:
    return processor_speed.name_stratum(row.facts, row.work.parameters)


def format_scores(title: str, misses: Sequence[Miss], bands: Mapping[tuple[str, str, str], ConformalBand]) -> str:
    groups: dict[tuple[str, str, str], list[Miss]] = defaultdict(list)
    for miss in misses:
        phase, regime = miss.row.work.phase, miss.row.facts.regime
        for name in ("", miss.row.model, find_stratum(miss.row)):
            groups[phase, regime, name].append(miss)
    return format_groups(title, groups, lambda miss: holds(miss, bands), width=18)


def holds(miss: Miss, bands: Mapping[tuple[str, str, str], ConformalBand]) -> bool:
    metric = processor_speed.METRICS[miss.row.work.phase]
    band = bands[metric, find_stratum(miss.row), miss.row.facts.regime]
    return band.low <= math.exp(miss.log) <= band.high


def find_bands(chips: Sequence[Miss], models: Sequence[Miss]) -> dict[tuple[str, str, str], ConformalBand]:
    """Return a band per metric, stratum and regime, of chips left out and of both; each end is the wider one's."""
    bands: dict[tuple[str, str, str], ConformalBand] = {}
    strata = [f"{kind} {size}" for kind, size in itertools.product(processor_speed.KINDS, processor_speed.SIZES)]
    for phase, regime, stratum in itertools.product(PHASES, (MEASURED, STATED), strata):
        own = select_misses(chips, phase=phase, regime=regime, stratum=stratum)
        pooled = select_misses([*chips, *models], phase=phase, regime=regime, stratum=stratum)
        ends = [quantile_band([miss.log for miss in members], TAIL) for members in (own, pooled)]
        low = min(low for low, _ in ends)
        high = max(high for _, high in ends)
        metric = processor_speed.METRICS[phase]
        bands[metric, stratum, regime] = ConformalBand(
            metric=metric,
            stratum=stratum,
            regime=regime,
            low=round(low, 4),
            high=round(high, 4),
            rows=len(own),
            median_error=round(median(abs(math.expm1(-miss.log)) for miss in own), 4),
        )
    return bands


def select_misses(misses: Sequence[Miss], *, phase: TokenPhase, regime: str, stratum: str) -> list[Miss]:
    """Return the misses of a stratum; if they are few, those of its kind of processor, then of servers or clients."""
    kind = stratum.rpartition(" ")[0]
    server = not kind.endswith(processor_speed.CLIENT)
    own = [miss for miss in misses if miss.row.work.phase == phase and miss.row.facts.regime == regime]
    choices = (
        [miss for miss in own if find_stratum(miss.row) == stratum],
        [miss for miss in own if find_stratum(miss.row).rpartition(" ")[0] == kind],
        [miss for miss in own if miss.row.facts.server == server],
    )
    enough = (choice for choice in choices if len(choice) >= LEAST_ROWS)
    return next(enough, own)


def build_table(folder: Path, rows: Sequence[Row], left_out: int, bands: Iterable[ConformalBand]) -> FittedTable:
    fit = fit_rows(rows)
    content = b"".join((folder / name).read_bytes() for name in FILES)
    return FittedTable(
        provenance=FitProvenance(
            file=" + ".join(FILES),
            sha256=hashlib.sha256(content).hexdigest(),
            rows_used=len(rows),
            rows_left_out=left_out,
            date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            command="python -m bench.sizing.processors TRUTH --write",
            licence=LICENCE,
            loss="soft L1 of log ratios; trees L1",
        ),
        coefficients={
            phase: {name: float(f"{value:.5g}") for name, value in sorted(rule.items())}
            for phase, rule in fit.rules.items()
        },
        residuals={str(phase): trees for phase, trees in fit.trees.items()},
        seen=fit.orders,
        bands=tuple(bands),
    )


def main() -> None:
    folder = Path(sys.argv[1])
    rows, left_out = read_truth(folder, BenchmarkNameResolver(Catalog(DATA)))
    chips = leave_groups_out(rows, find_fold)
    models = leave_groups_out(rows, find_model)
    bands = find_bands(chips, models)
    sys.stdout.write(format_scores("chip left out", chips, bands))
    sys.stdout.write(format_scores("model left out", models, bands))
    if "--write" in sys.argv:
        table = build_table(folder, rows, left_out, bands.values())
        (DATA / "fits" / f"{processor_speed.TABLE}.json").write_bytes(msgspec.json.encode(table) + b"\n")


if __name__ == "__main__":
    main()
