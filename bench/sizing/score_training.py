"""The training part of docs/accuracy.md: scores with a configuration, model, source or accelerator left out, the rows
that no fit uses, and published runs by their accelerator hours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.sizing import fit_training, rules, validation
from bench.sizing.fit_training import STRATA, Out
from scipy.stats import binom

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.load import load_catalog
from archwright.sizing.inference import serving_prediction
from archwright.sizing.step_time import fitted_tables
from archwright.sizing.training import token_throughput

HERE = Path(__file__).parent
# Median error to reach on training.csv, percent.
TARGETS = {serving_prediction.SEEN: 4, serving_prediction.NEW_MODEL: 8, serving_prediction.NEW_ACCELERATOR: 18}
# A stratum of so many rows shows whether its bands hold.
ROWS_THAT_SHOW = 60
HEAD = "| left out | rows | count | median error | p90 | target | in the 90 % interval | half-width |\n"
HEAD += "|---|---|---|---|---|---|---|---|\n"
GROUP_HEAD = "| left out | rows | median error | median measured / predicted tokens/s | in the 90 % interval |\n"
GROUP_HEAD += "|---|---|---|---|---|\n"


def _errors(outs: Sequence[Out]) -> list[float]:
    """Percent of the measured time of a token."""
    return [abs(math.expm1(-out.residual)) * 100 for out in outs]


def _line(stratum: str, rows: str, outs: Sequence[Out], among: Sequence[Out]) -> str:
    held, widths = zip(*(fit_training.check_inside(out, among) for out in outs), strict=True)
    inside = sum(held)
    errors, count = _errors(outs), len(outs)
    low, high = binom.interval(0.95, count, validation.LEVEL)
    said = f"{100 * inside / count:.1f} %"
    if count >= ROWS_THAT_SHOW:
        said += f" (expected {100 * low / count:.0f} to {100 * high / count:.0f})"
    target = f"<= {TARGETS[stratum]} %" if rows == fit_training.TABLES[0] and stratum in TARGETS else ""
    cells = (
        stratum,
        rows,
        str(count),
        f"{validation.quantile(errors, 0.5):.1f} %",
        f"{validation.quantile(errors, 0.9):.0f} %",
        target,
        said,
        f"x{validation.quantile(widths, 0.5):.2f}",
    )
    return f"| {' | '.join(cells)} |\n"


def strata_table(outs: Sequence[Out]) -> str:
    made = HEAD
    for stratum in STRATA:
        own = [out for out in outs if out.stratum == stratum]
        parts = {name: [out for out in own if out.row.table == name] for name in fit_training.TABLES}
        parts |= {
            regime: [out for out in own if out.regime == regime]
            for regime in ("dense models", "sparse models", "adapters")
        }
        for name, rows in parts.items():
            made += _line(stratum, name, rows, own)
    return made


def group_table(outs: Sequence[Out], stratum: str, name_of: Callable[[Out], str]) -> str:
    made, own = GROUP_HEAD, [out for out in outs if out.stratum == stratum]
    for group in sorted({name_of(out) for out in own}):
        part = [out for out in own if name_of(out) == group]
        inside = sum(fit_training.check_inside(out, own)[0] for out in part)
        bias = math.exp(-validation.quantile([out.residual for out in part], 0.5))
        made += f"| {group} | {len(part)} | {validation.quantile(_errors(part), 0.5):.1f} % | {bias:.2f} | {inside} |\n"
    return made


def left_out_table(left: Sequence[fit_training.LeftOut]) -> str:
    made = "| row | model | device | measured / predicted tokens/s | not used because |\n|---|---|---|---|---|\n"
    fit = fitted_tables.load_table("training")
    for row, reason in left:
        predicted = token_throughput.sum_terms(row.terms, fit.coefficients["token"])
        names = f"{row.cells['row_id']} | {row.job.model.id} | {row.job.accelerator.id}"
        made += f"| {names} | {predicted / row.token_s:.2f} | {reason} |\n"
    return made


def parts(folder: Path) -> dict[str, str]:
    """The training sections of the document by their place in accuracy.template.md."""
    rows, left = fit_training.read(folder)
    outs = [out for stratum in STRATA for out in fit_training.out_of_fold(rows, stratum)]
    _, inside, count = rules.published(BenchmarkNameResolver(load_catalog()))
    return {
        "TRAINING": strata_table(outs),
        "TRAINED": group_table(outs, serving_prediction.NEW_ACCELERATOR, lambda out: out.group),
        "TRAINED_SOURCES": group_table(outs, serving_prediction.NEW_SOURCE, lambda out: out.group),
        "TRAINED_MODELS": group_table(outs, serving_prediction.NEW_MODEL, lambda out: out.row.job.model.id),
        "TRAINED_LEFT": left_out_table(left),
        "TRAINED_RUNS": f"{inside} of {count}",
        "TRAINED_BEFORE": (HERE / "training_baseline.section.md").read_text(encoding="utf-8"),
        "TRAINED_ROWS": f"{len(rows)} training rows with a rate, and {len(left)} that no fit uses",
    }
