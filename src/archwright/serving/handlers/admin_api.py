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
from archwright.access.api_keys import KeyRecord, Keys, Principal
from archwright.access.key_views import ShownKey, new_key, shown_key
from archwright.access.permissions import may_grant, scope
from archwright.access.tables import scope_name
from archwright.contract.record import Record
from archwright.errors import UsageError
from archwright.monitor.usage import usage_of
from archwright.policy.usage_limits import Limits, Period
from archwright.serving.handlers.gateway_context import Gateway
from archwright.serving.http.errors import Refusal, bad
from archwright.serving.http.http_exchange import JSON, Exchange

R = TypeVar("R", bound=Record)
DAY_S, HOUR_S = 86_400, 3_600
AUDIT_ROWS = 200
_TAKEN = "AW-USE-31"


class Act(NamedTuple):
    """What was done to what, in whose tenant."""

    action: str
    resource: str
    tenant: str


class NewTenant(Record):
    name: str


class WantedKey(Record):
    user: str = ""
    role: str = "member"
    name: str = ""
    expires_in_days: float | None = None
    rpm: int | None = None
    tpm: int | None = None
    budget_usd: float | None = None
    period: Period = "total"


class Overlap(Record):
    overlap_hours: float = 24.0


class Contents(Record):
    """Whether what is said goes along with traces."""

    traced: bool


class Limited(Limits):
    """Limits in force, of what they are."""

    tenant: str
    user: str = ""


class LimitedTenant(Limited):
    content_traced: bool = False


async def tenants(gateway: Gateway, exchange: Exchange, _name: str) -> None:
    keys = gateway.till.keys

    def act() -> object:
        known = keys.limits()
        return {"data": [_tenant(keys, one.name, known) for one in keys.tenants()]}

    await _answer(gateway, exchange, act)


async def tenant_create(gateway: Gateway, exchange: Exchange, _name: str) -> None:
    wanted = _body(exchange, NewTenant)

    def act() -> object:
        gateway.till.keys.create_tenant(wanted.name)
        return _tenant(gateway.till.keys, wanted.name, {})

    await _answer(gateway, exchange, act, lambda: Act("tenant.create", wanted.name, wanted.name))


async def tenant(gateway: Gateway, exchange: Exchange, name: str) -> None:
    def act() -> object:
        _in_scope(gateway, exchange, name)
        return _tenant(gateway.till.keys, name, gateway.till.keys.limits())

    await _answer(gateway, exchange, act)


async def tenant_limits(gateway: Gateway, exchange: Exchange, name: str) -> None:
    wanted = _body(exchange, Limits)

    def act() -> object:
        _in_scope(gateway, exchange, name)
        gateway.till.keys.limit("tenant", name, "", wanted)
        return _tenant(gateway.till.keys, name, {scope_name("tenant", name): wanted})

    await _answer(gateway, exchange, act, lambda: Act("tenant.limit", name, name))


async def tenant_content(gateway: Gateway, exchange: Exchange, name: str) -> None:
    wanted = _body(exchange, Contents)

    def act() -> object:
        _in_scope(gateway, exchange, name)
        gateway.till.keys.trace_content(name, wanted.traced)
        return _tenant(gateway.till.keys, name, gateway.till.keys.limits())

    await _answer(gateway, exchange, act, lambda: Act(f"content.{'trace' if wanted.traced else 'keep'}", name, name))


async def tenant_keys(gateway: Gateway, exchange: Exchange, name: str) -> None:
    keys = gateway.till.keys

    def act() -> object:
        _in_scope(gateway, exchange, name)
        known, used = keys.limits(), keys.last_used()
        return {"data": [shown_key(keys, record, known, used) for record in keys.list(name)]}

    await _answer(gateway, exchange, act)


async def key_create(gateway: Gateway, exchange: Exchange, name: str) -> None:
    wanted = _body(exchange, WantedKey)
    limits = Limits(rpm=wanted.rpm, tpm=wanted.tpm, budget_usd=wanted.budget_usd, period=wanted.period)
    lives_s = None if wanted.expires_in_days is None else wanted.expires_in_days * DAY_S
    made: list[KeyRecord] = []

    def act() -> object:
        _in_scope(gateway, exchange, name)
        _may_have(gateway, exchange, name, wanted.role, "key.create")
        secret, record = gateway.till.keys.create(name, wanted.role, wanted.name, wanted.user, limits, lives_s)
        made.append(record)
        return new_key(secret, record)

    await _answer(gateway, exchange, act, lambda: Act("key.create", made[0].id, name))


async def tenant_users(gateway: Gateway, exchange: Exchange, name: str) -> None:
    keys = gateway.till.keys

    def act() -> object:
        _in_scope(gateway, exchange, name)
        known, prefix = keys.limits(), scope_name("user", name, "")
        users = {key.user for key in keys.list(name) if key.user}
        users |= {one.removeprefix(prefix) for one in known if one.startswith(prefix)}
        return {"data": [_limited(name, user, known) for user in sorted(users)]}

    await _answer(gateway, exchange, act)


async def user_limits(gateway: Gateway, exchange: Exchange, name: str) -> None:
    owner, _, user = name.partition("/")
    wanted = _body(exchange, Limits)

    def act() -> object:
        _in_scope(gateway, exchange, owner)
        gateway.till.keys.limit("user", owner, user, wanted)
        return _limited(owner, user, {scope_name("user", owner, user): wanted})

    await _answer(gateway, exchange, act, lambda: Act("user.limit", user, owner))


