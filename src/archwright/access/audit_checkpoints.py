"""Signed checkpoints of the audit log in the home; `access.audit_delivery` copies them to other places.

A checkpoint states the number of blocks and records of the log, and their tip: the SHA-256 over the
previous tip and the fields of a block (`_extend_tip`), from the first block on. The block's bytes
hold the groups of every chain, so one tip covers all chains. It states the same of the usage
records, and the newest signed rows of keys (`RowsMark`). It also states the digest of the record
chain (`access.record_chain`), with which records in another place are checked without a database.
Ed25519 signs it. The key stays in the home, and each checkpoint states the public key.

The process that compacts the log appends a checkpoint at most every CHECKPOINT_S and at its end, as
one JSON line, to the home. The checkpoints of a home have consecutive numbers, and each has the
digest of the one before it. The database has the number and digest of the newest one
(`checkpoint_anchor`). So an attacker of the database alone or of the files alone is found.

Usage records older than USAGE_RETENTION_S are removed. A checkpoint states where those that are kept
begin (`usage_start`) before the older ones are deleted; verification starts there. Homes that share
a database keep all, because each would have to trust the other's key.

An attacker with write access to home and database can sign a false log. A second place still has
the earlier checkpoints, which contradict it. Records after the newest checkpoint that no second
place has yet can be removed without a trace.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from archwright.access.checkpoint_anchor import anchor_checkpoint, read_anchors
from archwright.access.record_chain import ChainState, read_chain_end
from archwright.access.signed_rows import RowsMark, find_mark, read_mark
from archwright.contract.record import Record, as_dict, replace
from archwright.crypto.signing import SECRET_BYTES, SigningKey, is_signed_by
from archwright.errors import ArchwrightError, ErrorLocation, StoreError, boundary
from archwright.home import Home, open_private, write_atomic
from archwright.monitor.wal.compaction import BLOCKS, BLOCKS_PER_READ, RecordBlock
from archwright.monitor.wal.segment_owner import read_store_name
from archwright.store import ColumnRange, Store

CHECKPOINT_S = 60.0
USAGE_RETENTION_S = 7 * 86_400.0
USAGE_REMOVAL_S = 3_600.0
_MARK = b'{"kind":"archwright-audit-checkpoint",'
_TAIL_BYTES = 64 << 10
STREAM_NAMES = {"audit": "log", "served": "usage log"}


class LogMark(Record):
    """The state of a stream of blocks, such as the usage records: see `AuditCheckpoint`."""

    seq: int
    blocks: int
    records: int
    tip: str


class AuditCheckpoint(Record):
    """The signed state of a log at time `at`. `store`: its name; `database`: digest of its URL
    without password.

    The newest block has the number `seq` in the store; `blocks` and `records` count from the first
    block on. `number` counts the checkpoints of the home, and `previous` is the digest of the one
    before. `usage`: the state of the usage records; `usage_start`: their state before the first one
    that is kept; `rows`: the newest rows of keys; `chain`: digest of the record chain. Checkpoints of
    older versions lack these six.
    """

    kind: str = "archwright-audit-checkpoint"
    at: float
    store: str
    database: str
    seq: int
    blocks: int
    records: int
    tip: str
    public_key: str
    signature: str = ""
    number: int | None = None
    previous: str | None = None
    usage: LogMark | None = None
    usage_start: LogMark | None = None
    rows: RowsMark | None = None
    chain: str | None = None


class LogState(NamedTuple):
    """The log up to a block."""

    seq: int = 0
    blocks: int = 0
    records: int = 0
    tip: str = ""


NO_USAGE = LogMark(seq=0, blocks=0, records=0, tip="")
_ENCODE = msgspec.json.Encoder().encode
_DECODER = msgspec.json.Decoder(AuditCheckpoint)


def encode_checkpoint(checkpoint: AuditCheckpoint) -> bytes:
    """Return the line of a checkpoint.

    Fields that its version did not have are left out, as in its signature.
    """
    fields = as_dict(checkpoint)
    return _ENCODE({name: value for name, value in fields.items() if value is not None})


def digest_checkpoint(checkpoint: AuditCheckpoint) -> str:
    return hashlib.sha256(encode_checkpoint(checkpoint)).hexdigest()


def digest_by_number(checkpoints: Iterable[AuditCheckpoint]) -> dict[int, str]:
    digests: dict[int, str] = {}
    for checkpoint in checkpoints:
        if checkpoint.number is not None:
            digests[checkpoint.number] = digest_checkpoint(checkpoint)
    return digests


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


def _read_end(store: Store, stream: str, start: LogState) -> LogState:
    end = start
    for state, _block in read_log_blocks(store, stream, start):
        end = state
    return end


def digest_store_url(store: Store) -> str:
    scheme, _, address = store.url.partition("://")
    without_password = address.rpartition("@")[2]
    return hashlib.sha256(f"{scheme}://{without_password}".encode()).hexdigest()[:16]


def read_signing_key(home: Home) -> SigningKey | None:
    """Return the home's key, None if it has none.

    Raises StoreError AW-STO-13 if its file is damaged.
    """
    path = home.audit_signing_key
    with suppress(FileNotFoundError):
        try:
            return SigningKey(path.read_bytes())
        except ValueError as error:
            raise StoreError(
                "AW-STO-13",
                "the signing key of the audit log is damaged",
                where=ErrorLocation(str(path)),
                hint="copy the file from a restored backup: archwright restore --into DIR",
            ) from error
    return None


def load_signing_key(home: Home) -> SigningKey:
    """Return the home's key, made if it has none. Raises StoreError AW-STO-13 if its file is
    damaged.
    """
    key = read_signing_key(home)
    if key is None:
        secret = secrets.token_bytes(SECRET_BYTES)
        write_atomic(home.folder("secrets") / home.audit_signing_key.name, secret)
        key = SigningKey(secret)
    return key


class CheckpointWriter:
    """Writer of the checkpoints of one store to the home.

    `report` takes the error of a checkpoint that could not be written; the next call tries again.
    """

    def __init__(
        self,
        store: Store,
        home: Home,
        *,
        report: Callable[[ArchwrightError], None] = lambda _error: None,
    ) -> None:
        self._store = store
        self._home = home
        self._report = report
        self._next_at = 0.0
        self._next_removal_at = 0.0
        self._unsigned = 0

    def write_due(self, records: int, last: bool) -> None:
        """Write a checkpoint of the new `records` if it is due, or if this is the process's `last`
        one.
        """
        now = time.time()
        self._unsigned += records
        if not last and (not self._unsigned or 0 <= self._next_at - now <= CHECKPOINT_S):
            return
        self._next_at = now + CHECKPOINT_S
        least_age_s = 0.0 if last else CHECKPOINT_S
        try:
            with boundary("audit checkpoint"):
                if self.write(now, least_age_s):
                    self._unsigned = 0
        except ArchwrightError as error:
            self._report(error)

    def write(self, now: float, least_age_s: float = 0.0) -> bool:
        """Append a checkpoint if the last one of any process is `least_age_s` old.

        Return True if all blocks have a checkpoint. Raises StoreError, OSError.
        """
        has_records = self._store.newest_seq(BLOCKS["audit"]) != (0,)
        if not has_records and read_signing_key(self._home) is None:
            return True  # a signing key without a checkpoint means that checkpoints were deleted
        path = self._home.folder("audit") / self._home.audit_checkpoints.name
        with open_private(path, "ab+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return self._write_locked(file, now, least_age_s)

    def _write_locked(self, file: IO[bytes], now: float, least_age_s: float) -> bool:
        key = load_signing_key(self._home)
        own_checkpoints = _read_own_tail(file, key)
        newest = _find_newest(own_checkpoints, read_store_name(self._store))
        if newest is not None and 0 <= now - newest.at < least_age_s:
            return False
        if newest is not None:
            self._remove_old_usage(newest, now)

        unsigned = self._describe_present(now, key, newest=newest, own_checkpoints=own_checkpoints)
        if unsigned is not None:
            newest = replace(unsigned, signature=key.sign(encode_checkpoint(unsigned)))
            append_line(file, encode_checkpoint(newest))
            own_checkpoints.append(newest)
        if newest is not None and newest.number is not None:
            digests = digest_by_number(own_checkpoints)
            anchor_checkpoint(self._store, key, newest.number, digests=digests)
        return True

    def _remove_old_usage(self, newest: AuditCheckpoint, now: float) -> None:
        """Delete the usage records before those that `newest` states as kept.

        A verification that runs has read the checkpoints before, so they get some time.
        """
        mark = newest.usage_start
        is_due = now - newest.at >= CHECKPOINT_S
        if mark is not None and is_due and not self._is_shared():
            removed = ColumnRange("seq", None, mark.seq)
            self._store.prune(BLOCKS["served"], removed)

    def _describe_present(
        self,
        now: float,
        key: SigningKey,
        *,
        newest: AuditCheckpoint | None,
        own_checkpoints: Sequence[AuditCheckpoint],
    ) -> AuditCheckpoint | None:
        """Return the unsigned checkpoint of the present state, None if `newest` states it.

        `newest`: the last checkpoint of this store; `own_checkpoints`: those of the home for any
        store, of which the last has the number before.
        """
        start = LogState()
        usage_start = LogState()
        rows = None
        if newest is not None:
            start = state_of_mark(newest)
            usage_start = state_of_mark(newest.usage or NO_USAGE)
            rows = newest.rows

        end = _read_end(self._store, "audit", start)
        usage_end = _read_end(self._store, "served", usage_start)
        usage = LogMark(**usage_end._asdict())
        if rows is None or not is_mark_contradicted(self._store, rows):
            rows = read_mark(self._store)  # else the mark stays, as the proof that rows were removed

        if newest is None and not end.blocks:
            return None
        kept_from = self._find_usage_start(now, newest)
        if newest is not None:
            known = (start, newest.usage, newest.usage_start, newest.rows)
            if known == (end, usage, kept_from, rows):
                return None

        chain_start = ChainState()
        if newest is not None and newest.chain is not None:
            chain_start = ChainState(newest.seq, newest.records, newest.chain)
        number = 1
        previous = ""
        if own_checkpoints:
            number += own_checkpoints[-1].number or 0
            previous = digest_checkpoint(own_checkpoints[-1])
        return AuditCheckpoint(
            at=now,
            store=read_store_name(self._store),
            database=digest_store_url(self._store),
            public_key=key.public_key,
            number=number,
            previous=previous,
            usage=usage,
            usage_start=kept_from,
            rows=rows,
            chain=read_chain_end(self._store, chain_start, end.seq).digest,
            **end._asdict(),
        )

    def _find_usage_start(self, now: float, newest: AuditCheckpoint | None) -> LogMark | None:
        """Return the state before the first usage record to keep, None if none was ever removed.

        Only records that the checkpoint `newest` covers are removed, and never the last block: its
        number in the store is the highest, which the next block must exceed.
        """
        if newest is None or newest.usage is None:
            return None
        if now < self._next_removal_at or self._is_shared():
            return newest.usage_start
        self._next_removal_at = now + USAGE_REMOVAL_S

        start = state_of_mark(newest.usage_start or NO_USAGE)
        end = start
        for state, block in read_log_blocks(self._store, "served", start):
            is_young = block.last_at >= now - USAGE_RETENTION_S
            if is_young or state.blocks >= newest.usage.blocks:
                break
            end = state
        if end == start:
            return newest.usage_start
        return LogMark(**end._asdict())

    def _is_shared(self) -> bool:
        """True if several homes have checkpoints of the database."""
        return len(read_anchors(self._store)) > 1


def _read_own_tail(file: IO[bytes], key: SigningKey) -> list[AuditCheckpoint]:
    """Return the last checkpoints of a file that this key signed."""
    own_checkpoints: list[AuditCheckpoint] = []
    for checkpoint in read_last_checkpoints(file):
        if checkpoint.public_key == key.public_key and is_checkpoint_signed(checkpoint):
            own_checkpoints.append(checkpoint)
    return own_checkpoints


def _find_newest(checkpoints: Sequence[AuditCheckpoint], store: str) -> AuditCheckpoint | None:
    """Return the last checkpoint of the store of this name."""
    for checkpoint in reversed(checkpoints):
        if checkpoint.store == store:
            return checkpoint
    return None


def append_line(file: IO[bytes], line: bytes) -> None:
    """Append a line to a locked file, whole or not at all, and end the part of a line that a killed
    process left.
    """
    size = file.seek(0, os.SEEK_END)
    unterminated = size and os.pread(file.fileno(), 1, size - 1) != b"\n"
    data = b"\n" * bool(unterminated) + line + b"\n"
    try:
        if os.write(file.fileno(), data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):  # a file with the attribute "append only" keeps the part
            file.truncate(size)
        raise


def is_checkpoint_signed(checkpoint: AuditCheckpoint) -> bool:
    unsigned = encode_checkpoint(replace(checkpoint, signature=""))
    return is_signed_by(checkpoint.public_key, unsigned, checkpoint.signature)


def state_of_mark(mark: AuditCheckpoint | LogMark) -> LogState:
    return LogState(mark.seq, mark.blocks, mark.records, mark.tip)


def read_last_checkpoints(file: IO[bytes]) -> Iterator[AuditCheckpoint]:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
    for line in file:
        with suppress(msgspec.MsgspecError):
            yield _DECODER.decode(line)


def decode_checkpoint(line: bytes) -> AuditCheckpoint | None:
    """Return the checkpoint of a line of the home's file, None for a part of a line."""
    with suppress(msgspec.MsgspecError):
        return _DECODER.decode(line)
    return None


