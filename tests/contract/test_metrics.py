"""The table of metric names keeps Prometheus's rules, and the buckets keep their promise."""

from __future__ import annotations

import itertools
import re

import pytest

from archwright.contract.metrics import METRIC_BY_QUANTITY, METRICS


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


@pytest.mark.parametrize("quantity", ["ttft_s", "tpot_s", "latency_s"])
def test_a_quantile_is_off_by_at_most_67_percent_and_round_limits_are_bounds(quantity: str) -> None:
    bounds = METRIC_BY_QUANTITY[quantity].bounds
    steps = [high / low for low, high in itertools.pairwise(bounds)]
    assert max(steps) < 1.67 and sum(steps) / len(steps) < 1.5
    assert {0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0} < set(bounds)
    assert not METRIC_BY_QUANTITY["requests"].bounds
