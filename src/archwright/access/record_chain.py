"""Numbers and digests of audit records in the order of the store, and their lines in a second place.

The digest of record n is the SHA-256, in hex, of the digest of record n - 1 and the bytes of record n. Before the first
record the digest is empty. So one digest covers all records up to its own, and a reader needs no database to check
them. The groups of `access.audit_log` link the records of one writer; this chain covers those of all writers.

A line has number and digest before the record, whose bytes stay as they were written.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from archwright.errors import StoreError
from archwright.monitor.wal.compaction import BLOCKS, BLOCKS_PER_READ, RecordBlock
from archwright.store import ColumnRange, Store

AUDIT_BLOCKS = BLOCKS["audit"]
RECORD_MARK = b'{"kind":"archwright-audit-record",'
_RECORD_FIELD = b',"record":'


class ChainState(NamedTuple):
    """The log up to a block: its number `seq` in the store, the `records` so far, and the digest of the last."""

    seq: int = 0
    records: int = 0
    digest: str = ""


class ChainedBlock(NamedTuple):
    """The records of a block with their digests; `start`, `end`: the log before and after it.

    `identity` tells the block from another one with the same number; `first_at`: seconds since the epoch.
    """

    start: ChainState
    end: ChainState
    records: tuple[bytes, ...]
    digests: tuple[str, ...]
    identity: str
    first_at: float


class RecordLine(NamedTuple):
    """A record in a second place: name of its store, number from 1, digest, and bytes."""

    store: str
    number: int
    digest: str
    record: bytes


class _LineHead(msgspec.Struct):
    kind: str
    store: str
    number: int
    digest: str


_HEAD_DECODER = msgspec.json.Decoder(_LineHead)


def extend_digest(digest: str, record: bytes) -> str:
    return hashlib.sha256(digest.encode() + record).hexdigest()


def identify_block(block: RecordBlock) -> str:
    return f"{block.writer}:{block.number}:{block.tip}"


def read_block_identity(store: Store, seq: int) -> str:
    """Return the identity of the block with this number, "" if there is none. Raises StoreError."""
    names = ("writer", "number", "tip")
    rows = store.columns(AUDIT_BLOCKS, names, span=ColumnRange("seq", seq, seq))
    for writer, number, tip in rows:
        return f"{writer}:{number}:{tip}"
    return ""


def read_chained_blocks(store: Store, start: ChainState, last_seq: int | None = None) -> Iterator[ChainedBlock]:
    """Yield the blocks after `start`, up to `last_seq`. Raises StoreError."""
    state = start
    span = ColumnRange("seq", None, last_seq)
    while page := store.numbered_rows(AUDIT_BLOCKS, state.seq, BLOCKS_PER_READ, span):
        for seq, block in page:
            chained = _chain_block(state, seq, block)
            state = chained.end
            yield chained


def _chain_block(start: ChainState, seq: int, block: RecordBlock) -> ChainedBlock:
    digest = start.digest
    digests: list[str] = []
    records = tuple(_decompress_records(seq, block))
    for record in records:
        digest = extend_digest(digest, record)
        digests.append(digest)
    return ChainedBlock(
        start=start,
        end=ChainState(seq, start.records + len(records), digest),
        records=records,
        digests=tuple(digests),
        identity=identify_block(block),
        first_at=block.first_at,
    )


def _decompress_records(seq: int, block: RecordBlock) -> list[bytes]:
    try:
        return zlib.decompress(block.data).split(b"\n")
    except zlib.error as error:
        message = f"block {seq} of {AUDIT_BLOCKS.name} is damaged: {error}"
        raise StoreError(
            "AW-STO-08", message, hint="restore the database from a backup: archwright restore --into DIR"
        ) from error


def read_chain_end(store: Store, start: ChainState, last_seq: int) -> ChainState:
    """Return the log up to the block `last_seq`. Raises StoreError."""
    end = start
    for block in read_chained_blocks(store, start, last_seq):
        end = block.end
    return end


def encode_record_lines(store_name: str, block: ChainedBlock) -> list[bytes]:
    """Return the lines of a block's records."""
    lines: list[bytes] = []
    head = b'%b"store":"%b","number":' % (RECORD_MARK, store_name.encode())
    number = block.start.records
    for record, digest in zip(block.records, block.digests, strict=True):
        number += 1
        lines.append(b'%b%d,"digest":"%b"%b%b}' % (head, number, digest.encode(), _RECORD_FIELD, record))
    return lines


def decode_record_lines(lines: Iterable[bytes]) -> Iterator[RecordLine]:
    """Yield the records among the lines of a place. A collector of logs may have put text before a line.

    Other lines, and the part of a line that a killed process left, are passed over.
    """
    for line in lines:
        start = line.find(RECORD_MARK)
        field = line.find(_RECORD_FIELD, start)
        stripped = line.rstrip()
        if start < 0 or field < 0 or not stripped.endswith(b"}"):
            continue
        try:
            head = _HEAD_DECODER.decode(line[start:field] + b"}")
        except msgspec.MsgspecError:
            continue
        record = stripped[field + len(_RECORD_FIELD) : -1]
        yield RecordLine(head.store, head.number, head.digest, record)
