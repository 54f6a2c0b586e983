"""The distance between the values of a column in two versions, beyond the distance that chance alone explains.

Numbers and times: the Kolmogorov-Smirnov distance, the largest difference of the shares below one value. Categories:
the total variation distance, half the sum of the differences of shares. Both lie between 0 and 1.

Chance, at a probability of ALPHA: Smirnov's limit sqrt(-ln(ALPHA/2)/2 * (1/n+1/m)) for numbers; for k categories the
largest mean sqrt((k-1) * (1/n+1/m)) / 2 by the inequality of Cauchy and Schwarz, plus McDiarmid's bound of the
deviation from it, sqrt(-ln(ALPHA)/2 * (1/n+1/m)).
"""

import math
from collections import Counter
from typing import Any

from archwright.lake.lazy_modules import np, pa, pc

ALPHA = 0.001
BINS = 1024
EDGE_VALUES = 1 << 20
MOST_CATEGORIES = 10_000
CATEGORY_KINDS = ("boolean", "text")
KINDS = (*CATEGORY_KINDS, "integer", "number", "timestamp", "timestamp-utc", "date")


class ValueCounts:
    """Counts of categories, or of numbers between edges. The first values choose the edges, and need not be typical."""

    def __init__(self, kind: str, like: "ValueCounts | None" = None) -> None:
        self._categories = kind in CATEGORY_KINDS
        self._edges: Any = like._edges if like else None
        self._counts: Counter[Any] = Counter()

    @property
    def is_overfull(self) -> bool:
        """True if there are too many different values for categories."""
        return len(self._counts) > MOST_CATEGORIES

    def add(self, array: Any) -> None:
        array = array.drop_null()
        if self.is_overfull or not len(array):
            return
        values, counts = pc.value_counts(array if self._categories else self._find_bins(array)).flatten()
        self._counts.update(dict(zip(values.to_pylist(), counts.to_pylist(), strict=True)))

    def _find_bins(self, array: Any) -> Any:
        if pa.types.is_temporal(array.type):
            array = array.cast(pa.timestamp("us", getattr(array.type, "tz", None))).cast(pa.int64())
        numbers = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        numbers = numbers[~np.isnan(numbers)]
        if self._edges is None and len(numbers):
            self._edges = np.unique(np.quantile(numbers[:EDGE_VALUES], np.linspace(0, 1, BINS), method="lower"))
        return pa.array(np.searchsorted(self._edges, numbers) if len(numbers) else [], pa.int64())

    def measure_shift(self, before: "ValueCounts") -> float:
        n, m = self._counts.total(), before._counts.total()
        if not n or not m:
            return float(n != m)
        names, spread = sorted(self._counts.keys() | before._counts.keys()), 1 / n + 1 / m
        differences = np.array([self._counts[name] / n - before._counts[name] / m for name in names])
        if self._categories:
            distance = np.abs(differences).sum() / 2
            chance = math.sqrt((len(names) - 1) * spread) / 2 + math.sqrt(-math.log(ALPHA) / 2 * spread)
        else:
            distance = np.abs(np.cumsum(differences)).max()
            chance = math.sqrt(-math.log(ALPHA / 2) / 2 * spread)
        return round(max(0.0, float(distance) - chance), 6)
