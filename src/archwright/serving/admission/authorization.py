"""The one place where a request is let in: who asks, may they, and the record that it was decided.

A key comes as `Authorization: Bearer` or, from clients of the Messages interface, as `x-api-key`: one secret, the same
identity, the same restrictions, whichever carries it; two that differ are none. Whatever else claims an identity (user
headers, cookies, query strings) is not read at all. Every decision, allow and deny, is written down before the reply
leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from archwright.access.api_keys import KeyStore, Principal
from archwright.access.audit_log import AuditEvent, AuditLog, Effect
from archwright.access.permissions import is_allowed
from archwright.errors import StoreError
from archwright.monitor.metrics.exposition import Counter, Exposition
from archwright.serving.http.errors import ApiError
from archwright.serving.http.http_exchange import HttpExchange, audit_unavailable

MAX_LOGGED_PATH = 120


class RouteRequirement(NamedTuple):
    """What the caller wants, as far as the route table knows it: `permission` None where nothing is routed, and
    `instead` what may have been meant."""

    permission: str | None
    known_path: bool
    methods: tuple[str, ...]
    instead: str = ""


class RequestAuthorizer:
    def __init__(
        self, keys: KeyStore, audit: AuditLog, exposition: Exposition, clock: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._audit = audit
        self._exposition = exposition
        self._decisions: dict[tuple[str, str], Counter] = {}
        self._clock = clock

    def authorize(self, exchange: HttpExchange, wish: RouteRequirement) -> Principal:
        """The principal, or the Refusal: 401 unknown, 404 and 405 nothing there, 403 not allowed. In this order, so
        that a stranger learns nothing about which paths exist."""
        secret = read_credential(exchange)
        exchange.keys_version = self._keys.version  # before: more may be known at any moment
        principal = self._keys.identify(secret) if secret else None
        if principal is None:
            self._record_decision(exchange, wish, None, "no key" if secret is None else "unknown key")
            message = (
                "no API key: send 'Authorization: Bearer aw_...'" if secret is None else "the API key is not valid"
            )
            raise ApiError(HTTPStatus.UNAUTHORIZED, message, openai_code="invalid_api_key")
        if wish.permission is None:
            self._record_decision(exchange, wish, principal, "no such route")
            raise _no_route_error(exchange, wish)
        if not is_allowed(principal, wish.permission):
            self._record_decision(exchange, wish, principal, "not permitted to this role")
            message = f"this key's role {principal.role!r} lacks the permission {wish.permission!r}"
            raise ApiError(HTTPStatus.FORBIDDEN, message, openai_code="insufficient_permissions")
        self._record_decision(exchange, wish, principal, "")
        return principal

    def reauthorize(self, exchange: HttpExchange, wish: RouteRequirement) -> None:
        """Its body has come, maybe long after its head: what was taken away since is not his any more. Raises Refusal
        401, StoreError."""
        principal = exchange.principal
        assert principal is not None, "let in without a principal"
        if self._keys.refresh_version() == exchange.keys_version and self._clock() < principal.expires_at:
            return
        known = self._keys.identify(read_credential(exchange) or "")
        if known is None:
            self._record_decision(exchange, wish, principal, "the key was taken away before the body came")
            raise ApiError(HTTPStatus.UNAUTHORIZED, "the API key is not valid", openai_code="invalid_api_key")
        exchange.principal = known

    def record_action(self, exchange: HttpExchange, action: str, resource: str, tenant: str, refused: str = "") -> None:
        """Write down what was done to what, or why not. Raises Refusal 503 where there is no room for it."""
        principal = exchange.principal
        event = AuditEvent(
            at=self._clock(),
            tenant=tenant,
            key_id=principal.key_id if principal else "",
            action=action,
            permission="",
            effect="deny" if refused else "allow",
            reason=refused,
            request_id=exchange.id,
            resource=resource,
        )
        try:
            self._audit.record(event)
        except StoreError as error:
            raise audit_unavailable() from error

    def _record_decision(
        self, exchange: HttpExchange, wish: RouteRequirement, principal: Principal | None, reason: str
    ) -> None:
        permission = wish.permission or "none"
        effect: Effect = "deny" if reason else "allow"
        (self._decisions.get((effect, permission)) or self._decision_counter(effect, permission)).add()
        event = AuditEvent(
            at=self._clock(),
            tenant=principal.tenant if principal else "",
            key_id=principal.key_id if principal else "",
            action=f"{exchange.method} {exchange.path[:MAX_LOGGED_PATH]}",
            permission=permission,
            effect=effect,
            reason=reason,
            request_id=exchange.id,
        )
        try:
            self._audit.record(event)
        except StoreError as error:
            raise audit_unavailable() from error
        exchange.principal = principal

    def _decision_counter(self, effect: str, permission: str) -> Counter:
        labels = {"effect": effect, "permission": permission}
        made = self._decisions[effect, permission] = self._exposition.counter("decisions", labels)
        return made


def read_credential(exchange: HttpExchange) -> str | None:
    """The one secret that a request carries; None also when any carrier is malformed, repeated, or says another."""
    headers, repeated = exchange.head.headers, exchange.head.repeated
    carried = headers.get(b"authorization")
    authorization = None if carried is None else carried.decode("latin-1")
    api_key = exchange.header(b"x-api-key") if b"x-api-key" in headers else None
    if repeated and (b"authorization" in repeated or b"x-api-key" in repeated):
        return None
    if api_key is None:
        return None if authorization is None else parse_bearer(authorization)
    secret = api_key.strip()
    if not secret or " " in secret:
        return None
    return secret if authorization is None or parse_bearer(authorization) == secret else None


def parse_bearer(authorization: str) -> str | None:
    """The secret of a well-formed Authorization header, else None."""
    scheme, _, secret = authorization.partition(" ")
    secret = secret.strip()
    return secret if scheme.lower() == "bearer" and secret and " " not in secret else None


def _no_route_error(exchange: HttpExchange, wish: RouteRequirement) -> ApiError:
    if wish.known_path:
        message = f"{exchange.method} is not allowed here; allowed: {', '.join(wish.methods)}"
        status = HTTPStatus.METHOD_NOT_ALLOWED
        return ApiError(status, message, openai_code="method_not_allowed", allow=wish.methods)
    message = f"there is nothing at {exchange.path[:MAX_LOGGED_PATH]}{wish.instead}"
    return ApiError(HTTPStatus.NOT_FOUND, message, openai_code="not_found")
