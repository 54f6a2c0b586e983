"""The blocks of the audit log and of the usage records, each with the digest of all blocks up to it.

The tip after a block is the SHA-256 over the tip before it and the fields of the block. The signed
checkpoints (`audit_checkpoints`) state it, and `log_retention` states where the kept blocks begin.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import msgspec

from archwright.contract.record import Record
from archwright.monitor.wal.compaction import BLOCKS, BLOCKS_PER_READ, RecordBlock
from archwright.store import Store

STREAM_NAMES = {"audit": "log", "served": "usage log"}
_ENCODE = msgspec.json.Encoder().encode


class LogMark(Record):
    """The state of a stream of blocks, such as the usage records: see `audit_checkpoints`."""

    seq: int
    blocks: int
    records: int
    tip: str


class LogStart(LogMark):
    """The state of the audit log before the first block that is kept.

    `chain`: digest of the record chain there.
    """

    chain: str


class LogState(NamedTuple):
    """The log up to a block."""

    seq: int = 0
    blocks: int = 0
    records: int = 0
    tip: str = ""


NO_USAGE = LogMark(seq=0, blocks=0, records=0, tip="")


class _LogPosition(Protocol):
    @property
    def seq(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def records(self) -> int: ...
    @property
    def tip(self) -> str: ...


def state_of_mark(mark: _LogPosition) -> LogState:
    """Return the state that a mark or a checkpoint states."""
    return LogState(mark.seq, mark.blocks, mark.records, mark.tip)


def _list_tip_fields(tip: str, block: RecordBlock) -> tuple[str | int | float, ...]:
    """Return what the tip after a block covers beside the data of the block."""
    return (
        tip,
        block.writer,
        block.number,
        block.end,
        block.first_at,
        block.last_at,
        block.count,
        block.tip,
    )


def _extend_tip(tip: str, block: RecordBlock) -> str:
    fields = _ENCODE(_list_tip_fields(tip, block))
    return hashlib.sha256(fields + block.data).hexdigest()


def _extend_usage_tip(tip: str, block: RecordBlock) -> str:
    """Extend by the digest of the data as recorded: an erasure may have corrected them."""
    digest = block.origin or hashlib.sha256(block.data).hexdigest()
    fields = (*_list_tip_fields(tip, block), digest)
    return hashlib.sha256(_ENCODE(fields)).hexdigest()


_TIPS = {"audit": _extend_tip, "served": _extend_usage_tip}


def read_log_blocks(
    store: Store,
    stream: str,
    state: LogState,
) -> Iterator[tuple[LogState, RecordBlock]]:
    """Yield each block behind `state`, with the state after it. Raises StoreError."""
    extend_tip = _TIPS[stream]
    while page := store.numbered_rows(BLOCKS[stream], state.seq, BLOCKS_PER_READ):
        for seq, block in page:
            tip = extend_tip(state.tip, block)
            state = LogState(seq, state.blocks + 1, state.records + block.count, tip)
            yield state, block


def read_log_end(store: Store, stream: str, start: LogState) -> LogState:
    end = start
    for state, _block in read_log_blocks(store, stream, start):
        end = state
    return end
