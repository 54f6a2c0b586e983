"""Signed checkpoints of the audit log, written to the home and to a second place; verification of the log by them.

A checkpoint states the number of blocks and records of the log, and their tip: the SHA-256 over the previous tip and
the fields of a block (`_extend_tip`), from the first block on. The block's bytes hold the groups of every chain, so one
tip covers all chains. It states the same of the usage records, and the newest signed rows of keys (`RowsMark`). Ed25519
signs it. The key stays in the home, and each checkpoint states the public key.

The process that compacts the log appends a checkpoint at most every CHECKPOINT_S and at its end, as one JSON line, to
the home first. The checkpoints of a home have consecutive numbers, and each has the digest of the one before it. The
database has the number and digest of the newest one (`checkpoint_anchor`). So an attacker of the database alone or of
the files alone is found.

The second place gets the home's newest line if it lacks it, because a line covers the whole log. An attacker with write
access to home and database can sign a false log. The second place still has the earlier checkpoints, which contradict
it. Records after the newest checkpoint can be removed without a trace.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from archwright.access.checkpoint_anchor import CheckpointAnchor, anchor_checkpoint, is_anchor_of
from archwright.access.signed_rows import ALTERED_HINT, RowsMark, find_mark, read_mark
from archwright.contract.record import Record, as_dict, replace
from archwright.crypto.signing import SECRET_BYTES, SigningKey, is_signed_by
from archwright.errors import ArchwrightError, ErrorLocation, StoreError, boundary
from archwright.home import Home, open_private, write_atomic
from archwright.monitor.wal.compaction import BLOCKS, BLOCKS_PER_READ, RecordBlock
from archwright.monitor.wal.segment_owner import read_store_name
from archwright.store import Store

CHECKPOINT_S = 60.0
SYSLOG = "syslog"
SYSLOG_SOCKETS = ("/dev/log", "/var/run/syslog")
_SYSLOG_HEAD = b"<37>archwright: "  # facility auth, severity notice
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
    """The signed state of a log at time `at`. `store`: its name; `database`: digest of its URL without password.

    The newest block has the number `seq` in the store; `blocks` and `records` count from the first block on. `number`
    counts the checkpoints of the home, and `previous` is the digest of the one before. `usage`: the state of the usage
    records; `rows`: the newest rows of keys. Checkpoints of older versions lack these four."""

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
    rows: RowsMark | None = None


class _LogState(NamedTuple):
    """The log up to a block."""

    seq: int = 0
    blocks: int = 0
    records: int = 0
    tip: str = ""


_NO_USAGE = LogMark(seq=0, blocks=0, records=0, tip="")
_ENCODE = msgspec.json.Encoder().encode
_DECODER = msgspec.json.Decoder(AuditCheckpoint)


def encode_checkpoint(checkpoint: AuditCheckpoint) -> bytes:
    """Return the line of a checkpoint. Fields that its version did not have are left out, as in its signature."""
    return _ENCODE({name: value for name, value in as_dict(checkpoint).items() if value is not None})


def digest_checkpoint(checkpoint: AuditCheckpoint) -> str:
    return hashlib.sha256(encode_checkpoint(checkpoint)).hexdigest()


def _digest_by_number(checkpoints: Iterable[AuditCheckpoint]) -> dict[int, str]:
    return {one.number: digest_checkpoint(one) for one in checkpoints if one.number is not None}


def _extend_tip(tip: str, block: RecordBlock) -> str:
    fields = (tip, block.writer, block.number, block.end, block.first_at, block.last_at, block.count, block.tip)
    return hashlib.sha256(_ENCODE(fields) + block.data).hexdigest()


def _extend_usage_tip(tip: str, block: RecordBlock) -> str:
    """Extend by the digest of the data as they were recorded: an erasure of a person may have corrected them."""
    digest = block.origin or hashlib.sha256(block.data).hexdigest()
    fields = (tip, block.writer, block.number, block.end, block.first_at, block.last_at, block.count, block.tip, digest)
    return hashlib.sha256(_ENCODE(fields)).hexdigest()


_TIPS = {"audit": _extend_tip, "served": _extend_usage_tip}


def _read_blocks(store: Store, stream: str, state: _LogState) -> Iterator[tuple[_LogState, RecordBlock]]:
    """Yield each block behind `state`, with the state after it. Raises StoreError."""
    extend_tip = _TIPS[stream]
    while page := store.numbered_rows(BLOCKS[stream], state.seq, BLOCKS_PER_READ):
        for seq, block in page:
            tip = extend_tip(state.tip, block)
            state = _LogState(seq, state.blocks + 1, state.records + block.count, tip)
            yield state, block


def _read_end(store: Store, stream: str, start: _LogState) -> _LogState:
    end = start
    for state, _block in _read_blocks(store, stream, start):
        end = state
    return end


def _digest_url(store: Store) -> str:
    scheme, _, rest = store.url.partition("://")
    return hashlib.sha256(f"{scheme}://{rest.rpartition('@')[2]}".encode()).hexdigest()[:16]


def read_signing_key(home: Home) -> SigningKey | None:
    """Return the home's key, None if it has none. Raises StoreError AW-STO-13 if its file is damaged."""
    path = home.audit_signing_key
    with suppress(FileNotFoundError):
        try:
            return SigningKey(path.read_bytes())
        except ValueError as error:
            message, hint = "the signing key of the audit log is damaged", "restore the file from a backup"
            raise StoreError("AW-STO-13", message, where=ErrorLocation(str(path)), hint=hint) from error
    return None


