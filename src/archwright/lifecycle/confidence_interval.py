"""How sure a mean is: 95 % intervals by resampling whole items.

Tokens of one item are alike, so an item is drawn or not as a whole; what is compared over the same items is resampled
together. The draws are seeded: the same figures give the same interval.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from archwright.contract.lineage import Score

T = TypeVar("T")

RESAMPLES = 2000
TAIL_SHARE = 0.025
SEED = 1


class ConfidenceInterval(NamedTuple):
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"

    def to_score(self, metric: str, items: int, baseline: float, name: str) -> Score:
        """As the score of `metric` over so many items; `name` is what the baseline is of."""
        return Score(
            metric=metric,
            value=self.value,
            low=self.low,
            high=self.high,
            items=items,
            baseline=baseline,
            baseline_name=name,
        )


def bootstrap_interval(items: Sequence[T], figure: Callable[[Sequence[T]], float]) -> ConfidenceInterval:
    """`figure` of the items, and where it lies in 95 of 100 resamplings of them. There must be an item."""
    draw = random.Random(SEED).choices
    found = sorted(figure(draw(items, k=len(items))) for _ in range(RESAMPLES))
    cut = int(TAIL_SHARE * RESAMPLES)
    return ConfidenceInterval(figure(items), found[cut], found[-1 - cut])


def weighted_mean(pairs: Sequence[tuple[float, float]]) -> float:
    """Sum of the first over sum of the second: a mean per token from sums and counts."""
    return sum(sum_ for sum_, _ in pairs) / sum(count for _, count in pairs)
