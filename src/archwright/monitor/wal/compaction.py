"""From segments into the store, and back: blocks of records, the totals of usage, and who reads them.

A stretch of a segment becomes one row for each of its streams (and rows of totals), in one transaction. The row says
where the stretch ends: whoever goes on with the segment, the writer or whoever found it, asks the store and nobody
folds a record twice; two who tried at once would meet at the unique (writer, number).

Readers see each record once: the segments are read first, then the blocks, then of the segments what no block holds.
"""

from __future__ import annotations

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
from archwright.home import Home
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
BLOCKS_PER_READ = 16  # blocks read at once
CHAIN_FIELD = b',"chain":"'  # within a text of a line its quotes would be escaped


class RecordBlock(Record):
    """Records of one stream, one JSON a line, compressed: bytes `number` to `end` of the segment `writer`. `tip` is the
    SHA-256 of the last group (`extract_last_group`)."""

    writer: str
    number: int
    end: int
    first_at: float
    last_at: float
    count: int
    tip: str
    data: bytes


BLOCKS = {
    stream: RecordTable(f"{stream}_blocks", RecordBlock, ("writer", "number"), ("last_at",)) for stream in STREAMS
}
_SERVED_DECODER = msgspec.json.Decoder(RequestRecord)


class _Timed(msgspec.Struct):
    at: float


_TIMED_DECODER = msgspec.json.Decoder(_Timed)


class CompactedRange(NamedTuple):
    """Where in a segment it ends, and how many records and rows of totals it made."""

    end: int
    records: int
    totals: int


def compact_range(store: Store, segment: WalSegment) -> CompactedRange:
    """The next stretch of `segment`, as one transaction. Raises StoreError; Conflict when somebody else had it."""
    start = end = segment.folded
    sums: UsageSums = {}
    making = {
        "audit": _BlockBuilder(lambda data: [one.at for one in _TIMED_DECODER.decode_lines(data)]),
        "served": _BlockBuilder(lambda data: _aggregate_served(data, sums)),
    }
    both = tuple(making.values())
    count = 0
    for one in _read_range_batches(segment, start):
        for made, records, lines in zip(both, one.counts, one.lines, strict=True):
            if records:
                made.add_lines(records, lines)
        count, end = count + sum(one.counts), start + one.end
        if count >= RANGE_RECORDS:
            break
    lots = [(BLOCKS[stream], [made.build(segment.name, start, end)]) for stream, made in making.items() if made.count]
    store.append_together(
        [*lots, (usage_totals.USAGE_DELTAS, [usage_totals.encode_delta(sums)] if sums else [])], synced=True
    )
    segment.mark_compacted(end)
    return CompactedRange(end, count, len(sums))


def _read_range_batches(segment: WalSegment, start: int) -> Iterator[CommittedBatch]:
    """Those of the next stretch; at least one: what was written at once may be longer. Raises StoreError."""
    for limit in (RANGE_BYTES, segment.size):
        found = read_batches(segment.read_range(start, limit), 0)
        first = next(found, None)
        if first is not None:
            return chain((first,), found)
    raise StoreError("AW-STO-08", f"{segment.name} is damaged at byte {start}", hint="restore from backup")


def compact_segment(store: Store, segment: WalSegment) -> int:
    """What is left of a segment that nobody writes, then the file goes; how many records. Raises StoreError."""
    update_compacted_offset(store, segment)
    records = 0
    while segment.folded < segment.written:
        records += compact_range(store, segment).records
    segment.remove()
    return records


def compact_orphans(store: Store, home: Home) -> int:
    """Segments of writers that are gone, in their order (audit chains go on from one to the next), so by one process
    at a time; how many records they held. Raises StoreError."""
    with (home.write_ahead_log / "orphans.lock").open("wb") as lock:
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
    """How far a segment is in the store, asked of it: a writer may have been killed before it could note it."""
    ends = [store.columns(table, ("end",), {"writer": segment.name}) for table in BLOCKS.values()]
    segment.mark_compacted(max([segment.folded, *(end for found in ends for (end,) in found)]))


def extract_last_group(lines: bytes) -> bytes:
    """The lines from the last one with an audit link (else the last line): what the next link points at."""
    link = lines.rfind(CHAIN_FIELD)
    return lines[lines.rfind(b"\n", 0, link if link >= 0 else None) + 1 :]


