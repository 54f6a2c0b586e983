"""Cache of every live key in memory: principal and limits by secret.

Design: a worker reads new rows of the store within POLL_S, so a revoked key is refused within a
second. An unknown secret causes an immediate read only if a process of this machine noted a key
change in the shared table, else at most every UNKNOWN_POLL_S, so that a flood of unknown secrets is
cheap. With `background` a thread reads ahead of time; the event loop waits once for an unresponsive
database, READ_WAITS times READ_WAIT_S, then denies until it responds. With `background` an expired
secret gets a row with the end ENDED, so that a clock that goes back never revives it.

The signature of a row is checked once, when the row is read (`access.signed_rows`), not for each
request.
"""

import hmac
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from sys import intern
from typing import TypeVar

from archwright.access import tables
from archwright.access.signed_rows import RowSigner, altered_error, append_signed, read_signer
from archwright.access.tables import (
    NO_LIMITS,
    SECRET_LENGTH,
    KeyRecord,
    KeyUse,
    LimitRow,
    LimitScope,
    Principal,
    SecretExpiry,
    SignedRow,
    is_well_formed,
)
from archwright.contract.record import replace
from archwright.errors import ArchwrightError, StoreError, boundary
from archwright.monitor.shared_table import SharedTable
from archwright.policy.usage_limits import UsageLimits
from archwright.store import ColumnRange, RecordTable, Store

R = TypeVar("R", bound=SignedRow)

POLL_S = 0.5  # a revocation by another process is visible within this time
TENANT_DIGEST_LENGTH = 32  # 128 bits in hexadecimal digits
REFRESH_AHEAD_S = 0.25  # age at which a background read starts, so that no request waits for it
# Waits are counted, not the clock: a busy machine that runs neither thread is no slow database.
READ_WAITS = 8
READ_WAIT_S = 0.05
FOLLOWED_TABLES = (*tables.SIGNED_TABLES, tables.PEPPER_CHECKS)
UNKNOWN_POLL_S = 0.2  # shortest interval of reads for unknown secrets without a noted change
DAY_S = 86_400
USE_RETENTION_DAYS = 90
WRITE_USES_S = 10.0
WRITE_ENDS_S = 1.0
ENDED = 0.0  # the end of a secret that is refused at any time
EPOCH_KEY = b"e"  # in the shared table: number of key changes by processes of this machine
SeenRows = dict[str, tuple[int, str]]
"""By table: number and signature of the newest row that was read."""


class _BackgroundRead:
    """One read of the store by a thread."""

    def __init__(self, read: Callable[[], None]) -> None:
        self.error: ArchwrightError | None = None
        self.done = threading.Event()
        self._read = read
        self._waits = 0
        threading.Thread(target=self._run, name="key-reader", daemon=True).start()

    def wait(self) -> bool:
        """Wait for the end; False if READ_WAITS waits of all callers together were not enough."""
        while not self.done.is_set() and self._waits < READ_WAITS:
            self._waits += 1
            self.done.wait(READ_WAIT_S)
        return self.done.is_set()

    def _run(self) -> None:
        try:
            with boundary("keys"):
                self._read()
        except ArchwrightError as error:
            self.error = error
        finally:
            self.done.set()


