"""Fits text engines on processors to public tables, and scores them with each processor left out.

    python -m bench.engine.fit_processors TRUTH [--write]

TRUTH holds tables with the columns of `archwright accuracy`; their rows stay there. Fitted: the drawn bandwidth
(`host.draw*` of work_efficiencies.csv), and per engine its ceiling and its shares by instruction set
(efficiencies.csv, rows whose source names this file). A left-out processor takes its instruction set's rows along if no
other processor has them, so its predictions come from the nearest rows, as a user's would. The bands are the 5 and 95 %
quantiles of those errors. `--write` replaces the figures in the catalog's tables.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from bench.sizing.validation import quantile
from scipy.optimize import least_squares

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.records import Accelerator, Efficiency
from archwright.contract.record import replace
from archwright.errors import CatalogError
from archwright.sizing import benchmark_reader
from archwright.sizing.inference import processor_speed, serving_prediction
from archwright.sizing.inference.serving_prediction import ServingQuery
from archwright.sizing.step_time.extrapolation import HOST_KIND

METRICS = {"tpot_s": "tpot_ms", "ttft_s": "ttft_ms", "tokens_per_s": "throughput_tok_s"}
# Fitted: answers without queue, and the pace of a loaded server; the wait of a burst of clients is scored only.
LOADED = ("fixed_concurrency", "open_loop")
# A machine with prompts above this multiple of its processor's 16-bit peak names another processor than it has.
MOST_PEAK = 1.5
MARK = "bench.engine.fit_processors"
DRAW = ("host.draw", "host.draw-growth", "host.draw-processors")
PREFILL, DECODE = "prefill_share_of_matmul", "decode_share_of_matmul"
ENGINE_SHARES = ("most_flops_per_s", "decode_share_of_bandwidth", "attention_share_of_matmul")
# A share stays within this factor of where the fit starts.
MOST_CHANGE = 30.0


class Row(NamedTuple):
    """One measured row. `seconds`: measured TPOT, TTFT and time of a token, by metric; `fitted`: the metrics to fit."""

    asked: ServingQuery
    processor: Accelerator
    key: tuple[str, str]
    seconds: dict[str, float]
    fitted: frozenset[str]


class Miss(NamedTuple):
    """`log`: logarithm of measured / predicted time; `known`: an efficiency row has the instruction set."""

    row: Row
    metric: str
    log: float
    known: bool = True


class Figures(NamedTuple):
    """The fitted figures: work rates by name, efficiency fields by (engine, isa) and (engine, "")."""

    draw: dict[str, float]
    shares: dict[tuple[str, str, str], float]

    def apply(self, catalog: Catalog, keys: frozenset[tuple[str, str]]) -> BenchmarkNameResolver:
        """Return the catalog with these figures, without marked rows of other (engine, isa) than `keys`."""
        made = Catalog(DATA)
        rows = [
            self._fill(row) for row in catalog.efficiencies if MARK not in row.source or (row.engine, row.isa) in keys
        ]
        rates = {
            name: replace(catalog.work_rates[name], low=value, typical=value, high=value)
            for name, value in self.draw.items()
        }
        made.__dict__.update(efficiencies=rows, work_rates={**catalog.work_rates, **rates})
        return BenchmarkNameResolver(made)

    def _fill(self, row: Efficiency) -> Efficiency:
        if MARK not in row.source:
            return row
        return replace(row, **self.list_shares(row.engine, row.isa))

    def list_shares(self, engine: str, isa: str) -> dict[str, float]:
        """Return the fields of a row. Matmuls of a server's decode steps run at its prefill share."""
        found = {name: value for (of, on, name), value in self.shares.items() if of == engine and on in ("", isa)}
        if "decode_share_of_bandwidth" in found:
            found |= dict.fromkeys((DECODE, f"{DECODE}_batched"), found[PREFILL])
        return found


def read_truth(folder: Path, subjects: BenchmarkNameResolver) -> list[Row]:
    found = []
    for path in (path for path in sorted(folder.glob("inference*.csv")) if "names" not in path.name):
        for _, cells in benchmark_reader.read_rows(path):
            try:
                accelerator = subjects.accelerator(cells["accelerator"])
            except CatalogError:
                continue
            if accelerator.kind == HOST_KIND:
                found.append(_read_row(cells, accelerator, subjects))
    wrong = {row.asked.accelerator for row in found if _exceeds_peak(row, subjects)}
    return [row._replace(fitted=frozenset()) if row.asked.accelerator in wrong else row for row in found]


