"""Authenticate and authorise a request, and record the decision before the response leaves.

A client sends its key as `Authorization: Bearer` or, in the Messages interface, as `x-api-key`. Both mean the same; two
different keys are invalid. No other claim of identity (user headers, cookies, query strings) is read.
"""

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from msgspec.structs import replace

from archwright.access.api_keys import KeyStore, Principal
from archwright.access.audit_log import AuditEvent, AuditLog, Effect
from archwright.access.denial_counts import DenialCounts
from archwright.access.permissions import is_allowed
from archwright.engines.http_request_parser import RequestHead
from archwright.errors import StoreError
from archwright.monitor.metrics.exposition import Counter, Exposition
from archwright.serving.http.errors import ApiError, audit_unavailable
from archwright.serving.http.http_request import Admitted, HttpRequest
from archwright.serving.http.http_response import HttpResponse

MAX_SHOWN_PATH = 120
_NO_KEY = "The request has no API key. Send the header 'Authorization: Bearer aw_...'."
_SEVERAL_KEYS = (
    "The request has several credentials: more than one Authorization or x-api-key header, or two different keys. "
    "Send one key in one header."
)
_INVALID_KEY = "The API key is not valid. Check it, or create a new key."


class RouteRequirement(NamedTuple):
    """The route table's demands on a request.

    `permission`: None if no route has the path and method; `methods`: of the path; `suggestion`: names a similar path.
    `images`: image data may exceed the limit of the body. `upload`: the body is a form with a file.
    `action`: the method and the route's template for the audit log, since a path may contain a prompt or a key.
    """

    permission: str | None
    methods: tuple[str, ...]
    suggestion: str = ""
    images: bool = False
    action: str = ""
    upload: bool = False


