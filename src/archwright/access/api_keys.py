"""Making, changing and ending keys, users' and tenants' limits; the pepper.

A key is `aw_`, 256 random bits in 43 url-safe characters, and 6 characters of checksum; it is shown once and kept as
HMAC-SHA-256 under a pepper that never leaves the home, so a stolen database opens nothing. 256 random bits need no slow
hash. The checksum refuses a mistyped or cut secret without asking the store. A rotated key keeps its id, limits and
usage and gains a secret; the old secret ends after an overlap. Limits are rows of which the newest holds, all at once.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from archwright.access import tables
from archwright.access.key_cache import DAY_S, EPOCH_KEY, POLL_S, UNKNOWN_POLL_S, KeyCache
from archwright.access.tables import (
    NO_LIMITS,
    ROLE_NAMES,
    SECRET_LENGTH,
    KeyRecord,
    LimitRow,
    Principal,
    ScopeKind,
    Tenant,
    is_well_formed,
)
from archwright.contract.record import as_dict, replace
from archwright.errors import AccessError, ErrorLocation, UsageError
from archwright.home import Home
from archwright.monitor.shared_table import Transaction
from archwright.policy.usage_limits import UsageLimits
from archwright.store import ConflictError

# The door of the room: whoever asks about keys needs no other file.
__all__ = ["POLL_S", "ROLE_NAMES", "SECRET_LENGTH", "UNKNOWN_POLL_S", "KeyRecord", "KeyStore", "Principal", "Tenant"]
__all__ += ["load_pepper", "is_well_formed"]

PEPPER_LENGTH = 32


class KeyStore(KeyCache):
    """The keys of one store: what a process knows of them, and the acts that change them.

    With a `slate` the processes of one machine tell each other of a change: a key just made is known at once in each.
    """

    def create_tenant(self, name: str) -> Tenant:
        """Raises UsageError: AW-USE-30 not a name, AW-USE-31 it exists."""
        tables.check_name(name, "tenant")
        tenant = Tenant(name=name, created_at=self._clock())
        try:
            self._store.append(tables.TENANTS, [tenant])
        except ConflictError as error:
            raise UsageError("AW-USE-31", f"the tenant {name!r} exists", hint="choose another name") from error
        return tenant

    def list_tenants(self) -> tuple[Tenant, ...]:
        return tuple(self._store.rows(tables.TENANTS))

    def create(
        self,
        tenant: str,
        role: str = "member",
        name: str = "",
        user: str = "",
        limits: UsageLimits = NO_LIMITS,
        lives_s: float | None = None,
    ) -> tuple[str, KeyRecord]:
        """A new secret (shown here and never again) and what is kept of it. A tenant that is new is made; after
        `lives_s` the key expires.

        Raises UsageError: AW-USE-30 not a name, AW-USE-33 no such role, AW-USE-36 no such limit or lifetime."""
        if name:
            tables.check_name(name, "key")
        if user:
            tables.check_user(user)
        if role not in ROLE_NAMES:
            raise UsageError("AW-USE-33", f"no role {role!r}", hint=f"roles: {', '.join(ROLE_NAMES)}")
        tables.check_limits(limits)
        if lives_s is not None and not 0 < lives_s < 1e10:
            raise tables.invalid_limit_error(f"a key lives longer than 0 s and at most 1e10, not {lives_s}")
        self._ensure_tenant(tenant)
        now = self._clock()
        secret, prefix, digest = self._generate_secret()
        record = KeyRecord(
            id="key-" + secrets.token_hex(8),
            tenant=tenant,
            role=role,
            name=name,
            prefix=prefix,
            digest=digest,
            created_at=now,
            user=user,
            **as_dict(limits),
            expires_at=None if lives_s is None else now + lives_s,
        )
        self._store.append(tables.KEYS, [record])
        self._announce_change()
        return secret, record

    def rotate(self, key_id: str, overlap_s: float) -> tuple[str, KeyRecord]:
        """Another secret for the same key; those it had end after `overlap_s`. Raises UsageError AW-USE-34, -36."""
        if not 0 <= overlap_s < 1e10:
            raise tables.invalid_limit_error(f"an overlap is 0 s to 1e10, not {overlap_s}")
        known = self._require_records(key_id)
        if self.is_revoked(key_id):
            hint = "make a new one: archwright key create"
            raise UsageError("AW-USE-34", f"the key {key_id!r} is revoked", hint=hint)
        now = self._clock()
        secret, prefix, digest = self._generate_secret()
        record = replace(known[-1], prefix=prefix, digest=digest, created_at=now)
        # The new secret first: should the second write fail, both work, and rotating again mends it.
        self._store.append(tables.KEYS, [record])
        self._store.append(
            tables.SECRET_EXPIRIES, [tables.SecretExpiry(digest=old.digest, at=now + overlap_s) for old in known]
        )
        self._announce_change()
        return secret, record

    def set_limits(self, kind: ScopeKind, tenant: str, name: str, limits: UsageLimits) -> LimitRow:
        """Set all limits of a key (`name` its id), a user or a tenant; those before hold no longer.

        Raises UsageError: AW-USE-30 not a name, AW-USE-34 no such key or tenant, AW-USE-36 no such limit."""
        tables.check_limits(limits)
        if kind == "key":
            self._require_records(name)
        else:
            self._check_tenant(tenant)
        if kind == "user":
            tables.check_user(name)
        scope = tables.format_scope_name(kind, tenant if kind != "key" else "", name)
        row = LimitRow(scope=scope, **as_dict(limits), at=self._clock())
        self._store.append(tables.LIMITS, [row])
        self._announce_change()
        return row

    def set_content_tracing(self, tenant: str, traced: bool) -> None:
        """Whether what the tenant's requests say goes along with their traces. Raises UsageError AW-USE-34."""
        self._check_tenant(tenant)
        self._store.append(
            tables.CONTENT_TRACINGS, [tables.TenantContentTracing(tenant=tenant, traced=traced, at=self._clock())]
        )
        self._announce_change()
        self._refresh()

    def _check_tenant(self, name: str) -> None:
        if not self._store.rows(tables.TENANTS, {"name": name}, limit=1):
            raise UsageError("AW-USE-34", f"no tenant {name[:60]!r}", hint="see `archwright tenant list`")

    def _generate_secret(self) -> tuple[str, str, str]:
        """A new secret, what lists show of it, and its digest."""
        body = secrets.token_urlsafe(32)
        secret = tables.SECRET_PREFIX + body + tables.compute_checksum(body)
        return secret, secret[: tables.SHOWN_CHARACTERS], self._digest(secret).hex()

    def _ensure_tenant(self, name: str) -> None:
        tables.check_name(name, "tenant")
        if not self._store.rows(tables.TENANTS, {"name": name}, limit=1):
            with suppress(ConflictError):
                self._store.append(tables.TENANTS, [Tenant(name=name, created_at=self._clock())])

    def _require_records(self, key_id: str) -> list[KeyRecord]:
        """Oldest first. Raises UsageError AW-USE-34."""
        found = self._store.rows(tables.KEYS, {"id": key_id})
        if not found:
            raise UsageError("AW-USE-34", f"no key {key_id[:60]!r}", hint="see `archwright key list`")
        return found

    def find_record(self, key_id: str) -> KeyRecord | None:
        """What is kept of a key, revoked or not; None when there is none."""
        return next(reversed(self._store.rows(tables.KEYS, {"id": key_id})), None)

    def revoke(self, key_id: str) -> KeyRecord:
        """Refused here at once, in other processes within POLL_S; twice is once. Raises UsageError AW-USE-34."""
        found = self._require_records(key_id)
        with suppress(ConflictError):
            self._store.append(tables.REVOCATIONS, [tables.Revocation(key_id=key_id, at=self._clock())])
        self._announce_change()
        self._refresh()
        return found[-1]

    def is_revoked(self, key_id: str) -> bool:
        return bool(self._store.rows(tables.REVOCATIONS, {"key_id": key_id}, limit=1))

    def list(self, tenant: str | None = None) -> tuple[KeyRecord, ...]:
        """Keys of `tenant` (None: of all), revoked ones too, oldest first; of a rotated key the newest record."""
        rows = self._store.rows(tables.KEYS, None if tenant is None else {"tenant": tenant})
        return tuple({row.id: row for row in rows}.values())

    def read_limits(self) -> dict[str, UsageLimits]:
        """Every limit in force, by scope."""
        self._refresh()
        return dict(self._limits)

    def last_used(self) -> dict[str, float]:
        """Midnight (UTC) before each key's last use, of those used in the last USE_RETENTION_DAYS."""
        rows = sorted(self._store.rows(tables.KEY_USES), key=lambda row: row.day)
        return {row.key_id: float(row.day * DAY_S) for row in rows}

    def _announce_change(self) -> None:
        if self._slate is not None:
            self._slate.write(_increment_epoch)


def _increment_epoch(transaction: Transaction) -> None:
    before = int.from_bytes(transaction.get(EPOCH_KEY) or b"", "little")
    transaction.put(EPOCH_KEY, (before + 1).to_bytes(8, "little"))


def load_pepper(home: Home) -> bytes:
    """The home's pepper, made on first use. Raises AccessError AW-ACC-01 when the file is damaged.

    A whole file is linked into place, which fails when another process was first: both then read the same one."""
    path = home.pepper
    if not path.exists():
        _make_pepper(path)
    pepper = path.read_bytes()
    if len(pepper) != PEPPER_LENGTH:
        hint = "restore it from a backup; without it every key must be made again (delete it, then key create)"
        message = f"the pepper is damaged: {len(pepper)} bytes instead of {PEPPER_LENGTH}"
        raise AccessError("AW-ACC-01", message, where=ErrorLocation(str(path)), hint=hint)
    return pepper


def _make_pepper(path: Path) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".pepper.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(PEPPER_LENGTH))
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    except FileExistsError:
        return
    finally:
        Path(name).unlink(missing_ok=True)
