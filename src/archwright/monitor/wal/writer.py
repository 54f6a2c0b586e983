"""The write-ahead log of one process: records, at the price of one system call for all that is waiting.

`append` puts a record into memory, `flush` writes all of them with one write(2): what is in the kernel survives
kill -9 of every process. A thread asks the disk for it at most every SYNC_S (a power cut may lose that much), and
folds what is written into the store (`compaction`), after which the file goes.

Room comes first. A segment's bytes are allocated before it is used, and the next one ahead of time; while the disk has
none, the last RESERVE bytes are kept for the records of work already let in, and half of it for refusals too. So a
full disk ends admissions (StoreError AW-STO-06) and never loses the record of an answer.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from contextlib import suppress

import msgspec

from archwright.contract.record import Record
from archwright.errors import ArchwrightError, ErrorLocation, StoreError, boundary
from archwright.home import Home
from archwright.monitor.usage_totals import gather_deltas, merge_totals
from archwright.monitor.wal.compaction import compact_orphans, compact_range, update_compacted_offset
from archwright.monitor.wal.segment_owner import list_sibling_segments, name_segment
from archwright.monitor.wal.segments import FRAME_BYTES, STREAMS, WalSegment, encode_batch
from archwright.store import ConflictError, Store

SEGMENT_BYTES = 8 << 20
RESERVE_SHARE = 8  # of a segment, an eighth is the reserve
RECORD_BYTES = 64 << 10
SEGMENTS_LIMIT = 128  # of a store on this machine, 1 GB: while it refuses, so much is kept before admissions end
SYNC_S = 0.2
COMPACT_EVERY_SYNCS = 5  # syncs: a second
ORPHANS_EVERY_SYNCS = 150  # syncs: half a minute
DELTA_ROWS, DELTA_ROWS_FACTOR, MERGE_ROWS = 2_000, 8, 2_000


class WalWriter:
    """One per process, thread-safe. `refusal` is what the store or the disk said last, None when it went well. `lock`
    is for whoever appends by what waits already (`last_pending`)."""

    def __init__(self, store: Store, home: Home, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.refusal: ArchwrightError | None = None
        self.store, self.home = store, home
        self._size, self.reserve = segment_bytes, segment_bytes // RESERVE_SHARE
        self._name = secrets.token_hex(8)
        self._made = 0
        self.lock = threading.RLock()
        self._making = threading.Lock()
        self._folding = threading.Lock()
        self._waiting: dict[str, list[bytes]] = {stream: [] for stream in STREAMS}
        self._audit, self._served = self._waiting.values()
        # Bytes that can be appended whatever happens to the disk; the thread may have made it more since.
        self._left = 0
        self._current: WalSegment | None = None
        self._next: WalSegment | None = None
        self._full: deque[WalSegment] = deque()
        self._unsynced = False
        # With its first fold a process gathers what those before it left: none may live to do it.
        self._ungathered, self._unmerged = DELTA_ROWS, 0
        self._gather_at, self._merge_at = DELTA_ROWS, MERGE_ROWS
        self._closed = False
        self._encode = msgspec.json.Encoder().encode
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    @property
    def has_space(self) -> bool:
        """Whether new work may be let in."""
        with self.lock:
            return self._ensure_space(self.reserve)

    def check_space(self) -> None:
        """Raises StoreError AW-STO-06 unless new work may be let in."""
        if not self.has_space:
            raise self._no_space_error()

    def last_pending(self, stream: str) -> bytes | None:
        """The last line that waits for the next flush; the caller has the lock."""
        waiting = self._waiting[stream]
        return waiting[-1] if waiting else None

    def append(self, stream: str, record: Record) -> None:
        """Of work that was let in: it has the reserve. How it fails, `append_encoded` says."""
        self.append_encoded(stream, self._encode(record), 0)

    def append_encoded(self, stream: str, payload: bytes, keep: int) -> None:
        """One line of JSON, written at the next flush. Raises StoreError: AW-STO-05 closed, AW-STO-06 not more than
        `keep` bytes would stay free, AW-STO-07 longer than a record may be."""
        size = len(payload) + 1
        if size > RECORD_BYTES:
            raise StoreError("AW-STO-07", f"a record of {size:,} bytes", hint=f"{RECORD_BYTES:,} at most")
        with self.lock:
            if self._closed:
                raise StoreError("AW-STO-05", "the ledger is closed", hint="start it again")
            if self._left - size <= keep and not self._ensure_space(keep + size):
                raise self._no_space_error()
            self._waiting[stream].append(payload)
            self._left -= size

    def flush(self) -> None:
        """All that was appended is in the kernel on return. After StoreError AW-STO-06 the next flush tries again."""
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
            self._left = self._free_bytes()
            self._unsynced = True

    def compact(self) -> int:
        """Everything written so far into the store; how many records. Raises StoreError."""
        with self._folding:
            return self._compact_segments(0)

    def close(self, within_s: float | None = None) -> None:
        """Write and fold what there is, then stop; what is not folded `within_s` stays for the next writer."""
        with suppress(StoreError):
            self.flush()
        with self.lock:
            self._closed = True
        self._stop.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            return  # it stands before a silent store, until the process ends
        with self._folding:
            for segment in (self._current, self._next, *self._full):
                if segment is not None:
                    (segment.close if segment.folded < segment.written else segment.remove)()
            self._current, self._next = None, None
            self._full.clear()

    def _segment_with_space(self, size: int) -> WalSegment:
        """The segment that takes `size` bytes; the lock is held. Raises OSError, StoreError."""
        current = self._current
        if current is not None and current.size - current.written >= size:
            return current
        if self._next is None:
            self._allocate_next()
        if self._next is None or self._next.size - self._next.written < size:
            raise self._no_space_error()
        if current is not None:
            self._full.append(current)
        self._current, self._next = self._next, None
        return self._current

    def _free_bytes(self) -> int:
        """What is flushed at once goes into one segment: the rest of this one, or the next."""
        current, following = self._current, self._next
        left = current.size - current.written if current is not None else 0
        return max(left, following.size - following.written if following is not None else 0) - FRAME_BYTES

    def _ensure_space(self, wanted: int) -> bool:
        """Another look by the caller, who has the lock: the thread may just not have been there yet."""
        if self._next is None and self._free_bytes() - self._pending_bytes() <= wanted:
            self._allocate_next()
        self._left = self._free_bytes() - self._pending_bytes()
        return self._left > wanted

    def _pending_bytes(self) -> int:
        return sum(len(line) + 1 for lines in self._waiting.values() for line in lines)

    def _allocate_next(self) -> None:
        """Make the next segment, if there is room for it."""
        with self._making, suppress(ArchwrightError):
            if self._next is not None:
                return
            try:
                with boundary("ledger"):
                    name = name_segment(self.store, f"{self._name}-{self._made:06d}")
                    if len(list_sibling_segments(self.home, name)) >= SEGMENTS_LIMIT:
                        raise self._no_space_error()
                    self._next = WalSegment.create(self.home.write_ahead_log, name, self._size)
                    self._made += 1
            except ArchwrightError as error:
                self.refusal = error
                raise

    def _no_space_error(self) -> StoreError:
        """With what the disk or the store said, where that is known: a full disk is not the only reason."""
        said, message = self.refusal, "no room to write down what is decided"
        hint = "free disk space; if the store refuses, bring it back"
        if said is not None and said.code != "AW-STO-06":
            message, hint = f"{message}: {said.message}", said.hint or hint
        return StoreError("AW-STO-06", message, where=ErrorLocation(str(self.home.root / "ledger")), hint=hint)

    def _run(self) -> None:
        turn = 0
        while not self._stop.wait(SYNC_S):
            try:
                with boundary("ledger"):
                    self._sync()
                    if turn % ORPHANS_EVERY_SYNCS == 0:
                        compact_orphans(self.store, self.home)
                    with self._folding:
                        self._compact_segments(0 if turn % COMPACT_EVERY_SYNCS == 0 else SEGMENT_BYTES // 4)
                    self.refusal = None
            except ArchwrightError as error:
                self.refusal = error
            turn += 1
        with self._folding, suppress(ArchwrightError), boundary("ledger"):
            self._compact_segments(0)

    def _sync(self) -> None:
        """What was written is on the disk when this returns, and the next segment is there when it will be needed."""
        if self._unsynced:
            self._unsynced = False
            for segment in (*self._full, self._current):
                if segment is not None:
                    segment.sync()
        current = self._current
        if current is not None and current.written > current.size // 4 and self._next is None:
            self._allocate_next()

    def _compact_segments(self, least: int) -> int:
        """Fold segments of which at least `least` bytes wait, and full ones; the caller holds `_folding`."""
        records = 0
        with self.lock:  # one that is full in between would be left out, and its successor folded before it
            found = (*self._full, self._current)
        for segment in found:
            if segment is None or (segment is self._current and segment.written - segment.folded < least):
                continue
            while segment.folded < segment.written:
                records += self._compact_once(segment)
        while self._full and self._full[0].folded == self._full[0].written:
            self._full.popleft().remove()
        if records and self._ungathered >= self._gather_at:
            # The rarer the more keys ask: what it costs a request does not depend on them. Who reads usage adds up what
            # waits: some 0.1 s for the totals of 10,000 keys.
            rows = gather_deltas(self.store)
            self._gather_at, self._ungathered = max(DELTA_ROWS, DELTA_ROWS_FACTOR * rows), 0
            self._unmerged += rows
        if self._unmerged >= self._merge_at:
            # As often as the rows have grown by half: what merging costs a row does not depend on how many there are.
            self._merge_at, self._unmerged = max(MERGE_ROWS, merge_totals(self.store) // 2), 0
        return records

    def _compact_once(self, segment: WalSegment) -> int:
        try:
            done = compact_range(self.store, segment)
        except StoreError as error:
            # Refused, or done and the answer lost: the store knows.
            update_compacted_offset(self.store, segment)
            if isinstance(error, ConflictError):
                return 0
            raise
        self._ungathered += done.totals
        return done.records
