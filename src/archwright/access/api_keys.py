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
from typing import Any, NamedTuple, TypeVar

from archwright import settings
from archwright.access import tables
from archwright.access.audit_verification import check_newest_mark
from archwright.access.key_cache import DAY_S, EPOCH_KEY, POLL_S, UNKNOWN_POLL_S, KeyCache
from archwright.access.schema_version import check_schema_version
from archwright.access.signed_rows import (
    append_signed,
    check_rows,
    read_signer,
    sign_anew,
    sign_unsigned,
)
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
__all__ = [
    "POLL_S",
    "ROLE_NAMES",
    "SECRET_LENGTH",
    "UNKNOWN_POLL_S",
    "KeyRecord",
    "KeyStore",
    "Principal",
    "Tenant",
    "check_keys",
    "is_well_formed",
    "load_pepper",
    "read_pepper",
    "replace_pepper",
]

R = TypeVar("R", bound=SignedRow)
PEPPER_LENGTH = 32
LARGEST_SPAN_S = 1e10
ALTERED_CODES = ("AW-STO-20", "AW-STO-21")
PEPPER_HINT = (
    "copy it from a home with this database, or from a restored backup: "
    "archwright restore --into DIR; or give up all keys: archwright key reset"
)


class _NewSecret(NamedTuple):
    """A new secret, its prefix for lists, and its digest."""

    secret: str
    prefix: str
    digest: str


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
            message = f"the tenant {name!r} already exists"
            hint = "choose another name, or use the existing tenant"
            raise UsageError("AW-USE-31", message, hint=hint) from error
        return tenant

    def list_tenants(self) -> tuple[Tenant, ...]:
        return tuple(self._store.rows(tables.TENANTS))

    def create(
        self,
        tenant: str,
        role: str = "member",
        name: str = "",
        *,
        user: str = "",
        limits: UsageLimits = NO_LIMITS,
        lives_s: float | None = None,
    ) -> tuple[str, KeyRecord]:
        """Create a key, and its tenant if it does not exist.

        Return the secret (available only here) and the record. The key expires after `lives_s`
        (None: an owner's after the setting owner_key_days, others never). Raises UsageError:
        AW-USE-30 invalid name, AW-USE-33 unknown role, AW-USE-36 invalid limit or lifetime.
        """
        if name:
            tables.check_name(name, "key")
        if user:
            tables.check_user(user)
        if role not in ROLE_NAMES:
            hint = f"use one of {', '.join(ROLE_NAMES)}"
            raise UsageError("AW-USE-33", f"no role {role!r}", hint=hint)
        tables.check_limits(limits)
        if lives_s is not None and not 0 < lives_s < LARGEST_SPAN_S:
            message = f"the lifetime of a key must be between 0 and 1e10 s, not {lives_s}"
            raise tables.invalid_limit_error(message)
        tables.check_name(tenant, "tenant")

        self._ensure_tenant(tenant)
        now = self._clock()
        life_s = find_default_life(role) if lives_s is None else lives_s
        secret, prefix, digest = self._generate_secret()
        record = KeyRecord(
            id="key-" + secrets.token_hex(8),
            tenant=tenant,
            role=role,
            name=name,
            prefix=prefix,
            digest=digest,
            created_at=now,
            user=self._find_user_id(tenant, user),
            **as_dict(limits),
            expires_at=None if life_s is None else now + life_s,
        )
        signed = self._append(tables.KEYS, record)
        self._announce_change()
        return secret, replace(signed, user=user)

    def _ensure_tenant(self, name: str) -> None:
        if not self._has_tenant(name):
            with suppress(ConflictError):
                row = Tenant(name=name, created_at=self._clock())
                self._store.append(tables.TENANTS, [row])

    def rotate(self, key_id: str, overlap_s: float) -> tuple[str, KeyRecord]:
        """Add a new secret to a key; its old secrets end after `overlap_s`.

        Raises UsageError AW-USE-34, AW-USE-36.
        """
        if not 0 <= overlap_s < LARGEST_SPAN_S:
            message = f"the overlap of secrets must be between 0 and 1e10 s, not {overlap_s}"
            raise tables.invalid_limit_error(message)
        records = self._require_records(key_id)
        if self.is_revoked(key_id):
            hint = "create a new key: archwright key create"
            raise UsageError("AW-USE-34", f"the key {key_id!r} is revoked", hint=hint)

        now = self._clock()
        secret, prefix, digest = self._generate_secret()
        newest = records[-1]
        record = replace(
            newest,
            prefix=prefix,
            digest=digest,
            created_at=now,
            expires_at=_renew_end(newest, now),
        )
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

    def set_limits(
        self,
        kind: ScopeKind,
        tenant: str,
        name: str,
        *,
        limits: UsageLimits,
    ) -> LimitRow:
        """Replace all limits of a key (`name`: its id), a user or a tenant.

        Raises UsageError: AW-USE-30 invalid name, AW-USE-34 unknown key or tenant, AW-USE-36
        invalid limit.
        """
        tables.check_limits(limits)
        if kind == "key":
            self._require_records(name)
            scope = tables.format_scope_name("key", name=name)
        else:
            self._check_tenant(tenant)
            scope = self._find_scope(kind, tenant, name)

        row = LimitRow(scope=scope, **as_dict(limits), at=self._clock())
        signed = self._append(tables.LIMITS, row)
        self._announce_change()
        return signed

    def _find_scope(self, kind: ScopeKind, tenant: str, name: str) -> str:
        if kind != "user":
            return tables.format_scope_name(kind, tenant, name)
        tables.check_user(name)
        user_id = self._find_user_id(tenant, name)
        return tables.format_scope_name("user", tenant, user_id)

    def set_content_tracing(self, tenant: str, traced: bool) -> None:
        """Include a tenant's prompts and responses in traces, or stop doing so.

        Raises UsageError AW-USE-34.
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
        is_former = bool(keys or limits)
        former_ids = (user,) if is_former else ()
        return ensure_user_id(self._store, tenant, user, former_ids=former_ids)

    def _with_user_name(self, record: KeyRecord) -> KeyRecord:
        names = read_user_names(self._store)
        return replace(record, user=names.get(record.user, record.user))

    def _check_tenant(self, name: str) -> None:
        if not self._has_tenant(name):
            message = f"no tenant {name[:60]!r}"
            raise UsageError("AW-USE-34", message, hint="list them: archwright tenant list")

    def _has_tenant(self, name: str) -> bool:
        return bool(self._store.rows(tables.TENANTS, {"name": name}, limit=1))

    def _append(self, table: RecordTable[R], *rows: R) -> R:
        """Append rows and return the last one with its signature."""
        return append_signed(self._store, self._pepper, table, *rows)[-1]

    def _read_keys(self, where: Mapping[str, object] | None) -> list[KeyRecord]:
        """Return the authentic records of keys, oldest first.

        A forged record decides nothing, and no copy signs it.
        """
        rows = self._store.rows(tables.KEYS, where)
        signer = read_signer(self._store, self._pepper)
        return signer.select_authentic(tables.KEYS, rows)

    def _generate_secret(self) -> _NewSecret:
        body = secrets.token_urlsafe(32)
        secret = tables.SECRET_PREFIX + body + tables.compute_checksum(body)
        prefix = secret[: tables.SHOWN_CHARACTERS]
        return _NewSecret(secret, prefix, self._digest(secret).hex())

    def _require_records(self, key_id: str) -> list[KeyRecord]:
        """Return the records of a key, oldest first. Raises UsageError AW-USE-34."""
        records = self._read_keys({"id": key_id})
        if not records:
            message = f"no key {key_id[:60]!r}"
            raise UsageError("AW-USE-34", message, hint="list them: archwright key list")
        return records

    def find_record(self, key_id: str) -> KeyRecord | None:
        """Return the newest record of a key, revoked or not; None if it does not exist."""
        records = self._read_keys({"id": key_id})
        if not records:
            return None
        return self._with_user_name(records[-1])

    def revoke(self, key_id: str) -> KeyRecord:
        """Revoke a key: here at once, in other processes within POLL_S. Idempotent.

        Raises UsageError AW-USE-34.
        """
        records = self._require_records(key_id)
        revocation = tables.Revocation(key_id=key_id, at=self._clock())
        with suppress(ConflictError):
            self._append(tables.REVOCATIONS, revocation)
        self._announce_change()
        self._refresh()
        return self._with_user_name(records[-1])

    def is_revoked(self, key_id: str) -> bool:
        self._refresh()
        return key_id in self._revoked

    def list(self, tenant: str | None = None) -> tuple[KeyRecord, ...]:
        """Return the newest record of each key of `tenant` (None: of all), oldest key first.

        Revoked keys are included.
        """
        where = {} if tenant is None else {"tenant": tenant}
        names = read_user_names(self._store)
        newest: dict[str, KeyRecord] = {}
        for row in self._read_keys(where):
            newest[row.id] = replace(row, user=names.get(row.user, row.user))
        return tuple(newest.values())

    def read_limits(self) -> dict[str, UsageLimits]:
        """Limits by scope; the scope of a user holds its name."""
        self._refresh()
        names = read_user_names(self._store)
        limits: dict[str, UsageLimits] = {}
        for scope, scope_limits in self._limits.items():
            limits[tables.name_user_in_scope(scope, names)] = scope_limits
        return limits

    def last_used(self) -> dict[str, float]:
        """Return the midnight (UTC) before the last use of each key.

        Keys that were not used within USE_RETENTION_DAYS are left out.
        """
        rows = sorted(self._store.rows(tables.KEY_USES), key=lambda row: row.day)
        return {row.key_id: float(row.day * DAY_S) for row in rows}

    def _announce_change(self) -> None:
        if self._table is not None:
            self._table.write(_increment_epoch)


def find_default_life(role: str) -> float | None:
    """Return the seconds for which a key without a stated life lives; None: for ever."""
    if role != "owner":
        return None
    days = settings.load().owner_key_days
    return float(days * DAY_S) or None


def _increment_epoch(transaction: Transaction) -> None:
    epoch = int.from_bytes(transaction.get(EPOCH_KEY) or b"", "little")
    next_epoch = epoch + 1
    transaction.put(EPOCH_KEY, next_epoch.to_bytes(8, "little"))


def load_pepper(home: Home, store: Store) -> bytes:
    """Return the home's pepper, created on first use of home and store.

    Signs the rows of an older version once. The store holds a check value of the pepper, because
    homes that share a database need the same one. Raises AccessError AW-ACC-01 if the file is
    damaged, AW-ACC-02 if it is missing or does not belong to the store's keys, StoreError AW-STO-21
    if the newest checkpoint contradicts the rows of keys, AW-STO-25 after a newer program.
    """
    check_schema_version(store)
    pepper = _load_checked_pepper(home, store)
    if home.unsigned_rows.exists():
        sign_unsigned(store, pepper)
        home.unsigned_rows.unlink(missing_ok=True)
    check_newest_mark(store, home)
    return pepper


def _load_checked_pepper(home: Home, store: Store) -> bytes:
    newest_check = _read_newest_check(store)
    is_first_use = newest_check is None and not home.pepper.exists()
    if is_first_use and not store.rows(tables.KEYS, limit=1):
        create_secret(home.pepper, PEPPER_LENGTH)

    pepper = read_pepper(home)
    check = _compute_check(pepper)
    if newest_check is None:
        row = tables.PepperCheck(generation=1, check=check)
        with suppress(ConflictError):  # another home or process was first
            store.append(tables.PEPPER_CHECKS, [row])
        newest_check = _read_newest_check(store)
    if newest_check is None or newest_check.check != check:
        raise _foreign_pepper_error(home)
    return pepper


def _read_newest_check(store: Store) -> tables.PepperCheck | None:
    checks = store.rows(tables.PEPPER_CHECKS, newest_first=True, limit=1)
    return checks[0] if checks else None


def _foreign_pepper_error(home: Home) -> AccessError:
    message = "this pepper belongs to other keys than those of the database"
    where = ErrorLocation(str(home.pepper))
    return AccessError("AW-ACC-02", message, where=where, hint=PEPPER_HINT)


def check_keys(home: Home, store: Store) -> int:
    """Return the number of rows of keys; each is authentic under the home's pepper.

    Changes nothing. Raises AccessError AW-ACC-01, AW-ACC-02, StoreError AW-STO-20.
    """
    keys = store.rows(tables.KEYS)
    newest_check = _read_newest_check(store)
    if not keys and newest_check is None and not home.has_pepper:
        return 0
    pepper = read_pepper(home)
    if newest_check is not None and newest_check.check != _compute_check(pepper):
        raise _foreign_pepper_error(home)
    if not home.unsigned_rows.exists():
        check_rows(store, read_signer(store, pepper))
    return len(keys)


def read_pepper(home: Home) -> bytes:
    """Return the home's pepper without a look into the store.

    Raises AccessError AW-ACC-01, AW-ACC-02.
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
        pepper = load_pepper(home, store)
        check_rows(store, read_signer(store, pepper))
    except (AccessError, StoreError) as error:
        if isinstance(error, StoreError) and error.code not in ALTERED_CODES:
            raise
        _install_new_pepper(home, store)
        return
    hint = "revoke single keys: archwright key revoke ID"
    raise UsageError("AW-USE-37", "the pepper is intact, so the keys are valid", hint=hint)


