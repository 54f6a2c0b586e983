"""Tenants, keys, and who a secret belongs to.

A key is `aw_`, 256 random bits in 43 url-safe characters, and 6 characters of checksum; it is shown once and kept
as HMAC-SHA-256 under a pepper that never leaves the home, so a stolen database opens nothing. 256 random bits need
no slow hash. The checksum refuses a mistyped or cut secret without asking the store.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
import re
import secrets
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from archwright.contract.record import Record
from archwright.errors import AccessError, UsageError, Where
from archwright.home import Home
from archwright.store import Conflict, Store, Table

PREFIX = "aw_"
BODY_LENGTH = 43
SECRET_LENGTH = len(PREFIX) + BODY_LENGTH + 6
PEPPER_LENGTH = 32
SHOWN = 10  # characters of a secret that lists show: 42 of its 256 random bits
NAME = re.compile(r"[a-z0-9-]{1,40}")
ROLE_NAMES = ("owner", "admin", "member", "monitor")

POLL_S = 0.5  # a revocation by another process is seen within this
UNKNOWN_POLL_S = 0.2  # a flood of unknown secrets reads the store at most this often


class Tenant(Record):
    name: str
    created_at: float


class KeyRecord(Record):
    """What is kept of a key: never the secret. `prefix` is its beginning, to recognise it in a list."""

    id: str
    tenant: str
    role: str
    name: str
    prefix: str
    digest: str
    created_at: float


class Revocation(Record):
    key_id: str
    at: float


class Principal(Record):
    """Who is asking."""

    key_id: str
    tenant: str
    role: str


TENANTS = Table("tenants", Tenant, unique=("name",))
KEYS = Table("keys", KeyRecord, unique=("digest",), index=("tenant",))
REVOCATIONS = Table("key_revocations", Revocation, unique=("key_id",))


class Keys:
    """Keys of one store. `identify` costs a hash and a dict lookup; rows of other processes are read as they come."""

    def __init__(
        self,
        store: Store,
        pepper: bytes,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._live: dict[str, Principal] = {}
        self._digests: dict[str, str] = {}
        self._revoked: set[str] = set()
        self._seen_keys = 0
        self._seen_revocations = 0
        self._read_at = float("-inf")

    def create_tenant(self, name: str) -> Tenant:
        """Raises UsageError: AW-USE-30 not a name, AW-USE-31 it exists."""
        _check_name(name, "tenant")
        tenant = Tenant(name=name, created_at=self._clock())
        try:
            self._store.append(TENANTS, [tenant])
        except Conflict as error:
            raise UsageError("AW-USE-31", f"the tenant {name!r} exists", hint="choose another name") from error
        return tenant

    def tenants(self) -> tuple[Tenant, ...]:
        return tuple(self._store.rows(TENANTS))

    def create(self, tenant: str, role: str = "member", name: str = "") -> tuple[str, KeyRecord]:
        """A new secret (shown here and never again) and what is kept of it. A tenant that is new is made.

        Raises UsageError: AW-USE-30 not a name, AW-USE-33 no such role.
        """
        if name:
            _check_name(name, "key")
        if role not in ROLE_NAMES:
            raise UsageError("AW-USE-33", f"no role {role!r}", hint=f"roles: {', '.join(ROLE_NAMES)}")
        self._ensure_tenant(tenant)
        body = secrets.token_urlsafe(32)
        secret = PREFIX + body + _checksum(body)
        record = KeyRecord(
            id="key-" + secrets.token_hex(8),
            tenant=tenant,
            role=role,
            name=name,
            prefix=secret[:SHOWN],
            digest=self._digest(secret),
            created_at=self._clock(),
        )
        self._store.append(KEYS, [record])
        return secret, record

    def _ensure_tenant(self, name: str) -> None:
        _check_name(name, "tenant")
        if not self._store.rows(TENANTS, {"name": name}, limit=1):
            with contextlib.suppress(Conflict):
                self._store.append(TENANTS, [Tenant(name=name, created_at=self._clock())])

    def revoke(self, key_id: str) -> KeyRecord:
        """Refused here at once, in other processes within POLL_S; twice is once. Raises UsageError AW-USE-34."""
        found = self._store.rows(KEYS, {"id": key_id}, limit=1)
        if not found:
            raise UsageError("AW-USE-34", f"no key {key_id!r}", hint="see `archwright key list`")
        with contextlib.suppress(Conflict):
            self._store.append(REVOCATIONS, [Revocation(key_id=key_id, at=self._clock())])
        self._refresh()
        return found[0]

    def revoked(self, key_id: str) -> bool:
        return bool(self._store.rows(REVOCATIONS, {"key_id": key_id}, limit=1))

    def list(self, tenant: str | None = None) -> tuple[KeyRecord, ...]:
        """Keys of `tenant` (None: of all), revoked ones too, oldest first."""
        return tuple(self._store.rows(KEYS, None if tenant is None else {"tenant": tenant}))

    def identify(self, secret: str) -> Principal | None:
        """The principal of a live key, or None. Raises StoreError when revocations cannot be read: then deny."""
        if not well_formed(secret):
            return None
        digest = self._digest(secret)
        if self._age() >= POLL_S:
            self._refresh()
        principal = self._live.get(digest)
        if principal is None and self._age() >= UNKNOWN_POLL_S:
            self._refresh()
            principal = self._live.get(digest)
        return principal

    def _age(self) -> float:
        return self._monotonic() - self._read_at

    def _digest(self, secret: str) -> str:
        return hmac.digest(self._pepper, secret.encode(), "sha256").hex()

    def _refresh(self) -> None:
        """Read the rows that are new. Keys first: a key made and revoked in between is then never live."""
        with self._lock:
            at = self._monotonic()
            keys = self._store.numbered(KEYS, self._seen_keys)
            revocations = self._store.numbered(REVOCATIONS, self._seen_revocations)
            self._revoked.update(row.key_id for _, row in revocations)
            for seq, row in keys:
                self._seen_keys = seq
                self._digests[row.id] = row.digest
                if row.id not in self._revoked:
                    self._live[row.digest] = Principal(key_id=row.id, tenant=row.tenant, role=row.role)
            for seq, gone in revocations:
                self._seen_revocations = seq
                self._live.pop(self._digests.get(gone.key_id, ""), None)
            self._read_at = at


def well_formed(secret: str) -> bool:
    """Whether prefix, length and checksum are those of a key: a typing error is found without the store."""
    if len(secret) != SECRET_LENGTH or not secret.startswith(PREFIX) or not secret.isascii():
        return False
    body = secret[len(PREFIX) : -6]
    return secret[-6:] == _checksum(body)


def _checksum(body: str) -> str:
    """CRC-32 in six url-safe characters. It guards against typing, not against forging: the HMAC does that."""
    return base64.urlsafe_b64encode(zlib.crc32(body.encode()).to_bytes(4, "big")).decode().rstrip("=")


def _check_name(name: str, what: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(
            "AW-USE-30",
            f"{name[:60]!r} is no {what} name",
            where=Where(None, None, what),
            hint="1 to 40 of a-z, 0-9 and -",
        )


def load_pepper(home: Home) -> bytes:
    """The home's pepper, made on first use. Raises AccessError AW-ACC-01 when the file is damaged.

    A whole file is linked into place, which fails when another process was first: both then read the same one.
    """
    path = home.pepper
    if not path.exists():
        _make_pepper(path)
    pepper = path.read_bytes()
    if len(pepper) != PEPPER_LENGTH:
        raise AccessError(
            "AW-ACC-01",
            f"the pepper is damaged: {len(pepper)} bytes instead of {PEPPER_LENGTH}",
            where=Where(str(path)),
            hint="restore it from a backup; without it every key must be made again (delete it, then key create)",
        )
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
