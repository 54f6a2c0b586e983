"""Gradient-boosted regression trees, evaluated from tables of nodes (feature, threshold, left, right, value).

A node with feature -1 is a leaf. A case goes left if its feature is at most the threshold. The trees' values are added.
"""

from collections.abc import Sequence

from archwright.contract.record import Record


class RegressionTree(Record):
    """Nodes of one tree, one tuple per column; node 0 is the root."""

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]

    def leaf_value(self, features: Sequence[float]) -> float:
        node = 0
        while self.feature[node] >= 0:
            node = (self.left if features[self.feature[node]] <= self.threshold[node] else self.right)[node]
        return self.value[node]


def sum_trees(trees: Sequence[RegressionTree], features: Sequence[float]) -> float:
    return sum(tree.leaf_value(features) for tree in trees)


def find_position(name: str, names: Sequence[str]) -> float:
    """Return the position of `name` as a feature, -1 if it is not there."""
    return float(names.index(name)) if name in names else -1.0
