"""Delivers audit records and checkpoints of a home to the places outside of it, each at least once.

The store keeps the records and the home the checkpoints, so the outbox only remembers how far each place is: its
`DeliveryCursor`, a file of the home, moves after the place took a batch. A process that is killed between the two
delivers the batch again. A place that fails delays its own deliveries alone: each place has its own cursor, lock and
thread, and no request waits for it.

If the block of a cursor is no longer in the store, an older database was restored, or the log was cut. Then the place
gets all records again, and holds what the log lost.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from archwright.access.audit_checkpoints import decode_checkpoint, read_chain_start
from archwright.access.audit_delivery.delivery_place import DeliveryBatch, DeliveryPlace
from archwright.access.audit_delivery.places import open_place
from archwright.access.delivery_cursor import DeliveryCursor, locate_cursor, read_cursor
from archwright.access.record_chain import (
    AUDIT_BLOCKS,
    encode_record_lines,
    read_block_identity,
    read_chained_blocks,
)
from archwright.contract.record import Record, replace
from archwright.errors import ArchwrightError, ErrorLocation, StoreError, boundary
from archwright.home import Home, open_private, write_json
from archwright.monitor.wal.segment_owner import read_store_name
from archwright.store import ColumnRange, Store

DELIVER_EVERY_S = 1.0
BATCH_BYTES = 4 << 20
REPORT_EVERY_S = 60.0
RETRY_LIMIT_S = 60.0
PLACE_HINT = "make the place available; the records stay in the store until it takes them"
ReportError = Callable[[ArchwrightError], None]


class _Advance(NamedTuple):
    """A batch, and the cursor once the place has it."""

    lines: list[bytes]
    cursor: DeliveryCursor


class PlaceOutbox:
    """The deliveries of one store to one place. `report` takes each failure, at most one every REPORT_EVERY_S."""

    def __init__(
        self,
        store: Store,
        home: Home,
        address: str,
        *,
        report: ReportError = lambda _error: None,
        place: DeliveryPlace | None = None,
    ) -> None:
        self.address = address
        self._store = store
        self._home = home
        self._place = place or open_place(address)
        self._report = report
        self._reported_at = float("-inf")
        # The cursor, and what its file had last: a full disk must not send a batch again and again.
        self._cursor: DeliveryCursor | None = None
        self._written: DeliveryCursor | None = None
        self._retry_at = 0.0
        self._retry_s = 0.0

    def deliver(self, *, closing: bool = False) -> None:
        """Deliver what the place lacks. Failures are reported and noted in the cursor, and never raised.

        Does nothing while another process delivers to the place. `closing`: the process ends, so nothing waits for a
        later call.
        """
        if not closing and time.monotonic() < self._retry_at:
            return
        try:
            with boundary("audit delivery"):
                store_name = read_store_name(self._store)
                path = locate_cursor(self._home, store_name, self.address)
                if not store_name or not self._has_news(path, store_name):
                    return
                self._home.folder("audit", "outbox")
                with open_private(path.with_suffix(".lock"), "ab") as lock:
                    self._deliver_locked(lock, path, closing=closing)
                self._retry_s = 0.0
        except ArchwrightError as error:
            self._retry_s = min(RETRY_LIMIT_S, 2 * self._retry_s or DELIVER_EVERY_S)
            self._retry_at = time.monotonic() + self._retry_s
            self._report_seldom(error)

    def _has_news(self, path: Path, store_name: str) -> bool:
        """Return False for a store without records, so that it gets no files."""
        return path.exists() or self._store.newest_seq(AUDIT_BLOCKS) != (0,)

    def _deliver_locked(self, lock: IO[bytes], path: Path, *, closing: bool) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        cursor = self._check_block(path, self._load_cursor(path))
        waited_s = time.time() - cursor.delivered_at
        if not closing and 0 <= waited_s < self._place.window_s:
            return
        for advance in self._collect_batches(cursor):
            cursor = self._send(path, cursor, advance)
        if self._cursor is not None and self._cursor != self._written:
            self._keep(path, self._cursor)  # the disk had no space before

    def _load_cursor(self, path: Path) -> DeliveryCursor:
        """Return the cursor of the file, or ours if no other process moved the file's."""
        written = read_cursor(path)
        if self._cursor is not None and written == self._written:
            return self._cursor
        self._written = written
        return written or DeliveryCursor(address=self.address, store=read_store_name(self._store))

    def _check_block(self, path: Path, cursor: DeliveryCursor) -> DeliveryCursor:
        """Return the cursor, or one at the first kept record if the log no longer has its block."""
        if cursor.seq and read_block_identity(self._store, cursor.seq) == cursor.block:
            return cursor
        start = read_chain_start(self._store, self._home)
        restarted = replace(cursor, **start._asdict(), block="")
        if cursor.seq <= start.seq:
            return restarted  # retention removed the block
        message = f"the log no longer has record {cursor.records}, which {self.address} has: all records are sent again"
        hint = f"find what was lost: archwright audit verify --against {self.address}"
        self._report(StoreError("AW-STO-28", message, where=ErrorLocation(self.address), hint=hint))
        restarted = replace(restarted, checkpoint_bytes=0)
        self._keep(path, restarted)
        return restarted

    def _collect_batches(self, cursor: DeliveryCursor) -> Iterator[_Advance]:
        """Yield batches of about BATCH_BYTES: the records, then the checkpoints, whose records the store had before."""
        checkpoint_lines, offset = self._read_checkpoints(cursor)
        lines: list[bytes] = []
        size = 0
        for block in read_chained_blocks(self._store, cursor.state):
            block_lines = encode_record_lines(cursor.store, block)
            lines += block_lines
            size += sum(map(len, block_lines))
            fields = block.end._asdict()
            cursor = replace(cursor, block=block.identity, **fields)
            if size >= BATCH_BYTES:
                yield _Advance(lines, cursor)
                lines = []
                size = 0
        lines += checkpoint_lines
        cursor = replace(cursor, checkpoint_bytes=offset)
        if lines:
            yield _Advance(lines, cursor)

    def _read_checkpoints(self, cursor: DeliveryCursor) -> tuple[list[bytes], int]:
        """Return the lines of the store's checkpoints behind the cursor, and the offset in the file after them."""
        path = self._home.audit_checkpoints
        lines: list[bytes] = []
        if not path.exists():
            return lines, 0
        with open(path, "rb") as file:
            # A shorter file was cut or replaced: all its checkpoints are sent.
            offset = cursor.checkpoint_bytes
            if offset > file.seek(0, os.SEEK_END):
                offset = 0
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                checkpoint = decode_checkpoint(line)
                if checkpoint is not None and checkpoint.store == cursor.store:
                    lines.append(line.rstrip(b"\n"))
        return lines, offset

    def _send(self, path: Path, cursor: DeliveryCursor, advance: _Advance) -> DeliveryCursor:
        """Deliver a batch, and return the cursor after it. Raises StoreError AW-STO-27."""
        now = time.time()
        batch = DeliveryBatch(cursor.store, advance.cursor.records, advance.lines)
        try:
            with boundary("audit delivery"):
                self._place.deliver(batch)
        except ArchwrightError as error:
            since = cursor.failing_since or now
            self._keep(path, replace(cursor, failing_since=since, failure=error.message))
            message = f"{self.address} did not take records of the audit log: {error.message}"
            where = ErrorLocation(self.address)
            raise StoreError("AW-STO-27", message, where=where, hint=PLACE_HINT) from error
        delivered = replace(advance.cursor, delivered_at=now, failing_since=0.0, failure="")
        self._keep(path, delivered)
        return delivered

    def _keep(self, path: Path, cursor: DeliveryCursor) -> None:
        self._cursor = cursor
        write_json(path, cursor)
        self._written = cursor

    def _report_seldom(self, error: ArchwrightError) -> None:
        now = time.monotonic()
        if now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            self._report(error)


