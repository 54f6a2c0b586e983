"""Measurements kept in the store, keyed by the prediction they answer. `reconcile` reads them back."""

from __future__ import annotations

from collections.abc import Sequence

from archwright.contract.evidence import Measurement
from archwright.store import Store, Table

MEASUREMENTS = Table("measurements", Measurement, index=("plan_digest",))


def save(store: Store, measurements: Sequence[Measurement]) -> None:
    store.append(MEASUREMENTS, measurements)


def latest(store: Store, plan_digest: str) -> dict[str, Measurement]:
    """Of each prediction of the plan the measurement whose window ended last; of equals the one that arrived last."""
    found: dict[str, Measurement] = {}
    for row in store.rows(MEASUREMENTS, {"plan_digest": plan_digest}):
        known = found.get(row.prediction_id)
        if known is None or row.at >= known.at:
            found[row.prediction_id] = row
    return found
