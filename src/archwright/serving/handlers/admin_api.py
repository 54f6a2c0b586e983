"""Keys, tenants, users, limits, usage and the audit trail over HTTP, on a listener of their own.

Design: an object out of the caller's scope is answered as if it did not exist. A caller cannot create a key with more
rights than the caller has, nor get the secret of such a key. Only an owner changes the limits of a tenant, of a key
that administers a tenant, and of such a key's user: an administrator raises none of its own.
Every action is recorded, also a refused action. The store may be slow, so actions run in a thread.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import NamedTuple, TypeVar

import msgspec

from archwright.access.api_keys import KeyRecord, KeyStore
from archwright.access.audit_log import name_users, read_entries
from archwright.access.key_views import KeyView, build_key_view, build_new_key
from archwright.access.permissions import ROLES, get_tenant_scope, is_allowed, may_grant
from archwright.access.tables import format_scope_name
from archwright.contract.record import Record, as_dict, replace
from archwright.errors import UsageError
from archwright.lake.governance.policy import read_policy, readable_datasets
from archwright.monitor.usage import read_usage
from archwright.monitor.wal.disk_reserve import release_reserve
from archwright.policy.usage_limits import UsageLimits
from archwright.serving.handlers.request_handler import HandlerContext, HttpReply, ReplyHandler, json_reply
from archwright.serving.http.errors import ApiError, bad_request

R = TypeVar("R", bound=Record)
DAY_S, HOUR_S = 86_400, 3_600
AUDIT_ROWS = 200
_NAME_TAKEN = "AW-USE-31"


class TenantCreation(Record):
    name: str


class KeyCreation(UsageLimits):
    user: str = ""
    role: str = "member"
    name: str = ""
    expires_in_days: float | None = None


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


class AdminResult(NamedTuple):
    """The value for the client, and the action to record: its name (empty: nothing), its object and its tenant."""

    value: object
    action: str = ""
    resource: str = ""
    tenant: str = ""


class AdminCall:
    """One request of an administrator; `name` is the name in the path. Its methods run in a thread."""

    def __init__(self, context: HandlerContext) -> None:
        self.gateway, self.request, self.name = context.gateway, context.request, context.name
        self.keys = context.gateway.accounting.keys

    def decode(self, kind: type[R]) -> R:
        """Decode the body. An empty body is allowed except for PUT, where it would remove all limits."""
        request = self.request
        try:
            return msgspec.json.decode(request.body or (b"" if request.head.method == "PUT" else b"{}"), type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise bad_request(f"The body is not valid: {error}. Correct the body.") from None

    def require_tenant(self, name: str = "") -> str:
        """Return the tenant, that of the path by default. Raises ApiError 404 if it is missing or out of scope."""
        name = name or self.name
        if all(tenant.name != name for tenant in self.keys.list_tenants()):
            raise _not_found_error("tenant")  # unrecorded: a name that does not exist may be a secret
        self._require_scope("tenant", name, name)
        return name

    def require_key(self, action: str = "") -> KeyRecord:
        """Return the key of the path; for an `action`, the principal could also create it.

        Raises ApiError 404 if it is missing or out of scope, and 403.
        """
        record = self.keys.find_record(self.name)
        if record is None:
            raise _not_found_error("key")
        self._require_scope("key", self.name, record.tenant)
        if action:
            self.require_grant(record.tenant, record.role, action)
        return record

    def require_grant(self, tenant: str, role: str, action: str) -> None:
        """Raises ApiError 403 for a key with more rights than the principal's own."""
        if not may_grant(self.request.principal, tenant, role):
            reason = "the role has more rights than the caller"
            shown = role if role in ROLES else "unknown role"
            self.gateway.authorizer.record_action(self.request, action, shown, tenant, refused=reason)
            message = f"Your key may not create or change a key of the role {role[:40]!r}. Use a key with more rights."
            raise ApiError(HTTPStatus.FORBIDDEN, message, "insufficient_permissions", param="role")

    def require_limit_setter(self, limited: Iterable[KeyRecord], action: str, resource: str) -> None:
        """Raises ApiError 403 if a key in `limited` administers its tenant and the principal is no owner."""
        principal = self.request.principal
        if is_allowed(principal, "tenants.manage"):
            return
        if any("keys.manage" in ROLES[record.role] for record in limited):
            reason = "limits of an administrator"
            self.gateway.authorizer.record_action(self.request, action, resource, principal.tenant, refused=reason)
            message = "Only an owner changes the limits of an administrator. Use a key with the role owner."
            raise ApiError(HTTPStatus.FORBIDDEN, message, "insufficient_permissions")

    def _require_scope(self, kind: str, name: str, tenant: str) -> None:
        """Raises ApiError 404, and records the attempt, for an object of a tenant out of the principal's scope."""
        principal = self.request.principal
        if get_tenant_scope(principal) not in (None, tenant):
            reason = "out of the caller's scope"
            self.gateway.authorizer.record_action(self.request, f"{kind}.see", name, principal.tenant, refused=reason)
            raise _not_found_error(kind)


