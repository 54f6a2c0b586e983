"""Audit log: one record per decision, written before the response, in a tamper-evident hash chain.

A record is one JSON line in the WAL stream "audit". Records written together form a group. The
first record of a group states its chain, its number in the chain, and the SHA-256 of the previous
group (its lines, joined by newlines). Each writer (one AuditLog of one process) has its own chain,
so writers do not block each other. The first record of a chain links to the newest block of the
store at that time, of any writer.

`check_chain` detects altered, deleted, moved and inserted records; the last group is covered by its
block's hash (`read_chain_tip`). It cannot detect records cut from the end, an older database or a
full rewrite. The signed checkpoints of `access.audit_checkpoints` detect these.

Design: fail closed. If a decision cannot be recorded, `record` raises StoreError, and the caller
denies. Denials of callers without a valid key are the exception: `access.denial_counts` counts
them, and their responses always leave.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Literal, NamedTuple

import msgspec

from archwright.access.log_blocks import LogStart
from archwright.contract.record import Record, replace
from archwright.contract.served import request_received_at
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.metrics.exposition import sanitise_label_value
from archwright.monitor.user_names import read_user_names
from archwright.monitor.wal.compaction import (
    BLOCKS,
    CHAIN_FIELD,
    TimeSpan,
    bound_span,
    read_records,
)
from archwright.monitor.wal.writer import WalWriter
from archwright.store import Store

TEXT_LIMIT = 256  # most characters of a field; fields are ids and names, never content
AUDIT_STREAM = "audit"
REQUEST_LIMIT_S = 86_400.0  # a request's records are written at most this long after its arrival
# Permissions of requests that may fill the log; the others are administration, which uses the
# reserve.
SERVED_PERMISSIONS = ("inference.invoke", "models.read", "metrics.read")
# A key that a client sent in the wrong place, such as the name of a model.
_SECRET_PATTERN = re.compile(r"aw_[\w-]{20,}")
Effect = Literal["allow", "deny"]


class AuditEvent(Record, omit_defaults=True):
    """One decision; `at`: seconds since the epoch; an empty text is unknown (a request without a
    key).

    `source`: IP address of the client. `user`: id of the key's user; `os_user`: id of the user of
    this machine, for a local command (`monitor.user_names`). `outcome`: "admitted" (the usage
    record has the request's status), "refused", "done" or "failed". `count`: decisions that the
    record stands for, of which `request_id` is the first.
    """

    at: float
    tenant: str
    key_id: str
    action: str
    permission: str
    effect: Effect
    reason: str = ""
    request_id: str = ""
    resource: str = ""
    source: str = ""
    user: str = ""
    os_user: str = ""
    outcome: str = ""
    count: int = 1


class AuditEntry(AuditEvent, omit_defaults=False):
    """An event in its chain.

    `number` from 0, `hash` of its group, `prev`: hash of the previous group.
    """

    chain: str
    number: int
    prev: str
    hash: str = ""


_EVENT_FIELDS = AuditEvent.__struct_fields__
_TEXT_FIELDS = tuple(name for name in _EVENT_FIELDS if name not in ("at", "effect", "count"))


class _ChainPosition(msgspec.Struct):
    """Fields of a group's first line that `check_chain` needs."""

    chain: str
    number: int
    prev: str


_ENCODE = msgspec.json.Encoder().encode
_EVENT_DECODER = msgspec.json.Decoder(AuditEvent)
_ENTRY_DECODER = msgspec.json.Decoder(AuditEntry)
_POSITION_DECODER = msgspec.json.Decoder(_ChainPosition)


def hash_lines(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


class AuditLog:
    """The hash chain of one writer, in the WAL of its process."""

    def __init__(self, wal: WalWriter) -> None:
        self.flush = wal.flush
        self._wal = wal
        self._chain = secrets.token_hex(8).encode()
        self._number = 0
        self._first = read_chain_tip(wal.store)
        self._group: list[bytes] = []

    def record(self, event: AuditEvent) -> int:
        """Append a decision and return its bytes; it is durable against kill -9 after `flush`.

        Raises StoreError AW-STO-06 without free space; the order is that of `_least_free_bytes`.
        """
        keep = _least_free_bytes(event, self._wal.reserve)
        line = _ENCODE(_sanitise_event(event))
        with self._wal.lock:
            group = self._group
            # If the last pending line is not of this group, the group was flushed: start a new one
            # with a link.
            if not group or self._wal.last_pending(AUDIT_STREAM) is not group[-1]:
                line = self._add_link(line)
                group = []
            self._wal.append_encoded(AUDIT_STREAM, line, keep)
            group.append(line)
            self._group = group
            self._number += 1
        return len(line)

    def _add_link(self, line: bytes) -> bytes:
        """Return the line of an event with a link to the last group."""
        prev = self._first
        if self._group:
            prev = hash_lines(b"\n".join(self._group))
        link = (CHAIN_FIELD, self._chain, self._number, prev.encode())
        return b'%b%b%b","number":%d,"prev":"%b"}' % (line[:-1], *link)


def _least_free_bytes(event: AuditEvent, reserve: int) -> int:
    """Return the bytes that must stay free.

    Strangers fail first, then admissions, denials, and administration.
    """
    if event.effect == "deny":
        return reserve // 2 if event.key_id else 2 * reserve
    if event.permission in SERVED_PERMISSIONS:
        return reserve
    return reserve // 4


def _sanitise_event(event: AuditEvent) -> AuditEvent:
    """Return the event with texts that can be stored.

    A decision with an unencodable text must still be recorded.
    """
    texts = f"{event.tenant}{event.key_id}{event.action}{event.permission}{event.reason}"
    texts += f"{event.request_id}{event.resource}{event.source}{event.user}{event.os_user}"
    is_storable = len(texts) <= TEXT_LIMIT and texts.isprintable() and "aw_" not in texts
    if is_storable and type(event.at) is float:
        return event

    changes: dict[str, object] = {"at": float(event.at)}
    for name in _TEXT_FIELDS:
        text: str = getattr(event, name)
        without_secrets = _SECRET_PATTERN.sub("aw_...", text)
        changes[name] = sanitise_label_value(without_secrets[:TEXT_LIMIT])
    return replace(event, **changes)


def read_chain_tip(store: Store) -> str:
    """Return the hash of the newest group in the store: the checkpoint to keep elsewhere.

    "" without records.
    """
    newest = store.rows(BLOCKS[AUDIT_STREAM], newest_first=True, limit=1)
    return newest[0].tip if newest else ""


def read_entries(
    store: Store,
    home: Home | None = None,
    where: Mapping[str, object] | None = None,
    *,
    tenant: str | None = None,
    span: TimeSpan = (None, None),
    limit: int | None = None,
) -> list[AuditEntry]:
    """Return the entries of `tenant` (None: of all) with the fields `where`, newest first.

    `span`: bounds of their time. With `home` also the records that this machine has not compacted
    yet. The time in a request id limits the span.
    """
    fields = dict(where or {})
    if tenant is not None:
        fields["tenant"] = tenant
    received_at = request_received_at(str(fields.get("request_id", "")))
    if received_at is not None and span == (None, None):
        span = (received_at - 1.0, received_at + REQUEST_LIMIT_S)
    entries = _find_entries(store, home, where=fields, span=span)
    return list(islice(entries, limit))


def name_users(entries: Iterable[AuditEntry], store: Store) -> list[AuditEntry]:
    """The entries with the names of users for their ids; an erased user is shown by the id."""
    names = read_user_names(store)
    named: list[AuditEntry] = []
    for entry in entries:
        user = names.get(entry.user, entry.user)
        os_user = names.get(entry.os_user, entry.os_user)
        named.append(replace(entry, user=user, os_user=os_user))
    return named


def _find_entries(
    store: Store,
    home: Home | None,
    *,
    where: Mapping[str, object],
    span: TimeSpan,
) -> Iterator[AuditEntry]:
    first_at, last_at = bound_span(span)
    for records in read_records(store, home, AUDIT_STREAM, span=span, newest_first=True):
        for group in reversed(_split_groups(records.data)):
            first = _ENTRY_DECODER.decode(group[0])
            for index in reversed(range(len(group))):
                event = _EVENT_DECODER.decode(group[index]) if index else first
                if first_at <= event.at <= last_at and _has_fields(event, where):
                    yield _build_entry(event, first, index, group=group)


def _build_entry(
    event: AuditEvent,
    first: AuditEntry,
    index: int,
    *,
    group: list[bytes],
) -> AuditEntry:
    """Return an event with its position: that of the group's first entry, and its index there."""
    fields = {name: getattr(event, name) for name in _EVENT_FIELDS}
    group_hash = hash_lines(b"\n".join(group))
    return replace(first, **fields, number=first.number + index, hash=group_hash)


def _has_fields(event: AuditEvent, where: Mapping[str, object]) -> bool:
    return all(getattr(event, name) == value for name, value in where.items())


def _split_groups(data: bytes) -> list[list[bytes]]:
    """Split the lines into groups; a line with a link starts a group."""
    groups: list[list[bytes]] = []
    for line in data.split(b"\n"):
        if CHAIN_FIELD in line or not groups:
            groups.append([])
        groups[-1].append(line)
    return groups


class ChainCheck(NamedTuple):
    """Number of checked `records`.

    `broken`: number of the first inconsistent record, from 1, None if all are valid.
    """

    records: int
    broken: int | None


def check_chain(
    store: Store,
    home: Home | None = None,
    *,
    start: LogStart | None = None,
) -> ChainCheck:
    """Check every chain in the order of the store.

    `start`: the log before its first kept block; records count from the first one ever. Chains that
    began before it are followed from their first kept group, which the checkpoints cover.

    With `home` also the records that are not compacted yet. An altered record is reported at the
    start of the next group, whose link does not match.
    """
    removed = 0
    after_seq = 0
    if start is not None:
        removed = start.records
        after_seq = start.seq
    walk = _ChainWalk(removed)
    try:
        for records in read_records(store, home, AUDIT_STREAM, after_seq=after_seq):
            if not walk.follow(_split_groups(records.data), tip=records.tip):
                return ChainCheck(walk.records, walk.records)
    except msgspec.MsgspecError:
        return ChainCheck(walk.records, walk.records)
    except StoreError as error:
        if error.code != "AW-STO-08":
            raise
        return ChainCheck(walk.records + 1, walk.records + 1)
    return ChainCheck(walk.records, None)


class _ChainWalk:
    """A walk over the chains, as far as they are consistent; `records`: how many it has checked."""

    def __init__(self, removed: int) -> None:
        """`removed`: number of the records before the first one that is kept."""
        self.records = removed
        self._has_start = removed > 0
        # By chain: number of the next record, and hash of the last group.
        self._ends: dict[str, tuple[int, str]] = {}
        self._tips = {""}

    def follow(self, groups: list[list[bytes]], *, tip: str) -> bool:
        """Walk over the groups of a block; False at a record that does not follow.

        `tip`: hash of the last group, "" if it is not known.
        """
        last_hash = ""
        for group in groups:
            self.records += 1
            position = _POSITION_DECODER.decode(group[0])
            if not self._is_next(position):
                return False
            self.records += len(group) - 1
            last_hash = hash_lines(b"\n".join(group))
            self._ends[position.chain] = (position.number + len(group), last_hash)
        if tip not in ("", last_hash):
            return False
        self._tips.add(last_hash)
        return True

    def _is_next(self, position: _ChainPosition) -> bool:
        """True if a group follows the last one of its chain, or starts one after a known group."""
        if position.chain in self._ends:
            return (position.number, position.prev) == self._ends[position.chain]
        if self._has_start:
            return True
        return position.number == 0 and position.prev in self._tips
