"""Observations of another process appear once on this process's exposition."""

from __future__ import annotations

from pathlib import Path

from archwright.monitor.metrics.exposition import Exposition
from archwright.monitor.metrics.observation_exporter import ObservationExporter
from archwright.monitor.metrics.observations import OBSERVATIONS, Observation
from archwright.store import Store


def seen(store: Store, quantity: str, value: float, at: float) -> None:
    row = Observation(quantity=quantity, at=at, value=value, labels={"process": "platform"})
    store.append(OBSERVATIONS, [row])


def test_gauges_follow_and_counters_count_once(tmp_path: Path) -> None:
    store, exposition = Store(f"sqlite:///{tmp_path / 'a.db'}"), Exposition()
    seen(store, "peak_memory_bytes", 1.0, 5.0)
    follower = ObservationExporter(store, exposition, ("peak_memory_bytes", "restarts"), since=10.0)
    follower.catch_up()
    assert b"archwright_memory_bytes{" not in exposition.render(), "what was before the start is not shown"
    seen(store, "peak_memory_bytes", 7.0, 11.0)
    seen(store, "restarts", 1.0, 12.0)
    for _ in range(3):
        follower.catch_up()
    seen(store, "restarts", 1.0, 12.0)
    seen(store, "restarts", 1.0, 13.0)
    follower.catch_up()
    page = exposition.render().decode()
    assert 'archwright_memory_bytes{process="platform"} 7.0' in page
    assert 'archwright_restarts_total{process="platform"} 3.0' in page
    store.close()