class _BlockBuilder:
    """A block in the making, a piece at a time: while it is in the processor's cache, and so that whoever serves in the
    same process waits for no piece long. `times` looks at the lines of one."""

    def __init__(self, times: Callable[[bytes], list[float]]) -> None:
        self.count = 0
        self._times = times
        self._packer = zlib.compressobj(1)
        self._packed: list[bytes] = []
        self._span = math.inf, -math.inf
        self._lines: list[bytes] = []
        self._waiting = 0
        self._last = b""

    def add_lines(self, records: int, lines: bytes) -> None:
        self.count += records
        self._lines.append(lines)
        self._waiting += len(lines)
        if self._waiting >= PIECE_BYTES:
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
        self._waiting, self._last = 0, data


def _aggregate_served(data: bytes, sums: UsageSums) -> list[float]:
    found = _decode_served(data)
    usage_totals.add_served(sums, found)
    return [one.at for one in found]


def _decode_served(data: bytes) -> list[RequestRecord]:
    """The records of these lines. A broken line is left out: it must not hold up the lines after it."""
    try:
        return _SERVED_DECODER.decode_lines(data)
    except msgspec.MsgspecError:
        found = []
        for line in data.split(b"\n"):
            with suppress(msgspec.MsgspecError):
                found.append(_SERVED_DECODER.decode(line))
        return found


TimeSpan = tuple[float | None, float | None]
"""Seconds since the epoch, both ends included; None: unbounded."""


def bound_span(span: TimeSpan) -> tuple[float, float]:
    return -math.inf if span[0] is None else span[0], math.inf if span[1] is None else span[1]


class RecordStream(NamedTuple):
    """Records of one stream, one JSON a line; `tip` is the block's hash of its last group, "" without a block."""

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
    """Every record of `stream`, each once; blocks that do not touch `span` are left out. With `home` also what this
    machine has not folded yet. Raises StoreError."""
    tails = {} if home is None else read_segments(list_store_segments(store, home))
    table = BLOCKS[stream]
    last = store.newest_seq(table)[0]
    since, until = span
    spans = (ColumnRange("last_at", since), ColumnRange("first_at", None, until))
    unfolded = list(_read_uncompacted(store, stream, tails, last))
    blocks = _read_blocks(store, table, spans, last, newest_first=newest_first)
    yield from chain(reversed(unfolded), blocks) if newest_first else chain(blocks, unfolded)


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
                    message = f"block {seq} is damaged: {error}"
                    raise StoreError("AW-STO-08", message, hint="restore from backup") from error
                yield RecordStream(data, block.tip)


def _read_uncompacted(store: Store, stream: str, tails: dict[str, bytes], last: int) -> Iterator[RecordStream]:
    place = STREAMS.index(stream)
    for name, data in tails.items():
        ends = store.columns(BLOCKS[stream], ("end",), {"writer": name}, ColumnRange("seq", None, last))
        first = max([read_compacted_offset(data), *(end for (end,) in ends)])
        if found := [one.lines[place] for one in read_batches(data, first) if one.counts[place]]:
            yield RecordStream(b"\n".join(found))


def read_served(
    store: Store, home: Home | None, span: TimeSpan = (None, None), tenant: str | None = None
) -> Iterator[RequestRecord]:
    """Finished requests that ended within `span` (both ends belong to it), of `tenant` or of all."""
    low, high = bound_span(span)
    for one in read_records(store, home, "served", span):
        for record in _decode_served(one.data):
            if low <= record.at <= high and (tenant is None or record.tenant == tenant):
                yield record


def read_usage_totals(store: Store, home: Home | None, by: tuple[str, ...]) -> list[UsageTotal]:
    """The totals of all requests ever served, each counted once, for each value of `by` (of USAGE_DIMENSIONS; other
    dimensions are empty). Compacted and pending records are read as of one moment. Raises StoreError."""
    table = BLOCKS["served"]
    # Made now: a snapshot does not see a table made after it.
    store.newest_seq(table, usage_totals.USAGE_TOTALS, usage_totals.USAGE_DELTAS)
    tails = {} if home is None else read_segments(list_store_segments(store, home))
    with store.snapshot():
        kept = store.sums(usage_totals.USAGE_TOTALS, by, usage_totals.USAGE_MEASURES)
        lots = store.rows(usage_totals.USAGE_DELTAS)
        unfolded = list(_read_uncompacted(store, "served", tails, store.newest_seq(table)[0]))
    fresh: UsageSums = {}
    for one in unfolded:
        usage_totals.add_served(fresh, _decode_served(one.data))
    sums: UsageSums = {row[: len(by)]: list(row[len(by) :]) for row in kept}
    places = [usage_totals.USAGE_DIMENSIONS.index(name) for name in by]
    usage_totals.apply_deltas(sums, lots, places)
    for key, line in fresh.items():
        usage_totals.add_sums(sums, tuple([key[place] for place in places]), line)
    return [usage_totals.build_total(by, key, line) for key, line in sums.items()]