def prepare(
    act: Callable[[AdminCall], AdminResult], *, flushes: bool = False
) -> Callable[[HandlerContext], ReplyHandler]:
    """Make handlers of an action, which runs in a thread. `flushes`: the action reads recorded requests."""

    async def run(context: HandlerContext) -> HttpReply:
        gateway = context.gateway
        if flushes:
            gateway.flush()
        release_reserve(gateway.home)
        try:
            result = await asyncio.to_thread(act, AdminCall(context))
        except UsageError as error:
            verb, _, noun = act.__name__.partition("_")
            tenant = context.request.principal.tenant
            gateway.authorizer.record_action(context.request, f"{noun}.{verb}", "", tenant, failed=error.code)
            status = HTTPStatus.CONFLICT if error.code == _NAME_TAKEN else HTTPStatus.BAD_REQUEST
            raise ApiError(status, error.message, error.code) from error
        if result.action:
            gateway.authorizer.record_action(context.request, result.action, result.resource, result.tenant)
        return json_reply(result.value)

    return partial(ReplyHandler, run)


def list_tenants(call: AdminCall) -> AdminResult:
    known = call.keys.read_limits()
    return AdminResult({"data": [_describe_tenant(call.keys, one.name, known) for one in call.keys.list_tenants()]})


def create_tenant(call: AdminCall) -> AdminResult:
    name = call.decode(TenantCreation).name
    call.keys.create_tenant(name)
    return AdminResult(_describe_tenant(call.keys, name, {}), "tenant.create", name, name)


def get_tenant(call: AdminCall) -> AdminResult:
    return AdminResult(_describe_tenant(call.keys, call.require_tenant(), call.keys.read_limits()))


def set_tenant_limits(call: AdminCall) -> AdminResult:
    limits, name = call.decode(UsageLimits), call.require_tenant()
    call.keys.set_limits("tenant", name, "", limits=limits)
    view = _describe_tenant(call.keys, name, {format_scope_name("tenant", name): limits})
    return AdminResult(view, "tenant.limit", name, name)


def set_content_tracing(call: AdminCall) -> AdminResult:
    traced, name = call.decode(ContentTracing).traced, call.require_tenant()
    call.keys.set_content_tracing(name, traced)
    view = _describe_tenant(call.keys, name, call.keys.read_limits())
    return AdminResult(view, "content.trace" if traced else "content.keep", name, name)


def list_tenant_keys(call: AdminCall) -> AdminResult:
    name = call.require_tenant()
    limits = call.keys.read_limits()
    last_used = call.keys.last_used()
    views: list[KeyView] = []
    for record in call.keys.list(name):
        views.append(build_key_view(call.keys, record, limits=limits, last_used=last_used))
    return AdminResult({"data": views})


def create_key(call: AdminCall) -> AdminResult:
    wanted = call.decode(KeyCreation)
    limits = UsageLimits(**{name: getattr(wanted, name) for name in UsageLimits.__struct_fields__})
    lives_s = None
    if wanted.expires_in_days is not None:
        lives_s = wanted.expires_in_days * DAY_S
    tenant = call.require_tenant()
    call.require_grant(tenant, wanted.role, "key.create")
    secret, record = call.keys.create(
        tenant,
        wanted.role,
        wanted.name,
        user=wanted.user,
        limits=limits,
        lives_s=lives_s,
    )
    view = build_new_key(secret, record)
    return AdminResult(view, "key.create", view.id, tenant)


