"""Authenticate and authorise a request, and record the decision before the reply leaves.

A key comes as `Authorization: Bearer` or, from clients of the Messages interface, as `x-api-key`; the meaning is the
same, and two different keys are invalid. No other claim of identity (user headers, cookies, query strings) is read.
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
from archwright.serving.http.errors import ApiError, audit_unavailable
from archwright.serving.http.http_exchange import HttpExchange

MAX_LOGGED_PATH = 120
_INVALID_KEY = "the API key is not valid"


class RouteRequirement(NamedTuple):
    """What the route table says of a request: `permission` None if there is no route, `instead` a suggested path."""

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
        """The principal. Raises ApiError: 401 before 404, 405 and 403, so that strangers learn nothing about paths."""
        secret = read_credential(exchange)
        exchange.keys_version = self._keys.version  # before: more may be known at any moment
        principal = self._keys.identify(secret) if secret else None
        if principal is None:
            self._record_decision(exchange, wish, None, "no key" if secret is None else "unknown key")
            message = "no API key: send 'Authorization: Bearer aw_...'" if secret is None else _INVALID_KEY
            raise ApiError(HTTPStatus.UNAUTHORIZED, message, "invalid_api_key")
        if wish.permission is None:
            self._record_decision(exchange, wish, principal, "no such route")
            if wish.known_path:
                message = f"{exchange.method} is not allowed here; allowed: {', '.join(wish.methods)}"
                raise ApiError(HTTPStatus.METHOD_NOT_ALLOWED, message, "method_not_allowed", allow=wish.methods)
            message = f"there is nothing at {exchange.path[:MAX_LOGGED_PATH]}{wish.instead}"
            raise ApiError(HTTPStatus.NOT_FOUND, message, "not_found")
        if not is_allowed(principal, wish.permission):
            self._record_decision(exchange, wish, principal, "not permitted to this role")
            message = f"this key's role {principal.role!r} lacks the permission {wish.permission!r}"
            raise ApiError(HTTPStatus.FORBIDDEN, message, "insufficient_permissions")
        self._record_decision(exchange, wish, principal, "")
        return principal

    def reauthorize(self, exchange: HttpExchange, wish: RouteRequirement) -> None:
        """Check the key again when the body is complete: it may be revoked by now. Raises ApiError 401, StoreError."""
        principal = exchange.principal
        assert principal is not None, "let in without a principal"
        if self._keys.refresh_version() == exchange.keys_version and self._clock() < principal.expires_at:
            return
        known = self._keys.identify(read_credential(exchange) or "")
        if known is None:
            self._record_decision(exchange, wish, principal, "the key was taken away before the body came")
            raise ApiError(HTTPStatus.UNAUTHORIZED, _INVALID_KEY, "invalid_api_key")
        exchange.principal = known

    def record_action(self, exchange: HttpExchange, action: str, resource: str, tenant: str, refused: str = "") -> None:
        """Record an action, or why it was refused. Raises ApiError 503 if it cannot be recorded."""
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
        counter = self._decisions.get((effect, permission))
        if counter is None:
            labels = {"effect": effect, "permission": permission}
            counter = self._decisions[effect, permission] = self._exposition.counter("decisions", labels)
        counter.add()
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


def read_credential(exchange: HttpExchange) -> str | None:
    """The secret of a request; None if it has none, or if a header is malformed, repeated or different."""
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
