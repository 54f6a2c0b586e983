"""Tenants: `tenant create`, `tenant list`."""

from __future__ import annotations

from archwright.access.identity import Tenant
from archwright.api.context import audited, keyring


def create(name: str) -> Tenant:
    """Make a tenant; UsageError AW-USE-31 when it exists."""
    with keyring() as (keys, _home, store):
        tenant = keys.create_tenant(name)
        audited(store, "tenant.create", name, name)
        return tenant


def list() -> tuple[Tenant, ...]:  # noqa: A001 - the verb's name
    with keyring() as (keys, _home, _store):
        return tuple(keys.tenants())
