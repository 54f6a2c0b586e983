"""Metrics of classifiers with 95 % intervals.

Accuracy has Wilson's interval. Balanced accuracy is the mean recall over the classes; always naming one class scores
1/classes. Its interval combines the classes' Wilson intervals by the square-and-add rule (Zou and Donner, Statistics
in Medicine 27, 2008). Two classifiers are compared row by row over the same rows.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

from archwright.lifecycle.confidence_interval import ConfidenceInterval

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


def balanced_accuracy_change(truth: Sequence[int], old: Sequence[bool], new: Sequence[bool]) -> ConfidenceInterval:
    """The change of balanced accuracy from `old` to `new`; each says per row if the model was right.

    It is the mean over the classes of the mean difference, with the variance of stratified means.
    """
    differences: dict[int, list[int]] = {}
    for is_a, before, after in zip(truth, old, new, strict=True):
        differences.setdefault(is_a, []).append(int(after) - int(before))
    means = [sum(rows) / len(rows) for rows in differences.values()]
    variances = [
        sum((row - mean) ** 2 for row in rows) / len(rows) / max(1, len(rows) - 1)
        for rows, mean in zip(differences.values(), means, strict=True)
    ]
    value = math.fsum(means) / len(means)
    reach = Z_95 * math.sqrt(math.fsum(variances)) / len(means)
    return ConfidenceInterval(value, value - reach, value + reach)