def load_signing_key(home: Home) -> SigningKey:
    """Return the home's key, made if it has none. Raises StoreError AW-STO-13 if its file is damaged."""
    key = read_signing_key(home)
    if key is None:
        secret = secrets.token_bytes(SECRET_BYTES)
        write_atomic(home.folder("secrets") / home.audit_signing_key.name, secret)
        key = SigningKey(secret)
    return key


class CheckpointWriter:
    """Writer of the checkpoints of one store, to the home and to `second`: a file, SYSLOG or "" (none).

    `report` takes the error of a checkpoint that could not be written; the next call tries again."""

    def __init__(
        self, store: Store, home: Home, second: str, report: Callable[[ArchwrightError], None] = lambda _error: None
    ) -> None:
        self._store, self._home, self._second, self._report = store, home, second, report
        self._next_at, self._unsigned = 0.0, 0
        self._sent: AuditCheckpoint | None = None  # to the system log, which cannot be read

    def write_due(self, records: int, last: bool) -> None:
        """Write a checkpoint of the new `records` if it is due, or if this is the process's `last` one."""
        now = time.time()
        self._unsigned += records
        if not last and (not self._unsigned or 0 <= self._next_at - now <= CHECKPOINT_S):
            return
        self._next_at = now + CHECKPOINT_S
        try:
            with boundary("audit checkpoint"):
                if self.write(now, 0.0 if last else CHECKPOINT_S):
                    self._unsigned = 0
        except ArchwrightError as error:
            self._report(error)

    def write(self, now: float, least_age_s: float = 0.0) -> bool:
        """Append a checkpoint if the last one of any process is `least_age_s` old; return True if all blocks have one.

        Raises StoreError, OSError."""
        has_records = self._store.newest_seq(BLOCKS["audit"], BLOCKS["served"]) != (0, 0)
        if not has_records and read_signing_key(self._home) is None:
            return True  # a signing key without a checkpoint means that checkpoints were deleted
        path = self._home.audit_checkpoints
        with open_private(self._home.folder("audit") / path.name, "ab+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            key = load_signing_key(self._home)
            name = read_store_name(self._store)
            own = [one for one in _read_tail(file) if one.public_key == key.public_key and _is_signed(one)]
            newest = next((one for one in reversed(own) if one.store == name), None)
            if newest and 0 <= now - newest.at < least_age_s:
                return False
            made = self._describe_present(now, key, newest, own[-1] if own else None)
            if made is not None:
                newest = replace(made, signature=key.sign(encode_checkpoint(made)))
                _append_line(file, encode_checkpoint(newest))
                own.append(newest)
            if newest:
                if newest.number is not None:
                    anchor_checkpoint(self._store, key, newest.number, _digest_by_number(own))
                self._send_to_second_place(newest)
        return True

    def _describe_present(
        self, now: float, key: SigningKey, newest: AuditCheckpoint | None, before: AuditCheckpoint | None
    ) -> AuditCheckpoint | None:
        """Return the unsigned checkpoint of the present state, None if `newest` states it.

        `newest`: the last checkpoint of this store; `before`: that of any store, which has the number before."""
        start, usage_start = _LogState(), _LogState()
        if newest is not None:
            start = _state_of(newest)
            usage_start = _state_of(newest.usage or _NO_USAGE)
        end = _read_end(self._store, "audit", start)
        usage_end = _read_end(self._store, "served", usage_start)
        usage = LogMark(**usage_end._asdict())
        rows = newest.rows if newest is not None else None
        if rows is None or not _is_contradicted(self._store, rows):
            rows = read_mark(self._store)  # else the mark stays, as the proof that rows were removed
        if newest is not None and (start, newest.usage, newest.rows) == (end, usage, rows):
            return None
        if newest is None and not end.blocks:
            return None
        return AuditCheckpoint(
            at=now,
            store=read_store_name(self._store),
            database=_digest_url(self._store),
            public_key=key.public_key,
            number=1 + (before.number or 0) if before else 1,
            previous=digest_checkpoint(before) if before else "",
            usage=usage,
            rows=rows,
            **end._asdict(),
        )

    def _send_to_second_place(self, newest: AuditCheckpoint) -> None:
        """Append to the file, or send to the daemon of the system log. Raises OSError, also if no daemon listens."""
        if self._second == SYSLOG and newest != self._sent:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.connect(next((path for path in SYSLOG_SOCKETS if Path(path).exists()), SYSLOG_SOCKETS[0]))
                sender.send(_SYSLOG_HEAD + encode_checkpoint(newest))
            self._sent = newest
        elif self._second not in ("", SYSLOG):
            with open_private(Path(self._second), "ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # other homes may write to it
                if newest not in _read_tail(file):
                    _append_line(file, encode_checkpoint(newest))


def _append_line(file: IO[bytes], line: bytes) -> None:
    """Append a line to a locked file, whole or not at all, and end the part of a line that a killed process left."""
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


def _is_signed(checkpoint: AuditCheckpoint) -> bool:
    unsigned = encode_checkpoint(replace(checkpoint, signature=""))
    return is_signed_by(checkpoint.public_key, unsigned, checkpoint.signature)


def _state_of(mark: AuditCheckpoint | LogMark) -> _LogState:
    return _LogState(mark.seq, mark.blocks, mark.records, mark.tip)


def _read_tail(file: IO[bytes]) -> Iterator[AuditCheckpoint]:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
    for line in file:
        with suppress(msgspec.MsgspecError):
            yield _DECODER.decode(line)


def read_checkpoints(path: Path) -> tuple[AuditCheckpoint, ...]:
    """Read the checkpoints of a file, which may be a system log, without their signatures being checked.

    A part of a line, which a killed process left, is no checkpoint. Raises StoreError AW-STO-14 for an altered line."""
    found = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            start = line.find(_MARK)
            if start < 0 or not line.rstrip().endswith(b"}"):
                continue
            try:
                found.append(_DECODER.decode(line[start:]))
            except msgspec.MsgspecError as error:
                message, where = f"a checkpoint of the audit log was altered: {error}", ErrorLocation(str(path), number)
                raise _tampering("AW-STO-14", message, where) from error
    return tuple(found)


def check_log(
    store: Store, checkpoints: Iterable[AuditCheckpoint], public_keys: frozenset[str]
) -> tuple[frozenset[AuditCheckpoint], frozenset[str]]:
    """Compare the log with its checkpoints. Return those of `public_keys`, and the other keys of those that agree.

    Checkpoints of other databases are left out. A signature is checked if the checkpoint contradicts the log or is the
    newest of its key; an older one that agrees with the log proves nothing more. Raises StoreError: AW-STO-14 false
    signature, AW-STO-15 unknown key, AW-STO-16 emptied, AW-STO-17 cut or rolled back, AW-STO-18 recomputed, AW-STO-21
    rows of keys were removed."""
    name, database, where = read_store_name(store), _digest_url(store), ErrorLocation("audit log")
    known = frozenset(one for one in checkpoints if name == one.store or database == one.database)
    own = frozenset(one for one in known if one.public_key in public_keys)
    newest: dict[str, AuditCheckpoint] = {}
    expected: dict[int, list[AuditCheckpoint]] = {}
    expected_usage: dict[int, list[AuditCheckpoint]] = {}
    for one in sorted(known, key=lambda one: (one.public_key not in public_keys, one.blocks, one.at)):
        if one.store != name or not own:
            _check_signer(one, public_keys)
            message = f"the log was emptied: its database replaces {one.store}, which had {one.records:,} records"
            raise _tampering("AW-STO-16", message, where)
        newest[one.public_key] = one
        expected.setdefault(one.blocks, []).append(one)
        if one.usage is not None and one.usage.blocks:
            expected_usage.setdefault(one.usage.blocks, []).append(one)
    for one in newest.values():
        _check_signer(one, frozenset(newest))
    _check_blocks(store, "audit", expected, public_keys)
    _check_blocks(store, "served", expected_usage, public_keys)
    _check_corrections(store, frozenset(newest))
    _check_marks(store, known)
    return own, frozenset(newest) - public_keys


def _check_blocks(
    store: Store, stream: str, expected: dict[int, list[AuditCheckpoint]], public_keys: frozenset[str]
) -> None:
    """Compare a stream with the checkpoints that are `expected` after a number of blocks. Raises as `check_log`."""
    what, where = STREAM_NAMES[stream], ErrorLocation(STREAM_NAMES[stream])
    state, matched = _LogState(), "the start"
    for state, _block in _read_blocks(store, stream, state):  # noqa: B020 - it goes on from the start
        for one in expected.pop(state.blocks, ()):
            if _state_in(one, stream)[1:] != state[1:]:
                _check_signer(one, public_keys)
                message = f"records of the {what} between {matched} and the checkpoint of {_format_time(one.at)} were "
                message += "replaced: the chain was recomputed, or an older database was restored and continued"
                raise _tampering("AW-STO-18", message, where)
            matched = f"the checkpoint of {_format_time(one.at)}"
    if expected:
        left = [one for unmatched in expected.values() for one in unmatched]
        last = max(left, key=lambda one: (one.public_key in public_keys, _state_in(one, stream).blocks))
        _check_signer(last, public_keys)
        counted = f"the checkpoint of {_format_time(last.at)} counts {_state_in(last, stream).records:,} records"
        if not state.blocks:
            raise _tampering("AW-STO-16", f"the {what} was emptied: {counted}", where)
        message = f"the {what} ends after {state.records:,} records and {counted}: the end was cut, or an older "
        raise _tampering("AW-STO-17", message + "database was restored", where)


def _state_in(checkpoint: AuditCheckpoint, stream: str) -> _LogState:
    return _state_of(checkpoint if stream == "audit" else checkpoint.usage or _NO_USAGE)


def sign_correction(block: RecordBlock, data: bytes, key: SigningKey) -> RecordBlock:
    """Return a usage block with other data, as the erasure of a person demands, and the proof that we changed it."""
    origin = block.origin or hashlib.sha256(block.data).hexdigest()
    corrected = replace(block, data=data, origin=origin)
    return replace(corrected, correction=f"{key.public_key}:{key.sign(_encode_correction(corrected))}")


def _encode_correction(block: RecordBlock) -> bytes:
    digest = hashlib.sha256(block.data).hexdigest()
    return _ENCODE(("archwright-usage-correction", block.writer, block.number, block.origin, digest))


def _check_corrections(store: Store, public_keys: frozenset[str]) -> None:
    """Raise StoreError AW-STO-18 for a block that states other original data without a signature of `public_keys`."""
    for _state, block in _read_blocks(store, "served", _LogState()):
        if not block.origin:
            continue
        public_key, _, signature = block.correction.partition(":")
        if public_key not in public_keys or not is_signed_by(public_key, _encode_correction(block), signature):
            message = f"usage records of {_format_time(block.last_at)} were replaced without a signed correction"
            raise _tampering("AW-STO-18", message, ErrorLocation(STREAM_NAMES["served"]))


def _check_marks(store: Store, checkpoints: Iterable[AuditCheckpoint]) -> None:
    """Compare the rows of keys with every checkpoint. Raises StoreError AW-STO-21."""
    checked: set[RowsMark] = set()
    for one in sorted(checkpoints, key=lambda one: one.at):
        if one.rows is not None and one.rows not in checked:
            checked.add(one.rows)
            _check_mark(store, one, one.rows)


def check_newest_mark(store: Store, home: Home) -> None:
    """Compare the rows of keys with the newest checkpoint of this home. Raises StoreError AW-STO-21.

    Rows are only added, so rows that are written meanwhile do not contradict it."""
    key = read_signing_key(home)
    if key is None or not home.audit_checkpoints.exists():
        return
    name = read_store_name(store)
    with open(home.audit_checkpoints, "rb") as file:
        own = [one for one in _read_tail(file) if one.store == name and one.public_key == key.public_key]
    if own and own[-1].rows is not None and _is_signed(own[-1]):
        _check_mark(store, own[-1], own[-1].rows)


def _is_contradicted(store: Store, mark: RowsMark) -> bool:
    """True if rows were removed or replaced since. A newer generation has signed all rows anew."""
    present = find_mark(store, mark)
    return present.generation <= mark.generation and present != mark


def _check_mark(store: Store, checkpoint: AuditCheckpoint, mark: RowsMark) -> None:
    if _is_contradicted(store, mark):
        message = "rows of keys, revocations or limits were removed or replaced: the database contradicts the "
        message += f"checkpoint of {_format_time(checkpoint.at)}"
        raise StoreError("AW-STO-21", message, where=ErrorLocation("keys"), hint=ALTERED_HINT)


def _check_signer(one: AuditCheckpoint, public_keys: frozenset[str]) -> None:
    """Raise StoreError AW-STO-14 if the signature is false, AW-STO-15 if the key is not in `public_keys`."""
    where = ErrorLocation("audit log")
    if not _is_signed(one):
        message = f"the checkpoint of {_format_time(one.at)} was altered: its signature is false"
        raise _tampering("AW-STO-14", message, where)
    if one.public_key not in public_keys:
        message = f"the checkpoint of {_format_time(one.at)} is signed by the unknown key {one.public_key}"
        raise _tampering("AW-STO-15", message, where)


def check_places(kept: Iterable[AuditCheckpoint], elsewhere: Iterable[AuditCheckpoint], home: Home) -> None:
    """Check that the home kept each of its checkpoints that another place has. Raises StoreError AW-STO-19."""
    key = read_signing_key(home)
    missing = {one for one in elsewhere if key is not None and one.public_key == key.public_key} - set(kept)
    if missing:
        first = min(missing, key=lambda one: one.at)
        message = f"the home lost {len(missing)} checkpoints that the second place has, from {_format_time(first.at)}"
        raise _tampering("AW-STO-19", message, ErrorLocation(str(home.audit_checkpoints)))


def check_home(kept: Sequence[AuditCheckpoint], anchors: Sequence[CheckpointAnchor], store: Store, home: Home) -> None:
    """Check that the home kept every checkpoint that it wrote, by their numbers and by the database's anchor.

    `anchors` were read before `kept`. Raises StoreError: AW-STO-22 checkpoints are missing."""
    key = read_signing_key(home)
    if key is None:
        return
    where = ErrorLocation(str(home.audit_checkpoints))
    own = [one for one in kept if one.public_key == key.public_key]
    if not own:
        message = "the home has a signing key and lost all checkpoints of the audit log"
        raise _tampering("AW-STO-22", message, where)
    _check_numbers(own, where)
    own_anchors = [anchor for anchor in anchors if is_anchor_of(anchor, key.public_key)]
    digests = _digest_by_number(own)
    for anchor in own_anchors:
        if digests.get(anchor.number) != anchor.digest:
            message = f"the home lost the checkpoint {anchor.number}, which the database states, or replaced it"
            raise _tampering("AW-STO-22", message, where)

    name = read_store_name(store)
    numbered = [one for one in own if one.store == name and one.number is not None]
    if not own_anchors and len(numbered) > 1:  # a process that is killed may leave the first one without
        message = "the database lost the number of the newest checkpoint of the home"
        raise _tampering("AW-STO-22", message, where)


def _check_numbers(own: Sequence[AuditCheckpoint], where: ErrorLocation) -> None:
    """Checkpoints of an older version have no number; a newer one counts from the last of them."""
    number, previous = 0, ""
    for one in own:
        if one.number is not None or number:
            number += 1
            if one.number != number or one.previous != previous:
                message = f"checkpoints are missing before that of {_format_time(one.at)}: its number is {one.number}, "
                raise _tampering("AW-STO-22", message + f"not {number}, or it follows another one", where)
        previous = digest_checkpoint(one)


def _format_time(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _tampering(code: str, message: str, where: ErrorLocation) -> StoreError:
    return StoreError(code, message, where=where, hint="compare the database and the home with a backup")
