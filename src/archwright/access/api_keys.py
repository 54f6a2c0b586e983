"""Create, rotate and revoke API keys; set limits of keys, users and tenants; the pepper.

A secret is `aw_`, 256 random bits in 43 URL-safe characters, and a checksum of 6 characters. It is
shown once and stored as HMAC-SHA-256 under a pepper that never leaves the home, so a stolen
database contains no usable key. 256 random bits need no slow hash. The checksum rejects a mistyped
or truncated secret without a store access. A rotated key keeps its id, limits and usage and gets a
new secret; the old secret ends after an overlap. The newest limits row of a scope replaces all
limits before it.
"""

import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from archwright import settings
from archwright.access import tables
from archwright.access.audit_verification import check_newest_mark
from archwright.access.key_cache import DAY_S, EPOCH_KEY, POLL_S, UNKNOWN_POLL_S, KeyCache
from archwright.access.schema_version import check_schema_version
from archwright.access.signed_rows import append_signed, check_rows, read_signer, sign_anew, sign_unsigned
from archwright.access.tables import (
    NO_LIMITS,
    ROLE_NAMES,
    SECRET_LENGTH,
    KeyRecord,
    LimitRow,
    Principal,
    ScopeKind,
    SignedRow,
    Tenant,
    is_well_formed,
)
from archwright.contract.record import as_dict, replace
from archwright.errors import AccessError, ErrorLocation, StoreError, UsageError
from archwright.home import Home, create_secret, write_atomic
from archwright.monitor.shared_table import Transaction
from archwright.monitor.user_names import ensure_user_id, read_user_names
from archwright.policy.usage_limits import UsageLimits
from archwright.store import ConflictError, RecordTable, Store

# Importers of keys need only this module.
__all__ = ["POLL_S", "ROLE_NAMES", "SECRET_LENGTH", "UNKNOWN_POLL_S", "KeyRecord", "KeyStore", "Principal", "Tenant"]
__all__ += ["check_keys", "load_pepper", "read_pepper", "replace_pepper", "is_well_formed"]

R = TypeVar("R", bound=SignedRow)
PEPPER_LENGTH = 32
ALTERED_CODES = ("AW-STO-20", "AW-STO-21")
PEPPER_HINT = (
    "copy it from a home with this database, or from a restored backup: archwright restore --into DIR; or "
    "give up all keys: archwright key reset"
)


