"""Verification of the audit log, the usage records and the rows of keys.

They are compared with the signed checkpoints.
"""

import time
from collections.abc import Iterable, Sequence
from itertools import chain

from archwright.access.audit_checkpoints import (
    AuditCheckpoint,
    digest_by_number,
    digest_checkpoint,
    digest_store_url,
    encode_correction,
    is_checkpoint_signed,
    is_mark_contradicted,
    read_last_checkpoints,
    read_signing_key,
    tampering_error,
)
from archwright.access.checkpoint_anchor import CheckpointAnchor, is_anchor_of
from archwright.access.log_blocks import (
    NO_USAGE,
    STREAM_NAMES,
    LogStart,
    LogState,
    read_log_blocks,
    state_of_mark,
)
from archwright.access.signed_rows import ALTERED_HINT, RowsMark
from archwright.crypto.signing import is_signed_by
from archwright.errors import ErrorLocation, StoreError
from archwright.home import Home
from archwright.monitor.wal.compaction import RecordBlock
from archwright.monitor.wal.segment_owner import read_store_name
from archwright.store import Store


def check_log(
    store: Store,
    checkpoints: Iterable[AuditCheckpoint],
    public_keys: frozenset[str],
) -> tuple[frozenset[AuditCheckpoint], frozenset[str]]:
    """Compare the log with its checkpoints.

    Return those of `public_keys`, and the other keys of those that agree. Checkpoints of other
    databases are left out. A signature is checked if the checkpoint
    contradicts the log or is the newest of its key; an older one that agrees with the log proves
    nothing more. Raises StoreError: AW-STO-14 false signature, AW-STO-15 unknown key, AW-STO-16
    emptied, AW-STO-17 cut or rolled back, AW-STO-18 recomputed, AW-STO-21 rows of keys were
    removed.
    """
    log = _CheckedLog(store, checkpoints, public_keys)
    newest_by_key: dict[str, AuditCheckpoint] = {}
    for checkpoint in log.sort_known():
        log.check_not_emptied(checkpoint)
        newest_by_key[checkpoint.public_key] = checkpoint

    signing_keys = frozenset(newest_by_key)
    for checkpoint in newest_by_key.values():
        _check_signer(checkpoint, signing_keys)
    log.check_blocks("audit")
    log.check_blocks("served")
    _check_corrections(store, signing_keys)
    _check_marks(store, log.known)
    return log.own, signing_keys - public_keys


def find_audit_start(
    store: Store,
    checkpoints: Iterable[AuditCheckpoint],
    public_keys: frozenset[str],
) -> LogStart | None:
    """Return where the kept records begin, None if none was removed.

    Raises StoreError AW-STO-14 if the statement is not signed.
    """
    log = _CheckedLog(store, checkpoints, public_keys)
    newest: LogStart | None = None
    for checkpoint in log.own:
        start = checkpoint.audit_start
        if start is not None and (newest is None or start.blocks > newest.blocks):
            _check_signer(checkpoint, public_keys)
            newest = start
    return newest


