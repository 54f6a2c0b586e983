"""The demand of tenants for the slots of pools, told among the workers of a machine.

Design: a worker has its own part of each pool's slots, but a tenant's next request may reach any worker. So each keeps
slots free for the tenants of all. Demand is derived and short-lived, so it is in the shared table.
"""

import os
from collections.abc import Iterable

import msgspec

from archwright.monitor.shared_table import SharedTable, Transaction
from archwright.serving.routing.pool import EnginePool

EXCHANGE_S = 1.0
KEEP_S = 5.0  # a worker that reads late misses nothing
_PREFIX = b"d"


class _Report(msgspec.Struct, frozen=True, array_like=True):
    """The demand that one worker saw, at a time of the machine's monotonic clock: by tenant, by pool."""

    at: float
    demands: dict[str, dict[str, int]]


class DemandExchange:
    """One per worker process."""

    def __init__(self, table: SharedTable) -> None:
        self._table = table
        self._key = _PREFIX + os.getpid().to_bytes(4, "little")
        self._exchange_at = 0.0
        self._sent: list[_Report] = []
        self._read: dict[bytes, float] = {}

    def exchange(self, pools: Iterable[EnginePool], now: float) -> None:
        """Tell the others what this worker saw, and learn what they saw; at most every EXCHANGE_S.

        Raises StoreError."""
        if now < self._exchange_at:
            return
        self._exchange_at = now + EXCHANGE_S
        served = {pool.name: pool for pool in pools}
        demands = {name: pool.shares.take_demands() for name, pool in served.items()}
        demands = {name: seen for name, seen in demands.items() if seen}
        if demands:
            self._sent = [report for report in self._sent if report.at > now - KEEP_S]
            self._sent.append(_Report(now, demands))
            self._table.write(self._write_reports)
        for report in self._table.read(self._read_reports):
            for name in report.demands.keys() & served.keys():
                served[name].shares.add_demands(report.demands[name], now)

    def _write_reports(self, transaction: Transaction) -> None:
        transaction.put(self._key, msgspec.json.encode(self._sent))

    def _read_reports(self, transaction: Transaction) -> list[_Report]:
        """Return the reports of other workers that were not read before."""
        reports: list[_Report] = []
        with transaction.cursor() as cursor:
            found = cursor.set_range(_PREFIX)
            while found and cursor.key().startswith(_PREFIX):
                key = bytes(cursor.key())
                if key != self._key:
                    written = msgspec.json.decode(cursor.value(), type=list[_Report])
                    reports += [report for report in written if report.at > self._read.get(key, 0.0)]
                    self._read[key] = written[-1].at
                found = cursor.next()
        return reports
