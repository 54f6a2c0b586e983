"""Comparison of the audit log with the records in another place.

The digest of a record covers all records before it. So log and place are read side by side, and the memory that this
takes does not grow with the log. From the first difference on, records are found by their content: if some were removed
or inserted, later ones have other numbers. That part is held in memory.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

import msgspec

from archwright.access.record_chain import (
    ChainedBlock,
    ChainState,
    RecordLine,
    decode_record_lines,
    extend_digest,
    read_chained_blocks,
)
from archwright.contract.record import Record
from archwright.errors import ErrorLocation, StoreError
from archwright.monitor.wal.segment_owner import read_store_name
from archwright.store import Store

RECENT_BLOCKS = 8
DESCRIBED_DIFFERENCES = 5
ReadLines = Callable[[], Iterable[bytes]]


class _RecordEvent(msgspec.Struct):
    at: float
    action: str


_EVENT_DECODER = msgspec.json.Decoder(_RecordEvent)


class RecordDifference(Record):
    """Records `first` to `last` differ between the log and a place.

    `kind`: "missing" (only the place has them), "changed" (other content under the same numbers), "added" (only the
    log has them), "moved" (other order), "rewritten" (the place has two versions of them), "altered" (the place
    contradicts its own digests). Numbers are those of the place, or of the log for "added". `example`: time and action
    of the first one.
    """

    kind: str
    first: int
    last: int
    example: str = ""

    def describe(self) -> str:
        many = self.first != self.last
        numbers = f"records {self.first:,} to {self.last:,}" if many else f"record {self.first:,}"
        example = f" (from {self.example})" if self.example else ""
        return f"{numbers}{example} {_VERBS[self.kind][many]}"


_VERBS = {
    "missing": ("is missing in the log", "are missing in the log"),
    "changed": ("was changed in the log", "were changed in the log"),
    "added": ("is in the log only", "are in the log only"),
    "moved": ("has another position in the log", "have other positions in the log"),
    "rewritten": ("has two versions in the place", "have two versions in the place"),
    "altered": ("was altered in the place", "were altered in the place"),
}


class PlaceComparison(Record):
    """`agreed`: number of the last record up to which log and place agree; `differences` behind it."""

    agreed: int
    differences: tuple[RecordDifference, ...] = ()

    def describe(self) -> str:
        """Return the first differences, "" without any."""
        texts = [difference.describe() for difference in self.differences[:DESCRIBED_DIFFERENCES]]
        unnamed = len(self.differences) - len(texts)
        if unnamed:
            texts.append(f"and {unnamed} more")
        return "; ".join(texts)

    def check(self, address: str) -> None:
        """Raise StoreError: AW-STO-29 the log differs from the place, AW-STO-30 the place was altered."""
        if not self.differences:
            return
        where = ErrorLocation(address)
        kinds = {difference.kind for difference in self.differences}
        if kinds == {"altered"}:
            message = f"the place of audit records was altered: {self.describe()}"
            hint = "find out who can write to the place; the log agrees with the records before"
            raise StoreError("AW-STO-30", message, where=where, hint=hint)
        message = f"the log differs from the place after record {self.agreed:,}: {self.describe()}"
        hint = "keep the place as evidence, and compare with a restored backup: archwright restore --into DIR"
        raise StoreError("AW-STO-29", message, where=where, hint=hint)


def compare_with_place(store: Store, read_lines: ReadLines, start: ChainState) -> PlaceComparison:
    """Compare the log with the lines of a place. Raises StoreError.

    `read_lines` may be called twice. `start`: the log before its first block; records up to it are not compared.
    """
    store_name = read_store_name(store)
    log = _LogWindow(store, start)
    agreed = start.records
    for line in decode_record_lines(read_lines()):
        if line.store != store_name or line.number <= start.records:
            continue
        if log.find(line.number) != (line.digest, line.record):
            differences = _find_differences(store, read_lines, start, after=agreed)
            unexplained = RecordDifference(kind="altered", first=line.number, last=line.number)
            return PlaceComparison(agreed=agreed, differences=differences or (unexplained,))
        agreed = max(agreed, line.number)
    return PlaceComparison(agreed=agreed)


class _LogWindow:
    """Reads records of the log by ascending numbers; one before the recent blocks begins from the start again."""

    def __init__(self, store: Store, start: ChainState) -> None:
        self._store = store
        self._start = start
        self._restart()

    def _restart(self) -> None:
        self._blocks = read_chained_blocks(self._store, self._start)
        self._recent: deque[ChainedBlock] = deque(maxlen=RECENT_BLOCKS)
        self._end = self._start.records

    def find(self, number: int) -> tuple[str, bytes] | None:
        """Return digest and bytes of a record after the start, None behind the end. Raises StoreError."""
        if self._recent and number <= self._recent[0].start.records:
            self._restart()
        while self._end < number:
            block = next(self._blocks, None)
            if block is None:
                return None
            self._recent.append(block)
            self._end = block.end.records
        for block in reversed(self._recent):
            if block.start.records < number:
                index = number - block.start.records - 1
                return block.digests[index], block.records[index]
        return None


class _PlaceTail:
    """The records of a place behind a number, by number; of several versions, the first."""

    def __init__(self, lines: Iterable[RecordLine], before: RecordLine, after: int) -> None:
        """`before`: the record before the first one of the log; `after`: the number behind which records are held."""
        self.records: dict[int, bytes] = {}
        self.altered: set[int] = set()
        self.rewritten: set[int] = set()
        previous = before
        for line in lines:
            if line.store != before.store:
                continue
            if line.number == previous.number + 1 and extend_digest(previous.digest, line.record) != line.digest:
                self.altered.add(line.number)
            previous = line
            if line.number > after:
                self._add(line)

    def _add(self, line: RecordLine) -> None:
        first_version = self.records.setdefault(line.number, line.record)
        if first_version != line.record:
            self.rewritten.add(line.number)


def _find_differences(
    store: Store, read_lines: ReadLines, start: ChainState, *, after: int
) -> tuple[RecordDifference, ...]:
    before = RecordLine(read_store_name(store), start.records, start.digest, b"")
    tail = _PlaceTail(decode_record_lines(read_lines()), before, after)
    delivered = tail.records
    log = dict(_read_log_tail(store, start, after))
    missing = _select_absent(delivered, log) - tail.altered
    added = _select_absent(log, delivered) & delivered.keys() - tail.altered
    common = log.keys() - _select_absent(log, delivered)
    last_common = max(common, default=after)

    numbers_by_kind = {
        "missing": missing - added,
        "changed": missing & added,
        # The end of the log may not be delivered yet.
        "added": {number for number in added - missing if number <= last_common},
        "rewritten": tail.rewritten,
        "altered": tail.altered,
    }
    if not any(numbers_by_kind.values()):
        numbers_by_kind["moved"] = {number for number, record in delivered.items() if log.get(number) != record}
    differences: list[RecordDifference] = []
    for kind, numbers in numbers_by_kind.items():
        records = log if kind == "added" else delivered
        differences += _group_numbers(kind, numbers, records)
    return tuple(sorted(differences, key=lambda difference: difference.first))


def _read_log_tail(store: Store, start: ChainState, after: int) -> Iterator[tuple[int, bytes]]:
    """Yield the records of the log behind the number `after`, with their numbers."""
    for block in read_chained_blocks(store, start):
        if block.end.records > after:
            for number, record in enumerate(block.records, block.start.records + 1):
                if number > after:
                    yield number, record


def _select_absent(records: Mapping[int, bytes], compared: Mapping[int, bytes]) -> set[int]:
    """Return the numbers of the records whose content is not among the compared ones."""
    contents = set(compared.values())
    return {number for number, record in records.items() if record not in contents}


def _group_numbers(kind: str, numbers: set[int], records: Mapping[int, bytes]) -> Iterator[RecordDifference]:
    """Yield a difference for each range of consecutive numbers."""
    first: int | None = None
    for number in sorted(numbers):
        if first is None:
            first = number
        if number + 1 not in numbers:
            example = _describe_record(records.get(first))
            yield RecordDifference(kind=kind, first=first, last=number, example=example)
            first = None


def _describe_record(record: bytes | None) -> str:
    with suppress(msgspec.MsgspecError):
        event = _EVENT_DECODER.decode(record or b"")
        time_text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event.at))
        return f"{time_text} {event.action}"
    return ""