class AuditOutbox:
    """The deliveries of one process to all places, in a thread for each."""

    def __init__(self, outboxes: Sequence[PlaceOutbox]) -> None:
        self._stop = threading.Event()
        self._outboxes = outboxes
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Deliver every DELIVER_EVERY_S until `close`."""
        for outbox in self._outboxes:
            self._start_thread(self._run, outbox)

    def close(self, within_s: float) -> None:
        """Deliver the rest, and wait so long for it; a place that hangs gets it from the next process."""
        if not self._threads:
            for outbox in self._outboxes:
                self._start_thread(_deliver_rest, outbox)
        self._stop.set()
        until = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _start_thread(self, target: Callable[[PlaceOutbox], None], outbox: PlaceOutbox) -> None:
        thread = threading.Thread(target=target, args=(outbox,), name="audit delivery", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self, outbox: PlaceOutbox) -> None:
        while not self._stop.wait(DELIVER_EVERY_S):
            outbox.deliver()
        _deliver_rest(outbox)


def open_outbox(store: Store, home: Home, addresses: Sequence[str], *, report: ReportError) -> AuditOutbox:
    """Return the deliveries of a process to these places; `report` takes failures."""
    outboxes: list[PlaceOutbox] = []
    for address in addresses:
        outboxes.append(PlaceOutbox(store, home, address, report=report))
    return AuditOutbox(outboxes)


def _deliver_rest(outbox: PlaceOutbox) -> None:
    outbox.deliver(closing=True)


class PlaceStatus(Record):
    """The state of a place: it has `delivered` records, and `waiting` ones follow, the first of the time `oldest_at`.

    `delivered_at`: time of the last batch. `failing_since`, `failure`: of the deliveries since then, if they failed.
    Times are seconds since the epoch, 0 for none.
    """

    place: str
    delivered: int
    waiting: int
    oldest_at: float
    delivered_at: float
    failing_since: float
    failure: str


def read_place_status(store: Store, home: Home, address: str) -> PlaceStatus:
    """Return how far a place is. Raises StoreError."""
    store_name = read_store_name(store)
    empty = DeliveryCursor(address=address, store=store_name)
    cursor = read_cursor(locate_cursor(home, store_name, address)) or empty
    blocks = store.columns(AUDIT_BLOCKS, ("count", "first_at"), span=ColumnRange("seq", cursor.seq + 1))
    return PlaceStatus(
        place=address,
        delivered=cursor.records,
        waiting=sum(count for count, _first_at in blocks),
        oldest_at=min((first_at for _count, first_at in blocks), default=0.0),
        delivered_at=cursor.delivered_at,
        failing_since=cursor.failing_since,
        failure=cursor.failure,
    )


def read_statuses(store: Store, home: Home, configured: Sequence[str]) -> tuple[PlaceStatus, ...]:
    """Return how far each configured place is, and each that got records from this home before."""
    addresses = dict.fromkeys((*configured, *list_known_addresses(store, home)))
    return tuple(read_place_status(store, home, address) for address in addresses)


def list_known_addresses(store: Store, home: Home) -> tuple[str, ...]:
    """Return the places that got records of this store from this home."""
    store_name = read_store_name(store)
    addresses: list[str] = []
    for path in sorted((home.root / "audit" / "outbox").glob("*.json")):
        cursor = read_cursor(path)
        if cursor is not None and cursor.store == store_name:
            addresses.append(cursor.address)
    return tuple(addresses)