class KeyStore(KeyCache):
    """Keys of one store: the cache of a process, and the operations that change keys.

    With a shared table the processes of one machine notify each other of changes: a new key is
    usable at once in each.
    """

    def create_tenant(self, name: str) -> Tenant:
        """Create a tenant. Raises UsageError: AW-USE-30 invalid name, AW-USE-31 it exists."""
        tables.check_name(name, "tenant")
        tenant = Tenant(name=name, created_at=self._clock())
        try:
            self._store.append(tables.TENANTS, [tenant])
        except ConflictError as error:
            message, hint = f"the tenant {name!r} already exists", "choose another name, or use the existing tenant"
            raise UsageError("AW-USE-31", message, hint=hint) from error
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
        """Create a key, and its tenant if it does not exist; return the secret (available only
        here) and the record.

        The key expires after `lives_s` (None: an owner's after the setting owner_key_days, others
        never). Raises UsageError: AW-USE-30 invalid name, AW-USE-33 unknown role, AW-USE-36 invalid
        limit or lifetime.
        """
        if name:
            tables.check_name(name, "key")
        if user:
            tables.check_user(user)
        if role not in ROLE_NAMES:
            raise UsageError("AW-USE-33", f"no role {role!r}", hint=f"use one of {', '.join(ROLE_NAMES)}")
        tables.check_limits(limits)
        if lives_s is not None and not 0 < lives_s < 1e10:
            raise tables.invalid_limit_error(f"the lifetime of a key must be between 0 and 1e10 s, not {lives_s}")
        tables.check_name(tenant, "tenant")
        if not self._has_tenant(tenant):
            with suppress(ConflictError):
                self._store.append(tables.TENANTS, [Tenant(name=tenant, created_at=self._clock())])
        now = self._clock()
        if lives_s is None:
            lives_s = find_default_life(role)
        secret, prefix, digest = self._generate_secret()
        user_id = self._find_user_id(tenant, user)
        record = KeyRecord(
            id="key-" + secrets.token_hex(8),
            tenant=tenant,
            role=role,
            name=name,
            prefix=prefix,
            digest=digest,
            created_at=now,
            user=user_id,
            **as_dict(limits),
            expires_at=None if lives_s is None else now + lives_s,
        )
        signed = self._append(tables.KEYS, record)
        self._announce_change()
        return secret, replace(signed, user=user)

    def rotate(self, key_id: str, overlap_s: float) -> tuple[str, KeyRecord]:
        """Add a new secret to a key; its old secrets end after `overlap_s`. Raises UsageError
        AW-USE-34, AW-USE-36.
        """
        if not 0 <= overlap_s < 1e10:
            raise tables.invalid_limit_error(f"the overlap of secrets must be between 0 and 1e10 s, not {overlap_s}")
        records = self._require_records(key_id)
        if self.is_revoked(key_id):
            hint = "create a new key: archwright key create"
            raise UsageError("AW-USE-34", f"the key {key_id!r} is revoked", hint=hint)
        now = self._clock()
        secret, prefix, digest = self._generate_secret()
        expires_at = _renew_end(records[-1], now)
        record = replace(records[-1], prefix=prefix, digest=digest, created_at=now, expires_at=expires_at)
        # The new secret is written first: if the second write fails, both secrets work and the
        # caller can rotate again.
        signed = self._append(tables.KEYS, record)
        self._end_secrets(records, now + overlap_s)
        return secret, self._with_user_name(signed)

    def end_key(self, key_id: str, at: float) -> None:
        """End a key at a time; an earlier end stays. Raises UsageError AW-USE-34."""
        self._end_secrets(self._require_records(key_id), at)

    def _end_secrets(self, records: Iterable[KeyRecord], at: float) -> None:
        ends = [tables.SecretExpiry(digest=record.digest, at=at) for record in records]
        self._append(tables.SECRET_EXPIRIES, *ends)
        self._announce_change()

    def set_limits(self, kind: ScopeKind, tenant: str, name: str, limits: UsageLimits) -> LimitRow:
        """Replace all limits of a key (`name`: its id), a user or a tenant.

        Raises UsageError: AW-USE-30 invalid name, AW-USE-34 unknown key or tenant, AW-USE-36
        invalid limit.
        """
        tables.check_limits(limits)
        if kind == "key":
            self._require_records(name)
        else:
            self._check_tenant(tenant)
        if kind == "user":
            tables.check_user(name)
            name = self._find_user_id(tenant, name)
        scope = tables.format_scope_name(kind, tenant if kind != "key" else "", name)
        row = LimitRow(scope=scope, **as_dict(limits), at=self._clock())
        signed = self._append(tables.LIMITS, row)
        self._announce_change()
        return signed

    def set_content_tracing(self, tenant: str, traced: bool) -> None:
        """Include a tenant's prompts and responses in traces, or stop doing so. Raises UsageError
        AW-USE-34.
        """
        self._check_tenant(tenant)
        row = tables.TenantContentTracing(tenant=tenant, traced=traced, at=self._clock())
        self._append(tables.CONTENT_TRACINGS, row)
        self._announce_change()
        self._refresh()

    def _find_user_id(self, tenant: str, user: str) -> str:
        """The id of a user; one that older records name keeps its name as id."""
        scope = tables.format_scope_name("user", tenant, user)
        keys = self._store.rows(tables.KEYS, {"tenant": tenant, "user": user}, limit=1)
        limits = self._store.rows(tables.LIMITS, {"scope": scope}, limit=1)
        former_ids = (user,) if keys or limits else ()
        return ensure_user_id(self._store, tenant, user, former_ids=former_ids)

    def _with_user_name(self, record: KeyRecord) -> KeyRecord:
        return replace(record, user=read_user_names(self._store).get(record.user, record.user))

    def _check_tenant(self, name: str) -> None:
        if not self._has_tenant(name):
            raise UsageError("AW-USE-34", f"no tenant {name[:60]!r}", hint="list them: archwright tenant list")

    def _has_tenant(self, name: str) -> bool:
        return bool(self._store.rows(tables.TENANTS, {"name": name}, limit=1))

    def _append(self, table: RecordTable[R], *rows: R) -> R:
        """Append rows and return the last one with its signature."""
        return append_signed(self._store, self._pepper, table, *rows)[-1]

    def _read_keys(self, where: Mapping[str, object] | None) -> list[KeyRecord]:
        """Return the authentic records of keys, oldest first: a forged record decides nothing, and
        no copy signs it.
        """
        rows = self._store.rows(tables.KEYS, where)
        return read_signer(self._store, self._pepper).select_authentic(tables.KEYS, rows)

    def _generate_secret(self) -> tuple[str, str, str]:
        """Return a new secret, its prefix for lists, and its digest."""
        body = secrets.token_urlsafe(32)
        secret = tables.SECRET_PREFIX + body + tables.compute_checksum(body)
        return secret, secret[: tables.SHOWN_CHARACTERS], self._digest(secret).hex()

    def _require_records(self, key_id: str) -> list[KeyRecord]:
        """Return the records of a key, oldest first. Raises UsageError AW-USE-34."""
        records = self._read_keys({"id": key_id})
        if not records:
            raise UsageError("AW-USE-34", f"no key {key_id[:60]!r}", hint="list them: archwright key list")
        return records

    def find_record(self, key_id: str) -> KeyRecord | None:
        """Return the newest record of a key, revoked or not; None if it does not exist."""
        records = self._read_keys({"id": key_id})
        return self._with_user_name(records[-1]) if records else None

    def revoke(self, key_id: str) -> KeyRecord:
        """Revoke a key: here at once, in other processes within POLL_S. Idempotent. Raises
        UsageError AW-USE-34.
        """
        records = self._require_records(key_id)
        with suppress(ConflictError):
            self._append(tables.REVOCATIONS, tables.Revocation(key_id=key_id, at=self._clock()))
        self._announce_change()
        self._refresh()
        return self._with_user_name(records[-1])

    def is_revoked(self, key_id: str) -> bool:
        self._refresh()
        return key_id in self._revoked

    def list(self, tenant: str | None = None) -> tuple[KeyRecord, ...]:
        """Return the newest record of each key of `tenant` (None: of all), oldest key first,
        revoked ones included.
        """
        rows = self._read_keys(None if tenant is None else {"tenant": tenant})
        names = read_user_names(self._store)
        return tuple({row.id: replace(row, user=names.get(row.user, row.user)) for row in rows}.values())

    def read_limits(self) -> dict[str, UsageLimits]:
        """Limits by scope; the scope of a user holds its name."""
        self._refresh()
        names = read_user_names(self._store)
        return {tables.name_user_in_scope(scope, names): limits for scope, limits in self._limits.items()}

    def last_used(self) -> dict[str, float]:
        """Return the midnight (UTC) before the last use of each key used within USE_RETENTION_DAYS."""
        rows = sorted(self._store.rows(tables.KEY_USES), key=lambda row: row.day)
        return {row.key_id: float(row.day * DAY_S) for row in rows}

    def _announce_change(self) -> None:
        if self._table is not None:
            self._table.write(_increment_epoch)


