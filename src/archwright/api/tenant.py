"""Tenants: `tenant create`, `tenant list`, `tenant limit`, `tenant content`."""

from archwright.access.api_keys import KeyStore
from archwright.access.tables import Tenant, format_scope_name
from archwright.api.context import audit_read, open_audited_keys, open_keys
from archwright.contract.record import Record, as_dict
from archwright.policy.usage_limits import BudgetPeriod, UsageLimits


class TenantView(Record):
    name: str
    created_at: float
    rpm: int | None
    tpm: int | None
    budget_usd: float | None
    period: BudgetPeriod
    parallel: int | None
    content_traced: bool


def create(name: str) -> Tenant:
    """Create a tenant. Raises UsageError AW-USE-31 if it exists."""
    with open_audited_keys() as (keys, record_act):
        tenant = keys.create_tenant(name)
        record_act("tenant.create", name, name)
        return tenant


def limit(name: str, *, limits: UsageLimits = UsageLimits()) -> TenantView:  # noqa: B008 - frozen
    """Set all limits of a tenant over all its keys. Every worker applies them within a second."""
    with open_audited_keys() as (keys, record_act):
        keys.set_limits("tenant", name, "", limits=limits)
        record_act("tenant.limit", name, name)
        return _find_view(keys, name)


def content(name: str, *, traced: bool = False) -> TenantView:
    """Include a tenant's prompts and responses in its traces, or stop. Every worker applies it within a second."""
    with open_audited_keys() as (keys, record_act):
        keys.set_content_tracing(name, traced)
        record_act("content.trace" if traced else "content.keep", name, name)
        return _find_view(keys, name)


@audit_read("tenant.list")
def list() -> tuple[TenantView, ...]:  # noqa: A001 - the verb's name
    with open_keys() as (keys, _home, _store):
        known = keys.read_limits()
        return tuple(_build_view(keys, one, known) for one in keys.list_tenants())


def _find_view(keys: KeyStore, name: str) -> TenantView:
    tenant = next(tenant for tenant in keys.list_tenants() if tenant.name == name)
    return _build_view(keys, tenant, keys.read_limits())


def _build_view(keys: KeyStore, tenant: Tenant, known: dict[str, UsageLimits]) -> TenantView:
    limits = known.get(format_scope_name("tenant", tenant.name), UsageLimits())
    traced = keys.is_content_traced(tenant.name)
    return TenantView(name=tenant.name, created_at=tenant.created_at, **as_dict(limits), content_traced=traced)
