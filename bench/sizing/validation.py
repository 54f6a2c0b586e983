"""Leave-one-group-out: for each stratum, every row predicted by a fit that never saw its group.

seen configuration: groups of (parallelism, engine) together, in folds; unseen model: each shape; unseen accelerator:
each device; unseen source: each publisher. Groups of a few rows share a fold. Bands are conformal: quantiles of the
signed log residuals of the other groups' rows.
"""

from __future__ import annotations

import math
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy
from bench.sizing.fitting import FAMILIES, FAR, Fit, Row, fit_all, fit_tables, list_engine_vendors

from archwright.sizing.inference import serving_prediction
from archwright.sizing.step_time import extrapolation, fitted_tables

STRATA: dict[str, Callable[[Row], str]] = {
    serving_prediction.SEEN: lambda row: row.configuration,
    serving_prediction.NEW_MODEL: lambda row: row.model,
    serving_prediction.NEW_ACCELERATOR: lambda row: row.accelerator,
    serving_prediction.NEW_SOURCE: lambda row: row.source,
}
# The residual trees that the predictor uses in a stratum.
TABLES = {
    serving_prediction.SEEN: ("tpot", "tpot.pool", "ttft", "ttft.pool"),
    serving_prediction.NEW_MODEL: ("tpot.pool",),
    serving_prediction.NEW_ACCELERATOR: ("tpot.pool", FAR),
    serving_prediction.NEW_SOURCE: ("tpot.pool",),
}
LEVEL = 0.9
# Groups of fewer rows are left out together.
LEAST_ROWS = 10
# Rows beyond it are errors of a table, not of a prediction.
LEAST_TAIL = 0.005
AnyRow = TypeVar("AnyRow")


class Residual(NamedTuple, Generic[AnyRow]):
    """One out-of-fold prediction: log(measured / predicted)."""

    row: AnyRow
    metric: str
    stratum: str
    group: str
    regime: str
    residual: float
    doubt: serving_prediction.BandWidening

    @property
    def weak(self) -> bool:
        return self.doubt.widen > 1


Out = Residual[Row]


def doubt_of(row: Row, fit: fitted_tables.FittedTable) -> serving_prediction.BandWidening:
    """As the row is answered: what a gate found, what the fit has no row of, and the figures of its device."""
    found = row.found
    unlike = extrapolation.list_extrapolations(found.accelerator, found.case.engine, fit)
    return serving_prediction.widen_for_distance(len(found.weak) + len(unlike), found.accelerator, found.catalog)


def fitted(rows: Sequence[Row], fit: Fit, stratum: str) -> fitted_tables.FittedTable:
    """The predictor's own fit, without what only a shipped one has."""
    return fitted_tables.FittedTable(
        provenance=fitted_tables.FitProvenance(
            file="", sha256="", rows_used=len(rows), rows_left_out=0, date="", command="", licence="", loss=""
        ),
        coefficients=fit.by_name,
        residuals=fit_tables(rows, fit, TABLES[stratum]),
        seen={
            "families": FAMILIES,
            "engine": tuple({row.found.case.engine for row in rows} - {"other"}),
            "accelerator": tuple({row.accelerator for row in rows}),
            "engine_vendor": list_engine_vendors(rows),
        },
        bands=(),
    )


class _Shared(NamedTuple):
    """What every fold starts from; a forked process has it without a copy."""

    rows: Sequence[Row]
    whole: Fit


_shared: list[_Shared] = []


def all_strata(rows: Sequence[Row]) -> list[Out]:
    """Every row of every stratum, predicted by a fit without its group; two folds at a time."""
    _shared[:] = [_Shared(rows, fit_all(rows))]
    folds: list[tuple[str, frozenset[str]]] = []
    for stratum, group_of in STRATA.items():
        sizes = Counter(group_of(row) for row in rows)
        small = frozenset(group for group, count in sizes.items() if count < LEAST_ROWS)
        folds += [(stratum, frozenset({group})) for group in sorted(sizes.keys() - small)]
        folds += [(stratum, small)] if small else []
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap(_predict_fold, folds, chunksize=1)
    return [out for outs in found for out in outs]


def _predict_fold(stratum: str, left: frozenset[str]) -> list[Out]:
    rows, whole = _shared[0]
    group_of = STRATA[stratum]
    kept = [row for row in rows if group_of(row) not in left]
    fit = fitted(kept, fit_all(kept, whole, rows), stratum)
    return [out for row in rows if group_of(row) in left for out in _residuals(row, fit, stratum, group_of(row))]


