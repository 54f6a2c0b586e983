"""The upstreams that a worker sees failing, told to the process that sends alerts, in the shared table."""

import os
from collections.abc import Iterable

import msgspec

from archwright.monitor.shared_table import SharedTable, Transaction
from archwright.serving.routing.pool import EnginePool

REPORT_S = 5.0
VALID_S = 20.0  # a report of a worker that ended counts no longer
_PREFIX = b"u"


class _Report(msgspec.Struct, frozen=True, array_like=True):
    """At a time of the machine's monotonic clock: the failing upstreams as "POOL: HOST:PORT"."""

    at: float
    failing: list[str]


class UpstreamReporter:
    """One per worker process."""

    def __init__(self, table: SharedTable) -> None:
        self._table = table
        self._key = _PREFIX + os.getpid().to_bytes(4, "little")
        self._report = _Report(-REPORT_S, [])

    def report(self, pools: Iterable[EnginePool], now: float) -> None:
        """Tell which upstreams fail, at once if that changed. Raises StoreError."""
        failing = sorted(
            f"{pool.name}: {replica.name}"
            for pool in pools
            for replica in pool.replicas
            if not replica.healthy or replica.breaker.state != "closed"
        )
        if failing == self._report.failing and now < self._report.at + REPORT_S:
            return
        self._report = _Report(now, failing)
        self._table.write(self._write)

    def _write(self, transaction: Transaction) -> None:
        transaction.put(self._key, msgspec.json.encode(self._report))


def read_failing_upstreams(table: SharedTable, now: float) -> set[str]:
    """Return the upstreams that any worker sees failing. Raises StoreError."""
    return table.read(_read_failing, now)


def _read_failing(transaction: Transaction, now: float) -> set[str]:
    failing: set[str] = set()
    with transaction.cursor() as cursor:
        found = cursor.set_range(_PREFIX)
        while found and cursor.key().startswith(_PREFIX):
            report = msgspec.json.decode(cursor.value(), type=_Report)
            if now - VALID_S <= report.at:
                failing.update(report.failing)
            found = cursor.next()
    return failing
