"""Measurements of predictions in the store; `reconcile` reads them."""

from collections.abc import Sequence

from archwright.contract.evidence import Measurement
from archwright.store import RecordTable, Store

MEASUREMENTS = RecordTable("measurements", Measurement, index=("plan_digest",))


def save_measurements(store: Store, measurements: Sequence[Measurement]) -> None:
    store.append(MEASUREMENTS, measurements)


def read_plan_measurements(store: Store, plan_digest: str) -> list[Measurement]:
    """Return the measurements of the plan's predictions, in order of arrival."""
    return store.rows(MEASUREMENTS, {"plan_digest": plan_digest})