class RequestAuthorizer:
    """Decides on requests by the keys of this process; counts and records each decision."""

    def __init__(
        self, keys: KeyStore, audit: AuditLog, exposition: Exposition, clock: Callable[[], float] = time.time
    ) -> None:
        self._keys, self._audit, self._exposition, self._clock = keys, audit, exposition, clock
        self._strangers = DenialCounts(audit)
        self._decisions: dict[tuple[str, str], Counter] = {}

    def authorize(self, head: RequestHead, response: HttpResponse, requirement: RouteRequirement) -> Admitted:
        """Identify the caller and decide. Raises ApiError 401 before 404, 405 and 403, and 503.

        Design: a caller without a key learns nothing about paths.
        """
        secret, request_id, source = read_credential(head), response.id, response.client_address
        keys_version = self._keys.version  # read before the look-up, since another thread updates the keys
        principal = self._keys.identify(secret) if secret else None
        if principal is None:
            reason, message = ("unknown key", _INVALID_KEY) if secret else _explain_no_key(head)
            self._strangers.count(self._build_decision(request_id, requirement, source, None, reason))
            raise ApiError(HTTPStatus.UNAUTHORIZED, message, "invalid_api_key")
        response.mark_key_accepted()
        if requirement.permission is None:
            self._record(self._build_decision(request_id, requirement, source, principal, "no such route"))
            if requirement.methods:
                message = f"Method {head.method} is not allowed for this path. Use {' or '.join(requirement.methods)}."
                raise ApiError(HTTPStatus.METHOD_NOT_ALLOWED, message, "method_not_allowed", allow=requirement.methods)
            message = f"The path {head.path[:MAX_SHOWN_PATH]} does not exist.{requirement.suggestion}"
            raise ApiError(HTTPStatus.NOT_FOUND, message, "not_found")
        if not is_allowed(principal, requirement.permission):
            self._record(self._build_decision(request_id, requirement, source, principal, "not permitted to this role"))
            message = f"The role {principal.role!r} of this key lacks the permission {requirement.permission!r}."
            raise ApiError(HTTPStatus.FORBIDDEN, message + " Use a key with another role.", "insufficient_permissions")
        self._record(self._build_decision(request_id, requirement, source, principal, ""))
        return Admitted(principal, keys_version, requirement.images, source=source, upload=requirement.upload)

    def reauthorize(self, request: HttpRequest, requirement: RouteRequirement) -> HttpRequest:
        """Check the key again when the body is complete, since it may be revoked by now.

        Returns the request, with the caller's present rights. Raises ApiError 401, StoreError.
        """
        principal = request.principal
        if self._keys.refresh_version() == request.admitted.keys_version and self._clock() < principal.expires_at:
            return request
        known = self._keys.identify(read_credential(request.head) or "")
        if known is None:
            reason = "the key was revoked before the body arrived"
            self._record(self._build_decision(request.id, requirement, request.admitted.source, principal, reason))
            raise ApiError(HTTPStatus.UNAUTHORIZED, _INVALID_KEY, "invalid_api_key")
        return replace(request, admitted=replace(request.admitted, principal=known))

    def record_action(
        self, request: HttpRequest, action: str, resource: str, tenant: str, *, refused: str = "", failed: str = ""
    ) -> None:
        """Record an action, or why it was refused or failed. Raises ApiError 503 if it cannot be recorded."""
        self._record(
            AuditEvent(
                at=self._clock(),
                tenant=tenant,
                key_id=request.principal.key_id,
                action=action,
                permission="",
                effect="deny" if refused else "allow",
                reason=refused or failed,
                request_id=request.id,
                resource=resource,
                source=request.admitted.source,
                user=request.principal.user,
                outcome="refused" if refused else "failed" if failed else "done",
            )
        )

    def write_denials(self, *, closing: bool = False) -> bool:
        """Write the totals of denied strangers if their window is over; True if a flush must follow."""
        return self._strangers.write_totals(self._clock(), closing=closing)

    def _build_decision(
        self, request_id: str, requirement: RouteRequirement, source: str, caller: Principal | None, reason: str
    ) -> AuditEvent:
        """Count the decision and return its record; a `reason` denies."""
        permission = requirement.permission or "none"
        effect: Effect = "deny" if reason else "allow"
        counter = self._decisions.get((effect, permission))
        if counter is None:
            labels = {"effect": effect, "permission": permission}
            counter = self._decisions[effect, permission] = self._exposition.counter("decisions", labels)
        counter.add()
        return AuditEvent(
            at=self._clock(),
            tenant="" if caller is None else caller.tenant,
            key_id="" if caller is None else caller.key_id,
            action=requirement.action,
            permission=permission,
            effect=effect,
            reason=reason,
            request_id=request_id,
            source=source,
            user="" if caller is None else caller.user,
            outcome="refused" if reason else "admitted",
        )

    def _record(self, event: AuditEvent) -> None:
        try:
            self._audit.record(event)
        except StoreError as error:
            raise audit_unavailable() from error


def _explain_no_key(head: RequestHead) -> tuple[str, str]:
    """Return the reason for the audit log, and the message, of a request without one usable credential."""
    names = [name for name in (b"authorization", b"x-api-key") if name in head.headers]
    if len(names) > 1 or any(name in head.repeated for name in names):
        return "several keys", _SEVERAL_KEYS
    return "no key", _NO_KEY


def read_credential(head: RequestHead) -> str | None:
    """Return the secret of a request; None if it has none, or if a header is malformed, repeated or contradictory."""
    headers, repeated = head.headers, head.repeated
    authorization = headers.get(b"authorization")
    api_key = headers.get(b"x-api-key")
    if repeated and (b"authorization" in repeated or b"x-api-key" in repeated):
        return None
    bearer = None if authorization is None else parse_bearer(authorization.decode("latin-1"))
    if api_key is None:
        return bearer
    secret = api_key.decode("latin-1").strip()
    if not secret or " " in secret:
        return None
    return secret if authorization is None or bearer == secret else None


def parse_bearer(authorization: str) -> str | None:
    """Return the secret of a well-formed Authorization header, else None."""
    scheme, _, secret = authorization.partition(" ")
    secret = secret.strip()
    return secret if scheme.lower() == "bearer" and secret and " " not in secret else None
