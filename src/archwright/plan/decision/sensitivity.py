"""At which value of one fact another option would be chosen.

With every other fact at its own value each sum of an option is a straight line in the one fact's factor (1: as it is
believed today), so the factors at which anything can change are known in closed form: where an option costs as much
as the chosen one, and where one meets a limit of the budget. The choice is made again on both sides of each.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.needs import Budget
from archwright.plan.decision.selection import BUDGET_LIMITS, PRICE_TOLERANCE

if TYPE_CHECKING:
    from archwright.plan.accounting.monte_carlo import Worlds

# A fact that is ten times what is believed is another fact.
MAX_FACTOR = 10.0
# How far beside a crossing the choice is made again, as a share.
CROSSING_OFFSET = 1e-6


class AttributedAmount(NamedTuple):
    """An amount today, and the part of it that is proportional to each cause (Ledger.cause)."""

    value: float
    moved_by: Mapping[Hashable, float]


class BudgetCandidate(NamedTuple):
    """An option that only money can rule out. `order`: of equal prices the first is taken, as when a plan is made.
    `proven`: its limits are known to hold, which comes before its price. `near`: it costs nearly the same as the chosen
    one; which of the two is taken hangs on every fact and is told as a tie, so that it is no flip.
    """

    name: str
    order: tuple[int, str]
    preferred: bool
    total: AttributedAmount
    month: AttributedAmount
    capex: AttributedAmount
    proven: bool = True
    near: bool = False


class SwitchPoint(NamedTuple):
    """The nearest factor at which the choice changes, what would be chosen then (None: nothing is feasible), how many
    half-widths of the fact's own band away that is, and the limit that is crossed there: by the chosen option, or by
    the other one, which keeps it from then on; "" where one becomes cheaper.
    """

    factor: float
    to: str | None
    away: float
    limit: str = ""


class SwitchPointFinder:
    """Asks, fact by fact, what would be chosen. `ways` holds the chosen one."""

    def __init__(self, ways: Iterable[BudgetCandidate], chosen: str, budget: Budget) -> None:
        import numpy as np  # noqa: PLC0415

        self._ways = sorted(ways, key=lambda way: way.order)
        self._chosen = next(index for index, way in enumerate(self._ways) if way.name == chosen)
        self._preferred = np.array([way.preferred for way in self._ways])
        self._proven = np.array([way.proven for way in self._ways])
        self._limits = (math.inf if budget.per_month is None else budget.per_month, budget.capex)
        self._values = [np.array([s.value for s in sums]) for sums in zip(*map(_list_amounts, self._ways), strict=True)]

    def nearest_switch(self, cause: Hashable, estimate: Estimate) -> SwitchPoint | None:
        """The flip nearest in terms of the fact's own band; `estimate` is that of a driver with this cause."""
        import numpy as np  # noqa: PLC0415

        columns = zip(*map(_list_amounts, self._ways), strict=True)
        slopes = [np.array([one.moved_by.get(cause, 0.0) for one in sums]) for sums in columns]
        points = self._crossing_factors(slopes)
        beside = np.concatenate([points * (1 - CROSSING_OFFSET), points * (1 + CROSSING_OFFSET)])
        chosen = self._choices_at(slopes, beside)
        flips = []
        for factor, index in zip(map(float, np.concatenate([points, points])), chosen, strict=True):
            way = self._ways[index] if index >= 0 else None
            if index != self._chosen and not (way is not None and way.near):
                name = way.name if way is not None else None
                flips.append(SwitchPoint(factor, name, _measure_band_distance(factor, estimate)))
        nearest = min(flips, key=lambda flip: (flip.away, abs(math.log(flip.factor))), default=None)
        return nearest._replace(limit=self._crossed_limit(slopes, nearest)) if nearest is not None else None

    def _crossed_limit(self, slopes: list[Worlds], flip: SwitchPoint) -> str:
        """Which limit the chosen option or the other one meets at the flip."""
        ways = {self._chosen, *(index for index, way in enumerate(self._ways) if way.name == flip.to)}
        for name, limit, value, slope in zip(BUDGET_LIMITS, self._limits, self._values[1:], slopes[1:], strict=True):
            sums = (float(value[index] + slope[index] * (flip.factor - 1)) for index in ways if slope[index])
            if any(math.isclose(total, limit, rel_tol=CROSSING_OFFSET) for total in sums):
                return name
        return ""

    def _crossing_factors(self, slopes: list[Worlds]) -> Worlds:
        """Factors in reach at which a total meets the chosen one's or that of one near it, or a sum its limit."""
        import numpy as np  # noqa: PLC0415

        total, month, capex = self._values
        held = [index for index, way in enumerate(self._ways) if way.near or index == self._chosen]
        gaps = [(total - total[index], slopes[0] - slopes[0][index]) for index in held]
        gaps += [(month - self._limits[0], slopes[1]), (capex - self._limits[1], slopes[2])]
        mine = [slopes[0]] * len(held) + slopes[1:]
        found = []
        for (gap, slope), own in zip(gaps, mine, strict=True):
            moved = np.abs(slope) > PRICE_TOLERANCE * np.abs(own).max(initial=0.0)
            found.append(1 - gap[moved] / slope[moved])
        points = np.concatenate(found)
        return points[(points >= 1 / MAX_FACTOR) & (points <= MAX_FACTOR)]

    def _choices_at(self, slopes: list[Worlds], factors: Worlds) -> Iterable[int]:
        """The index of the way chosen at each factor, -1 where none is feasible."""
        import numpy as np  # noqa: PLC0415

        lines = zip(self._values, slopes, strict=True)
        total, month, capex = (value + slope * (factors[:, None] - 1) for value, slope in lines)
        feasible = (month <= self._limits[0]) & (capex <= self._limits[1])
        liked = feasible & self._preferred
        asked = np.where(liked.any(axis=1, keepdims=True), liked, feasible)
        known = asked & self._proven
        asked = np.where(known.any(axis=1, keepdims=True), known, asked)
        priced = np.where(asked, total, np.inf)
        least = priced.min(axis=1, keepdims=True)
        cheapest = (priced <= least + PRICE_TOLERANCE * np.abs(least)).argmax(axis=1)
        return [int(index) for index in np.where(asked.any(axis=1), cheapest, -1)]


def _list_amounts(way: BudgetCandidate) -> tuple[AttributedAmount, AttributedAmount, AttributedAmount]:
    return way.total, way.month, way.capex


def _measure_band_distance(factor: float, estimate: Estimate) -> float:
    """Half-widths of the band between the fact and the flip; infinite for a fact without a band."""
    low, value, high = estimate.low, estimate.value, estimate.high
    at, end = value * factor, (high if value * factor > value else low)
    if end == value:
        return math.inf if at != value else 0.0
    return abs(at - value) / abs(end - value)