def read_checkpoints(path: Path) -> tuple[AuditCheckpoint, ...]:
    """Read the checkpoints of a file. Raises as `select_checkpoints`."""
    with open(path, "rb") as file:
        return tuple(select_checkpoints(file, str(path)))


def select_checkpoints(lines: Iterable[bytes], address: str) -> Iterator[AuditCheckpoint]:
    """Yield the checkpoints among lines, which may be of a system log; no signature is checked.

    A part of a line, which a killed process left, is no checkpoint. Raises StoreError AW-STO-14 for
    an altered line.
    """
    for number, line in enumerate(lines, 1):
        start = line.find(_MARK)
        if start < 0 or not line.rstrip().endswith(b"}"):
            continue
        try:
            checkpoint = _DECODER.decode(line[start:])
        except msgspec.MsgspecError as error:
            where = ErrorLocation(address, number)
            message = f"a checkpoint of the audit log was altered: {error}"
            raise tampering_error("AW-STO-14", message, where) from error
        yield checkpoint


def sign_correction(block: RecordBlock, data: bytes, key: SigningKey) -> RecordBlock:
    """Return a usage block with other data, as the erasure of a person demands, and the proof that
    we changed it.
    """
    origin = block.origin or hashlib.sha256(block.data).hexdigest()
    corrected = replace(block, data=data, origin=origin)
    signature = key.sign(encode_correction(corrected))
    return replace(corrected, correction=f"{key.public_key}:{signature}")


def encode_correction(block: RecordBlock) -> bytes:
    digest = hashlib.sha256(block.data).hexdigest()
    kind = "archwright-usage-correction"
    return _ENCODE((kind, block.writer, block.number, block.origin, digest))


def is_mark_contradicted(store: Store, mark: RowsMark) -> bool:
    """True if rows were removed or replaced since. A newer generation has signed all rows anew."""
    present = find_mark(store, mark)
    return present.generation <= mark.generation and present != mark


def tampering_error(code: str, message: str, where: ErrorLocation) -> StoreError:
    hint = "compare the database and the home with a restored backup: archwright restore --into DIR"
    return StoreError(code, message, where=where, hint=hint)
