"""Compaction of WAL segments into the store (blocks of records, usage totals), and readers of both.

A range of a segment becomes one block row per stream and one row of totals, in one transaction. The
block states the end of the range, so any process that continues the segment reads it from the
store, and no record is compacted twice. Two simultaneous attempts conflict at the unique (writer,
number).

Readers see each record once: they read the segments first, then the blocks, then the part of the
segments that no block contains.
"""

import fcntl
import hashlib
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple

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
from archwright.store import ColumnRange, RecordTable, Store

RANGE_RECORDS = 16_000
RANGE_BYTES = 4 << 20
PIECE_BYTES = 32 << 10
BLOCKS_PER_READ = 16
CHAIN_FIELD = b',"chain":"'  # inside a JSON text its quotes would be escaped


class RecordBlock(Record):
    """Compressed JSON lines: bytes `number` to `end` of the segment `writer`.

    `tip`: SHA-256 of the last group. If the erasure of a person changed the data: `origin`: SHA-256
    of the first data, `correction`: signature of it.
    """

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


def _define_table(stream: str) -> RecordTable[RecordBlock]:
    unique = ("writer", "number")
    return RecordTable(f"{stream}_blocks", RecordBlock, unique=unique, index=("last_at",))


BLOCKS = {stream: _define_table(stream) for stream in STREAMS}
_SERVED_DECODER = msgspec.json.Decoder(RequestRecord)


class _Timed(msgspec.Struct):
    at: float


_TIMED_DECODER = msgspec.json.Decoder(_Timed)


class CompactedRange(NamedTuple):
    """Number of records and of totals of a compacted range."""

    records: int
    totals: int


def compact_range(store: Store, segment: WalSegment) -> CompactedRange:
    """Compact the next range of `segment`.

    Raises StoreError, ConflictError if another process compacted it.
    """
    start = segment.folded
    sums: UsageSums = {}
    builders = {
        "audit": _BlockBuilder(_read_times),
        "served": _BlockBuilder(lambda data: _aggregate_served(data, sums)),
    }
    count = 0
    end = start
    for batch in _read_range_batches(segment, start):
        by_stream = zip(builders.values(), batch.counts, batch.lines, strict=True)
        for builder, records, lines in by_stream:
            if records:
                builder.add_lines(records, lines)
        count += sum(batch.counts)
        end = start + batch.end
        if count >= RANGE_RECORDS:
            break

    appended: list[tuple[RecordTable[Any], list[Any]]] = []
    for stream, builder in builders.items():
        if builder.count:
            block = builder.build(segment.name, start, end)
            appended.append((BLOCKS[stream], [block]))
    if sums:
        appended.append((usage_totals.USAGE_DELTAS, [usage_totals.encode_delta(sums)]))
    store.append_together(appended, synced=True)

    segment.mark_compacted(end)
    return CompactedRange(count, len(sums))


def _read_range_batches(segment: WalSegment, start: int) -> Iterator[CommittedBatch]:
    """Read the batches of the next range, at least one, even if it exceeds RANGE_BYTES.

    Raises StoreError.
    """
    for limit in (RANGE_BYTES, segment.size):
        batches = read_batches(segment.read_range(start, limit), 0)
        first = next(batches, None)
        if first is not None:
            return chain((first,), batches)

    message = f"the WAL segment {segment.name} is damaged at byte {start}"
    hint = "restore the home from a backup: archwright restore --into DIR"
    raise StoreError("AW-STO-08", message, hint=hint)


def compact_segment(store: Store, segment: WalSegment) -> int:
    """Compact the rest of a segment without writer and remove its file; return the records.

    Raises StoreError.
    """
    update_compacted_offset(store, segment)
    records = 0
    while segment.folded < segment.written:
        records += compact_range(store, segment).records
    segment.remove()
    return records


