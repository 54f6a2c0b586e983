"""Metrics of classifiers with 95 % intervals.

Accuracy has Wilson's interval. Balanced accuracy is the mean recall over the classes; always naming one class scores
1/classes. Its interval combines the classes' Wilson intervals by the square-and-add rule (Zou and Donner, Statistics
in Medicine 27, 2008). Two classifiers are compared row by row over the same rows.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

from archwright.lake.lazy_modules import np
from archwright.lifecycle.confidence_interval import ConfidenceInterval
from archwright.lifecycle.production_gate import PairedComparison

Z_95 = NormalDist().inv_cdf(0.975)


def wilson_interval(right: int, items: int) -> ConfidenceInterval:
    """The share `right / items` with Wilson's interval; `items` is at least 1."""
    share, weight = right / items, Z_95 * Z_95 / items
    middle = (share + weight / 2) / (1 + weight)
    reach = Z_95 * math.sqrt(share * (1 - share) / items + weight / items / 4) / (1 + weight)
    return ConfidenceInterval(share, max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach)))


def balanced_accuracy(counts: Mapping[int, tuple[int, int]]) -> ConfidenceInterval:
    """Balanced accuracy of `counts`: class -> (recognised, rows), at least one class and one row of each."""
    shares = [wilson_interval(right, rows) for right, rows in counts.values()]
    value = math.fsum(share.value for share in shares) / len(shares)
    below = math.sqrt(math.fsum((share.value - share.low) ** 2 for share in shares)) / len(shares)
    above = math.sqrt(math.fsum((share.high - share.value) ** 2 for share in shares)) / len(shares)
    return ConfidenceInterval(value, value - below, value + above)


def count_recognised(truth: Sequence[int], named: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Class -> (correctly named rows of the class, all rows of the class)."""
    found: dict[int, tuple[int, int]] = {}
    for is_a, predicted in zip(truth, named, strict=True):
        right, rows = found.get(is_a, (0, 0))
        found[is_a] = (right + (is_a == predicted), rows + 1)
    return found


def compare_balanced_accuracy(truth: Sequence[int], old: Sequence[bool], new: Sequence[bool]) -> PairedComparison:
    """The gain of balanced accuracy from `old` to `new`; each says per row if the model was right.

    It is the mean over the classes of the mean difference. The interval is that of Agresti and Min for matched pairs
    (Statistics in Medicine 24, 2005), which adds half an observation to each of the four outcomes; the two added
    observations are divided between the classes. Without them, rows on which both models agree would show certainty.
    """
    classes, class_of_row = np.unique(truth, return_inverse=True)
    differences = np.array(new, np.float64) - np.array(old, np.float64)
    rows = np.bincount(class_of_row)
    added_rows = rows + 2.0 / len(classes)
    gained = np.bincount(class_of_row, differences) / added_rows
    changed = np.bincount(class_of_row, np.abs(differences)) + 1.0 / len(classes)
    variances = (changed / added_rows - gained**2) / added_rows
    reach = Z_95 * math.sqrt(variances.sum()) / len(classes)

    parts = differences / rows[class_of_row] / len(classes)
    value = math.fsum(parts)
    low = min(value, float(gained.mean()) - reach)
    high = max(value, float(gained.mean()) + reach)
    return PairedComparison("balanced_accuracy", ConfidenceInterval(value, low, high), parts)
