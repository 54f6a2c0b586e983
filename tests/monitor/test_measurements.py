"""Measurements come back by plan and prediction, the newest of each."""

from __future__ import annotations

from archwright.contract.evidence import Measurement
from archwright.contract.record import replace
from archwright.monitor.measurements import latest, save
from archwright.store import Store

ONE = Measurement(
    plan_digest="d",
    prediction_id="chat.ttft_s.p95",
    at=10.0,
    source="client",
    value=0.2,
    unit="s",
    statistic="p95",
    samples=30,
    window_s=45.0,
    evidence="q",
)


def test_the_newest_of_each_prediction(store: Store) -> None:
    late = replace(ONE, at=20.0, value=0.3)
    other = replace(ONE, prediction_id="chat.tpot_s.p50", value=0.01)
    save(store, [ONE, late, other])
    save(store, [replace(ONE, at=15.0, value=9.0), replace(ONE, plan_digest="e", at=99.0)])
    assert latest(store, "d") == {late.prediction_id: late, other.prediction_id: other}


def test_of_equal_times_the_one_that_arrived_last(store: Store) -> None:
    again = replace(ONE, source="gateway")
    save(store, [ONE])
    save(store, [again])
    assert latest(store, "d") == {ONE.prediction_id: again}


def test_nothing_measured_is_nothing(store: Store) -> None:
    save(store, [])
    assert latest(store, "d") == {}
