"""Sensitivity: the value of one fact at which another option would be chosen.

With all other facts fixed, each sum of an option is linear in the fact's factor (1: its current value). The factors at
which the choice can change follow in closed form: an option costs the same as the chosen one, or reaches a limit of
the budget. The choice is repeated on both sides of each such factor.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.needs import Budget
from archwright.contract.plan import BUDGET_LIMITS
from archwright.plan.decision.selection import PRICE_TOLERANCE

if TYPE_CHECKING:
    from archwright.plan.accounting.monte_carlo import Worlds

# Factors beyond ten are not considered.
MAX_FACTOR = 10.0
# Relative distance from a crossing at which the choice is repeated.
CROSSING_OFFSET = 1e-6


class AttributedAmount(NamedTuple):
    """An amount, and the part of it that is proportional to each cause of uncertainty."""

    value: float
    moved_by: Mapping[Hashable, float]


class BudgetCandidate(NamedTuple):
    """An option that only the budget can rule out.

    `order`: the first of equal prices is chosen. `doubts`: limits below the required certainty, which rank first.
    `near`: it ties with the chosen option. A change between the two is reported as a tie.
    """

    name: str
    order: tuple[int, str]
    preferred: bool
    total: AttributedAmount
    month: AttributedAmount
    capex: AttributedAmount
    doubts: int = 0
    near: bool = False


class SwitchPoint(NamedTuple):
    """The nearest factor at which the choice changes, and the option chosen there (`to`, None: nothing is feasible).

    `away`: distance in half-widths of the fact's band. `limit`: the budget limit that is crossed there, by the chosen
    option or by the other one; "" if the other option becomes cheaper.
    """

    factor: float
    to: str | None
    away: float
    limit: str = ""


class SwitchPointFinder:
    """Finds the switch point of each fact. `candidates` includes the chosen option."""

    def __init__(self, candidates: Iterable[BudgetCandidate], chosen: str, budget: Budget) -> None:
        import numpy as np  # noqa: PLC0415

        self._candidates = sorted(candidates, key=lambda candidate: candidate.order)
        self._chosen = next(index for index, candidate in enumerate(self._candidates) if candidate.name == chosen)
        self._preferred = np.array([candidate.preferred for candidate in self._candidates])
        self._doubts = np.array([float(candidate.doubts) for candidate in self._candidates])
        self._limits = (math.inf if budget.per_month is None else budget.per_month, budget.capex)
        self._values = [
            np.array([s.value for s in sums]) for sums in zip(*map(_list_amounts, self._candidates), strict=True)
        ]

    def nearest_switch(self, cause: Hashable, estimate: Estimate) -> SwitchPoint | None:
        """The switch point nearest in half-widths of the fact's band; `estimate`: that of a driver with this cause."""
        import numpy as np  # noqa: PLC0415

        columns = zip(*map(_list_amounts, self._candidates), strict=True)
        slopes = [np.array([one.moved_by.get(cause, 0.0) for one in sums]) for sums in columns]
        points = self._crossing_factors(slopes)
        around = np.concatenate([points * (1 - CROSSING_OFFSET), points * (1 + CROSSING_OFFSET)])
        chosen = self._choices_at(slopes, around)
        found = []
        for factor, index in zip(map(float, np.concatenate([points, points])), chosen, strict=True):
            candidate = self._candidates[index] if index >= 0 else None
            if index != self._chosen and not (candidate is not None and candidate.near):
                name = candidate.name if candidate is not None else None
                found.append(SwitchPoint(factor, name, _measure_band_distance(factor, estimate)))
        nearest = min(found, key=lambda point: (point.away, abs(math.log(point.factor))), default=None)
        return nearest._replace(limit=self._crossed_limit(slopes, nearest)) if nearest is not None else None

    def _crossed_limit(self, slopes: list[Worlds], point: SwitchPoint) -> str:
        candidates = {
            self._chosen,
            *(index for index, candidate in enumerate(self._candidates) if candidate.name == point.to),
        }
        for name, limit, value, slope in zip(BUDGET_LIMITS, self._limits, self._values[1:], slopes[1:], strict=True):
            sums = (float(value[index] + slope[index] * (point.factor - 1)) for index in candidates if slope[index])
            if any(math.isclose(total, limit, rel_tol=CROSSING_OFFSET) for total in sums):
                return name
        return ""

    def _crossing_factors(self, slopes: list[Worlds]) -> Worlds:
        """Factors in reach at which a total equals that of the chosen or a near option, or a sum reaches its limit."""
        import numpy as np  # noqa: PLC0415

        total, month, capex = self._values
        reference = [
            index for index, candidate in enumerate(self._candidates) if candidate.near or index == self._chosen
        ]
        gaps = [(total - total[index], slopes[0] - slopes[0][index]) for index in reference]
        gaps += [(month - self._limits[0], slopes[1]), (capex - self._limits[1], slopes[2])]
        own_slopes = [slopes[0]] * len(reference) + slopes[1:]
        found = []
        for (gap, slope), own in zip(gaps, own_slopes, strict=True):
            moved = np.abs(slope) > PRICE_TOLERANCE * np.abs(own).max(initial=0.0)
            found.append(1 - gap[moved] / slope[moved])
        points = np.concatenate(found)
        return points[(points >= 1 / MAX_FACTOR) & (points <= MAX_FACTOR)]

    def _choices_at(self, slopes: list[Worlds], factors: Worlds) -> Iterable[int]:
        """Index of the option chosen at each factor, -1 if no option is feasible."""
        import numpy as np  # noqa: PLC0415

        lines = zip(self._values, slopes, strict=True)
        total, month, capex = (value + slope * (factors[:, None] - 1) for value, slope in lines)
        feasible = (month <= self._limits[0]) & (capex <= self._limits[1])
        preferred = feasible & self._preferred
        eligible = np.where(preferred.any(axis=1, keepdims=True), preferred, feasible)
        doubts = np.where(eligible, self._doubts, np.inf)
        eligible &= doubts <= doubts.min(axis=1, keepdims=True)
        priced = np.where(eligible, total, np.inf)
        least = priced.min(axis=1, keepdims=True)
        cheapest = (priced <= least + PRICE_TOLERANCE * np.abs(least)).argmax(axis=1)
        return [int(index) for index in np.where(eligible.any(axis=1), cheapest, -1)]


def _list_amounts(candidate: BudgetCandidate) -> tuple[AttributedAmount, AttributedAmount, AttributedAmount]:
    return candidate.total, candidate.month, candidate.capex


def _measure_band_distance(factor: float, estimate: Estimate) -> float:
    """In half-widths of the band; infinite for a fact without a band."""
    low, value, high = estimate.low, estimate.value, estimate.high
    at, end = value * factor, (high if value * factor > value else low)
    if end == value:
        return math.inf if at != value else 0.0
    return abs(at - value) / abs(end - value)
