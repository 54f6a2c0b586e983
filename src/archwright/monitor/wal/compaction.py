"""Compaction of WAL segments into the store (blocks of records, usage totals), and readers of both.

A range of a segment becomes one block row per stream and one row of totals, in one transaction. The block states the
end of the range, so any process that continues the segment reads it from the store, and no record is compacted twice.
Two simultaneous attempts conflict at the unique (writer, number).

Readers see each record once: they read the segments first, then the blocks, then the part of the segments that no block
contains.
"""

import fcntl
import hashlib
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

import msgspec

from archwright.contract.record import Record
from archwright.contract.served import RequestRecord
from archwright.errors import StoreError
from archwright.home import Home, open_private
from archwright.monitor import usage_totals
from archwright.monitor.usage_totals import UsageSums, UsageTotal
from archwright.monitor.wal import segments
from archwright.monitor.wal.segment_owner import list_store_segments
from archwright.monitor.wal.segments import (
    STREAMS,
    CommittedBatch,
    WalSegment,
    read_batches,
    read_compacted_offset,
    read_segments,
)
from archwright.store import ColumnRange, ColumnRanges, RecordTable, Store

RANGE_RECORDS = 16_000
RANGE_BYTES = 4 << 20
PIECE_BYTES = 32 << 10
BLOCKS_PER_READ = 16
CHAIN_FIELD = b',"chain":"'  # inside a JSON text its quotes would be escaped


class RecordBlock(Record):
    """Compressed JSON lines: bytes `number` to `end` of the segment `writer`; `tip`: SHA-256 of the last group.

    If the erasure of a person changed the data: `origin`: SHA-256 of the first data, `correction`: signature of it."""

    writer: str
    number: int
    end: int
    first_at: float
    last_at: float
    count: int
    tip: str
    data: bytes
    origin: str = ""
    correction: str = ""


BLOCKS = {
    stream: RecordTable(f"{stream}_blocks", RecordBlock, ("writer", "number"), ("last_at",)) for stream in STREAMS
}
_SERVED_DECODER = msgspec.json.Decoder(RequestRecord)


class _Timed(msgspec.Struct):
    at: float


_TIMED_DECODER = msgspec.json.Decoder(_Timed)


class CompactedRange(NamedTuple):
    """Number of records and of totals of a compacted range."""

    records: int
    totals: int


def compact_range(store: Store, segment: WalSegment) -> CompactedRange:
    """Compact the next range of `segment`. Raises StoreError, ConflictError if another process compacted it."""
    start = end = segment.folded
    sums: UsageSums = {}
    builders = {
        "audit": _BlockBuilder(lambda data: [one.at for one in _TIMED_DECODER.decode_lines(data)]),
        "served": _BlockBuilder(lambda data: _aggregate_served(data, sums)),
    }
    count = 0
    for batch in _read_range_batches(segment, start):
        for builder, records, lines in zip(builders.values(), batch.counts, batch.lines, strict=True):
            if records:
                builder.add_lines(records, lines)
        count, end = count + sum(batch.counts), start + batch.end
        if count >= RANGE_RECORDS:
            break
    blocks = [(BLOCKS[stream], [one.build(segment.name, start, end)]) for stream, one in builders.items() if one.count]
    deltas = [usage_totals.encode_delta(sums)] if sums else []
    store.append_together([*blocks, (usage_totals.USAGE_DELTAS, deltas)], synced=True)
    segment.mark_compacted(end)
    return CompactedRange(count, len(sums))


def _read_range_batches(segment: WalSegment, start: int) -> Iterator[CommittedBatch]:
    """Read the batches of the next range, at least one, even if it exceeds RANGE_BYTES. Raises StoreError."""
    for limit in (RANGE_BYTES, segment.size):
        batches = read_batches(segment.read_range(start, limit), 0)
        first = next(batches, None)
        if first is not None:
            return chain((first,), batches)
    message = f"the WAL segment {segment.name} is damaged at byte {start}"
    hint = "restore the home from a backup: archwright restore --into DIR"
    raise StoreError("AW-STO-08", message, hint=hint)


