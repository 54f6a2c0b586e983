"""Measurements come back by plan, in order of arrival."""

from __future__ import annotations

from archwright.contract.evidence import Measurement
from archwright.contract.record import replace
from archwright.monitor.measurements import read_plan_measurements, save_measurements
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


def test_those_of_the_plan_in_order_of_arrival(store: Store) -> None:
    save_measurements(store, [])
    assert read_plan_measurements(store, "d") == []
    late = replace(ONE, at=20.0, value=0.3)
    save_measurements(store, [late, ONE])
    save_measurements(store, [replace(ONE, plan_digest="e", at=99.0)])
    assert read_plan_measurements(store, "d") == [late, ONE]
