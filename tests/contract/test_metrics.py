"""The table of metric names keeps Prometheus's rules, and the buckets keep their promise."""

from __future__ import annotations

import itertools
import re

from archwright.contract.metrics import LATENCY_BOUNDS_S, METRIC_BY_QUANTITY, METRICS


def test_names_follow_the_conventions_and_are_unique() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names) == len(METRIC_BY_QUANTITY)
    for metric in METRICS:
        assert re.fullmatch(r"archwright_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        if metric.kind == "histogram":
            assert metric.name.endswith("_seconds")
        assert metric.help and metric.labels
        assert METRIC_BY_QUANTITY[metric.quantity] is metric


def test_neighbouring_bounds_differ_by_at_most_15_percent() -> None:
    steps = [high / low for low, high in itertools.pairwise(LATENCY_BOUNDS_S)]
    assert max(steps) < 1.151
    assert LATENCY_BOUNDS_S[0] == 0.001
    assert 500 < LATENCY_BOUNDS_S[-1] < 700
