"""Keys, tenants, users, limits, usage and the audit trail over HTTP, on a listener of their own.

Decides that whoever may not see an object is told what he would be told if it did not exist; that nobody makes, or
gets the secret of, a key that may more than his own; and that a tenant's own administrator cannot lift the tenant's
limits. Every act is written down with what it was done to, those refused here too. The store may take its time, so
the work is done beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

import msgspec

from archwright.access import audit_log
from archwright.access.api_keys import KeyRecord, KeyStore, Principal
from archwright.access.key_views import KeyView, build_key_view, build_new_key
from archwright.access.permissions import get_tenant_scope, may_grant
from archwright.access.tables import format_scope_name
from archwright.contract.record import Record
from archwright.errors import UsageError
from archwright.monitor.usage import read_usage
from archwright.policy.usage_limits import BudgetPeriod, UsageLimits
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.http.errors import ApiError, bad_request
from archwright.serving.http.http_exchange import JSON_CONTENT_TYPE, HttpExchange

R = TypeVar("R", bound=Record)
DAY_S, HOUR_S = 86_400, 3_600
AUDIT_ROWS = 200
_NAME_TAKEN = "AW-USE-31"


class AdminAction(NamedTuple):
    """What was done to what, in whose tenant."""

    action: str
    resource: str
    tenant: str


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
    """Whether what is said goes along with traces."""

    traced: bool


class UserLimits(UsageLimits):
    """Limits in force, of what they are."""

    tenant: str
    user: str = ""


class TenantLimits(UserLimits):
    content_traced: bool = False


async def list_tenants(gateway: GatewayContext, exchange: HttpExchange, _name: str) -> None:
    keys = gateway.till.keys

    def act() -> object:
        known = keys.read_limits()
        return {"data": [_describe_tenant(keys, one.name, known) for one in keys.list_tenants()]}

    await _run_and_reply(gateway, exchange, act)


async def create_tenant(gateway: GatewayContext, exchange: HttpExchange, _name: str) -> None:
    wanted = _decode_body(exchange, TenantCreation)

    def act() -> object:
        gateway.till.keys.create_tenant(wanted.name)
        return _describe_tenant(gateway.till.keys, wanted.name, {})

    await _run_and_reply(gateway, exchange, act, lambda: AdminAction("tenant.create", wanted.name, wanted.name))


async def get_tenant(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    def act() -> object:
        _require_tenant(gateway, exchange, name)
        return _describe_tenant(gateway.till.keys, name, gateway.till.keys.read_limits())

    await _run_and_reply(gateway, exchange, act)


async def set_tenant_limits(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    wanted = _decode_body(exchange, UsageLimits)

    def act() -> object:
        _require_tenant(gateway, exchange, name)
        gateway.till.keys.set_limits("tenant", name, "", wanted)
        return _describe_tenant(gateway.till.keys, name, {format_scope_name("tenant", name): wanted})

    await _run_and_reply(gateway, exchange, act, lambda: AdminAction("tenant.limit", name, name))


async def set_content_tracing(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    wanted = _decode_body(exchange, ContentTracing)

    def act() -> object:
        _require_tenant(gateway, exchange, name)
        gateway.till.keys.set_content_tracing(name, wanted.traced)
        return _describe_tenant(gateway.till.keys, name, gateway.till.keys.read_limits())

    await _run_and_reply(
        gateway, exchange, act, lambda: AdminAction(f"content.{'trace' if wanted.traced else 'keep'}", name, name)
    )


async def list_tenant_keys(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    keys = gateway.till.keys

    def act() -> object:
        _require_tenant(gateway, exchange, name)
        known, used = keys.read_limits(), keys.last_used()
        return {"data": [build_key_view(keys, record, known, used) for record in keys.list(name)]}

    await _run_and_reply(gateway, exchange, act)


async def create_key(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    wanted = _decode_body(exchange, KeyCreation)
    limits = UsageLimits(rpm=wanted.rpm, tpm=wanted.tpm, budget_usd=wanted.budget_usd, period=wanted.period)
    lives_s = None if wanted.expires_in_days is None else wanted.expires_in_days * DAY_S
    made: list[KeyRecord] = []

    def act() -> object:
        _require_tenant(gateway, exchange, name)
        _require_grant(gateway, exchange, name, wanted.role, "key.create")
        secret, record = gateway.till.keys.create(name, wanted.role, wanted.name, wanted.user, limits, lives_s)
        made.append(record)
        return build_new_key(secret, record)

    await _run_and_reply(gateway, exchange, act, lambda: AdminAction("key.create", made[0].id, name))


async def list_tenant_users(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    keys = gateway.till.keys

    def act() -> object:
        _require_tenant(gateway, exchange, name)
        known, prefix = keys.read_limits(), format_scope_name("user", name, "")
        users = {key.user for key in keys.list(name) if key.user}
        users |= {one.removeprefix(prefix) for one in known if one.startswith(prefix)}
        return {"data": [_describe_user(name, user, known) for user in sorted(users)]}

    await _run_and_reply(gateway, exchange, act)


async def set_user_limits(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    owner, _, user = name.partition("/")
    wanted = _decode_body(exchange, UsageLimits)

    def act() -> object:
        _require_tenant(gateway, exchange, owner)
        gateway.till.keys.set_limits("user", owner, user, wanted)
        return _describe_user(owner, user, {format_scope_name("user", owner, user): wanted})

    await _run_and_reply(gateway, exchange, act, lambda: AdminAction("user.limit", user, owner))


async def get_tenant_usage(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    gateway.flush()

    def act() -> object:
        _require_tenant(gateway, exchange, name)
        return {"data": read_usage(gateway.store, gateway.home, name, "key,user,model,day")}

    await _run_and_reply(gateway, exchange, act)


async def get_tenant_audit(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    """The newest entries of the tenant."""

    def act() -> object:
        _require_tenant(gateway, exchange, name)
        return {"data": audit_log.read_entries(gateway.store, gateway.home, tenant=name, limit=AUDIT_ROWS)}

    await _run_and_reply(gateway, exchange, act)


async def get_key(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    await _run_and_reply(gateway, exchange, lambda: _describe_key(gateway, _require_key(gateway, exchange, name)))


async def set_key_limits(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    wanted = _decode_body(exchange, UsageLimits)

    def change(keys: KeyStore, record: KeyRecord) -> object:
        keys.set_limits("key", "", record.id, wanted)
        return _describe_key(gateway, record)

    await _change_key(gateway, exchange, name, "key.limit", change)


async def rotate_key(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    wanted = _decode_body(exchange, KeyRotation)
    await _change_key(
        gateway,
        exchange,
        name,
        "key.rotate",
        lambda keys, record: build_new_key(*keys.rotate(record.id, wanted.overlap_hours * HOUR_S)),
    )


async def revoke_key(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    await _change_key(
        gateway, exchange, name, "key.revoke", lambda keys, record: _describe_key(gateway, keys.revoke(record.id))
    )


async def _change_key(
    gateway: GatewayContext,
    exchange: HttpExchange,
    name: str,
    action: str,
    change: Callable[[KeyStore, KeyRecord], object],
) -> None:
    """An act on a key, by who may have one like it."""
    of: list[str] = []

    def act() -> object:
        record = _require_key(gateway, exchange, name)
        of.append(record.tenant)
        _require_grant(gateway, exchange, record.tenant, record.role, action)
        return change(gateway.till.keys, record)

    await _run_and_reply(gateway, exchange, act, lambda: AdminAction(action, name, of[0]))


async def _run_and_reply(
    gateway: GatewayContext,
    exchange: HttpExchange,
    act: Callable[[], object],
    done: Callable[[], AdminAction] | None = None,
) -> None:
    """Do it beside the event loop, write down what was `done`, and say so."""
    try:
        found = await asyncio.to_thread(act)
    except UsageError as error:
        status = HTTPStatus.CONFLICT if error.code == _NAME_TAKEN else HTTPStatus.BAD_REQUEST
        raise ApiError(status, error.message, openai_code=error.code) from error
    if done is not None:
        gateway.guard.record_action(exchange, *done())
    exchange.reply(HTTPStatus.OK, msgspec.json.encode(found), JSON_CONTENT_TYPE)


def _require_principal(exchange: HttpExchange) -> Principal:
    assert exchange.principal is not None, "let in without a principal"
    return exchange.principal


def _require_tenant(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    """Raises Refusal 404 for a tenant that is not there, or not his to see."""
    seen = get_tenant_scope(_require_principal(exchange))
    if seen not in (None, name):
        gateway.guard.record_action(
            exchange, "tenant.see", name, _require_principal(exchange).tenant, "not in his scope"
        )
        raise _not_found_error("tenant")
    if all(one.name != name for one in gateway.till.keys.list_tenants()):
        raise _not_found_error("tenant")


def _require_key(gateway: GatewayContext, exchange: HttpExchange, name: str) -> KeyRecord:
    """Raises Refusal 404 for a key that is not there, or not his to see."""
    seen = get_tenant_scope(_require_principal(exchange))
    record = gateway.till.keys.find_record(name)
    if record is None:
        raise _not_found_error("key")
    if seen not in (None, record.tenant):
        gateway.guard.record_action(exchange, "key.see", name, _require_principal(exchange).tenant, "not in his scope")
        raise _not_found_error("key")
    return record


def _require_grant(gateway: GatewayContext, exchange: HttpExchange, owner: str, role: str, action: str) -> None:
    """Raises Refusal 403 for a key that would let him do more than his own does."""
    if not may_grant(_require_principal(exchange), owner, role):
        gateway.guard.record_action(exchange, action, role, owner, "more than his own role")
        message = f"your key may not make or change a key of the role {role[:40]!r}"
        raise ApiError(HTTPStatus.FORBIDDEN, message, openai_code="insufficient_permissions", param="role")


def _not_found_error(what: str) -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, f"there is no such {what}", openai_code="not_found")


def _describe_key(gateway: GatewayContext, record: KeyRecord) -> KeyView:
    keys = gateway.till.keys
    return build_key_view(keys, record, keys.read_limits(), keys.last_used())


def _describe_user(owner: str, user: str, known: dict[str, UsageLimits]) -> UserLimits:
    return UserLimits(
        tenant=owner, user=user, **_limit_fields(known.get(format_scope_name("user", owner, user), UsageLimits()))
    )


def _describe_tenant(keys: KeyStore, name: str, known: dict[str, UsageLimits]) -> TenantLimits:
    limits = _limit_fields(known.get(format_scope_name("tenant", name), UsageLimits()))
    return TenantLimits(tenant=name, content_traced=keys.is_content_traced(name), **limits)


def _limit_fields(limits: UsageLimits) -> dict[str, Any]:
    return {"rpm": limits.rpm, "tpm": limits.tpm, "budget_usd": limits.budget_usd, "period": limits.period}


def _decode_body(exchange: HttpExchange, kind: type[R]) -> R:
    """Only what is made needs no words: limits that were forgotten would be none."""
    try:
        return msgspec.json.decode(exchange.body or (b"" if exchange.method == "PUT" else b"{}"), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"the body is not as it should be: {error}") from None
