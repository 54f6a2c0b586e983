"""Default deny, roles as sets of permissions, and grants limited to the granter's permissions."""

from __future__ import annotations

import pytest

from archwright.access.api_keys import ROLE_NAMES, Principal
from archwright.access.permissions import PERMISSIONS, ROLES, get_tenant_scope, is_allowed, may_grant


def principal(role: str) -> Principal:
    return Principal(key_id="k", tenant="clinic", role=role)


def test_roles_and_permissions_fit_together() -> None:
    assert tuple(ROLES) == ROLE_NAMES
    for granted in ROLES.values():
        assert granted <= set(PERMISSIONS)
    assert all("." in name and text for name, text in PERMISSIONS.items())
    assert ROLES["monitor"] == {"metrics.read"}
    assert ROLES["owner"] > ROLES["admin"] > ROLES["member"]


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_allowed_exactly_what_the_role_holds(role: str) -> None:
    assert {name for name in PERMISSIONS if is_allowed(principal(role), name)} == ROLES[role]


def test_what_nobody_knows_is_denied() -> None:
    assert not is_allowed(principal("owner"), "models.delete")
    assert not is_allowed(principal("root"), "models.read")
    assert not is_allowed(principal(""), "")


def test_only_the_operator_reaches_across_tenants() -> None:
    assert get_tenant_scope(principal("owner")) is None
    assert [get_tenant_scope(principal(role)) for role in ("admin", "member", "monitor", "root")] == ["clinic"] * 4


@pytest.mark.parametrize(
    ("role", "grants"),
    [("owner", set(ROLE_NAMES)), ("admin", {"admin", "member", "monitor"}), ("member", set()), ("monitor", set())],
)
def test_nobody_grants_more_than_he_has(role: str, grants: set[str]) -> None:
    assert {name for name in (*ROLE_NAMES, "root") if may_grant(principal(role), "clinic", name)} == grants
    elsewhere = {name for name in ROLE_NAMES if may_grant(principal(role), "bank", name)}
    assert elsewhere == (grants if role == "owner" else set())
