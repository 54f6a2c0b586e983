"""Tenants: `tenant create`, `tenant list`, `tenant limit`, `tenant content`."""

from __future__ import annotations

from archwright.access.api_keys import KeyStore
from archwright.access.tables import Tenant, format_scope_name
from archwright.api.context import acting, keyring
from archwright.contract.record import Record
from archwright.policy.usage_limits import BudgetPeriod, UsageLimits


class ShownTenant(Record):
    name: str
    created_at: float
    rpm: int | None
    tpm: int | None
    budget_usd: float | None
    period: BudgetPeriod
    content_traced: bool


def create(name: str) -> Tenant:
    """Make a tenant; UsageError AW-USE-31 when it exists."""
    with acting() as (keys, record_act):
        tenant = keys.create_tenant(name)
        record_act("tenant.create", name, name)
        return tenant


def limit(name: str, *, limits: UsageLimits = UsageLimits()) -> ShownTenant:  # noqa: B008 - frozen
    """Set all limits of a tenant, over all its keys; in force in every worker within a second."""
    with acting() as (keys, record_act):
        keys.limit("tenant", name, "", limits)
        record_act("tenant.limit", name, name)
        return _one(keys, name)


def content(name: str, *, traced: bool = False) -> ShownTenant:
    """Have what a tenant's requests say go along with their traces, or no longer; in force in every worker within a
    second."""
    with acting() as (keys, record_act):
        keys.trace_content(name, traced)
        record_act("content.trace" if traced else "content.keep", name, name)
        return _one(keys, name)


def list() -> tuple[ShownTenant, ...]:  # noqa: A001 - the verb's name
    with keyring() as (keys, _home, _store):
        known = keys.limits()
        return tuple(_shown(keys, one, known) for one in keys.tenants())


def _one(keys: KeyStore, name: str) -> ShownTenant:
    known = keys.limits()
    return next(_shown(keys, tenant, known) for tenant in keys.tenants() if tenant.name == name)


def _shown(keys: KeyStore, tenant: Tenant, known: dict[str, UsageLimits]) -> ShownTenant:
    limits = known.get(format_scope_name("tenant", tenant.name), UsageLimits())
    return ShownTenant(
        name=tenant.name,
        created_at=tenant.created_at,
        rpm=limits.rpm,
        tpm=limits.tpm,
        budget_usd=limits.budget_usd,
        period=limits.period,
        content_traced=keys.content_traced(tenant.name),
    )
