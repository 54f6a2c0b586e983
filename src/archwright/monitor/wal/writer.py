"""Writer of the write-ahead log (WAL) of one process.

A flush of all pending records is one system call. `append` buffers a record in memory; `flush`
writes all buffered records with one write(2). Data in the kernel survives kill -9 of every process.
A thread syncs the disk every SYNC_S (a power cut loses at most that much), and compacts the written
records into the store (compaction.py), after which it deletes the segment.

Design: space is allocated first. A segment's bytes are allocated before its use, and the next
segment ahead of time. If the disk is full, the last `reserve` bytes are kept for the records of
admitted requests, and half of it also for refusals. So a full disk stops admissions (StoreError
AW-STO-06), but no record of a response is lost.
"""

import secrets
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import chain

import msgspec

from archwright.contract.record import Record
from archwright.errors import ArchwrightError, ErrorLocation, StoreError, boundary
from archwright.home import Home
from archwright.monitor.usage_totals import gather_deltas, merge_totals
from archwright.monitor.wal.compaction import (
    compact_orphans,
    compact_range,
    update_compacted_offset,
)
from archwright.monitor.wal.disk_reserve import RESERVE_BYTES, count_free_bytes, hold_reserve
from archwright.monitor.wal.segment_owner import list_sibling_segments, name_segment
from archwright.monitor.wal.segments import FRAME_BYTES, WalSegment, encode_batch
from archwright.store import ConflictError, Store

SEGMENT_BYTES = 8 << 20
RESERVE_SHARE = 8  # the reserve is 1/8 of a segment
RECORD_BYTES = 64 << 10
# Most segments kept while the store fails, before admissions stop: 1 GB per store and machine.
SEGMENTS_LIMIT = 128
SYNC_S = 0.2
COMPACT_EVERY_SYNCS = 5  # every second
ORPHANS_EVERY_SYNCS = 150  # every 30 s
# A compaction smaller than this waits for the next second.
EARLY_COMPACTION_BYTES = SEGMENT_BYTES // 4
DELTA_ROWS = 2_000
DELTA_ROWS_FACTOR = 8
MERGE_ROWS = 2_000


