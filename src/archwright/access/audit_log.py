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

from archwright.contract.record import Record, replace
from archwright.contract.served import request_received_at
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.user_names import read_user_names
from archwright.monitor.wal.compaction import BLOCKS, CHAIN_FIELD, TimeSpan, bound_span, read_records
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
    """An event in its chain: `number` from 0, `hash` of its group, `prev`: hash of the previous
    group.
    """

    chain: str
    number: int
    prev: str
    hash: str = ""


_TEXT_FIELDS = tuple(name for name in AuditEvent.__struct_fields__ if name not in ("at", "effect", "count"))


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

        Raises StoreError AW-STO-06 without free space; the order is that of `_least_free_bytes`."""
        keep = _least_free_bytes(event, self._wal.reserve)
        line = _ENCODE(_sanitise_event(event))
        with self._wal.lock:
            group = self._group
            # If the last pending line is not of this group, the group was flushed: start a new one
            # with a link.
            if not group or self._wal.last_pending(AUDIT_STREAM) is not group[-1]:
                prev = hash_lines(b"\n".join(group)) if group else self._first
                link = (CHAIN_FIELD, self._chain, self._number, prev.encode())
                line = b'%b%b%b","number":%d,"prev":"%b"}' % (line[:-1], *link)
                group = []
            self._wal.append_encoded(AUDIT_STREAM, line, keep)
            group.append(line)
            self._group = group
            self._number += 1
        return len(line)


def _least_free_bytes(event: AuditEvent, reserve: int) -> int:
    """Return the bytes that must stay free. Strangers fail first, then admissions, denials, and
    administration.
    """
    if event.effect == "deny":
        return reserve // 2 if event.key_id else 2 * reserve
    return reserve if event.permission in SERVED_PERMISSIONS else reserve // 4


def _sanitise_event(event: AuditEvent) -> AuditEvent:
    """Return the event with texts that can be stored: a decision with an unencodable text must
    still be recorded.
    """
    texts = f"{event.tenant}{event.key_id}{event.action}{event.permission}{event.reason}"
    texts += f"{event.request_id}{event.resource}{event.source}{event.user}{event.os_user}"
    if len(texts) <= TEXT_LIMIT and texts.isprintable() and type(event.at) is float and "aw_" not in texts:
        return event
    changes: dict[str, object] = {"at": float(event.at)}
    for name in _TEXT_FIELDS:
        text: str = getattr(event, name)
        text = _SECRET_PATTERN.sub("aw_...", text)[:TEXT_LIMIT]
        changes[name] = "".join(c if c.isprintable() else "?" for c in text)
    return replace(event, **changes)


def read_chain_tip(store: Store) -> str:
    """Return the hash of the newest group in the store, "" without records: the checkpoint to keep
    elsewhere.
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
    """Return the entries of `tenant` (None: of all) with the fields `where` and `at` within `span`,
    newest first.

    With `home` also the records that this machine has not compacted yet. The time in a request id
    limits the span.
    """
    fields = {**(where or {}), **({} if tenant is None else {"tenant": tenant})}
    received_at = request_received_at(str(fields.get("request_id", "")))
    if received_at is not None and span == (None, None):
        span = received_at - 1.0, received_at + REQUEST_LIMIT_S
    return list(islice(_find_entries(store, home, fields, span), limit))


def name_users(entries: Iterable[AuditEntry], store: Store) -> list[AuditEntry]:
    """The entries with the names of users for their ids; an erased user is shown by the id."""
    names = read_user_names(store)
    return [
        replace(one, user=names.get(one.user, one.user), os_user=names.get(one.os_user, one.os_user)) for one in entries
    ]


def _find_entries(store: Store, home: Home | None, where: Mapping[str, object], span: TimeSpan) -> Iterator[AuditEntry]:
    low, high = bound_span(span)
    for found in read_records(store, home, AUDIT_STREAM, span=span, newest_first=True):
        for group in reversed(_split_groups(found.data)):
            first = _ENTRY_DECODER.decode(group[0])
            for number in range(len(group) - 1, -1, -1):
                one = _EVENT_DECODER.decode(group[number]) if number else first
                if low <= one.at <= high and all(getattr(one, name) == value for name, value in where.items()):
                    own = {name: getattr(one, name) for name in AuditEvent.__struct_fields__}
                    yield replace(first, **own, number=first.number + number, hash=hash_lines(b"\n".join(group)))


def _split_groups(data: bytes) -> list[list[bytes]]:
    """Split the lines into groups; a line with a link starts a group."""
    groups: list[list[bytes]] = []
    for line in data.split(b"\n"):
        if CHAIN_FIELD in line or not groups:
            groups.append([])
        groups[-1].append(line)
    return groups


class ChainCheck(NamedTuple):
    """Number of checked `records`; `broken`: number of the first inconsistent record, from 1, None
    if all are valid.
    """

    records: int
    broken: int | None


def check_chain(store: Store, home: Home | None = None) -> ChainCheck:
    """Check every chain in the order of the store; with `home` also the records that are not
    compacted yet.

    An altered record is reported at the start of the next group, whose link does not match.
    """
    ends: dict[str, tuple[int, str]] = {}
    tips = {""}
    count = 0
    try:
        for found in read_records(store, home, AUDIT_STREAM):
            last = ""
            for group in _split_groups(found.data):
                count += 1
                place = _POSITION_DECODER.decode(group[0])
                valid = place.number == 0 and place.prev in tips
                if place.chain in ends:
                    valid = (place.number, place.prev) == ends[place.chain]
                if not valid:
                    return ChainCheck(count, count)
                count += len(group) - 1
                last = hash_lines(b"\n".join(group))
                ends[place.chain] = place.number + len(group), last
            if found.tip not in ("", last):
                return ChainCheck(count, count)
            tips.add(last)
    except msgspec.MsgspecError:
        return ChainCheck(count, count)
    except StoreError as error:
        if error.code != "AW-STO-08":
            raise
        return ChainCheck(count + 1, count + 1)
    return ChainCheck(count, None)