def _exceeds_peak(row: Row, subjects: BenchmarkNameResolver) -> bool:
    prompt, model = row.asked.input_tokens or 0.0, subjects.model(row.asked.model)
    peak = row.processor.flops["bf16"] * max(row.asked.devices, 1) * MOST_PEAK
    return prompt > 0 and 2 * model.parameters * prompt > peak * row.seconds.get("ttft_s", math.inf)


def _read_row(cells: Mapping[str, str], processor: Accelerator, subjects: BenchmarkNameResolver) -> Row:
    asked, _ = benchmark_reader.parse_serving_query(cells)
    measured = {metric: benchmark_reader.read_number(cells, column, []) for metric, column in METRICS.items()}
    seconds = {metric: value / 1e3 for metric, value in measured.items() if value and metric != "tokens_per_s"}
    if measured["tokens_per_s"]:
        seconds["tokens_per_s"] = 1 / measured["tokens_per_s"]
    family, served = subjects.engine_family(asked.engine).id, {row.engine for row in marked_rows(subjects.catalog)}
    engine = family if family in served else "llamacpp"
    unlike = processor.id.startswith("GENERIC") or "mlperf" in asked.scenario
    # Fewer requests in flight than clients that ask without pause: the run was too short to count them.
    unlike |= asked.scenario.startswith(LOADED[0]) and (asked.concurrency or 0.0) <= 1
    fitted = set[str]() if unlike or "CHECK" in cells.get("note", "") else set(seconds)
    if asked.scenario.startswith(LOADED):
        fitted.discard("ttft_s")
    return Row(asked, processor, (engine, processor_speed.read_instruction_set(processor)), seconds, frozenset(fitted))


def marked_rows(catalog: Catalog) -> list[Efficiency]:
    return [row for row in catalog.efficiencies if MARK in row.source]


def read_figures(catalog: Catalog) -> Figures:
    shares: dict[tuple[str, str, str], float] = {}
    for row in marked_rows(catalog):
        shares[row.engine, row.isa, PREFILL] = row.prefill_share_of_matmul
        # The embedded engine's own measurements fix its shares but for the ceiling.
        names = ENGINE_SHARES[:1] if catalog.engines[row.engine].embedded else ENGINE_SHARES
        shares |= {(row.engine, "", name): getattr(row, name) for name in names}
    return Figures({name: catalog.work_rates[name].typical for name in DRAW}, shares)


def list_misses(rows: Iterable[Row], subjects: BenchmarkNameResolver, *, all_metrics: bool = True) -> list[Miss]:
    found = []
    for row in rows:
        got = serving_prediction.predict_deployment(row.asked, subjects)
        for metric, took in row.seconds.items():
            guess = getattr(got, metric)
            if guess is not None and (all_metrics or metric in row.fitted):
                value = guess.value if metric != "tokens_per_s" else 1 / guess.value
                found.append(Miss(row, metric, math.log(took / value)))
    return found


def fit(rows: Sequence[Row], start: Figures, catalog: Catalog) -> tuple[Figures, frozenset[tuple[str, str]]]:
    """Return the figures of `rows`, and the (engine, isa) that they have. Loss: soft L1 of the logarithms."""
    keys = frozenset(row.key for row in rows if row.fitted)
    free = [key for key in start.shares if not key[1] or key[:2] in keys]

    def build(x: np.ndarray) -> Figures:
        draw = dict(zip(DRAW, (math.exp(x[0]), x[1], x[2]), strict=True))
        return Figures(draw, start.shares | {key: math.exp(value) for key, value in zip(free, x[3:], strict=True)})

    def residuals(x: np.ndarray) -> list[float]:
        return [miss.log for miss in list_misses(used, build(x).apply(catalog, keys), all_metrics=False)]

    used = [row for row in rows if row.fitted]
    first = [math.log(start.draw[DRAW[0]]), start.draw[DRAW[1]], start.draw[DRAW[2]]]
    first += [math.log(start.shares[key]) for key in free]
    reach = np.array([math.log(MOST_CHANGE), 1.0, 2.0, *(math.log(MOST_CHANGE) for _ in free)])
    bounds = (np.array(first) - reach, np.array(first) + reach)
    found = least_squares(residuals, first, bounds=bounds, loss="soft_l1", f_scale=0.15, diff_step=1e-3, max_nfev=25)
    return build(found.x), keys


