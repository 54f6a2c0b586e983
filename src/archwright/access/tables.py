"""What is kept of tenants, users, keys and their limits: the records, their tables, and what a name may be."""

from __future__ import annotations

import base64
import math
import re
import zlib
from collections.abc import Iterable
from typing import Literal, NamedTuple

from archwright.contract.record import Record
from archwright.errors import ErrorLocation, UsageError
from archwright.policy.usage_limits import BudgetPeriod, UsageLimits, find_limits_problem
from archwright.store import RecordTable

SECRET_PREFIX = "aw_"
BODY_LENGTH = 43
SECRET_LENGTH = len(SECRET_PREFIX) + BODY_LENGTH + 6
SHOWN_CHARACTERS = 10  # characters of a secret that lists show: 42 of its 256 random bits
NAME_PATTERN = re.compile(r"[a-z0-9-]{1,40}")
USER_PATTERN = re.compile(r"[A-Za-z0-9._@+-]{1,80}")
ROLE_NAMES = ("owner", "admin", "member", "monitor")

NO_LIMITS = UsageLimits()

ScopeKind = Literal["key", "user", "tenant"]


class Tenant(Record):
    name: str
    created_at: float


class KeyRecord(Record):
    """What is kept of a key: never the secret. `prefix` is its beginning, to recognise it in a list. A rotated key
    has a record for each of its secrets, of which the newest counts."""

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


class Revocation(Record):
    key_id: str
    at: float


class SecretExpiry(Record):
    """From `at` on this secret of a key is refused; its other secrets are not."""

    digest: str
    at: float


class LimitRow(Record):
    """The limits of a scope from now on, all of them; `scope` is as `format_scope_name` writes it."""

    scope: str
    rpm: int | None = None
    tpm: int | None = None
    budget_usd: float | None = None
    period: BudgetPeriod = "total"
    at: float


class TenantContentTracing(Record):
    """Whether what a tenant's requests say goes along with their traces from now on."""

    tenant: str
    traced: bool
    at: float


class KeyUse(Record):
    """A key was used on a day (days since 1970, UTC); each worker notes each key once a day."""

    key_id: str
    day: int


class Principal(Record):
    """Who is asking. `limited`: the key, its user or its tenant has a limit."""

    key_id: str
    tenant: str
    role: str
    user: str = ""
    limited: bool = False
    expires_at: float = math.inf


class LimitScope(NamedTuple):
    """Whose account: `name` is unique among all of them."""

    kind: ScopeKind
    name: str
    limits: UsageLimits


TENANTS = RecordTable("tenants", Tenant, unique=("name",))
KEYS = RecordTable("keys", KeyRecord, unique=("digest",), index=("tenant", "id"))
REVOCATIONS = RecordTable("key_revocations", Revocation, unique=("key_id",))
SECRET_EXPIRIES = RecordTable("key_secret_ends", SecretExpiry)
LIMITS = RecordTable("limits", LimitRow, index=("scope",))
CONTENT_TRACINGS = RecordTable("content_choices", TenantContentTracing, index=("tenant",))
KEY_USES = RecordTable("key_uses", KeyUse, index=("day",))


def format_scope_name(kind: ScopeKind, tenant: str = "", name: str = "") -> str:
    """`key:ID`, `user:TENANT/USER`, `tenant:TENANT`."""
    return f"user:{tenant}/{name}" if kind == "user" else f"{kind}:{tenant or name}"


def list_scopes(principal: Principal) -> Iterable[tuple[ScopeKind, str]]:
    yield "key", format_scope_name("key", name=principal.key_id)
    if principal.user:
        yield "user", format_scope_name("user", principal.tenant, principal.user)
    yield "tenant", format_scope_name("tenant", principal.tenant)


def build_limits(row: KeyRecord | LimitRow) -> UsageLimits:
    return UsageLimits(rpm=row.rpm, tpm=row.tpm, budget_usd=row.budget_usd, period=row.period)


def is_well_formed(secret: str) -> bool:
    """Whether prefix, length and checksum are those of a key: a typing error is found without the store."""
    if len(secret) != SECRET_LENGTH or not secret.startswith(SECRET_PREFIX) or not secret.isascii():
        return False
    body = secret[len(SECRET_PREFIX) : -6]
    return secret[-6:] == compute_checksum(body)


def compute_checksum(body: str) -> str:
    """CRC-32 in six url-safe characters. It guards against typing, not against forging: the HMAC does that."""
    return base64.urlsafe_b64encode(zlib.crc32(body.encode()).to_bytes(4, "big")).decode().rstrip("=")


def check_name(name: str, what: str) -> None:
    if not NAME_PATTERN.fullmatch(name):
        message = f"{name[:60]!r} is no {what} name"
        raise UsageError("AW-USE-30", message, where=ErrorLocation(None, None, what), hint="1 to 40 of a-z, 0-9 and -")


def check_user(name: str) -> None:
    if not USER_PATTERN.fullmatch(name):
        hint = "1 to 80 of letters, digits and . _ @ + -"
        message = f"{name[:60]!r} is no user name"
        raise UsageError("AW-USE-30", message, where=ErrorLocation(None, None, "user"), hint=hint)


def check_limits(limits: UsageLimits) -> None:
    found = find_limits_problem(limits)
    if found:
        raise invalid_limit_error(found)


def invalid_limit_error(message: str) -> UsageError:
    return UsageError("AW-USE-36", message, hint="leave it out for no limit")