def _residuals(row: Row, fit: fitted_tables.FittedTable, stratum: str, group: str) -> Iterator[Out]:
    pace, first = serving_prediction.predict_means(row.found, fit, stratum)
    regime = serving_prediction.classify_regime(row.found)
    if stratum == serving_prediction.NEW_MODEL and row.pooled:
        # One shape has nine in ten of these rows: bands are judged by groups of model and device.
        group = f"{row.model} {row.accelerator}"
    rate, doubt = serving_prediction.predict_rate(row.found, pace, first), doubt_of(row, fit)
    for metric, measured, predicted in (
        ("tpot_s", row.tpot_s, pace),
        ("ttft_s", row.ttft_s, first),
        ("pace_s", row.tokens_per_s and 1 / row.tokens_per_s, 1 / rate),
    ):
        if measured:
            yield Out(row, metric, stratum, group, regime, math.log(measured / predicted), doubt)


def median_error(outs: Sequence[Residual[Any]]) -> float:
    return quantile([abs(math.expm1(-out.residual)) for out in outs], 0.5)


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between ranks."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def quantile_band(residuals: Sequence[float], tail: float) -> tuple[float, float]:
    """Factors (low, high) that leave `tail` of the residuals out on each side; each at least 2 %."""
    low, high = numpy.quantile(residuals, [tail, 1 - tail])
    return math.exp(min(low, -0.02)), math.exp(max(high, 0.02))


class RatedMiss(Protocol):
    """Logarithms of measured over predicted time, of the fit and of its rule alone."""

    @property
    def log(self) -> float: ...
    @property
    def rule_log(self) -> float: ...


Rated = TypeVar("Rated", bound=RatedMiss)


def format_groups(
    title: str,
    groups: Mapping[tuple[str, str, str], Sequence[Rated]],
    holds: Callable[[Rated], bool],
    *,
    width: int,
) -> str:
    """Return a line for each group: errors of the fit and of its rule, and the share inside the bands."""
    lines = [title]
    for key, members in sorted(groups.items()):
        name_columns = " ".join(f"{word:{width}}" for word in key)
        errors = [abs(math.expm1(-miss.log)) for miss in members]
        rule_errors = [abs(math.expm1(-miss.rule_log)) for miss in members]
        inside = sum(map(holds, members)) / len(members)
        shares = f"{100 * quantile(errors, 0.5):5.1f} % p90 {100 * quantile(errors, 0.9):5.1f} %"
        rule = f"rule alone {100 * quantile(rule_errors, 0.5):5.1f} %"
        lines.append(f"  {name_columns} {len(members):6} {shares} {rule} in band {inside:.0%}")
    return "\n".join(lines) + "\n"


def band(outs: Sequence[Out]) -> tuple[float, float]:
    """Factors (low, high) on a prediction, from the rows that no gate calls weak, where there are any."""
    return quantile_band([out.residual for out in _sure(outs)], find_tail(outs))


def _sure(outs: Sequence[Out]) -> Sequence[Out]:
    return [out for out in outs if not out.weak] or outs


def find_tail(outs: Sequence[Out]) -> float:
    """The tail with which the bands of the other groups hold LEVEL of the rows: groups err alike, rows do not count."""
    if len({out.group for out in outs}) < 2:
        return (1 - LEVEL) / 2
    low, high = LEAST_TAIL, 0.25
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if coverage(outs, middle)[0] >= LEVEL else (low, middle)
    return low


def coverage(outs: Sequence[Out], tail: float | None = None) -> tuple[float, float]:
    """Share of rows inside the band made from the other groups and widened as each row is answered, and the median
    half-width as a factor.
    """
    tail = find_tail(outs) if tail is None else tail
    inside, widths = 0, []
    for group in {out.group for out in outs}:
        others = [out.residual for out in _sure([out for out in outs if out.group != group])]
        if not others:
            continue
        made = quantile_band(others, tail)
        for out in (out for out in outs if out.group == group):
            low, high = out.doubt.combine_bands([made])
            inside += low <= math.exp(out.residual) <= high
            widths.append(math.sqrt(high / low))
    return inside / max(len(widths), 1), quantile(widths, 0.5) if widths else math.nan