def find_default_life(role: str) -> float | None:
    """Return the seconds for which a key without a stated life lives; None: for ever."""
    days = settings.load().owner_key_days if role == "owner" else 0
    return float(days * DAY_S) or None


def _increment_epoch(transaction: Transaction) -> None:
    before = int.from_bytes(transaction.get(EPOCH_KEY) or b"", "little")
    transaction.put(EPOCH_KEY, (before + 1).to_bytes(8, "little"))


def load_pepper(home: Home, store: Store) -> bytes:
    """Return the home's pepper, created on first use of home and store. Signs the rows of an older
    version once.

    The store holds a check value of the pepper, because homes that share a database need the same one. Raises
    AccessError AW-ACC-01 if the file is damaged, AW-ACC-02 if it is missing or does not belong to the store's keys,
    StoreError AW-STO-21 if the newest checkpoint contradicts the rows of keys, AW-STO-25 after a newer program."""
    check_schema_version(store)
    pepper = _load_checked_pepper(home, store)
    if home.unsigned_rows.exists():
        sign_unsigned(store, pepper)
        home.unsigned_rows.unlink(missing_ok=True)
    check_newest_mark(store, home)
    return pepper


def _load_checked_pepper(home: Home, store: Store) -> bytes:
    path, checks = home.pepper, store.rows(tables.PEPPER_CHECKS, newest_first=True, limit=1)
    if not path.exists() and not checks and not store.rows(tables.KEYS, limit=1):
        create_secret(path, PEPPER_LENGTH)
    pepper = read_pepper(home)
    check = _compute_check(pepper)
    if not checks:
        with suppress(ConflictError):  # another home or process was first
            store.append(tables.PEPPER_CHECKS, [tables.PepperCheck(generation=1, check=check)])
        checks = store.rows(tables.PEPPER_CHECKS, newest_first=True, limit=1)
    if checks[0].check != check:
        raise _foreign_pepper_error(home)
    return pepper


