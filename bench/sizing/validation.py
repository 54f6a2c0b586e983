"""Leave-one-group-out: for each stratum, every row predicted by a fit that never saw its group.

seen configuration: groups of (parallelism, engine) together, 8 folds; unseen model: each shape; unseen accelerator:
each device. Bands are conformal: quantiles of the signed log residuals of the other groups' rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from bench.sizing.fitting import FAMILIES, Coefficients, Row, fit_tables, fit_tpot, fit_ttft, fold_of, loops

from archwright.sizing.inference import serving_prediction
from archwright.sizing.step_time import extrapolation, fitted_tables, step_time_model

STRATA: dict[str, Callable[[Row], str]] = {
    serving_prediction.SEEN: lambda row: str(fold_of(row.configuration)),
    serving_prediction.NEW_MODEL: lambda row: row.model,
    serving_prediction.NEW_ACCELERATOR: lambda row: row.accelerator,
}
LEVEL = 0.9
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


def doubt_of(row: Row) -> serving_prediction.BandWidening:
    """As a row is answered: what a gate found, and the figures of its device."""
    found = row.found
    return serving_prediction.BandWidening(
        serving_prediction.WEAK_BAND_EXPONENT ** len(found.weak),
        extrapolation.spec_uncertainty(found.accelerator, found.catalog),
    )


def fitted(rows: Sequence[Row], tpot: Coefficients, ttft: Coefficients) -> fitted_tables.FittedTable:
    """The predictor's own fit, without what only a shipped one has."""
    return fitted_tables.FittedTable(
        provenance=fitted_tables.FitProvenance(
            file="", sha256="", rows_used=len(rows), rows_left_out=0, date="", command="", licence="", loss=""
        ),
        coefficients={"tpot": tpot, "ttft": ttft},
        residuals=fit_tables(rows, tpot, ttft),
        seen={"engine": FAMILIES},
        bands=(),
    )


def out_of_fold(rows: Sequence[Row], stratum: str) -> list[Out]:
    group_of = STRATA[stratum]
    found: list[Out] = []
    for group in sorted({group_of(row) for row in loops(rows)}):
        kept = [row for row in rows if group_of(row) != group]
        left = [row for row in loops(rows) if group_of(row) == group]
        tpot = fit_tpot(kept)
        ttft = fit_ttft(kept, tpot)
        fit = fitted(kept, tpot, ttft)
        for row in left:
            pace, first = serving_prediction.predict_means(row.found, fit, stratum)
            regime = serving_prediction.classify_regime(row.found)
            alike = group
            if stratum == serving_prediction.NEW_MODEL and row.pooled:
                # One shape has nine in ten of these rows: bands are judged by groups of model and device.
                alike = f"{row.model} {row.accelerator}"
            for metric, ratio in (("tpot_s", row.tpot_s / pace), ("ttft_s", row.ttft_s / first)):  # type: ignore[operator]
                found.append(Out(row, metric, stratum, alike, regime, math.log(ratio), doubt_of(row)))
    return found


def offline(rows: Sequence[Row]) -> list[Out]:
    """Offline throughput by a fit that saw none of its source: only closed loops."""
    tpot = fit_tpot(rows)
    found = []
    for row in rows:
        ambiguous = "ambiguous" in row.cells["note"]
        if row.cells["scenario"].startswith("offline") and row.tokens_per_s and not ambiguous:
            rate = step_time_model.output_throughput(row.found.case, step_time_model.mean_tpot_s(row.found.case, tpot))
            found.append(
                Out(
                    row,
                    "pace_s",
                    "source unseen",
                    row.model,
                    serving_prediction.OFFLINE,
                    math.log(rate / row.tokens_per_s),
                    doubt_of(row),
                )
            )
    return found


def median_error(outs: Sequence[Out]) -> float:
    return quantile([abs(math.expm1(-out.residual)) for out in outs], 0.5)


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between ranks."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def band(outs: Sequence[Out], level: float = LEVEL) -> tuple[float, float]:
    """Factors (low, high) on a prediction; each side at least 2 %. From the rows that no gate calls weak, where there
    are any: the others are answered with more than this.

    Rows of a group err alike, so it is groups that are exchangeable: with g of them the tails shrink by 1 - 1/g.
    """
    outs = [out for out in outs if not out.weak] or outs
    groups = max(len({out.group for out in outs}), 2)
    tail, rank = (1 - level) / 2 * (1 - 1 / groups), 1 + 1 / max(len(outs), 1)
    low = quantile([out.residual for out in outs], max(0.0, tail * rank - (rank - 1)))
    high = quantile([out.residual for out in outs], min(1.0, (1 - tail) * rank))
    return math.exp(min(low, -0.02)), math.exp(max(high, 0.02))


def coverage(outs: Sequence[Out]) -> tuple[float, float]:
    """Share of rows inside the band made from the other groups and widened as each row is answered, and the median
    half-width as a factor.
    """
    inside, widths = 0, []
    for group in {out.group for out in outs}:
        others = [out for out in outs if out.group != group]
        if not others:
            continue
        made = band(others)
        for out in (out for out in outs if out.group == group):
            low, high = out.doubt.combine_bands([made])
            inside += low <= math.exp(out.residual) <= high
            widths.append(math.sqrt(high / low))
    return inside / max(len(widths), 1), quantile(widths, 0.5) if widths else math.nan
