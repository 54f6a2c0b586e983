"""An audit log of small blocks in the store of a home, whose blocks a test may change."""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Sequence
from contextlib import closing

from archwright.access.audit_checkpoints import CheckpointWriter
from archwright.access.audit_delivery.delivery_place import DeliveryBatch
from archwright.access.audit_log import AuditEvent, AuditLog
from archwright.access.record_chain import AUDIT_BLOCKS, RecordLine, decode_record_lines
from archwright.home import Home
from archwright.monitor.wal.compaction import RecordBlock
from archwright.monitor.wal.segment_owner import name_segment
from archwright.monitor.wal.writer import WalWriter
from archwright.store import Store


def make_event(number: int) -> AuditEvent:
    return AuditEvent(at=1e9 + number, tenant="t", key_id="k", action=f"act.{number}", permission="p", effect="allow")


def write_events(store: Store, home: Home, numbers: Sequence[int]) -> None:
    """Write records as one process does, which ends with a block and a checkpoint."""
    checkpoints = CheckpointWriter(store, home)
    with closing(WalWriter(store, home, on_compaction=checkpoints.write_due)) as wal:
        log = AuditLog(wal)
        for number in numbers:
            log.record(make_event(number))
        wal.flush()


def fill_store(store: Store, blocks: Sequence[Sequence[bytes]]) -> None:
    """Append blocks of any records; the groups of the audit log do not link them."""
    name_segment(store, "w")
    (newest,) = store.newest_seq(AUDIT_BLOCKS)
    for number, records in enumerate(blocks, newest):
        data = b"\n".join(records)
        tip = hashlib.sha256(data).hexdigest()
        end = number + 1
        block = RecordBlock(
            writer="w",
            number=number,
            end=end,
            first_at=1e9,
            last_at=1e9,
            count=len(records),
            tip=tip,
            data=zlib.compress(data),
        )
        store.append(AUDIT_BLOCKS, [block])


class MemoryPlace:
    """A place that holds its lines, and fails or loses its process as a test says."""

    def __init__(self, window_s: float = 0.0) -> None:
        self.window_s = window_s
        self.lines: list[bytes] = []
        self.batches: list[DeliveryBatch] = []
        self.failure: Exception | None = None
        self.tries: list[float] = []

    def deliver(self, batch: DeliveryBatch) -> None:
        self.tries.append(time.monotonic())
        if self.failure is not None:
            raise self.failure
        self.batches.append(batch)
        self.lines += batch.lines

    @property
    def records(self) -> list[RecordLine]:
        return list(decode_record_lines(self.lines))

    @property
    def numbers(self) -> list[int]:
        return [line.number for line in self.records]
