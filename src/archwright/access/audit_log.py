"""The audit log: one record per decision, written down before anything is answered, in a chain that shows tampering.

A record is one line of JSON in the WAL's stream "audit". Records written at once are a group; the first of them states
its chain, its number in it, and the SHA-256 of the group before (its lines, joined by newlines). Every writer (one
AuditLog of one process) has its own chain, so writers do not wait for each other. The first record of a chain points at
the newest block of the store at that time, whichever writer's.

`find_broken_record` finds records altered, deleted, moved or inserted; the last group is held by its block
(`read_chain_tip`). It cannot find records cut off at the end of a chain that nothing points at, nor a rewriting of
everything by someone who may write the database: against these, keep the newest hash (`read_chain_tip`) elsewhere.

Fail closed: without room to write a decision down, `record` raises StoreError, and the caller denies.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Literal, NamedTuple

import msgspec

from archwright.contract.record import Record, replace
from archwright.contract.served import request_received_at
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.wal.compaction import BLOCKS, CHAIN_FIELD, TimeSpan, bound_span, read_records
from archwright.monitor.wal.writer import WalWriter
from archwright.store import Store

TEXT_LIMIT = 256  # characters of a field: callers pass ids and names, never content
AUDIT_STREAM = "audit"
# A record about a request is written at most so long after it came in.
REQUEST_LIMIT_S = 86_400.0
Effect = Literal["allow", "deny"]


class AuditEvent(Record):
    """One decision. `at` is seconds since the epoch; empty texts mean "not known" (a request without a key)."""

    at: float
    tenant: str
    key_id: str
    action: str
    permission: str
    effect: Effect
    reason: str = ""
    request_id: str = ""
    resource: str = ""


class AuditEntry(AuditEvent):
    """An event in its chain: `number` counts from 0, `hash` is that of its group, `prev` that of the group before."""

    chain: str
    number: int
    prev: str
    hash: str = ""


_TEXT_FIELDS = ("tenant", "key_id", "action", "permission", "reason", "request_id", "resource")


class _ChainPosition(msgspec.Struct):
    """Of a group's first line, what `find_broken_record` looks at."""

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
    """The chain of one writer, in its process's ledger."""

    def __init__(self, ledger: WalWriter) -> None:
        self.flush = ledger.flush
        self._ledger = ledger
        self._chain = secrets.token_hex(8).encode()
        self._number = 0
        self._first = read_chain_tip(ledger.store)
        self._group: list[bytes] = []

    def record(self, event: AuditEvent) -> None:
        """Survives kill -9 once the ledger is flushed. Raises StoreError AW-STO-06 without room, for an allow first."""
        keep = self._ledger.reserve if event.effect == "allow" else self._ledger.reserve // 2
        line = _ENCODE(_sanitise_event(event))
        with self._ledger.lock:
            group = self._group
            # Else what it was part of is written, or not ours.
            if not group or self._ledger.last_pending(AUDIT_STREAM) is not group[-1]:
                prev = hash_lines(b"\n".join(group)) if group else self._first
                link = (CHAIN_FIELD, self._chain, self._number, prev.encode())
                line = b'%b%b%b","number":%d,"prev":"%b"}' % (line[:-1], *link)
                group = []
            self._ledger.append_encoded(AUDIT_STREAM, line, keep)
            group.append(line)
            self._group = group
            self._number += 1


def _sanitise_event(event: AuditEvent) -> AuditEvent:
    """Texts from outside made storable: one that cannot be encoded would have no record at all."""
    together = event.tenant + event.key_id + event.action + event.permission
    together += event.reason + event.request_id + event.resource
    if len(together) <= TEXT_LIMIT and together.isprintable() and type(event.at) is float:
        return event
    changes: dict[str, object] = {"at": float(event.at)}
    for name in _TEXT_FIELDS:
        text: str = getattr(event, name)
        changes[name] = "".join(c if c.isprintable() else "?" for c in text[:TEXT_LIMIT])
    return replace(event, **changes)


def read_chain_tip(store: Store) -> str:
    """The hash of the newest group in the store, "" when there is none: the checkpoint to keep elsewhere."""
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
    """Entries, newest first: those of `tenant` (None: of all) whose fields equal `where`, `at` within `span`; with
    `home` also what this machine has not folded yet. A request's are found by the time in its id."""
    wanted = {**(where or {}), **({} if tenant is None else {"tenant": tenant})}
    began = request_received_at(str(wanted.get("request_id", "")))
    if began is not None and span == (None, None):
        span = began - 1.0, began + REQUEST_LIMIT_S
    return list(islice(_find_entries(store, home, wanted, span), limit))


def _find_entries(store: Store, home: Home | None, where: Mapping[str, object], span: TimeSpan) -> Iterator[AuditEntry]:
    low, high = bound_span(span)
    for found in read_records(store, home, AUDIT_STREAM, span, newest_first=True):
        for group in reversed(_split_groups(found.data)):
            first = _ENTRY_DECODER.decode(group[0])
            for number in range(len(group) - 1, -1, -1):
                one = _EVENT_DECODER.decode(group[number]) if number else first
                if low <= one.at <= high and all(getattr(one, name) == value for name, value in where.items()):
                    own = {name: getattr(one, name) for name in AuditEvent.__struct_fields__}
                    yield replace(first, **own, number=first.number + number, hash=hash_lines(b"\n".join(group)))


def _split_groups(data: bytes) -> list[list[bytes]]:
    """Lines, parted before every one that has a link."""
    found: list[list[bytes]] = []
    for line in data.split(b"\n"):
        if CHAIN_FIELD in line or not found:
            found.append([])
        found[-1].append(line)
    return found


class ChainCheck(NamedTuple):
    """`records` were looked at; `broken` is the number of the first that does not fit, counted from 1."""

    records: int
    broken: int | None


def check_chain(store: Store, home: Home | None = None) -> ChainCheck:
    """Every chain from its first record, in the order of the store; with `home` also what is not folded yet. What is
    wrong with a record shows where the group after its own begins."""
    ends: dict[str, tuple[int, str]] = {}
    known = {""}
    count = 0
    try:
        for found in read_records(store, home, AUDIT_STREAM):
            last = ""
            for group in _split_groups(found.data):
                count += 1
                place = _POSITION_DECODER.decode(group[0])
                follows = place.number == 0 and place.prev in known
                if place.chain in ends:
                    follows = (place.number, place.prev) == ends[place.chain]
                if not follows:
                    return ChainCheck(count, count)
                count += len(group) - 1
                last = hash_lines(b"\n".join(group))
                ends[place.chain] = place.number + len(group), last
            if found.tip not in ("", last):
                return ChainCheck(count, count)
            known.add(last)
    except msgspec.MsgspecError:
        return ChainCheck(count, count)
    except StoreError as error:
        if error.code != "AW-STO-08":
            raise
        return ChainCheck(count + 1, count + 1)
    return ChainCheck(count, None)


def find_broken_record(store: Store, home: Home | None = None) -> int | None:
    """The number of the first record that does not fit, or None when every chain holds."""
    return check_chain(store, home).broken