class WalWriter:
    """The WAL of one process. Thread-safe.

    `refusal`: last error of the store or the disk, None after a success. `lock`: hold it to append
    a record that depends on the pending records (`last_pending`). `on_compaction` is called
    in the writer's thread after each compaction, with its records, and True at the end.
    `keeps_reserve`: hold the
    disk reserve."""

    def __init__(
        self,
        store: Store,
        home: Home,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        on_compaction: Callable[[int, bool], None] = lambda _records, _last: None,
        keeps_reserve: bool = False,
    ) -> None:
        self.store = store
        self.home = home
        self.reserve = segment_bytes // RESERVE_SHARE
        self.refusal: ArchwrightError | None = None
        self._on_compaction = on_compaction
        self._keeps_reserve = keeps_reserve
        self._segment_bytes = segment_bytes
        self._name = secrets.token_hex(8)
        self._created = 0
        self.lock = threading.RLock()
        self._allocating = threading.Lock()
        self._compacting = threading.Lock()
        self._audit: list[bytes] = []
        self._served: list[bytes] = []
        self._pending = {"audit": self._audit, "served": self._served}
        # Lower bound of the allocated bytes that are free; the thread may have allocated more
        # since.
        self._free = 0
        self._current: WalSegment | None = None
        self._next: WalSegment | None = None
        self._full: deque[WalSegment] = deque()
        self._unsynced = False
        # The first compaction of a process also gathers the deltas of earlier processes.
        self._ungathered = DELTA_ROWS
        self._unmerged = 0
        self._gather_at = DELTA_ROWS
        self._merge_at = MERGE_ROWS
        self._closed = False
        self._encode = msgspec.json.Encoder().encode
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    @property
    def has_space(self) -> bool:
        """True if new requests may be admitted."""
        with self.lock:
            return self._ensure_space(self.reserve)

    def check_space(self) -> None:
        """Raise StoreError AW-STO-06 if no new request may be admitted."""
        if not self.has_space:
            raise self._no_space_error()

    def last_pending(self, stream: str) -> bytes | None:
        """Return the last line that is not flushed yet; the caller holds the lock."""
        pending = self._pending[stream]
        return pending[-1] if pending else None

    def append(self, stream: str, record: Record) -> None:
        """Append a record of an admitted request, which may use the reserve.

        Raises as `append_encoded` does.
        """
        self.append_encoded(stream, self._encode(record), 0)

    def append_encoded(self, stream: str, payload: bytes, keep: int) -> None:
        """Append one JSON line, written by the next flush.

        Raises StoreError: AW-STO-05 closed, AW-STO-06 at most `keep` bytes would stay free,
        AW-STO-07 too long.
        """
        size = len(payload) + 1
        if size > RECORD_BYTES:
            message = f"the record has {size:,} bytes"
            hint = f"shorten it to at most {RECORD_BYTES:,} bytes"
            raise StoreError("AW-STO-07", message, hint=hint)

        with self.lock:
            if self._closed:
                message = "the write-ahead log is closed"
                raise StoreError("AW-STO-05", message, hint="start the process again")
            if self._free - size <= keep and not self._ensure_space(keep + size):
                raise self._no_space_error()
            self._pending[stream].append(payload)
            self._free -= size

    def flush(self) -> None:
        """Write all appended records to the kernel.

        After StoreError AW-STO-06 the next flush tries again.
        """
        if not self._audit and not self._served:
            return
        with self.lock:
            if not self._audit and not self._served:
                return

            data = encode_batch(self._audit, self._served)
            try:
                self._segment_with_space(len(data)).write(data)
            except OSError as error:
                raise self._no_space_error() from error

            self._audit.clear()
            self._served.clear()
            self._free = self._free_bytes()
            self._unsynced = True

    def compact(self) -> int:
        """Compact all written records into the store; return their number. Raises StoreError."""
        with self._compacting:
            return self._compact_segments(0)

    def close(self, within_s: float | None = None) -> None:
        """Flush and compact, then stop.

        Records that are not compacted `within_s` stay for the next writer.
        """
        with suppress(StoreError):
            self.flush()
        with self.lock:
            self._closed = True
        self._stop.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            return  # the thread is blocked by an unresponsive store until the process ends

        with self._compacting:
            for segment in (self._current, self._next, *self._full):
                if segment is None:
                    continue
                if segment.folded < segment.written:
                    segment.close()
                else:
                    segment.remove()
            self._current = None
            self._next = None
            self._full.clear()

    def _segment_with_space(self, size: int) -> WalSegment:
        """Return a segment with `size` free bytes; the caller holds the lock.

        Raises OSError, StoreError.
        """
        current = self._current
        if current is not None and current.free >= size:
            return current

        if self._next is None:
            self._allocate_next()
        following = self._next
        if following is None or following.free < size:
            raise self._no_space_error()

        if current is not None:
            self._full.append(current)
        self._current = following
        self._next = None
        return following

    def _free_bytes(self) -> int:
        """Return the free bytes of the segment that the next flush uses: this one or the next."""
        free = 0
        for segment in (self._current, self._next):
            if segment is not None:
                free = max(free, segment.free)
        return free - FRAME_BYTES

    def _ensure_space(self, wanted: int) -> bool:
        """True if more than `wanted` bytes are free, with a new segment if needed.

        The caller holds the lock.
        """
        pending = sum(len(line) + 1 for line in chain(self._audit, self._served))
        if self._next is None and self._free_bytes() - pending <= wanted:
            self._allocate_next()
        self._free = self._free_bytes() - pending
        return self._free > wanted

    def _allocate_next(self) -> None:
        """Create the next segment if there is space for it; an error is kept in `refusal`."""
        with self._allocating:
            if self._next is not None:
                return
            try:
                with boundary("ledger"):
                    self._next = self._create_segment()
            except ArchwrightError as error:
                self.refusal = error

    def _create_segment(self) -> WalSegment:
        """Create a segment. Raises OSError, StoreError."""
        name = name_segment(self.store, f"{self._name}-{self._created:06d}")
        siblings = list_sibling_segments(self.home, name)
        if len(siblings) >= SEGMENTS_LIMIT:
            raise self._no_space_error()
        if self._keeps_reserve:
            left_free = count_free_bytes(self.home) - self._segment_bytes
            if left_free < RESERVE_BYTES:
                raise self._no_space_error()

        segment = WalSegment.create(self.home.write_ahead_log, name, self._segment_bytes)
        self._created += 1
        return segment

    def _no_space_error(self) -> StoreError:
        """Build the error with the last error of the disk or the store.

        A full disk is not the only cause.
        """
        message = "the write-ahead log has no free space for new records"
        where = ErrorLocation(str(self.home.root / "ledger"))
        hint = "free disk space; if the store fails, make it available again"
        cause = self.refusal
        if cause is not None and cause.code != "AW-STO-06":
            message = f"{message}: {cause.message}"
            hint = cause.hint or hint
        return StoreError("AW-STO-06", message, where=where, hint=hint)

    def _run(self) -> None:
        syncs = 0
        while not self._stop.wait(SYNC_S):
            try:
                with boundary("ledger"):
                    self._sync()
                    if syncs % ORPHANS_EVERY_SYNCS == 0:
                        self._take_over_orphans()
                    with self._compacting:
                        is_due = syncs % COMPACT_EVERY_SYNCS == 0
                        records = self._compact_segments(0 if is_due else EARLY_COMPACTION_BYTES)
                    self._on_compaction(records, False)
                    self.refusal = None
            except ArchwrightError as error:
                self.refusal = error
            syncs += 1

        with self._compacting, suppress(ArchwrightError), boundary("ledger"):
            records = self._compact_segments(0)
            self._on_compaction(records, True)

    def _take_over_orphans(self) -> None:
        """Compact the segments of ended writers, and hold the disk reserve."""
        compact_orphans(self.store, self.home)
        if self._keeps_reserve:
            if self._current is None:
                # Administration needs a segment before the first request.
                self._allocate_next()
            hold_reserve(self.home)

    def _sync(self) -> None:
        """Sync the written records to the disk, and allocate the next segment ahead of time."""
        if self._unsynced:
            self._unsynced = False
            for segment in (*self._full, self._current):
                if segment is not None:
                    segment.sync()
        current = self._current
        if current is None or self._next is not None:
            return
        if current.written > current.size // 4:
            self._allocate_next()

    def _compact_segments(self, min_bytes: int) -> int:
        """Compact full segments and those with at least `min_bytes` pending bytes.

        The caller holds `_compacting`.
        """
        with self.lock:
            # Else a segment that fills up meanwhile would be compacted after its successor.
            open_segments = (*self._full, self._current)

        records = 0
        for segment in open_segments:
            if segment is None:
                continue
            if segment is self._current and segment.pending < min_bytes:
                continue
            while segment.pending > 0:
                records += self._compact_once(segment)
        while self._full and self._full[0].pending == 0:
            self._full.popleft().remove()

        if records and self._ungathered >= self._gather_at:
            self._gather()
        if self._unmerged >= self._merge_at:
            self._merge()
        return records

    def _compact_once(self, segment: WalSegment) -> int:
        try:
            compacted = compact_range(self.store, segment)
        except StoreError as error:
            # The store failed, or it committed and its response was lost: read the offset from it.
            update_compacted_offset(self.store, segment)
            if isinstance(error, ConflictError):
                return 0
            raise
        self._ungathered += compacted.totals
        return compacted.records

    def _gather(self) -> None:
        """Gather the deltas of usage into rows.

        Gathering is rarer with more keys, so that its cost per request does not depend on the
        number of keys. A reader of usage adds the deltas itself: about 0.1 s for the totals of
        10,000 keys.
        """
        rows = gather_deltas(self.store)
        self._gather_at = max(DELTA_ROWS, DELTA_ROWS_FACTOR * rows)
        self._ungathered = 0
        self._unmerged += rows

    def _merge(self) -> None:
        """Merge the rows of usage.

        Merged when they have grown by half, so that the cost per row does not depend on their
        number.
        """
        rows = merge_totals(self.store)
        self._merge_at = max(MERGE_ROWS, rows // 2)
        self._unmerged = 0
