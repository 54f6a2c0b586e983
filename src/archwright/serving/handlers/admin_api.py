"""Keys, tenants, users, limits, usage and the audit trail over HTTP, on a listener of their own.

An object out of scope looks as if it did not exist; nobody creates, or gets the secret of, a key with more rights than
his own; a tenant's administrator cannot change the tenant's limits. Every action is recorded, also a refused one. The
store may be slow, so the work is done in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import msgspec

from archwright.access.api_keys import KeyRecord, KeyStore
from archwright.access.audit_log import read_entries
from archwright.access.key_views import KeyView, NewKey, build_key_view, build_new_key
from archwright.access.permissions import get_tenant_scope, may_grant
from archwright.access.tables import format_scope_name
from archwright.contract.record import Record, as_dict
from archwright.errors import UsageError
from archwright.monitor.usage import read_usage
from archwright.policy.usage_limits import BudgetPeriod, UsageLimits
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.handlers.request_handler import HttpReply, json_reply
from archwright.serving.http.errors import ApiError, bad_request
from archwright.serving.http.http_request import HttpRequest

R = TypeVar("R", bound=Record)
T = TypeVar("T")
DAY_S, HOUR_S = 86_400, 3_600
AUDIT_ROWS = 200
_NAME_TAKEN = "AW-USE-31"


class TenantCreation(Record):
    name: str


class KeyCreation(Record):
    user: str = ""
    role: str = "member"
    name: str = ""
    expires_in_days: float | None = None
    rpm: int | None = None
    tpm: int | None = None
    budget_usd: float | None = None
    period: BudgetPeriod = "total"


class KeyRotation(Record):
    overlap_hours: float = 24.0


class ContentTracing(Record):
    """`traced`: traces include prompts and responses."""

    traced: bool


class UserLimits(UsageLimits):
    """Limits in force for a user or tenant."""

    tenant: str
    user: str = ""


class TenantLimits(UserLimits):
    content_traced: bool = False


async def list_tenants(gateway: GatewayContext, request: HttpRequest, _name: str) -> HttpReply:
    def act(keys: KeyStore) -> object:
        known = keys.read_limits()
        return {"data": [_describe_tenant(keys, one.name, known) for one in keys.list_tenants()]}

    return await _run_action(gateway, request, act)


async def create_tenant(gateway: GatewayContext, request: HttpRequest, _name: str) -> HttpReply:
    name = _decode_body(request, TenantCreation).name

    def act(keys: KeyStore) -> object:
        keys.create_tenant(name)
        return _describe_tenant(keys, name, {})

    return await _run_action(gateway, request, act, done=lambda _: ("tenant.create", name, name))


async def get_tenant(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    return await _run_action(gateway, request, lambda keys: _describe_tenant(keys, name, keys.read_limits()), name)


async def set_tenant_limits(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    wanted = _decode_body(request, UsageLimits)

    def act(keys: KeyStore) -> object:
        keys.set_limits("tenant", name, "", wanted)
        return _describe_tenant(keys, name, {format_scope_name("tenant", name): wanted})

    return await _run_action(gateway, request, act, name, lambda _: ("tenant.limit", name, name))


async def set_content_tracing(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    traced = _decode_body(request, ContentTracing).traced

    def act(keys: KeyStore) -> object:
        keys.set_content_tracing(name, traced)
        return _describe_tenant(keys, name, keys.read_limits())

    action = "content.trace" if traced else "content.keep"
    return await _run_action(gateway, request, act, name, lambda _: (action, name, name))


async def list_tenant_keys(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    def act(keys: KeyStore) -> object:
        known, used = keys.read_limits(), keys.last_used()
        return {"data": [build_key_view(keys, record, known, used) for record in keys.list(name)]}

    return await _run_action(gateway, request, act, name)


async def create_key(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    wanted = _decode_body(request, KeyCreation)
    limits = UsageLimits(rpm=wanted.rpm, tpm=wanted.tpm, budget_usd=wanted.budget_usd, period=wanted.period)
    lives_s = None if wanted.expires_in_days is None else wanted.expires_in_days * DAY_S

    def act(keys: KeyStore) -> NewKey:
        _require_grant(gateway, request, name, wanted.role, "key.create")
        return build_new_key(*keys.create(name, wanted.role, wanted.name, wanted.user, limits, lives_s))

    return await _run_action(gateway, request, act, name, lambda made: ("key.create", made.id, name))


async def list_tenant_users(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    def act(keys: KeyStore) -> object:
        known, prefix = keys.read_limits(), format_scope_name("user", name, "")
        users = {key.user for key in keys.list(name) if key.user}
        users |= {one.removeprefix(prefix) for one in known if one.startswith(prefix)}
        return {"data": [_describe_user(name, user, known) for user in sorted(users)]}

    return await _run_action(gateway, request, act, name)


async def set_user_limits(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    owner, _, user = name.partition("/")
    wanted = _decode_body(request, UsageLimits)

    def act(keys: KeyStore) -> object:
        keys.set_limits("user", owner, user, wanted)
        return _describe_user(owner, user, {format_scope_name("user", owner, user): wanted})

    return await _run_action(gateway, request, act, owner, lambda _: ("user.limit", user, owner))


async def get_tenant_usage(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    gateway.flush()

    def act(_keys: KeyStore) -> object:
        return {"data": read_usage(gateway.store, gateway.home, name, "key,user,model,day")}

    return await _run_action(gateway, request, act, name)


async def get_tenant_audit(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    def act(_keys: KeyStore) -> object:
        return {"data": read_entries(gateway.store, gateway.home, tenant=name, limit=AUDIT_ROWS)}

    return await _run_action(gateway, request, act, name)


async def get_key(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    return await _run_action(gateway, request, lambda keys: _describe_key(keys, _require_key(gateway, request, name)))


async def set_key_limits(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    wanted = _decode_body(request, UsageLimits)

    def change(keys: KeyStore, record: KeyRecord) -> KeyView:
        keys.set_limits("key", "", record.id, wanted)
        return _describe_key(keys, record)

    return await _change_key(gateway, request, name, "key.limit", change)


async def rotate_key(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    overlap_s = _decode_body(request, KeyRotation).overlap_hours * HOUR_S

    def change(keys: KeyStore, record: KeyRecord) -> NewKey:
        return build_new_key(*keys.rotate(record.id, overlap_s))

    return await _change_key(gateway, request, name, "key.rotate", change)


async def revoke_key(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    def change(keys: KeyStore, record: KeyRecord) -> KeyView:
        return _describe_key(keys, keys.revoke(record.id))

    return await _change_key(gateway, request, name, "key.revoke", change)


async def _change_key(
    gateway: GatewayContext,
    request: HttpRequest,
    name: str,
    action: str,
    change: Callable[[KeyStore, KeyRecord], KeyView | NewKey],
) -> HttpReply:
    """Change a key that the principal could also create."""

    def act(keys: KeyStore) -> KeyView | NewKey:
        record = _require_key(gateway, request, name)
        _require_grant(gateway, request, record.tenant, record.role, action)
        return change(keys, record)

    return await _run_action(gateway, request, act, done=lambda view: (action, name, view.tenant))


async def _run_action(
    gateway: GatewayContext,
    request: HttpRequest,
    act: Callable[[KeyStore], T],
    tenant: str | None = None,
    done: Callable[[T], tuple[str, str, str]] | None = None,
) -> HttpReply:
    """Run `act` in a thread if `tenant` is visible, record `done` (action, resource, tenant) and reply."""

    def run() -> T:
        if tenant is not None:
            _require_tenant(gateway, request, tenant)
        return act(gateway.accounting.keys)

    try:
        found = await asyncio.to_thread(run)
    except UsageError as error:
        status = HTTPStatus.CONFLICT if error.code == _NAME_TAKEN else HTTPStatus.BAD_REQUEST
        raise ApiError(status, error.message, error.code) from error
    if done is not None:
        gateway.authorizer.record_action(request, *done(found))
    return json_reply(found)


def _require_scope(gateway: GatewayContext, request: HttpRequest, what: str, name: str, tenant: str) -> None:
    """Raises ApiError 404, and records the attempt, for an object of a tenant out of the principal's scope."""
    principal = request.principal
    if get_tenant_scope(principal) not in (None, tenant):
        gateway.authorizer.record_action(request, f"{what}.see", name, principal.tenant, "not in his scope")
        raise _not_found_error(what)


