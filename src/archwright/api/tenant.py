"""Tenants: `tenant create`, `tenant list`, `tenant limit`."""

from __future__ import annotations

from archwright.access.tables import Tenant, scope_name
from archwright.api.context import audited, keyring
from archwright.contract.record import Record
from archwright.policy.limits import Limits, Period


class ShownTenant(Record):
    name: str
    created_at: float
    rpm: int | None
    tpm: int | None
    budget_usd: float | None
    period: Period


def create(name: str) -> Tenant:
    """Make a tenant; UsageError AW-USE-31 when it exists."""
    with keyring() as (keys, _home, store):
        tenant = keys.create_tenant(name)
        audited(store, "tenant.create", name, name)
        return tenant


def limit(name: str, *, limits: Limits = Limits()) -> ShownTenant:  # noqa: B008 - frozen
    """Set all limits of a tenant, over all its keys; in force in every worker within a second."""
    with keyring() as (keys, _home, store):
        keys.limit("tenant", name, "", limits)
        audited(store, "tenant.limit", name, name)
        return next(_shown(tenant, limits) for tenant in keys.tenants() if tenant.name == name)


def list() -> tuple[ShownTenant, ...]:  # noqa: A001 - the verb's name
    with keyring() as (keys, _home, _store):
        known = keys.limits()
        return tuple(_shown(one, known.get(scope_name("tenant", one.name), Limits())) for one in keys.tenants())


def _shown(tenant: Tenant, limits: Limits) -> ShownTenant:
    return ShownTenant(
        name=tenant.name,
        created_at=tenant.created_at,
        rpm=limits.rpm,
        tpm=limits.tpm,
        budget_usd=limits.budget_usd,
        period=limits.period,
    )