async def tenant_usage(gateway: Gateway, exchange: Exchange, name: str) -> None:
    gateway.flush()

    def act() -> object:
        _in_scope(gateway, exchange, name)
        return {"data": usage_of(gateway.store, gateway.home, name, "key,user,model,day")}

    await _answer(gateway, exchange, act)


async def tenant_audit(gateway: Gateway, exchange: Exchange, name: str) -> None:
    """The newest entries of the tenant."""

    def act() -> object:
        _in_scope(gateway, exchange, name)
        return {"data": audit_log.events(gateway.store, gateway.home, tenant=name, limit=AUDIT_ROWS)}

    await _answer(gateway, exchange, act)


async def key(gateway: Gateway, exchange: Exchange, name: str) -> None:
    await _answer(gateway, exchange, lambda: _shown(gateway, _key(gateway, exchange, name)))


async def key_limits(gateway: Gateway, exchange: Exchange, name: str) -> None:
    wanted = _body(exchange, Limits)

    def change(keys: Keys, record: KeyRecord) -> object:
        keys.limit("key", "", record.id, wanted)
        return _shown(gateway, record)

    await _change(gateway, exchange, name, "key.limit", change)


async def key_rotate(gateway: Gateway, exchange: Exchange, name: str) -> None:
    wanted = _body(exchange, Overlap)
    await _change(
        gateway,
        exchange,
        name,
        "key.rotate",
        lambda keys, record: new_key(*keys.rotate(record.id, wanted.overlap_hours * HOUR_S)),
    )


async def key_revoke(gateway: Gateway, exchange: Exchange, name: str) -> None:
    await _change(gateway, exchange, name, "key.revoke", lambda keys, record: _shown(gateway, keys.revoke(record.id)))


async def _change(
    gateway: Gateway, exchange: Exchange, name: str, action: str, change: Callable[[Keys, KeyRecord], object]
) -> None:
    """An act on a key, by who may have one like it."""
    of: list[str] = []

    def act() -> object:
        record = _key(gateway, exchange, name)
        of.append(record.tenant)
        _may_have(gateway, exchange, record.tenant, record.role, action)
        return change(gateway.till.keys, record)

    await _answer(gateway, exchange, act, lambda: Act(action, name, of[0]))


async def _answer(
    gateway: Gateway, exchange: Exchange, act: Callable[[], object], done: Callable[[], Act] | None = None
) -> None:
    """Do it beside the event loop, write down what was `done`, and say so."""
    try:
        found = await asyncio.to_thread(act)
    except UsageError as error:
        status = HTTPStatus.CONFLICT if error.code == _TAKEN else HTTPStatus.BAD_REQUEST
        raise Refusal(status, error.message, openai_code=error.code) from error
    if done is not None:
        gateway.guard.acted(exchange, *done())
    exchange.reply(HTTPStatus.OK, msgspec.json.encode(found), JSON)


def _principal(exchange: Exchange) -> Principal:
    assert exchange.principal is not None, "let in without a principal"
    return exchange.principal


def _in_scope(gateway: Gateway, exchange: Exchange, name: str) -> None:
    """Raises Refusal 404 for a tenant that is not there, or not his to see."""
    seen = scope(_principal(exchange))
    if seen not in (None, name):
        gateway.guard.acted(exchange, "tenant.see", name, _principal(exchange).tenant, "not in his scope")
        raise _absent("tenant")
    if all(one.name != name for one in gateway.till.keys.tenants()):
        raise _absent("tenant")


def _key(gateway: Gateway, exchange: Exchange, name: str) -> KeyRecord:
    """Raises Refusal 404 for a key that is not there, or not his to see."""
    seen = scope(_principal(exchange))
    record = gateway.till.keys.record(name)
    if record is None:
        raise _absent("key")
    if seen not in (None, record.tenant):
        gateway.guard.acted(exchange, "key.see", name, _principal(exchange).tenant, "not in his scope")
        raise _absent("key")
    return record


def _may_have(gateway: Gateway, exchange: Exchange, owner: str, role: str, action: str) -> None:
    """Raises Refusal 403 for a key that would let him do more than his own does."""
    if not may_grant(_principal(exchange), owner, role):
        gateway.guard.acted(exchange, action, role, owner, "more than his own role")
        message = f"your key may not make or change a key of the role {role[:40]!r}"
        raise Refusal(HTTPStatus.FORBIDDEN, message, openai_code="insufficient_permissions", param="role")


def _absent(what: str) -> Refusal:
    return Refusal(HTTPStatus.NOT_FOUND, f"there is no such {what}", openai_code="not_found")


def _shown(gateway: Gateway, record: KeyRecord) -> ShownKey:
    keys = gateway.till.keys
    return shown_key(keys, record, keys.limits(), keys.last_used())


def _limited(owner: str, user: str, known: dict[str, Limits]) -> Limited:
    return Limited(tenant=owner, user=user, **_fields(known.get(scope_name("user", owner, user), Limits())))


def _tenant(keys: Keys, name: str, known: dict[str, Limits]) -> LimitedTenant:
    limits = _fields(known.get(scope_name("tenant", name), Limits()))
    return LimitedTenant(tenant=name, content_traced=keys.content_traced(name), **limits)


def _fields(limits: Limits) -> dict[str, Any]:
    return {"rpm": limits.rpm, "tpm": limits.tpm, "budget_usd": limits.budget_usd, "period": limits.period}


def _body(exchange: Exchange, kind: type[R]) -> R:
    """Only what is made needs no words: limits that were forgotten would be none."""
    try:
        return msgspec.json.decode(exchange.body or (b"" if exchange.method == "PUT" else b"{}"), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise bad(f"the body is not as it should be: {error}") from None
