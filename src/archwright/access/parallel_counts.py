"""Requests at once of an account with the limit `parallel`, counted by worker in the shared table.

Design: the counts have entries of their own, because most accounts have no such limit and pay
nothing for it. The counts of a dead worker are dropped before a request would be refused.
"""

import struct

from archwright.access.worker_registry import is_worker_alive
from archwright.monitor.shared_table import Transaction

_ENTRY = struct.Struct("<II")  # number of the worker, its requests
_PREFIX = b"p"


def is_below_parallel_limit(
    transaction: Transaction,
    account: bytes,
    *,
    limit: int,
    worker: int,
) -> bool:
    """True if the account may run one more request.

    Drops the counts of dead workers if it has no room.
    """
    counts = _read_counts(transaction, account)
    if sum(counts.values()) < limit:
        return True

    live_counts: dict[int, int] = {}
    for counted_worker, count in counts.items():
        if counted_worker == worker or is_worker_alive(transaction, counted_worker):
            live_counts[counted_worker] = count
    if len(live_counts) < len(counts):
        _write_counts(transaction, account, live_counts)
    return sum(live_counts.values()) < limit


def change_parallel_count(
    transaction: Transaction,
    account: bytes,
    *,
    worker: int,
    change: int,
) -> None:
    """Add `change` to the requests that a worker runs for the account."""
    counts = _read_counts(transaction, account)
    counts[worker] = max(0, counts.get(worker, 0) + change)
    _write_counts(transaction, account, counts)


def _read_counts(transaction: Transaction, account: bytes) -> dict[int, int]:
    entries = transaction.get(_PREFIX + account) or b""
    return dict(_ENTRY.iter_unpack(entries))


def _write_counts(transaction: Transaction, account: bytes, counts: dict[int, int]) -> None:
    entries = b""
    for worker, count in counts.items():
        if count:
            entries += _ENTRY.pack(worker, count)
    if entries:
        transaction.put(_PREFIX + account, entries)
    else:
        transaction.delete(_PREFIX + account)