class _CheckedLog:
    """A log that is compared with the checkpoints of its store; `own`: those of `public_keys`."""

    def __init__(
        self,
        store: Store,
        checkpoints: Iterable[AuditCheckpoint],
        public_keys: frozenset[str],
    ) -> None:
        self._store = store
        self._store_name = read_store_name(store)
        self._public_keys = public_keys
        database = digest_store_url(store)
        of_store: set[AuditCheckpoint] = set()
        own: set[AuditCheckpoint] = set()
        for checkpoint in checkpoints:
            if self._store_name == checkpoint.store or database == checkpoint.database:
                of_store.add(checkpoint)
                if checkpoint.public_key in public_keys:
                    own.add(checkpoint)
        self.known = frozenset(of_store)
        self.own = frozenset(own)

    def sort_known(self) -> list[AuditCheckpoint]:
        """Return the checkpoints with those of `public_keys` first, then by blocks and time."""

        def order(checkpoint: AuditCheckpoint) -> tuple[bool, int, float]:
            is_foreign = checkpoint.public_key not in self._public_keys
            return is_foreign, checkpoint.blocks, checkpoint.at

        return sorted(self.known, key=order)

    def check_not_emptied(self, checkpoint: AuditCheckpoint) -> None:
        """Raise StoreError AW-STO-16 if the database replaces another one."""
        if checkpoint.store == self._store_name and self.own:
            return
        _check_signer(checkpoint, self._public_keys)
        former = f"{checkpoint.store}, which had {checkpoint.records:,} records"
        message = f"the log was emptied: its database replaces {former}"
        raise tampering_error("AW-STO-16", message, ErrorLocation("audit log"))

    def check_blocks(self, stream: str) -> None:
        """Compare a stream with the checkpoints. Raises as `check_log`."""
        start = self._find_start(stream)
        expected = self._list_expected(stream, start)
        end = start
        matched = "the start"
        for state, _block in read_log_blocks(self._store, stream, end):
            end = state
            for checkpoint in expected.pop(state.blocks, ()):
                if _state_in(checkpoint, stream)[1:] != state[1:]:
                    raise self._replaced_error(stream, checkpoint, matched)
                matched = f"the checkpoint of {_format_time(checkpoint.at)}"
        if expected:
            unmatched = list(chain.from_iterable(expected.values()))
            raise self._cut_error(stream, end, unmatched)

    def _find_start(self, stream: str) -> LogState:
        """Return the state before the first record that is kept. Raises StoreError AW-STO-14."""
        start = LogState()
        for checkpoint in self.own:
            mark = checkpoint.audit_start if stream == "audit" else checkpoint.usage_start
            if mark is not None and mark.blocks > start.blocks:
                _check_signer(checkpoint, self._public_keys)
                start = state_of_mark(mark)
        return start

    def _list_expected(self, stream: str, start: LogState) -> dict[int, list[AuditCheckpoint]]:
        """Return the checkpoints by the number of blocks after which the stream must match.

        Those of removed records have nothing left to match.
        """
        expected: dict[int, list[AuditCheckpoint]] = {}
        for checkpoint in self.sort_known():
            blocks = _state_in(checkpoint, stream).blocks
            is_audit_without_removal = stream == "audit" and not start.blocks
            if blocks > start.blocks or is_audit_without_removal:
                expected.setdefault(blocks, []).append(checkpoint)
        return expected

    def _replaced_error(self, stream: str, checkpoint: AuditCheckpoint, matched: str) -> StoreError:
        _check_signer(checkpoint, self._public_keys)
        name = STREAM_NAMES[stream]
        end = f"the checkpoint of {_format_time(checkpoint.at)}"
        message = f"records of the {name} between {matched} and {end} were replaced: "
        message += "the chain was recomputed, or an older database was restored and continued"
        return tampering_error("AW-STO-18", message, ErrorLocation(name))

    def _cut_error(
        self,
        stream: str,
        end: LogState,
        unmatched: Sequence[AuditCheckpoint],
    ) -> StoreError:
        def order(checkpoint: AuditCheckpoint) -> tuple[bool, int]:
            is_own = checkpoint.public_key in self._public_keys
            return is_own, _state_in(checkpoint, stream).blocks

        last = max(unmatched, key=order)
        _check_signer(last, self._public_keys)
        name = STREAM_NAMES[stream]
        where = ErrorLocation(name)
        records = f"{_state_in(last, stream).records:,} records"
        counted = f"the checkpoint of {_format_time(last.at)} counts {records}"
        if not end.blocks:
            return tampering_error("AW-STO-16", f"the {name} was emptied: {counted}", where)
        message = f"the {name} ends after {end.records:,} records and {counted}: "
        message += "the end was cut, or an older database was restored"
        return tampering_error("AW-STO-17", message, where)


def _state_in(checkpoint: AuditCheckpoint, stream: str) -> LogState:
    if stream == "audit":
        return state_of_mark(checkpoint)
    return state_of_mark(checkpoint.usage or NO_USAGE)


def _is_signed_correction(block: RecordBlock, public_keys: frozenset[str]) -> bool:
    public_key, _, signature = block.correction.partition(":")
    if public_key not in public_keys:
        return False
    return is_signed_by(public_key, encode_correction(block), signature)


def _check_corrections(store: Store, public_keys: frozenset[str]) -> None:
    """Raise StoreError AW-STO-18 for corrected data without a signature of `public_keys`."""
    for _state, block in read_log_blocks(store, "served", LogState()):
        if block.origin and not _is_signed_correction(block, public_keys):
            records = f"usage records of {_format_time(block.last_at)}"
            message = f"{records} were replaced without a signed correction"
            raise tampering_error("AW-STO-18", message, ErrorLocation(STREAM_NAMES["served"]))


def _check_marks(store: Store, checkpoints: Iterable[AuditCheckpoint]) -> None:
    """Compare the rows of keys with every checkpoint. Raises StoreError AW-STO-21."""
    checked_marks: set[RowsMark] = set()
    for checkpoint in sorted(checkpoints, key=lambda checkpoint: checkpoint.at):
        mark = checkpoint.rows
        if mark is not None and mark not in checked_marks:
            checked_marks.add(mark)
            _check_mark(store, checkpoint, mark)


def check_newest_mark(store: Store, home: Home) -> None:
    """Compare the rows of keys with the newest checkpoint of this home.

    Rows are only added, so rows that are written meanwhile do not contradict it. Raises StoreError
    AW-STO-21.
    """
    key = read_signing_key(home)
    if key is None or not home.audit_checkpoints.exists():
        return
    newest: AuditCheckpoint | None = None
    name = read_store_name(store)
    with open(home.audit_checkpoints, "rb") as file:
        for checkpoint in read_last_checkpoints(file):
            if checkpoint.store == name and checkpoint.public_key == key.public_key:
                newest = checkpoint
    if newest is not None and newest.rows is not None and is_checkpoint_signed(newest):
        _check_mark(store, newest, newest.rows)


