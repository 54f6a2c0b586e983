"""Keys: `key create`, `key list`, `key limit`, `key rotate`, `key revoke`."""

from __future__ import annotations

from archwright.access.identity import Keys
from archwright.access.tables import KeyRecord, scope_name
from archwright.api.context import audited, keyring
from archwright.contract.record import Record
from archwright.policy.limits import Limits, Period

DAY_S, HOUR_S = 86_400, 3_600


class NewKey(Record):
    """The secret is shown here and never again."""

    key: str
    id: str
    tenant: str
    role: str
    user: str
    expires_at: float | None


class ShownKey(Record):
    """A key without its secret or digest. `last_used_at` is the midnight (UTC) before, of the last 90 days."""

    id: str
    tenant: str
    user: str
    role: str
    name: str
    prefix: str
    created_at: float
    expires_at: float | None
    last_used_at: float | None
    revoked: bool
    rpm: int | None
    tpm: int | None
    budget_usd: float | None
    period: Period


def create(
    *,
    tenant: str = "default",
    user: str = "",
    role: str = "member",
    name: str = "",
    expires_in_days: float | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> NewKey:
    """Make a key for a tenant, and the tenant when it is new."""
    with keyring() as (keys, _home, store):
        lives_s = None if expires_in_days is None else expires_in_days * DAY_S
        secret, record = keys.create(tenant, role, name, user, limits, lives_s)
        audited(store, "key.create", record.id, tenant)
        return _new(secret, record)


def list(*, tenant: str | None = None) -> tuple[ShownKey, ...]:  # noqa: A001 - the verb's name
    with keyring() as (keys, _home, _store):
        known, used = keys.limits(), keys.last_used()
        return tuple(_shown(keys, record, known, used) for record in keys.list(tenant))


def limit(id: str, *, limits: Limits = Limits()) -> ShownKey:  # noqa: A002, B008 - the record's field; frozen
    """Set all limits of a key; in force in every worker, also for answers under way, within a second."""
    with keyring() as (keys, _home, store):
        record = keys.limit("key", "", id, limits)
        shown = next(key for key in keys.list() if key.id == id)
        audited(store, "key.limit", id, shown.tenant)
        return _shown(keys, shown, {record.scope: limits}, keys.last_used())


def rotate(id: str, *, overlap_hours: float = 24.0) -> NewKey:  # noqa: A002 - the record's field
    """Another secret for the same key: its id, limits and usage stay; the old secret ends after the overlap."""
    with keyring() as (keys, _home, store):
        secret, record = keys.rotate(id, overlap_hours * HOUR_S)
        audited(store, "key.rotate", id, record.tenant)
        return _new(secret, record)


def revoke(id: str) -> ShownKey:  # noqa: A002 - the record's field
    """Refuse a key from now on, in every worker within a second."""
    with keyring() as (keys, _home, store):
        revoked = keys.revoke(id)
        audited(store, "key.revoke", id, revoked.tenant)
        return _shown(keys, revoked, keys.limits(), keys.last_used())


def _new(secret: str, record: KeyRecord) -> NewKey:
    return NewKey(
        key=secret,
        id=record.id,
        tenant=record.tenant,
        role=record.role,
        user=record.user,
        expires_at=record.expires_at,
    )


def _shown(keys: Keys, record: KeyRecord, known: dict[str, Limits], used: dict[str, float]) -> ShownKey:
    limits = known.get(scope_name("key", name=record.id), Limits())
    return ShownKey(
        id=record.id,
        tenant=record.tenant,
        user=record.user,
        role=record.role,
        name=record.name,
        prefix=record.prefix,
        created_at=record.created_at,
        expires_at=record.expires_at,
        last_used_at=used.get(record.id),
        revoked=keys.revoked(record.id),
        rpm=limits.rpm,
        tpm=limits.tpm,
        budget_usd=limits.budget_usd,
        period=limits.period,
    )
