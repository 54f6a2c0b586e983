"""Keys: `key create`, `key list`, `key revoke`."""

from __future__ import annotations

from archwright.access.identity import KeyRecord
from archwright.api.context import audited, keyring
from archwright.contract.record import Record


class NewKey(Record):
    """The secret is shown here and never again."""

    key: str
    id: str
    tenant: str
    role: str


class ShownKey(Record):
    """A key without its secret or digest."""

    id: str
    tenant: str
    role: str
    name: str
    prefix: str
    created_at: float
    revoked: bool


def create(*, tenant: str = "default", role: str = "member", name: str = "") -> NewKey:
    """Make a key for a tenant, and the tenant when it is new."""
    with keyring() as (keys, _home, store):
        secret, record = keys.create(tenant, role, name)
        audited(store, "key.create", record.id, tenant)
        return NewKey(key=secret, id=record.id, tenant=record.tenant, role=record.role)


def list(*, tenant: str | None = None) -> tuple[ShownKey, ...]:  # noqa: A001 - the verb's name
    with keyring() as (keys, _home, _store):
        return tuple(_shown(record, keys.revoked(record.id)) for record in keys.list(tenant))


def revoke(id: str) -> ShownKey:  # noqa: A002 - the record's field
    """Refuse a key from now on, in every worker within a second."""
    with keyring() as (keys, _home, store):
        revoked = keys.revoke(id)
        audited(store, "key.revoke", id, revoked.tenant)
        return _shown(revoked, True)


def _shown(record: KeyRecord, revoked: bool) -> ShownKey:
    return ShownKey(
        id=record.id,
        tenant=record.tenant,
        role=record.role,
        name=record.name,
        prefix=record.prefix,
        created_at=record.created_at,
        revoked=revoked,
    )
