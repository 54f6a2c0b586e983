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

Old records are removed (`log_retention`). A checkpoint states where those that are kept begin
(`audit_start`, `usage_start`) before the older ones are deleted; verification starts there. Homes
that share a database keep all, because each would have to trust the other's key.

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
from typing import IO

import msgspec

from archwright.access.checkpoint_anchor import anchor_checkpoint, read_anchors
from archwright.access.log_blocks import (
    NO_USAGE,
    STREAM_NAMES,
    LogMark,
    LogStart,
    LogState,
    read_log_end,
    state_of_mark,
)
from archwright.access.log_retention import KEEP_ALL, RecordRetention, RemovalEnd, RemovalLimits, find_removal
from archwright.access.record_chain import ChainState, read_chain_end
from archwright.access.signed_rows import RowsMark, find_mark, read_mark
from archwright.contract.record import Record, as_dict, replace
from archwright.crypto.signing import SECRET_BYTES, SigningKey, is_signed_by
from archwright.errors import ArchwrightError, ErrorLocation, StoreError, boundary
from archwright.home import Home, open_private, write_atomic
from archwright.monitor.wal.compaction import BLOCKS, RecordBlock
from archwright.monitor.wal.segment_owner import read_store_name
from archwright.store import ColumnRange, Store

CHECKPOINT_S = 60.0
REMOVAL_S = 3_600.0
_MARK = b'{"kind":"archwright-audit-checkpoint",'
_TAIL_BYTES = 64 << 10


