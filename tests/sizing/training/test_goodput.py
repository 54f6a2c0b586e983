"""Goodput under interruptions and checkpoints."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sizing.conftest import CATALOG

from archwright.sizing.training.goodput import GoodputJob, optimal_checkpoint_interval, predict_goodput, useful_share

SECONDS = st.floats(1.0, 1e5)


def job(devices: int, size: float = 1e12, machines: int = 128) -> GoodputJob:
    return GoodputJob(size, devices, machines, "training.stages-finetune")


def test_the_interval_is_youngs_where_checkpoints_are_short() -> None:
    assert optimal_checkpoint_interval(1.0, 1e6) == pytest.approx(math.sqrt(2e6), rel=1e-2)
    assert optimal_checkpoint_interval(100.0, 40.0) == 100.0


@settings(max_examples=80, deadline=None)
@given(delta=SECONDS, between=SECONDS, other=st.floats(0.2, 5.0))
def test_no_other_interval_loses_much_less(delta: float, between: float, other: float) -> None:
    """Daly's interval is the best of the first-order loss within a tenth, where a checkpoint is short enough."""
    if delta > between / 10:
        return

    def lost(tau: float) -> float:
        return delta / tau + tau / 2 / between

    best = optimal_checkpoint_interval(delta, between)
    assert lost(best) <= 1.1 * lost(best * other)


@settings(max_examples=60, deadline=None)
@given(delta=SECONDS, between=SECONDS, restart=SECONDS)
def test_worse_in_anything_is_never_more_useful(delta: float, between: float, restart: float) -> None:
    share = useful_share(delta, between, restart)
    assert 0 < share < 1
    assert useful_share(delta, between * 2, restart) >= share
    assert useful_share(delta, between, restart * 2) <= share


def test_a_large_job_is_interrupted_more_and_writes_faster() -> None:
    small, large = predict_goodput(job(1024), CATALOG), predict_goodput(job(16384, machines=2048), CATALOG)
    # arXiv 2407.21783: 419 unexpected interruptions in 54 days on 16,384 accelerators, one in 3.1 hours.
    assert large.between_failures_s.low <= 54 * 86400 / 419 <= large.between_failures_s.high
    assert large.share.value < small.share.value
    assert large.checkpoint_s.value < small.checkpoint_s.value
    assert small.share.low < small.share.value < small.share.high <= 1
    assert any("GPU annual failure rate" in fact for fact in small.facts)


def test_what_cannot_go_on_keeps_a_share_above_nothing() -> None:
    hopeless = predict_goodput(job(10_000_000, size=1e18, machines=1), CATALOG)
    assert 0 < hopeless.share.low <= hopeless.share.value <= 0.05 + 1e-9