def list_tenant_users(call: AdminCall) -> AdminResult:
    name = call.require_tenant()
    known, prefix = call.keys.read_limits(), format_scope_name("user", name, "")
    users = {key.user for key in call.keys.list(name) if key.user}
    users |= {scope.removeprefix(prefix) for scope in known if scope.startswith(prefix)}
    return AdminResult({"data": [_describe_user(name, user, known) for user in sorted(users)]})


def set_user_limits(call: AdminCall) -> AdminResult:
    tenant, _, user = call.name.partition("/")
    limits = call.decode(UsageLimits)
    call.require_tenant(tenant)
    user_keys = [record for record in call.keys.list(tenant) if record.user == user]
    call.require_limit_setter(user_keys, "user.limit", "")
    row = call.keys.set_limits("user", tenant, user, limits=limits)
    view = _describe_user(tenant, user, {format_scope_name("user", tenant, user): limits})
    return AdminResult(view, "user.limit", row.scope.rpartition("/")[2], tenant)


def get_tenant_usage(call: AdminCall) -> AdminResult:
    tenant = call.require_tenant()
    gateway = call.gateway
    rows = read_usage(gateway.store, gateway.home, tenant=tenant, by="key,user,model,day")
    return AdminResult({"data": rows})


def list_tenant_datasets(call: AdminCall) -> AdminResult:
    """The policies in force, without the users of this machine who set them."""
    name, store = call.require_tenant(), call.gateway.store
    found = [read_policy(store, dataset) for dataset in readable_datasets(store, name)]
    return AdminResult({"data": [replace(policy, by="") for policy in found]})


def get_tenant_audit(call: AdminCall) -> AdminResult:
    name, gateway = call.require_tenant(), call.gateway
    entries = read_entries(gateway.store, gateway.home, tenant=name, limit=AUDIT_ROWS)
    return AdminResult({"data": name_users(entries, gateway.store)})


def get_key(call: AdminCall) -> AdminResult:
    return AdminResult(_describe_key(call.keys, call.require_key()))


def set_key_limits(call: AdminCall) -> AdminResult:
    limits, record = call.decode(UsageLimits), call.require_key("key.limit")
    call.require_limit_setter([record], "key.limit", record.id)
    call.keys.set_limits("key", "", record.id, limits=limits)
    return AdminResult(_describe_key(call.keys, record), "key.limit", record.id, record.tenant)


def rotate_key(call: AdminCall) -> AdminResult:
    overlap_s, record = call.decode(KeyRotation).overlap_hours * HOUR_S, call.require_key("key.rotate")
    return AdminResult(build_new_key(*call.keys.rotate(record.id, overlap_s)), "key.rotate", record.id, record.tenant)


def revoke_key(call: AdminCall) -> AdminResult:
    record = call.require_key("key.revoke")
    return AdminResult(_describe_key(call.keys, call.keys.revoke(record.id)), "key.revoke", record.id, record.tenant)


def _not_found_error(kind: str) -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, f"This {kind} does not exist. Check the path.", "not_found")


def _describe_key(keys: KeyStore, record: KeyRecord) -> KeyView:
    limits = keys.read_limits()
    return build_key_view(keys, record, limits=limits, last_used=keys.last_used())


def _describe_user(owner: str, user: str, known: dict[str, UsageLimits]) -> UserLimits:
    limits = known.get(format_scope_name("user", owner, user), UsageLimits())
    return UserLimits(tenant=owner, user=user, **as_dict(limits))


def _describe_tenant(keys: KeyStore, name: str, known: dict[str, UsageLimits]) -> TenantLimits:
    limits = known.get(format_scope_name("tenant", name), UsageLimits())
    return TenantLimits(tenant=name, content_traced=keys.is_content_traced(name), **as_dict(limits))