class AuditCheckpoint(Record):
    """The signed state of a log at time `at`. `store`: its name; `database`: digest of its URL
    without password.

    The newest block has the number `seq` in the store; `blocks` and `records` count from the first
    block on. `number` counts the checkpoints of the home, and `previous` is the digest of the one
    before. `usage`: the state of the usage records; `usage_start`: their state before the first one
    that is kept; `rows`: the newest rows of keys; `chain`: digest of the record chain; `audit_start`:
    the state before the first record that is kept. Checkpoints of older versions lack these seven.
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
    audit_start: LogStart | None = None


class LogStarts(Record):
    """The states before the kept records; None: none was removed."""

    audit: LogStart | None = None
    usage: LogMark | None = None

    def state(self, stream: str) -> LogState:
        mark = {"audit": self.audit, "served": self.usage}[stream]
        if mark is None:
            return LogState()
        return state_of_mark(mark)


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
        retention: RecordRetention = KEEP_ALL,
        report: Callable[[ArchwrightError], None] = lambda _error: None,
    ) -> None:
        self._store = store
        self._home = home
        self._retention = retention
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
        own_checkpoints = _read_own_tail(file, load_signing_key(self._home))
        newest = _find_newest(own_checkpoints, read_store_name(self._store))
        if newest is not None and 0 <= now - newest.at < least_age_s:
            return False
        if newest is not None and now - newest.at >= CHECKPOINT_S:
            self._remove_stated(newest)

        starts = self._find_starts(now, newest)
        self._append(file, own_checkpoints, now, starts=starts)
        return True

    def remove(self, stream: str, before: float, places: tuple[str, ...]) -> RemovalEnd:
        """Delete the blocks of a stream whose records are all older than `before`, at once.

        A checkpoint covers all records first, and a second one states where the kept ones begin.
        Raises StoreError, OSError.
        """
        path = self._home.folder("audit") / self._home.audit_checkpoints.name
        with open_private(path, "ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            now = time.time()
            own_checkpoints = _read_own_tail(file, load_signing_key(self._home))
            newest = _find_newest(own_checkpoints, read_store_name(self._store))
            newest = self._append(file, own_checkpoints, now, starts=_read_starts(newest))
            if newest is None:
                return RemovalEnd(LogState())

            starts = _read_starts(newest)
            removal = self.find_removal(newest, stream, before=before, places=places)
            starts = self._move_start(starts, stream, removal.state)
            newest = self._append(file, own_checkpoints, now, starts=starts)
            if newest is not None:
                self._remove_stated(newest)
            return removal

    def find_removal(
        self, newest: AuditCheckpoint, stream: str, *, before: float, places: tuple[str, ...]
    ) -> RemovalEnd:
        """Return how far blocks may leave that `newest` covers. Raises StoreError."""
        covered = newest if stream == "audit" else newest.usage or NO_USAGE
        return find_removal(
            self._store,
            self._home,
            stream,
            start=_read_starts(newest).state(stream),
            before=before,
            limits=RemovalLimits(signed_blocks=covered.blocks, places=places),
        )

    def _remove_stated(self, newest: AuditCheckpoint) -> None:
        """Delete the records before those that `newest` states as kept.

        A verification that runs has read the checkpoints before, so without an order they get some
        time.
        """
        starts = _read_starts(newest)
        if starts == LogStarts() or self.is_shared():
            return
        for stream in STREAM_NAMES:
            seq = starts.state(stream).seq
            if seq:
                self._store.prune(BLOCKS[stream], ColumnRange("seq", None, seq))

    def _append(
        self,
        file: IO[bytes],
        own_checkpoints: list[AuditCheckpoint],
        now: float,
        *,
        starts: LogStarts,
    ) -> AuditCheckpoint | None:
        """Append a checkpoint of the present state if none states it, and return the newest one."""
        key = load_signing_key(self._home)
        newest = _find_newest(own_checkpoints, read_store_name(self._store))
        unsigned = self._describe_present(now, newest, own_checkpoints, starts=starts)
        if unsigned is not None:
            unsigned = replace(unsigned, public_key=key.public_key)
            newest = replace(unsigned, signature=key.sign(encode_checkpoint(unsigned)))
            append_line(file, encode_checkpoint(newest))
            own_checkpoints.append(newest)
        if newest is not None and newest.number is not None:
            digests = digest_by_number(own_checkpoints)
            anchor_checkpoint(self._store, key, newest.number, digests=digests)
        return newest

    def _describe_present(
        self,
        now: float,
        newest: AuditCheckpoint | None,
        own_checkpoints: Sequence[AuditCheckpoint],
        *,
        starts: LogStarts,
    ) -> AuditCheckpoint | None:
        """Return the checkpoint of the present state without key and signature, None if `newest`
        states it.

        `newest`: the last checkpoint of this store; `own_checkpoints`: those of the home for any
        store, of which the last has the number before; `starts`: where the kept records begin.
        """
        start = LogState()
        usage_start = LogState()
        rows = None
        if newest is not None:
            start = state_of_mark(newest)
            usage_start = state_of_mark(newest.usage or NO_USAGE)
            rows = newest.rows

        end = read_log_end(self._store, "audit", start)
        usage_end = read_log_end(self._store, "served", usage_start)
        usage = LogMark(**usage_end._asdict())
        if rows is None or not is_mark_contradicted(self._store, rows):
            rows = read_mark(self._store)  # else the mark stays, as the proof that rows were removed

        if newest is None and not end.blocks:
            return None
        if newest is not None:
            known = (start, newest.usage, _read_starts(newest), newest.rows)
            if known == (end, usage, starts, rows):
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
            public_key="",
            number=number,
            previous=previous,
            usage=usage,
            usage_start=starts.usage,
            audit_start=starts.audit,
            rows=rows,
            chain=read_chain_end(self._store, chain_start, end.seq).digest,
            **end._asdict(),
        )

    def _find_starts(self, now: float, newest: AuditCheckpoint | None) -> LogStarts:
        """Return where the records begin that the retention keeps.

        Only records that the checkpoint `newest` covers are removed.
        """
        starts = _read_starts(newest)
        if newest is None or now < self._next_removal_at or self.is_shared():
            return starts
        self._next_removal_at = now + REMOVAL_S
        for stream in STREAM_NAMES:
            before = self._retention.find_limit(stream, now)
            if before is not None:
                removal = self.find_removal(newest, stream, before=before, places=self._retention.places)
                starts = self._move_start(starts, stream, removal.state)
        return starts

    def _move_start(self, starts: LogStarts, stream: str, state: LogState) -> LogStarts:
        """Return the starts with that of a stream after the block of `state`."""
        if state == starts.state(stream):
            return starts
        if stream != "audit":
            return replace(starts, usage=LogMark(**state._asdict()))
        chain = read_chain_end(self._store, chain_state_of(starts.audit), state.seq)
        return replace(starts, audit=LogStart(**state._asdict(), chain=chain.digest))

    def is_shared(self) -> bool:
        """True if several homes have checkpoints of the database."""
        return len(read_anchors(self._store)) > 1


def _read_starts(checkpoint: AuditCheckpoint | None) -> LogStarts:
    if checkpoint is None:
        return LogStarts()
    return LogStarts(audit=checkpoint.audit_start, usage=checkpoint.usage_start)


def chain_state_of(start: LogStart | None) -> ChainState:
    """Return the record chain before the first record that is kept."""
    if start is None:
        return ChainState()
    return ChainState(start.seq, start.records, start.chain)


def read_newest_own(store: Store, home: Home) -> AuditCheckpoint | None:
    """Return the newest checkpoint of the store that the home's key signed. Raises StoreError."""
    key = read_signing_key(home)
    if key is None or not home.audit_checkpoints.exists():
        return None
    store_name = read_store_name(store)
    with open(home.audit_checkpoints, "rb") as file:
        tail = list(read_last_checkpoints(file))
    for checkpoint in reversed(tail):
        is_own = checkpoint.public_key == key.public_key and checkpoint.store == store_name
        if is_own and is_checkpoint_signed(checkpoint):
            return checkpoint
    return None


def read_audit_start(store: Store, home: Home) -> LogStart | None:
    """Return where the kept audit records begin by the home, None if none was removed."""
    newest = read_newest_own(store, home)
    if newest is None:
        return None
    return newest.audit_start


def read_chain_start(store: Store, home: Home) -> ChainState:
    """Return the record chain before the first record that is kept by the home."""
    return chain_state_of(read_audit_start(store, home))


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
