"""Records and tables of tenants, users, keys and limits, and the rules for names."""

import base64
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from archwright.contract.record import Record
from archwright.errors import ErrorLocation, UsageError
from archwright.policy.usage_limits import BudgetPeriod, UsageLimits, find_limits_problem
from archwright.store import RecordTable

SECRET_PREFIX = "aw_"
# The tenant of the keys with which a drill tries a restored home; it sends no requests to the
# gateway in force.
DRILL_TENANT = "backup-drill"
BODY_LENGTH = 43
CHECKSUM_LENGTH = 6
SECRET_LENGTH = len(SECRET_PREFIX) + BODY_LENGTH + CHECKSUM_LENGTH
SHOWN_CHARACTERS = 10  # characters of a secret in lists: 42 of its 256 random bits
NAME_PATTERN = re.compile(r"[a-z0-9-]{1,40}")
USER_PATTERN = re.compile(r"[A-Za-z0-9._@+-]{1,80}")
ROLE_NAMES = ("owner", "admin", "member", "monitor")

NO_LIMITS = UsageLimits()

ScopeKind = Literal["key", "user", "tenant"]


class Tenant(Record):
    name: str
    created_at: float


class SignedRow(Record):
    """A row that decides who may do what.

    `mac`: its signature, `prev`: that of the row before it (`signed_rows`).
    """

    prev: str = ""
    mac: str = ""


class KeyRecord(SignedRow):
    """Stored record of a key without its secret; `prefix`: start of the secret, shown in lists.

    A rotated key has one record per secret; the newest record is in force."""

    id: str
    tenant: str
    role: str
    name: str
    prefix: str
    digest: str
    created_at: float
    user: str = ""
    rpm: int | None = None
    tpm: int | None = None
    budget_usd: float | None = None
    period: BudgetPeriod = "total"
    expires_at: float | None = None
    parallel: int | None = None


class Revocation(SignedRow):
    key_id: str
    at: float


class SecretExpiry(SignedRow):
    """End of one secret of a key: from `at` on it is refused.

    0: it expired, and no clock revives it.
    """

    digest: str
    at: float


class LimitRow(SignedRow):
    """All limits of a scope from `at` on; `scope`: see `format_scope_name`."""

    scope: str
    rpm: int | None = None
    tpm: int | None = None
    budget_usd: float | None = None
    period: BudgetPeriod = "total"
    at: float
    parallel: int | None = None


class TenantContentTracing(SignedRow):
    """Setting of a tenant from `at` on: traces include prompts and responses if `traced`."""

    tenant: str
    traced: bool
    at: float


class KeyUse(Record):
    """Use of a key on a day (days since 1970, UTC), recorded once per worker and day."""

    key_id: str
    day: int


class PepperCheck(Record):
    """Check value of the pepper under which all keys were made since.

    A lost pepper begins a new generation.
    """

    generation: int
    check: str


class Principal(Record):
    """Authenticated caller; `limited`: the key, its user or its tenant has a limit."""

    key_id: str
    tenant: str
    role: str
    user: str = ""
    limited: bool = False
    expires_at: float = math.inf


class LimitScope(NamedTuple):
    """Scope of an account; `name` is unique across kinds."""

    kind: ScopeKind
    name: str
    limits: UsageLimits


TENANTS = RecordTable("tenants", Tenant, unique=("name",))
KEYS = RecordTable("keys", KeyRecord, unique=("digest",), index=("tenant", "id"))
REVOCATIONS = RecordTable("key_revocations", Revocation, unique=("key_id",))
SECRET_EXPIRIES = RecordTable("key_secret_ends", SecretExpiry)
LIMITS = RecordTable("limits", LimitRow, index=("scope",))
CONTENT_TRACINGS = RecordTable("content_choices", TenantContentTracing, index=("tenant",))
PEPPER_CHECKS = RecordTable("pepper_checks", PepperCheck, unique=("generation",))
KEY_USES = RecordTable("key_uses", KeyUse, index=("day",))
SIGNED_TABLES: tuple[RecordTable[Any], ...] = (
    KEYS,
    REVOCATIONS,
    SECRET_EXPIRIES,
    LIMITS,
    CONTENT_TRACINGS,
)


def format_scope_name(kind: ScopeKind, tenant: str = "", name: str = "") -> str:
    """Return `key:ID`, `user:TENANT/USER` or `tenant:TENANT`."""
    if kind == "user":
        return f"user:{tenant}/{name}"
    return f"{kind}:{tenant or name}"


def name_user_in_scope(scope: str, names: Mapping[str, str]) -> str:
    """Replace the id of a user in its scope by the name, if `names` (id to name) has it."""
    kind, _, scope_name = scope.partition(":")
    tenant, _, user = scope_name.partition("/")
    if kind != "user" or user not in names:
        return scope
    return format_scope_name("user", tenant, names[user])


def list_scopes(principal: Principal) -> Iterable[tuple[ScopeKind, str]]:
    yield "key", format_scope_name("key", name=principal.key_id)
    if principal.user:
        yield "user", format_scope_name("user", principal.tenant, principal.user)
    yield "tenant", format_scope_name("tenant", principal.tenant)


def build_limits(row: KeyRecord | LimitRow) -> UsageLimits:
    rates = {"rpm": row.rpm, "tpm": row.tpm, "parallel": row.parallel}
    return UsageLimits(**rates, budget_usd=row.budget_usd, period=row.period)


def is_well_formed(secret: str) -> bool:
    """True if prefix, length and checksum are those of a key.

    So mistyped secrets are refused without the store.
    """
    if len(secret) != SECRET_LENGTH or not secret.isascii():
        return False
    if not secret.startswith(SECRET_PREFIX):
        return False
    body = secret[len(SECRET_PREFIX) : -CHECKSUM_LENGTH]
    return secret[-CHECKSUM_LENGTH:] == compute_checksum(body)


def compute_checksum(body: str) -> str:
    """Return the CRC-32 in six URL-safe characters.

    It protects against mistyping, not against forgery.
    """
    checksum = zlib.crc32(body.encode()).to_bytes(4, "big")
    return base64.urlsafe_b64encode(checksum).decode().rstrip("=")


def check_name(name: str, what: str) -> None:
    if not NAME_PATTERN.fullmatch(name):
        raise _invalid_name_error(name, what, "use 1 to 40 characters of a-z, 0-9 and -")


def check_user(name: str) -> None:
    if not USER_PATTERN.fullmatch(name) or is_well_formed(name):
        raise _invalid_name_error(name, "user", "use 1 to 80 letters, digits and . _ @ + -")


def _invalid_name_error(name: str, what: str, hint: str) -> UsageError:
    message = f"{name[:60]!r} is not a valid {what} name"
    return UsageError("AW-USE-30", message, where=ErrorLocation(field=what), hint=hint)


def check_limits(limits: UsageLimits) -> None:
    problem = find_limits_problem(limits)
    if problem:
        raise invalid_limit_error(problem)


def invalid_limit_error(message: str) -> UsageError:
    return UsageError("AW-USE-36", message, hint="correct the value, or omit it for no limit")