def compact_orphans(store: Store, home: Home) -> int:
    """Compact the segments of ended writers; return the number of records. Raises StoreError.

    One process at a time, in the order of the segments, because audit chains continue from one to
    the next.
    """
    folder = home.write_ahead_log
    with open_private(folder / "orphans.lock", "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0

        records = 0
        paths = list_store_segments(store, home)
        paths += segments.list_unfinished_segments(folder)
        for path in paths:
            segment = WalSegment.adopt(path)
            if segment is None:
                continue
            try:
                records += compact_segment(store, segment)
            finally:
                segment.close()
    return records


def update_compacted_offset(store: Store, segment: WalSegment) -> None:
    """Read from the store how far a segment is compacted.

    A killed writer may not have noted it in the segment.
    """
    folded = segment.folded
    for stream in STREAMS:
        folded = max(folded, _read_block_end(store, stream, segment.name))
    segment.mark_compacted(folded)


def _read_block_end(
    store: Store,
    stream: str,
    writer: str,
    *,
    last_seq: int | None = None,
) -> int:
    """Return the end of a segment's last block, 0 without blocks.

    `last_seq`: without the blocks that were added after this one.
    """
    span = ColumnRange("seq", None, last_seq)
    ends = store.columns(BLOCKS[stream], ("end",), {"writer": writer}, span)
    return max((end for (end,) in ends), default=0)


def extract_last_group(lines: bytes) -> bytes:
    """Return the last group: the lines from the last one with an audit link, else the last line."""
    link = lines.rfind(CHAIN_FIELD)
    before = link if link >= 0 else len(lines)
    start = lines.rfind(b"\n", 0, before) + 1
    return lines[start:]


class _BlockBuilder:
    """Builder of a block.

    Compresses in pieces that fit the CPU cache and block the serving threads only briefly.
    `read_times` returns the times of the records of a piece.
    """

    def __init__(self, read_times: Callable[[bytes], list[float]]) -> None:
        self.count = 0
        self._read_times = read_times
        self._packer = zlib.compressobj(1)
        self._packed: list[bytes] = []
        self._first_at = math.inf
        self._last_at = -math.inf
        self._lines: list[bytes] = []
        self._pending_bytes = 0
        self._last_piece = b""

    def add_lines(self, records: int, lines: bytes) -> None:
        self.count += records
        self._lines.append(lines)
        self._pending_bytes += len(lines)
        if self._pending_bytes >= PIECE_BYTES:
            self._compress_lines()

    def build(self, writer: str, start: int, end: int) -> RecordBlock:
        if self._lines:
            self._compress_lines()
        has_times = self._first_at <= self._last_at
        last_group = extract_last_group(self._last_piece)
        return RecordBlock(
            writer=writer,
            number=start,
            end=end,
            first_at=self._first_at if has_times else 0.0,
            last_at=self._last_at if has_times else 0.0,
            count=self.count,
            tip=hashlib.sha256(last_group).hexdigest(),
            data=b"".join((*self._packed, self._packer.flush())),
        )

    def _compress_lines(self) -> None:
        piece = b"\n".join(self._lines)
        if self._last_piece:
            self._packed.append(self._packer.compress(b"\n"))
        self._packed.append(self._packer.compress(piece))

        times = self._read_times(piece)
        if times:
            self._first_at = min(self._first_at, *times)
            self._last_at = max(self._last_at, *times)

        self._lines.clear()
        self._pending_bytes = 0
        self._last_piece = piece


def _read_times(lines: bytes) -> list[float]:
    return [record.at for record in _TIMED_DECODER.decode_lines(lines)]


def _aggregate_served(lines: bytes, sums: UsageSums) -> list[float]:
    records = _decode_served(lines)
    usage_totals.add_served(sums, records)
    return [record.at for record in records]


def _decode_served(lines: bytes) -> list[RequestRecord]:
    """Decode the lines; a broken line is skipped, so that it does not block the later lines."""
    with suppress(msgspec.MsgspecError):
        return _SERVED_DECODER.decode_lines(lines)

    records: list[RequestRecord] = []
    for line in lines.split(b"\n"):
        with suppress(msgspec.MsgspecError):
            records.append(_SERVED_DECODER.decode(line))
    return records


TimeSpan = tuple[float | None, float | None]
"""First and last second since the epoch, both included; None: unbounded."""


def bound_span(span: TimeSpan) -> tuple[float, float]:
    since, until = span
    first = -math.inf if since is None else since
    last = math.inf if until is None else until
    return first, last


class RecordStream(NamedTuple):
    """JSON lines of one stream.

    `tip`: the block's hash of its last group, "" for records without a block.
    """

    data: bytes
    tip: str = ""


def read_records(
    store: Store,
    home: Home | None,
    stream: str,
    *,
    span: TimeSpan = (None, None),
    newest_first: bool = False,
    after_seq: int = 0,
) -> Iterator[RecordStream]:
    """Yield every record of `stream` once, without blocks outside `span`. Raises StoreError.

    `after_seq`: only blocks after this one, if the oldest come first.

    With `home` also the records that this machine has not compacted yet.
    """
    contents = _read_segments(store, home)
    (last_seq,) = store.newest_seq(BLOCKS[stream])
    pending = list(_read_uncompacted(store, stream, contents, last_seq=last_seq))
    first_seq = last_seq + 1 if newest_first else after_seq
    blocks = _read_blocks(store, stream, span, last_seq=last_seq, behind=first_seq, newest_first=newest_first)
    if newest_first:
        yield from reversed(pending)
        yield from blocks
    else:
        yield from blocks
        yield from pending


def _read_segments(store: Store, home: Home | None) -> dict[str, bytes]:
    """Return the bytes of the store's segments by name; without a home there are none."""
    if home is None:
        return {}
    return read_segments(list_store_segments(store, home))


def _read_blocks(
    store: Store,
    stream: str,
    span: TimeSpan,
    *,
    last_seq: int,
    behind: int,
    newest_first: bool,
) -> Iterator[RecordStream]:
    table = BLOCKS[stream]
    since, until = span
    ranges = (ColumnRange("last_at", since), ColumnRange("first_at", None, until))
    seq = behind
    while True:
        page = store.numbered_rows(table, seq, BLOCKS_PER_READ, ranges, newest_first=newest_first)
        if not page:
            return
        for block_seq, block in page:
            seq = block_seq
            if block_seq <= last_seq:
                yield RecordStream(_decompress_block(block, table.name, block_seq), block.tip)


def _decompress_block(block: RecordBlock, table_name: str, seq: int) -> bytes:
    try:
        return zlib.decompress(block.data)
    except zlib.error as error:
        message = f"block {seq} of {table_name} is damaged: {error}"
        hint = "restore the database from a backup: archwright restore --into DIR"
        raise StoreError("AW-STO-08", message, hint=hint) from error


def _read_uncompacted(
    store: Store,
    stream: str,
    contents: dict[str, bytes],
    *,
    last_seq: int,
) -> Iterator[RecordStream]:
    """Yield the records of segments that are in no block up to `last_seq`."""
    index = STREAMS.index(stream)
    for name, data in contents.items():
        block_end = _read_block_end(store, stream, name, last_seq=last_seq)
        start = max(read_compacted_offset(data), block_end)
        lines: list[bytes] = []
        for batch in read_batches(data, start):
            if batch.counts[index]:
                lines.append(batch.lines[index])
        if lines:
            yield RecordStream(b"\n".join(lines))


def read_served(
    store: Store,
    home: Home | None,
    span: TimeSpan = (None, None),
    *,
    tenant: str | None = None,
) -> Iterator[RequestRecord]:
    """Yield the requests that ended within `span` (both ends included), of `tenant`.

    `tenant`: None: of all.
    """
    first, last = bound_span(span)
    for records in read_records(store, home, "served", span=span):
        for record in _decode_served(records.data):
            if first <= record.at <= last and tenant in (None, record.tenant):
                yield record


def read_usage_totals(store: Store, home: Home | None, by: tuple[str, ...]) -> list[UsageTotal]:
    """Return the totals of all requests ever served, grouped by `by`.

    Other USAGE_DIMENSIONS are empty. Each request counts once: compacted and pending records are
    read as of one time. Raises StoreError.
    """
    table = BLOCKS["served"]
    # Creates missing tables: a snapshot does not see a table that is created after it.
    store.newest_seq(table, usage_totals.USAGE_TOTALS, usage_totals.USAGE_DELTAS)
    contents = _read_segments(store, home)
    with store.snapshot():
        rows = store.sums(usage_totals.USAGE_TOTALS, by, usage_totals.USAGE_MEASURES)
        deltas = store.rows(usage_totals.USAGE_DELTAS)
        (last_seq,) = store.newest_seq(table)
        streams = list(_read_uncompacted(store, "served", contents, last_seq=last_seq))

    pending: UsageSums = {}
    for stream in streams:
        usage_totals.add_served(pending, _decode_served(stream.data))

    sums: UsageSums = {}
    for row in rows:
        key = row[: len(by)]
        sums[key] = list(row[len(by) :])
    positions = [usage_totals.USAGE_DIMENSIONS.index(name) for name in by]
    usage_totals.apply_deltas(sums, deltas, positions)
    for dimensions, measures in pending.items():
        key = usage_totals.pick_dimensions(dimensions, positions)
        usage_totals.add_sums(sums, key, measures)
    return usage_totals.list_totals(sums, by)