def _check_mark(store: Store, checkpoint: AuditCheckpoint, mark: RowsMark) -> None:
    if is_mark_contradicted(store, mark):
        message = "rows of keys, revocations or limits were removed or replaced: the database "
        message += f"contradicts the checkpoint of {_format_time(checkpoint.at)}"
        raise StoreError("AW-STO-21", message, where=ErrorLocation("keys"), hint=ALTERED_HINT)


def _check_signer(checkpoint: AuditCheckpoint, public_keys: frozenset[str]) -> None:
    """Raise StoreError AW-STO-14 for a false signature.

    AW-STO-15 for a key that is not in `public_keys`.
    """
    where = ErrorLocation("audit log")
    time_text = _format_time(checkpoint.at)
    if not is_checkpoint_signed(checkpoint):
        message = f"the checkpoint of {time_text} was altered: its signature is false"
        raise tampering_error("AW-STO-14", message, where)
    if checkpoint.public_key not in public_keys:
        signer = f"the unknown key {checkpoint.public_key}"
        message = f"the checkpoint of {time_text} is signed by {signer}"
        raise tampering_error("AW-STO-15", message, where)


def _list_own(checkpoints: Iterable[AuditCheckpoint], home: Home) -> list[AuditCheckpoint] | None:
    """Return the checkpoints that the home's key signed; None if the home has no key."""
    key = read_signing_key(home)
    if key is None:
        return None
    public_key = key.public_key
    return [checkpoint for checkpoint in checkpoints if checkpoint.public_key == public_key]


def check_places(
    in_home: Iterable[AuditCheckpoint],
    elsewhere: Iterable[AuditCheckpoint],
    home: Home,
) -> None:
    """Check that the home has each of its checkpoints that another place has.

    Raises StoreError AW-STO-19.
    """
    missing = set(_list_own(elsewhere, home) or ()) - set(in_home)
    if missing:
        first_at = min(checkpoint.at for checkpoint in missing)
        lost = f"{len(missing)} checkpoints that the second place has"
        message = f"the home lost {lost}, from {_format_time(first_at)}"
        raise tampering_error("AW-STO-19", message, ErrorLocation(str(home.audit_checkpoints)))


def check_home(
    in_home: Sequence[AuditCheckpoint],
    anchors: Sequence[CheckpointAnchor],
    *,
    store: Store,
    home: Home,
) -> None:
    """Check that the home has every checkpoint that it wrote.

    Their numbers and the database's anchor show it; `anchors` were read before `in_home`. Raises
    StoreError: AW-STO-22 checkpoints are missing.
    """
    own_checkpoints = _list_own(in_home, home)
    if own_checkpoints is None:
        return
    where = ErrorLocation(str(home.audit_checkpoints))
    if not own_checkpoints:
        message = "the home has a signing key and lost all checkpoints of the audit log"
        raise tampering_error("AW-STO-22", message, where)
    _check_numbers(own_checkpoints, where)

    public_key = own_checkpoints[0].public_key
    own_anchors = [anchor for anchor in anchors if is_anchor_of(anchor, public_key)]
    digests = digest_by_number(own_checkpoints)
    for anchor in own_anchors:
        if digests.get(anchor.number) != anchor.digest:
            lost = f"the checkpoint {anchor.number}, which the database states"
            raise tampering_error("AW-STO-22", f"the home lost {lost}, or replaced it", where)

    # A process that is killed may leave the first numbered checkpoint without an anchor.
    if not own_anchors and _count_numbered(own_checkpoints, read_store_name(store)) > 1:
        message = "the database lost the number of the newest checkpoint of the home"
        raise tampering_error("AW-STO-22", message, where)


def _count_numbered(checkpoints: Iterable[AuditCheckpoint], store: str) -> int:
    """Return how many checkpoints of the store of this name have a number."""
    count = 0
    for checkpoint in checkpoints:
        if checkpoint.store == store and checkpoint.number is not None:
            count += 1
    return count


def _check_numbers(own_checkpoints: Sequence[AuditCheckpoint], where: ErrorLocation) -> None:
    """Check that the checkpoints have consecutive numbers and each follows the one before it.

    Checkpoints of an older version have no number; a newer one counts from the last of them.
    """
    number = 0
    previous = ""
    for checkpoint in own_checkpoints:
        if checkpoint.number is not None or number:
            number += 1
            if checkpoint.number != number or checkpoint.previous != previous:
                time_text = _format_time(checkpoint.at)
                message = f"checkpoints are missing before that of {time_text}: "
                message += f"its number is {checkpoint.number}, not {number}, "
                raise tampering_error("AW-STO-22", message + "or it follows another one", where)
        previous = digest_checkpoint(checkpoint)


def _format_time(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
