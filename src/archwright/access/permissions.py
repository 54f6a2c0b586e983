"""Permissions, roles as sets of permissions, and the authorisation decision.

Every route and verb requires one permission. A key has one role and acts within its own tenant;
only `tenants.manage` (the platform operator) permits access to other tenants.
"""

from archwright.access.api_keys import Principal

PERMISSIONS: dict[str, str] = {
    "inference.invoke": "call a model: chat, completion, embedding, prediction",
    "models.read": "list models",
    "metrics.read": "read metrics and measurements",
    "usage.read": "read the tenant's own usage",
    "data.read": "list the data sets that the tenant may read",
    "plan.read": "read the running plan and its reconciliation",
    "keys.manage": "create, list and revoke keys of the tenant",
    "content.manage": "include the tenant's prompts and responses in its traces, or stop doing so",
    "audit.read": "read and verify the audit log",
    "platform.operate": "start and stop the platform, send load to it",
    "tenants.manage": "create tenants and act for any tenant",
}

ROLES: dict[str, frozenset[str]] = {
    "owner": frozenset(PERMISSIONS),
    "admin": frozenset(PERMISSIONS) - {"tenants.manage", "platform.operate"},
    "member": frozenset({"inference.invoke", "models.read", "data.read", "usage.read"}),
    "monitor": frozenset({"metrics.read"}),
}

_NO_PERMISSIONS: frozenset[str] = frozenset()


def is_allowed(principal: Principal, permission: str) -> bool:
    """True if the principal's role has the permission; an unknown role or permission is denied."""
    return permission in ROLES.get(principal.role, _NO_PERMISSIONS)


def get_tenant_scope(principal: Principal) -> str | None:
    """Return the tenant whose objects the principal may access; None: every tenant."""
    if is_allowed(principal, "tenants.manage"):
        return None
    return principal.tenant


def may_grant(principal: Principal, tenant: str, role: str) -> bool:
    """True if the principal may create such a key.

    The tenant must be accessible, and the role has no permission that the principal lacks.
    """
    if role not in ROLES or get_tenant_scope(principal) not in (None, tenant):
        return False
    return is_allowed(principal, "keys.manage") and ROLES[role] <= ROLES[principal.role]
