"""Signed checkpoints of the audit log, written to the home and to a second place; verification of the log by them.

A checkpoint states the number of blocks and records of the log, and their tip: the SHA-256 over the previous tip and
the fields of a block (`_extend_tip`), from the first block on. The block's bytes hold the groups of every chain, so one
tip covers all chains. Ed25519 signs it. The key stays in the home, and each checkpoint states the public key.

The process that compacts the log appends a checkpoint at most every CHECKPOINT_S and at its end, as one JSON line, to
the home first. The second place gets the home's newest line if it lacks it, because a line covers the whole log. An
attacker with write access to home and database can sign a false log. The second place still has the earlier
checkpoints, which contradict it. Records after the newest checkpoint can be removed without a trace.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from archwright.contract.record import Record, replace
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


class AuditCheckpoint(Record):
    """The signed state of a log at time `at`. `store`: its name; `database`: digest of its URL without password.

    The newest block has the number `seq` in the store; `blocks` and `records` count from the first block on."""

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


class _LogState(NamedTuple):
    """The log up to a block."""

    seq: int = 0
    blocks: int = 0
    records: int = 0
    tip: str = ""


_ENCODE = msgspec.json.Encoder().encode
_DECODER = msgspec.json.Decoder(AuditCheckpoint)


def _extend_tip(tip: str, block: RecordBlock) -> str:
    fields = (tip, block.writer, block.number, block.end, block.first_at, block.last_at, block.count, block.tip)
    return hashlib.sha256(_ENCODE(fields) + block.data).hexdigest()


def _read_states(store: Store, state: _LogState) -> Iterator[_LogState]:
    """Yield the state after each block behind `state`. Raises StoreError."""
    while page := store.numbered_rows(BLOCKS["audit"], state.seq, BLOCKS_PER_READ):
        for seq, block in page:
            tip = _extend_tip(state.tip, block)
            state = _LogState(seq, state.blocks + 1, state.records + block.count, tip)
            yield state


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
        path = self._home.audit_checkpoints
        with open_private(self._home.folder("audit") / path.name, "ab+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            key = load_signing_key(self._home)
            name, start = read_store_name(self._store), _LogState()
            newest: AuditCheckpoint | None = None
            for one in _read_tail(file):
                if one.store == name and one.public_key == key.public_key and _is_signed(one):
                    newest, start = one, _LogState(one.seq, one.blocks, one.records, one.tip)
            if newest and 0 <= now - newest.at < least_age_s:
                return False
            (end,) = deque(_read_states(self._store, start), maxlen=1) or (start,)
            if end != start:
                database = _digest_url(self._store)
                made = AuditCheckpoint(
                    at=now, store=name, database=database, public_key=key.public_key, **end._asdict()
                )
                newest = replace(made, signature=key.sign(_ENCODE(made)))
                _append_line(file, _ENCODE(newest))
            if newest:
                self._send_to_second_place(newest)
        return True

    def _send_to_second_place(self, newest: AuditCheckpoint) -> None:
        """Append to the file, or send to the daemon of the system log. Raises OSError, also if no daemon listens."""
        if self._second == SYSLOG and newest != self._sent:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.connect(next((path for path in SYSLOG_SOCKETS if Path(path).exists()), SYSLOG_SOCKETS[0]))
                sender.send(_SYSLOG_HEAD + _ENCODE(newest))
            self._sent = newest
        elif self._second not in ("", SYSLOG):
            with open_private(Path(self._second), "ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # other homes may write to it
                if newest not in _read_tail(file):
                    _append_line(file, _ENCODE(newest))


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
    return is_signed_by(checkpoint.public_key, _ENCODE(replace(checkpoint, signature="")), checkpoint.signature)


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
    signature, AW-STO-15 unknown key, AW-STO-16 emptied, AW-STO-17 cut or rolled back, AW-STO-18 recomputed."""
    name, database, where = read_store_name(store), _digest_url(store), ErrorLocation("audit log")
    known = frozenset(one for one in checkpoints if name == one.store or database == one.database)
    own = frozenset(one for one in known if one.public_key in public_keys)
    newest: dict[str, AuditCheckpoint] = {}
    expected: dict[int, list[AuditCheckpoint]] = {}
    for one in sorted(known, key=lambda one: (one.public_key not in public_keys, one.blocks, one.at)):
        if one.store != name or not own:
            _check_signer(one, public_keys)
            message = f"the log was emptied: its database replaces {one.store}, which had {one.records:,} records"
            raise _tampering("AW-STO-16", message, where)
        newest[one.public_key] = one
        expected.setdefault(one.blocks, []).append(one)
    for one in newest.values():
        _check_signer(one, frozenset(newest))
    state, matched = _LogState(), "the start"
    for newer in _read_states(store, state):
        state = newer
        for one in expected.pop(state.blocks, ()):
            if (one.records, one.tip) != (state.records, state.tip):
                _check_signer(one, public_keys)
                message = f"records between {matched} and the checkpoint of {_format_time(one.at)} were replaced: "
                message += "the chain was recomputed, or an older database was restored and continued"
                raise _tampering("AW-STO-18", message, where)
            matched = f"the checkpoint of {_format_time(one.at)}"
    if expected:
        left = [one for unmatched in expected.values() for one in unmatched]
        last = max(left, key=lambda one: (one.public_key in public_keys, one.blocks))
        _check_signer(last, public_keys)
        counted = f"the checkpoint of {_format_time(last.at)} counts {last.records:,} records"
        if not state.blocks:
            raise _tampering("AW-STO-16", f"the log was emptied: {counted}", where)
        message = f"the log ends after {state.records:,} records and {counted}: the end was cut, or an older database"
        raise _tampering("AW-STO-17", message + " was restored", where)
    return own, frozenset(newest) - public_keys


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


def _format_time(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _tampering(code: str, message: str, where: ErrorLocation) -> StoreError:
    return StoreError(code, message, where=where, hint="compare the database and the home with a backup")