class KeyCache:
    """Keys of one store, as cached by one process; `background`: refresh in a thread."""

    def __init__(
        self,
        store: Store,
        pepper: bytes,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        table: SharedTable | None = None,
        background: bool = False,
    ) -> None:
        self.version = 0
        """Incremented when a key is revoked or expires earlier, or a limit changes."""
        self.serves_many_tenants = False
        """True if the keys, as of the last read, belong to more than one tenant.

        Revoked keys count. The tenant of drills does not: its keys send no requests here.
        """
        self._check_start: Callable[[], None] | None = None
        self._store = store
        self._pepper = pepper
        # Copied per secret: a new HMAC costs a third more.
        self._hmac = hmac.new(pepper, digestmod="sha256")
        self._clock = clock
        self._monotonic = monotonic
        self._table = table
        self._stale_s = REFRESH_AHEAD_S if background else POLL_S
        self._background = background
        self._reading: _BackgroundRead | None = None
        self._epoch: bytes | None = None
        self._lock = threading.Lock()
        self._live: dict[bytes, Principal] = {}
        self._tenants: set[str] = set()
        self._digests: dict[str, tuple[bytes, ...]] = {}
        self._revoked: set[str] = set()
        self._ends: dict[bytes, float] = {}
        self._expiries: list[tuple[float, bytes]] = []  # a heap
        self._expired: deque[bytes] = deque()  # seen as expired, not yet in the store
        self._ends_written_at = float("-inf")
        self._limits: dict[str, UsageLimits] = {}
        self._interned: dict[UsageLimits, UsageLimits] = {}  # many keys share few distinct limits
        self._traced: dict[str, bool] = {}
        self._seen: SeenRows = {}
        self._generation = 0  # of the signatures
        self._newest: tuple[int, ...] = ()
        self._read_at = float("-inf")
        self._day = 0
        self._used: set[str] = set()
        self._unwritten: list[KeyUse] = []
        self._uses_written_at = float("-inf")

    def check_before_first_read(self, check: Callable[[], None]) -> None:
        """Call `check` before the first read.

        It raises StoreError if the rows must not be trusted.
        """
        self._check_start = check

    def identify(self, secret: str) -> Principal | None:
        """Return the principal of a live key, else None.

        Raises StoreError if the store cannot be read: then deny.
        """
        if len(secret) != SECRET_LENGTH or not secret.isascii():
            return None
        digest = self._digest(secret)
        if self._monotonic() - self._read_at >= self._stale_s:
            if not is_well_formed(secret):
                return None
            self._ensure_fresh(POLL_S)

        principal = self._live.get(digest) or self._find_unread(secret, digest)
        if principal is None:
            return None
        if self._clock() >= principal.expires_at:
            if principal.expires_at > ENDED:
                self._mark_expired(digest)
            return None
        if principal.key_id not in self._used:
            self._record_use(principal.key_id)
        return principal

    def _find_unread(self, secret: str, digest: bytes) -> Principal | None:
        """Return the principal of a secret that was not in the cache, if a key with it is new."""
        if not is_well_formed(secret):
            return None
        if self._may_be_unread():
            self._ensure_fresh(0.0)
        # Also if nothing is unread now: a thread may have read the key since the caller looked.
        return self._live.get(digest)

    def refresh_version(self) -> int:
        """Return `version`, at most POLL_S old, to check running requests.

        Raises StoreError as `identify` does.
        """
        if self._monotonic() - self._read_at >= self._stale_s:
            self._ensure_fresh(POLL_S)
        return self.version

    def is_live(self, key_id: str) -> bool:
        """True if any secret of the key is still valid."""
        return self._find_live(key_id) is not None

    def find_principal(self, key_id: str) -> Principal | None:
        """Return the principal of a live key, at most POLL_S old, else None.

        Raises StoreError as `identify` does.
        """
        self.refresh_version()
        if not self.is_live(key_id) and self._may_be_unread():
            self._ensure_fresh(0.0)
        return self._find_live(key_id)

    def _find_live(self, key_id: str) -> Principal | None:
        """Return the principal of a key with a valid secret, as of the last read."""
        now = self._clock()
        for digest in self._digests.get(key_id, ()):
            principal = self._live.get(digest)
            if principal is not None and now < principal.expires_at:
                return principal
        return None

    def list_limited_scopes(self, principal: Principal) -> tuple[LimitScope, ...]:
        """Return the scopes with limits that apply to requests of `principal`, narrowest first."""
        scopes: list[LimitScope] = []
        for kind, name in tables.list_scopes(principal):
            limits = self._limits.get(name, NO_LIMITS)
            if not limits.is_unlimited:
                scopes.append(LimitScope(kind, name, limits))
        return tuple(scopes)

    def list_limits(self) -> dict[str, UsageLimits]:
        """Return the limits by scope, as accounts name it, as of the last read."""
        return dict(self._limits)

    def find_end(self, record: KeyRecord) -> float | None:
        """Return when the secret of a record ends, as of the last read; None: never.

        ENDED: it has ended.
        """
        end = self._find_end_or_inf(record)
        return None if end == math.inf else end

    def _find_end_or_inf(self, record: KeyRecord) -> float:
        end = self._ends.get(bytes.fromhex(record.digest), math.inf)
        if record.expires_at is not None:
            end = min(end, record.expires_at)
        return end

    def is_content_traced(self, tenant: str) -> bool:
        """True if the tenant's traces include prompts and responses, as of the last read."""
        return self._traced.get(tenant, False)

    def digest_tenant(self, tenant: str) -> str:
        """Return a name of the tenant for engines, which nobody can compute without the pepper."""
        return self._digest(f"prompts of {tenant}").hex()[:TENANT_DIGEST_LENGTH]

    def _may_be_unread(self) -> bool:
        """True if an unknown secret may belong to a key that this process has not read yet."""
        if self._table is not None and self._read_epoch() != self._epoch:
            return True
        return self._monotonic() - self._read_at >= UNKNOWN_POLL_S

    def _read_epoch(self) -> bytes | None:
        """Return the number of key changes on this machine; None without a shared table."""
        if self._table is None:
            return None
        return self._table.get(EPOCH_KEY) or b""

    def _digest(self, secret: str) -> bytes:
        keyed = self._hmac.copy()
        keyed.update(secret.encode())
        return keyed.digest()

    def _ensure_fresh(self, age_s: float) -> None:
        """Ensure that the cache is at most `age_s` old.

        Raises StoreError if the store fails or does not respond.
        """
        if not self._background or self._read_at == float("-inf"):
            self._refresh()
            return

        required_at = self._monotonic() - age_s
        while True:
            reading = self._reading
            if reading is None or reading.done.is_set():
                reading = self._reading = _BackgroundRead(self._refresh)
            if self._read_at >= required_at:
                return
            if not reading.wait():
                raise _no_response_error()
            if reading.error is not None:
                raise reading.error

    def _refresh(self) -> None:
        with self._lock:
            at = self._monotonic()
            epoch = self._read_epoch()
            newest = self._store.newest_seq(*FOLLOWED_TABLES)
            if newest != self._newest:
                self._check_order(newest)
                self._apply_new_rows()
            self._end_expired()
            self._read_at = at
            self._epoch = epoch
            self._newest = newest

        if self._unwritten and at - self._uses_written_at >= WRITE_USES_S:
            uses = self._unwritten
            self._unwritten = []
            self._uses_written_at = at
            _start_thread("key-uses", self.write_uses, uses)
        # The gateway alone writes ends: the clock of a command line elsewhere ends no key for all.
        if self._background and self._expired and at - self._ends_written_at >= WRITE_ENDS_S:
            self._ends_written_at = at
            _start_thread("key-ends", self.write_ends)

    def _check_order(self, newest: tuple[int, ...]) -> None:
        """Raise StoreError AW-STO-20 if rows that this process has read are gone.

        Rows are never removed.
        """
        if not self._newest and self._check_start is not None:
            self._check_start()
        for table, seq, read in zip(FOLLOWED_TABLES, newest, self._newest, strict=False):
            if seq < read:
                raise altered_error(f"rows after row {seq} of {table.name} were removed", table)

    def _apply_new_rows(self) -> None:
        """Apply the new rows of all tables, or of none.

        Keys are read first: a key revoked meanwhile is never live.
        """
        signer = read_signer(self._store, self._pepper)
        seen: SeenRows = {}
        # A new generation signs all rows anew, so all are read again; to apply a row twice changes
        # nothing.
        if signer.generation == self._generation:
            seen = dict(self._seen)
        keys = self._fetch_new_rows(tables.KEYS, signer, seen)
        revocations = self._fetch_new_rows(tables.REVOCATIONS, signer, seen)
        ends = self._fetch_new_rows(tables.SECRET_EXPIRIES, signer, seen)
        limits = self._fetch_new_rows(tables.LIMITS, signer, seen)
        tracings = self._fetch_new_rows(tables.CONTENT_TRACINGS, signer, seen)
        self._seen = seen
        self._generation = signer.generation

        for tracing in tracings:
            self._traced[tracing.tenant] = tracing.traced
        for revocation in revocations:
            self._revoke(revocation.key_id)
        for key in keys:
            self._add_key(key)
        self._apply_limits(limits)
        ended = 0
        for end in ends:
            ended += self._expire_secret(bytes.fromhex(end.digest), end.at)
        if limits:
            for digest, principal in self._live.items():
                self._live[digest] = self._mark_limited(principal)
        if revocations or ended or limits:
            self.version += 1

    def _fetch_new_rows(
        self,
        table: RecordTable[R],
        signer: RowSigner,
        seen: SeenRows,
    ) -> list[R]:
        """Return the authentic rows after the row in `seen`, and update `seen`.

        A key without a valid signature is left out, so it is refused. Raises StoreError AW-STO-20
        for other tables.
        """
        after, prev = seen.get(table.name, (0, ""))
        numbered = self._store.numbered_rows(table, after)
        if not numbered:
            return []

        last_seq, last_row = numbered[-1]
        seen[table.name] = (last_seq, last_row.mac)
        rows = [row for _seq, row in numbered]
        if table is tables.KEYS:
            return signer.select_authentic(table, rows)
        signer.check(table, numbered, prev)
        return rows

    def _apply_limits(self, rows: list[LimitRow]) -> None:
        newest = {row.scope: row for row in rows}
        for scope, row in newest.items():
            self._limits[scope] = self._intern_limits(tables.build_limits(row))

    def _revoke(self, key_id: str) -> None:
        self._revoked.add(key_id)
        for digest in self._digests.pop(key_id, ()):
            self._live.pop(digest, None)

    def _add_key(self, row: KeyRecord) -> None:
        scope = tables.format_scope_name("key", row.id)
        limits = self._intern_limits(tables.build_limits(row))
        self._limits.setdefault(scope, limits)
        self._tenants.add(row.tenant)
        self.serves_many_tenants = len(self._tenants - {tables.DRILL_TENANT}) > 1
        if row.id in self._revoked:
            return

        digest = bytes.fromhex(row.digest)
        principal = Principal(
            key_id=row.id,
            tenant=intern(row.tenant),
            role=intern(row.role),
            user=intern(row.user),
            expires_at=self._find_end_or_inf(row),
        )
        self._live[digest] = self._mark_limited(principal)
        if ENDED < principal.expires_at < math.inf:
            heappush(self._expiries, (principal.expires_at, digest))
        digests = self._digests.get(row.id, ())
        if digest not in digests:
            self._digests[row.id] = (*digests, digest)

    def _expire_secret(self, digest: bytes, at: float) -> bool:
        """Expire a secret; True if its end changed.

        The end is kept, because the secret may be read later.
        """
        self._ends[digest] = min(at, self._ends.get(digest, math.inf))
        principal = self._live.get(digest)
        if principal is None or at >= principal.expires_at:
            return False
        self._live[digest] = replace(principal, expires_at=at)
        if at > ENDED:
            heappush(self._expiries, (at, digest))
        return True

    def _mark_expired(self, digest: bytes) -> None:
        if self._expire_secret(digest, ENDED):
            self._expired.append(digest)

    def _end_expired(self) -> None:
        """Mark every secret whose end has come, whether it was sent or not."""
        now = self._clock()
        while self._expiries and self._expiries[0][0] <= now:
            _end, digest = heappop(self._expiries)
            self._mark_expired(digest)

    def write_ends(self) -> None:
        """Write the ends of expired secrets, for other processes and later starts."""
        digests: list[bytes] = []
        with suppress(IndexError):  # another thread may take some
            while True:
                digests.append(self._expired.popleft())
        try:
            ends = [SecretExpiry(digest=digest.hex(), at=ENDED) for digest in digests]
            append_signed(self._store, self._pepper, tables.SECRET_EXPIRIES, *ends)
        except StoreError:
            self._expired.extend(digests)  # retried after WRITE_ENDS_S

    def _mark_limited(self, principal: Principal) -> Principal:
        limited = bool(self.list_limited_scopes(principal))
        if limited is principal.limited:
            return principal
        return replace(principal, limited=limited)

    def _intern_limits(self, limits: UsageLimits) -> UsageLimits:
        return self._interned.setdefault(limits, limits)

    def _record_use(self, key_id: str) -> None:
        """Record the first use of a key on a day.

        A thread writes it, so that no request waits for the disk.
        """
        day = int(self._clock() // DAY_S)
        if day != self._day:
            self._day = day
            self._used = set()
        self._used.add(key_id)
        self._unwritten.append(KeyUse(key_id=key_id, day=day))

    def write_uses(self, rows: list[KeyUse]) -> None:
        """Write the used keys, and delete uses older than USE_RETENTION_DAYS."""
        oldest = int(self._clock() // DAY_S) - USE_RETENTION_DAYS
        try:
            self._store.append(tables.KEY_USES, rows)
            self._store.prune(tables.KEY_USES, ColumnRange("day", until=oldest))
        except StoreError:
            self._unwritten.extend(rows)  # retried with the next write


def _start_thread(name: str, act: Callable[..., None], *arguments: object) -> None:
    thread = threading.Thread(target=act, args=arguments, name=name, daemon=True)
    thread.start()


def _no_response_error() -> StoreError:
    conditions = "check that it runs and is not overloaded"
    hint = f"{conditions}; requests are accepted again when it responds"
    return StoreError("AW-STO-01", "the database does not respond", hint=hint)