def _foreign_pepper_error(home: Home) -> AccessError:
    message = "this pepper belongs to other keys than those of the database"
    return AccessError("AW-ACC-02", message, where=ErrorLocation(str(home.pepper)), hint=PEPPER_HINT)


def check_keys(home: Home, store: Store) -> int:
    """Return the number of rows of keys; each is authentic under the home's pepper. Changes nothing.

    Raises AccessError AW-ACC-01, AW-ACC-02, StoreError AW-STO-20."""
    keys = store.rows(tables.KEYS)
    checks = store.rows(tables.PEPPER_CHECKS, newest_first=True, limit=1)
    if not keys and not checks and not home.has_pepper:
        return 0
    pepper = read_pepper(home)
    if checks and checks[0].check != _compute_check(pepper):
        raise _foreign_pepper_error(home)
    if not home.unsigned_rows.exists():
        check_rows(store, read_signer(store, pepper))
    return len(keys)


def read_pepper(home: Home) -> bytes:
    """Return the home's pepper without a look into the store. Raises AccessError AW-ACC-01,
    AW-ACC-02.
    """
    where = ErrorLocation(str(home.pepper))
    try:
        pepper = home.pepper.read_bytes()
    except FileNotFoundError as error:
        message = "the pepper file of this database is missing"
        raise AccessError("AW-ACC-02", message, where=where, hint=PEPPER_HINT) from error
    if len(pepper) != PEPPER_LENGTH:
        message = f"the pepper file is damaged: {len(pepper)} bytes instead of {PEPPER_LENGTH}"
        raise AccessError("AW-ACC-01", message, where=where, hint=PEPPER_HINT)
    return pepper


def replace_pepper(home: Home, store: Store) -> None:
    """Replace a pepper that is lost, or under which rows were altered: every key becomes invalid.

    All rows are signed anew as they are. Raises UsageError AW-USE-37 if the pepper and the rows are
    intact.
    """
    try:
        check_rows(store, read_signer(store, load_pepper(home, store)))
    except (AccessError, StoreError) as error:
        if isinstance(error, StoreError) and error.code not in ALTERED_CODES:
            raise
        checks = store.rows(tables.PEPPER_CHECKS, newest_first=True, limit=1)
        pepper = secrets.token_bytes(PEPPER_LENGTH)
        write_atomic(home.pepper, pepper)
        home.unsigned_rows.unlink(missing_ok=True)
        generation = checks[0].generation + 1 if checks else 1
        row = tables.PepperCheck(generation=generation, check=_compute_check(pepper))
        sign_anew(store, pepper, row)
        return
    hint = "revoke single keys: archwright key revoke ID"
    raise UsageError("AW-USE-37", "the pepper is intact, so the keys are valid", hint=hint)


def _renew_end(record: KeyRecord, now: float) -> float | None:
    """Return the end of a new secret: an owner's lives as long as the former one was to live; other
    ends stay.
    """
    if record.role != "owner":
        return record.expires_at
    life_s = find_default_life(record.role)
    if record.expires_at is not None:
        life_s = record.expires_at - record.created_at
    return None if life_s is None else now + life_s


def renew_signatures(home: Home, store: Store, change: Callable[[Any], Any]) -> None:
    """Change signed rows, as the erasure of a person must, and sign all rows in a new generation.

    Raises StoreError AW-STO-20, and changes nothing, if a row is not authentic."""
    pepper = load_pepper(home, store)
    signer = read_signer(store, pepper)
    check = tables.PepperCheck(generation=signer.generation + 1, check=_compute_check(pepper))
    sign_anew(store, pepper, check, change=change, former=signer)


def _compute_check(pepper: bytes) -> str:
    return hmac.digest(pepper, b"archwright pepper", "sha256").hex()