def leave_processors_out(rows: Sequence[Row], start: Figures, catalog: Catalog) -> list[Miss]:
    found = []
    for name in sorted({row.processor.id for row in rows}):
        figures, keys = fit([row for row in rows if row.processor.id != name], start, catalog)
        made = figures.apply(catalog, keys)
        has = {(row.engine, row.isa) for row in made.catalog.efficiencies}
        misses = list_misses([row for row in rows if row.processor.id == name], made)
        found += [miss._replace(known=miss.row.key in has) for miss in misses]
    return found


def format_scores(title: str, misses: Sequence[Miss]) -> str:
    """Rows that contradict themselves are not scored."""
    made, misses = f"{title}\n", [miss for miss in misses if miss.row.fitted]
    for engine in ("", *sorted({miss.row.key[0] for miss in misses})):
        for metric in METRICS:
            own = [miss.log for miss in misses if miss.metric == metric and engine in ("", miss.row.key[0])]
            errors = [abs(math.expm1(-log)) for log in own]
            ends = [math.exp(quantile(own, share)) for share in (0.05, 0.5, 0.95)]
            made += f"  {engine or 'all':9} {metric:13} {len(own):4} rows  median {100 * median(errors):5.1f} %  "
            made += "measured / predicted, 5, 50, 95 %: " + ", ".join(f"{end:.2f}" for end in ends) + "\n"
    return made


def find_bands(misses: Sequence[Miss]) -> dict[str, dict[str, float]]:
    """Return low and high factor by engine: 5 and 95 % of its errors with the processor left out, all metrics alike."""
    found = {}
    for engine in {miss.row.key[0] for miss in misses}:
        own = [miss.log for miss in misses if miss.row.key[0] == engine and miss.known and miss.row.fitted]
        found[engine] = {"low_factor": math.exp(-quantile(own, 0.05)), "high_factor": math.exp(quantile(own, 0.95))}
    return found


def write_figures(figures: Figures, bands: Mapping[str, Mapping[str, float]]) -> None:
    def update_efficiency(cells: dict[str, str]) -> None:
        values = {**figures.list_shares(cells["engine"], cells["isa"]), **bands[cells["engine"]]}
        cells |= {name: f"{value:.3g}" for name, value in values.items()}

    def update_rate(cells: dict[str, str]) -> None:
        scale = figures.draw[cells["id"]] / float(cells["typical"])
        cells |= {name: f"{float(cells[name]) * scale:.3g}" for name in ("low", "typical", "high")}

    for file, update in (("efficiencies.csv", update_efficiency), ("work_efficiencies.csv", update_rate)):
        lines = (DATA / file).read_text(encoding="utf-8").splitlines()
        columns = next(csv.reader(lines))
        for at, line in enumerate(lines):
            if MARK in line:
                cells = dict(zip(columns, next(csv.reader([line])), strict=True))
                update(cells)
                text = io.StringIO()
                csv.writer(text, lineterminator="").writerow(cells.values())
                lines[at] = text.getvalue()
        (DATA / file).write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    catalog = Catalog(DATA)
    rows = read_truth(Path(sys.argv[1]), BenchmarkNameResolver(catalog))
    figures, keys = fit(rows, read_figures(catalog), catalog)
    sys.stdout.write(format_scores("fitted", list_misses(rows, figures.apply(catalog, keys))))
    left_out = leave_processors_out(rows, figures, catalog)
    sys.stdout.write(format_scores("processor left out", left_out))
    known = [miss for miss in left_out if miss.known]
    sys.stdout.write(format_scores("processor left out, another has its instruction set", known))
    if "--write" in sys.argv:
        write_figures(figures, find_bands(left_out))


if __name__ == "__main__":
    main()