def compact_segment(store: Store, segment: WalSegment) -> int:
    """Compact the rest of a segment without writer and remove its file; return the records. Raises StoreError."""
    update_compacted_offset(store, segment)
    records = 0
    while segment.folded < segment.written:
        records += compact_range(store, segment).records
    segment.remove()
    return records


def compact_orphans(store: Store, home: Home) -> int:
    """Compact the segments of ended writers; return the number of records. Raises StoreError.

    One process at a time, in the order of the segments, because audit chains continue from one to the next."""
    with open_private(home.write_ahead_log / "orphans.lock", "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        records = 0
        for path in [*list_store_segments(store, home), *segments.list_unfinished_segments(home.write_ahead_log)]:
            segment = WalSegment.adopt(path)
            if segment is not None:
                try:
                    records += compact_segment(store, segment)
                finally:
                    segment.close()
    return records


def update_compacted_offset(store: Store, segment: WalSegment) -> None:
    """Read from the store how far a segment is compacted; a killed writer may not have noted it in the segment."""
    ends = [store.columns(table, ("end",), {"writer": segment.name}) for table in BLOCKS.values()]
    segment.mark_compacted(max([segment.folded, *(end for rows in ends for (end,) in rows)]))


def extract_last_group(lines: bytes) -> bytes:
    """Return the last group: the lines from the last one with an audit link, else the last line."""
    link = lines.rfind(CHAIN_FIELD)
    return lines[lines.rfind(b"\n", 0, link if link >= 0 else None) + 1 :]


class _BlockBuilder:
    """Builder of a block, compressed in pieces that fit the CPU cache and block the serving threads only briefly.

    `times` returns the times of the records of a piece."""

    def __init__(self, times: Callable[[bytes], list[float]]) -> None:
        self.count = 0
        self._times = times
        self._packer = zlib.compressobj(1)
        self._packed: list[bytes] = []
        self._span = math.inf, -math.inf
        self._lines: list[bytes] = []
        self._pending_bytes = 0
        self._last = b""

    def add_lines(self, records: int, lines: bytes) -> None:
        self.count += records
        self._lines.append(lines)
        self._pending_bytes += len(lines)
        if self._pending_bytes >= PIECE_BYTES:
            self._compress_lines()

    def build(self, writer: str, start: int, end: int) -> RecordBlock:
        if self._lines:
            self._compress_lines()
        first_at, last_at = self._span if self._span[0] <= self._span[1] else (0.0, 0.0)
        return RecordBlock(
            writer=writer,
            number=start,
            end=end,
            first_at=first_at,
            last_at=last_at,
            count=self.count,
            tip=hashlib.sha256(extract_last_group(self._last)).hexdigest(),
            data=b"".join((*self._packed, self._packer.flush())),
        )

    def _compress_lines(self) -> None:
        data = b"\n".join(self._lines)
        if self._last:
            self._packed.append(self._packer.compress(b"\n"))
        self._packed.append(self._packer.compress(data))
        times = self._times(data)
        if times:
            self._span = min(self._span[0], *times), max(self._span[1], *times)
        self._lines.clear()
        self._pending_bytes, self._last = 0, data


def _aggregate_served(data: bytes, sums: UsageSums) -> list[float]:
    records = _decode_served(data)
    usage_totals.add_served(sums, records)
    return [one.at for one in records]


def _decode_served(data: bytes) -> list[RequestRecord]:
    """Decode the lines; a broken line is skipped, so that it does not block the later lines."""
    try:
        return _SERVED_DECODER.decode_lines(data)
    except msgspec.MsgspecError:
        records = []
        for line in data.split(b"\n"):
            with suppress(msgspec.MsgspecError):
                records.append(_SERVED_DECODER.decode(line))
        return records


TimeSpan = tuple[float | None, float | None]
"""First and last second since the epoch, both included; None: unbounded."""


def bound_span(span: TimeSpan) -> tuple[float, float]:
    return -math.inf if span[0] is None else span[0], math.inf if span[1] is None else span[1]


class RecordStream(NamedTuple):
    """JSON lines of one stream; `tip`: the block's hash of its last group, "" for records without a block."""

    data: bytes
    tip: str = ""


def read_records(
    store: Store,
    home: Home | None,
    stream: str,
    span: TimeSpan = (None, None),
    *,
    newest_first: bool = False,
) -> Iterator[RecordStream]:
    """Yield every record of `stream` once, without blocks outside `span`. Raises StoreError.

    With `home` also the records that this machine has not compacted yet."""
    segments_read = {} if home is None else read_segments(list_store_segments(store, home))
    table = BLOCKS[stream]
    last = store.newest_seq(table)[0]
    since, until = span
    spans = (ColumnRange("last_at", since), ColumnRange("first_at", None, until))
    pending = list(_read_uncompacted(store, stream, segments_read, last))
    blocks = _read_blocks(store, table, spans, last, newest_first=newest_first)
    yield from chain(reversed(pending), blocks) if newest_first else chain(blocks, pending)


def _read_blocks(
    store: Store, table: RecordTable[RecordBlock], spans: ColumnRanges, last: int, *, newest_first: bool
) -> Iterator[RecordStream]:
    seq = last + 1 if newest_first else 0
    while page := store.numbered_rows(table, seq, BLOCKS_PER_READ, spans, newest_first=newest_first):
        for seq, block in page:
            if seq <= last:
                try:
                    data = zlib.decompress(block.data)
                except zlib.error as error:
                    message = f"block {seq} of {table.name} is damaged: {error}"
                    hint = "restore the database from a backup: archwright restore --into DIR"
                    raise StoreError("AW-STO-08", message, hint=hint) from error
                yield RecordStream(data, block.tip)


def _read_uncompacted(store: Store, stream: str, contents: dict[str, bytes], last: int) -> Iterator[RecordStream]:
    index = STREAMS.index(stream)
    for name, data in contents.items():
        ends = store.columns(BLOCKS[stream], ("end",), {"writer": name}, ColumnRange("seq", None, last))
        first = max([read_compacted_offset(data), *(end for (end,) in ends)])
        if lines := [batch.lines[index] for batch in read_batches(data, first) if batch.counts[index]]:
            yield RecordStream(b"\n".join(lines))


def read_served(
    store: Store, home: Home | None, span: TimeSpan = (None, None), tenant: str | None = None
) -> Iterator[RequestRecord]:
    """Yield the requests that ended within `span` (both ends included), of `tenant` (None: of all)."""
    low, high = bound_span(span)
    for one in read_records(store, home, "served", span):
        for record in _decode_served(one.data):
            if low <= record.at <= high and (tenant is None or record.tenant == tenant):
                yield record


def read_usage_totals(store: Store, home: Home | None, by: tuple[str, ...]) -> list[UsageTotal]:
    """Return the totals of all requests ever served, grouped by `by`; other USAGE_DIMENSIONS are empty.

    Each request counts once: compacted and pending records are read as of one time. Raises StoreError."""
    table = BLOCKS["served"]
    # Creates missing tables: a snapshot does not see a table that is created after it.
    store.newest_seq(table, usage_totals.USAGE_TOTALS, usage_totals.USAGE_DELTAS)
    contents = {} if home is None else read_segments(list_store_segments(store, home))
    with store.snapshot():
        totals = store.sums(usage_totals.USAGE_TOTALS, by, usage_totals.USAGE_MEASURES)
        deltas = store.rows(usage_totals.USAGE_DELTAS)
        streams = list(_read_uncompacted(store, "served", contents, store.newest_seq(table)[0]))
    pending: UsageSums = {}
    for stream in streams:
        usage_totals.add_served(pending, _decode_served(stream.data))
    sums: UsageSums = {row[: len(by)]: list(row[len(by) :]) for row in totals}
    places = [usage_totals.USAGE_DIMENSIONS.index(name) for name in by]
    usage_totals.apply_deltas(sums, deltas, places)
    for key, line in pending.items():
        usage_totals.add_sums(sums, tuple([key[place] for place in places]), line)
    return [usage_totals.build_total(by, key, line) for key, line in sums.items()]
