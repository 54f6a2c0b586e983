"""Permissions as words, roles as sets of them, and the one decision point.

Every route and verb names one permission; a role is what a key carries. A key acts inside its own tenant; only
`tenants.manage` (the operator of the platform) reaches across tenants.
"""

from __future__ import annotations

from archwright.access.api_keys import Principal

PERMISSIONS: dict[str, str] = {
    "inference.invoke": "ask a model: chat, completion, embedding, prediction",
    "models.read": "list models",
    "metrics.read": "read metrics and measurements",
    "usage.read": "read the tenant's own usage",
    "plan.read": "read the running plan and its reconciliation",
    "keys.manage": "create, list and revoke keys of the own tenant",
    "content.manage": "decide whether what the tenant's requests say goes along with their traces",
    "audit.read": "read and verify the audit log",
    "platform.operate": "bring the platform up and down, drive load at it",
    "tenants.manage": "create tenants and act for any of them",
}

ROLES: dict[str, frozenset[str]] = {
    "owner": frozenset(PERMISSIONS),
    "admin": frozenset(PERMISSIONS) - {"tenants.manage", "platform.operate"},
    "member": frozenset({"inference.invoke", "models.read", "usage.read"}),
    "monitor": frozenset({"metrics.read"}),
}

_NO_PERMISSIONS: frozenset[str] = frozenset()


def is_allowed(principal: Principal, permission: str) -> bool:
    """Default deny: an unknown role or permission is refused."""
    return permission in ROLES.get(principal.role, _NO_PERMISSIONS)


def get_tenant_scope(principal: Principal) -> str | None:
    """The tenant whose objects the principal may see; None is every tenant."""
    return None if is_allowed(principal, "tenants.manage") else principal.tenant


def may_grant(principal: Principal, tenant: str, role: str) -> bool:
    """True if the principal may make such a key: nobody reaches another tenant or grants more than they have."""
    if role not in ROLES or get_tenant_scope(principal) not in (None, tenant):
        return False
    return is_allowed(principal, "keys.manage") and ROLES[role] <= ROLES[principal.role]
