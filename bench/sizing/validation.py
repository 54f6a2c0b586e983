"""Leave-one-group-out: for each stratum, every row predicted by a fit that never saw its group.

seen configuration: groups of (parallelism, engine) together, 8 folds; unseen model: each shape; unseen accelerator:
each device. Bands are conformal: quantiles of the signed log residuals of the other groups' rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.sizing.fitting import Row, fit_tpot, fit_trees, fit_ttft, fold_of, loops, physics

from archwright.sizing import serving, steps, trees

STRATA: dict[str, Callable[[Row], str]] = {
    serving.SEEN: lambda row: str(fold_of(row.configuration)),
    serving.NEW_MODEL: lambda row: row.model,
    serving.NEW_ACCELERATOR: lambda row: row.accelerator,
}
LEVEL = 0.9


class Out(NamedTuple):
    """One out-of-fold prediction: log(measured / predicted)."""

    row: Row
    metric: str
    stratum: str
    group: str
    regime: str
    residual: float


def out_of_fold(rows: Sequence[Row], stratum: str) -> list[Out]:
    group_of = STRATA[stratum]
    found: list[Out] = []
    for group in sorted({group_of(row) for row in loops(rows)}):
        kept = [row for row in rows if group_of(row) != group]
        left = [row for row in loops(rows) if group_of(row) == group]
        tpot = fit_tpot(kept)
        ttft = fit_ttft(kept, tpot)
        tables = None
        if stratum == serving.SEEN:
            own = loops(kept)
            centres = [physics(row, tpot, ttft) for row in own]
            seen = [row.seen for row in own]
            tables = (
                fit_trees(seen, [math.log(row.tpot_s / c[0]) for row, c in zip(own, centres, strict=True)]),  # type: ignore[operator]
                fit_trees(seen, [math.log(row.ttft_s / c[1]) for row, c in zip(own, centres, strict=True)]),  # type: ignore[operator]
            )
        for row in left:
            pace, first = physics(row, tpot, ttft)
            if tables is not None:
                pace *= math.exp(trees.total(tables[0], row.seen))
                first *= math.exp(trees.total(tables[1], row.seen))
            regime = serving.regime_of(row.found)
            found.append(Out(row, "tpot_s", stratum, group, regime, math.log(row.tpot_s / pace)))  # type: ignore[operator]
            found.append(Out(row, "ttft_s", stratum, group, regime, math.log(row.ttft_s / first)))  # type: ignore[operator]
    return found


def offline(rows: Sequence[Row]) -> list[Out]:
    """Offline throughput by a fit that saw none of its source: only closed loops."""
    tpot = fit_tpot(rows)
    found = []
    for row in rows:
        ambiguous = "ambiguous" in row.cells["note"]
        if row.cells["scenario"].startswith("offline") and row.tokens_per_s and not ambiguous:
            rate = steps.throughput(row.found.case, steps.tpot_s(row.found.case, tpot))
            found.append(
                Out(row, "pace_s", "source unseen", row.model, serving.OFFLINE, math.log(rate / row.tokens_per_s))
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
    """Factors (low, high) on a prediction; each side at least 2 %.

    Rows of a group err alike, so it is groups that are exchangeable: with g of them the tails shrink by 1 - 1/g.
    """
    groups = max(len({out.group for out in outs}), 2)
    tail, rank = (1 - level) / 2 * (1 - 1 / groups), 1 + 1 / max(len(outs), 1)
    low = quantile([out.residual for out in outs], max(0.0, tail * rank - (rank - 1)))
    high = quantile([out.residual for out in outs], min(1.0, (1 - tail) * rank))
    return math.exp(min(low, -0.02)), math.exp(max(high, 0.02))


def coverage(outs: Sequence[Out]) -> tuple[float, float]:
    """Share of rows inside the band made from the other groups, and the median half-width as a factor."""
    inside, widths = 0, []
    for group in {out.group for out in outs}:
        others = [out for out in outs if out.group != group]
        own = [out for out in outs if out.group == group]
        if not others:
            continue
        low, high = band(others)
        inside += sum(low <= math.exp(out.residual) <= high for out in own)
        widths += [math.sqrt(high / low)] * len(own)
    return inside / max(len(widths), 1), quantile(widths, 0.5) if widths else math.nan