def _install_new_pepper(home: Home, store: Store) -> None:
    newest_check = _read_newest_check(store)
    generation = 1 if newest_check is None else newest_check.generation + 1
    pepper = secrets.token_bytes(PEPPER_LENGTH)
    write_atomic(home.pepper, pepper)
    home.unsigned_rows.unlink(missing_ok=True)
    row = tables.PepperCheck(generation=generation, check=_compute_check(pepper))
    sign_anew(store, pepper, row)


def _renew_end(record: KeyRecord, now: float) -> float | None:
    """Return the end of a new secret.

    An owner's secret lives as long as the former one was to live; other ends stay.
    """
    if record.role != "owner":
        return record.expires_at
    if record.expires_at is not None:
        return now + (record.expires_at - record.created_at)
    life_s = find_default_life(record.role)
    return None if life_s is None else now + life_s


def renew_signatures(home: Home, store: Store, change: Callable[[Any], Any]) -> None:
    """Change signed rows, as the erasure of a person must, and sign all rows in a new generation.

    Raises StoreError AW-STO-20, and changes nothing, if a row is not authentic.
    """
    pepper = load_pepper(home, store)
    signer = read_signer(store, pepper)
    check = tables.PepperCheck(generation=signer.generation + 1, check=_compute_check(pepper))
    sign_anew(store, pepper, check, change=change, former=signer)


def _compute_check(pepper: bytes) -> str:
    return hmac.digest(pepper, b"archwright pepper", "sha256").hex()
