"""The audit log: one record per decision, durable before anything is answered, in a chain that shows tampering.

Each row holds the SHA-256 of its canonical JSON (keys sorted, `hash` empty), which includes the hash of the row
before it in its chain. Every writer (one AuditLog of one process) has a chain of its own, so that writers need not
wait for each other; its first row points at the newest row of the store at that time, whichever writer's.

What `verify` finds: rows altered, deleted, moved, put in. What it cannot find alone: rows cut off at the end of a
chain that nothing points at, and a rewriting of everything by someone who may write the database. Against these,
keep the hash of the newest row (`tip`) elsewhere.

Fail closed: when the store refuses, every waiting future fails with StoreError, and the caller denies.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Literal

import msgspec

from archwright.contract.record import Record, replace
from archwright.monitor.commit import GroupCommit
from archwright.store import Span, Store, Table

TEXT_LIMIT = 256  # characters of a field: callers pass ids and names, never content
PAGE = 10_000


class AuditEvent(Record):
    """One decision. `at` is seconds since the epoch; empty texts mean "not known" (a request without a key)."""

    at: float
    tenant: str
    key_id: str
    action: str
    permission: str
    effect: Literal["allow", "deny"]
    reason: str = ""
    request_id: str = ""
    resource: str = ""


class AuditEntry(AuditEvent):
    """An event in its chain: `number` counts from 0, `prev` is the hash before it."""

    chain: str
    number: int
    prev: str
    hash: str = ""


TABLE = Table("audit", AuditEntry, unique=("chain", "number"), index=("at", "tenant"))
_TEXTS = ("tenant", "key_id", "action", "permission", "reason", "request_id", "resource")
_ENCODER = msgspec.json.Encoder(order="sorted")


def digest(entry: AuditEntry) -> str:
    """SHA-256 over the canonical JSON of the entry with its own hash left empty."""
    bare = replace(entry, hash="") if entry.hash else entry
    return hashlib.sha256(_ENCODER.encode(bare)).hexdigest()


class AuditLog:
    """The chain of one writer, behind a group commit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._chain = ""
        self._number = 0
        self._prev = ""
        self._commits: GroupCommit[AuditEvent] = GroupCommit("audit log", self._commit)

    def record(self, event: AuditEvent) -> Future[None]:
        """A future that is done once the event is committed; how it fails, `GroupCommit.record` says."""
        return self._commits.record(_clean(event))

    def close(self) -> None:
        """Write what waits, then stop."""
        self._commits.close()

    def _commit(self, events: Sequence[AuditEvent]) -> None:
        if not self._chain:
            self._prev = tip(self._store)
            self._number = 0
            self._chain = secrets.token_hex(8)
        entries = []
        number, prev, chain = self._number, self._prev, self._chain
        for event in events:
            entry = _linked(event, chain, number, prev)
            entries.append(entry)
            number, prev = number + 1, entry.hash
        # Whether a refused commit left rows is not always known: a new chain makes both cases verifiable.
        self._chain = ""
        self._store.append(TABLE, entries)
        self._chain, self._number, self._prev = chain, number, prev


def _linked(event: AuditEvent, chain: str, number: int, prev: str) -> AuditEntry:
    bare = AuditEntry(
        at=event.at,
        tenant=event.tenant,
        key_id=event.key_id,
        action=event.action,
        permission=event.permission,
        effect=event.effect,
        reason=event.reason,
        request_id=event.request_id,
        resource=event.resource,
        chain=chain,
        number=number,
        prev=prev,
    )
    return replace(bare, hash=digest(bare))


def _clean(event: AuditEvent) -> AuditEvent:
    """Texts from outside made storable: one unstorable record would fail everybody in its transaction."""
    changes: dict[str, object] = {} if type(event.at) is float else {"at": float(event.at)}
    for name in _TEXTS:
        text: str = getattr(event, name)
        if len(text) > TEXT_LIMIT or not text.isprintable():
            changes[name] = "".join(c if c.isprintable() else "?" for c in text[:TEXT_LIMIT])
    return replace(event, **changes) if changes else event


def tip(store: Store) -> str:
    """The hash of the newest row, "" when there is none: the checkpoint to keep elsewhere."""
    newest = store.rows(TABLE, newest_first=True, limit=1)
    return newest[0].hash if newest else ""


def events(
    store: Store,
    where: Mapping[str, object] | None = None,
    *,
    tenant: str | None = None,
    span: tuple[float | None, float | None] = (None, None),
    limit: int | None = None,
) -> list[AuditEntry]:
    """Entries, newest first: those of `tenant` (None: of all) whose fields equal `where`, `at` within `span`."""
    wanted = {**(where or {}), **({} if tenant is None else {"tenant": tenant})}
    return store.rows(TABLE, wanted, Span("at", *span), newest_first=True, limit=limit)


def verify(store: Store) -> int | None:
    """The number of the first row that does not fit, or None when every chain holds."""
    ends: dict[str, AuditEntry] = {}
    known = {""}
    seq = 0
    while page := store.numbered(TABLE, seq, limit=PAGE):
        for seq, entry in page:
            before = ends.get(entry.chain)
            if before is None:
                follows = entry.number == 0 and entry.prev in known
            else:
                follows = entry.number == before.number + 1 and entry.prev == before.hash
            if not follows or entry.hash != digest(entry):
                return seq
            ends[entry.chain] = entry
            known.add(entry.hash)
    return None
