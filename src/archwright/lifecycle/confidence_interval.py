"""95 % intervals of means by bootstrap over whole items, since the tokens of an item are correlated.

Figures compared over the same items are resampled together. The draws are seeded: equal figures give equal intervals.
"""

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
        """The score of `metric` over `items` items; `name` is the baseline's name."""
        return Score(metric=metric, **self._asdict(), items=items, baseline=baseline, baseline_name=name)


def bootstrap_interval(items: Sequence[T], figure: Callable[[Sequence[T]], float]) -> ConfidenceInterval:
    """`figure` of the items with its 95 % interval over resamplings; needs at least one item."""
    draw = random.Random(SEED).choices
    found = sorted(figure(draw(items, k=len(items))) for _ in range(RESAMPLES))
    cut = int(TAIL_SHARE * RESAMPLES)
    return ConfidenceInterval(figure(items), found[cut], found[-1 - cut])


def weighted_mean(pairs: Sequence[tuple[float, float]]) -> float:
    """Mean per token from (sum, count) pairs."""
    return sum(sum_ for sum_, _ in pairs) / sum(count for _, count in pairs)