def _require_tenant(gateway: GatewayContext, request: HttpRequest, name: str) -> None:
    """Raises ApiError 404 for a tenant that does not exist or is out of scope."""
    _require_scope(gateway, request, "tenant", name, name)
    if all(one.name != name for one in gateway.accounting.keys.list_tenants()):
        raise _not_found_error("tenant")


def _require_key(gateway: GatewayContext, request: HttpRequest, name: str) -> KeyRecord:
    """Raises ApiError 404 for a key that does not exist or is out of scope."""
    record = gateway.accounting.keys.find_record(name)
    if record is None:
        raise _not_found_error("key")
    _require_scope(gateway, request, "key", name, record.tenant)
    return record


def _require_grant(gateway: GatewayContext, request: HttpRequest, owner: str, role: str, action: str) -> None:
    """Raises ApiError 403 for a key with more rights than the principal's own."""
    if not may_grant(request.principal, owner, role):
        gateway.authorizer.record_action(request, action, role, owner, "more than his own role")
        message = f"your key may not make or change a key of the role {role[:40]!r}"
        raise ApiError(HTTPStatus.FORBIDDEN, message, "insufficient_permissions", param="role")


def _not_found_error(what: str) -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, f"there is no such {what}", "not_found")


def _describe_key(keys: KeyStore, record: KeyRecord) -> KeyView:
    return build_key_view(keys, record, keys.read_limits(), keys.last_used())


def _describe_user(owner: str, user: str, known: dict[str, UsageLimits]) -> UserLimits:
    limits = known.get(format_scope_name("user", owner, user), UsageLimits())
    return UserLimits(tenant=owner, user=user, **as_dict(limits))


def _describe_tenant(keys: KeyStore, name: str, known: dict[str, UsageLimits]) -> TenantLimits:
    limits = known.get(format_scope_name("tenant", name), UsageLimits())
    return TenantLimits(tenant=name, content_traced=keys.is_content_traced(name), **as_dict(limits))


def _decode_body(request: HttpRequest, kind: type[R]) -> R:
    """An empty body is allowed except for PUT, where it would remove all limits."""
    try:
        return msgspec.json.decode(request.body or (b"" if request.head.method == "PUT" else b"{}"), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"the body is not as it should be: {error}") from None
