"""What keys, users and tenants have left: reserved before the work, settled after it, by all workers together.

Decides that one transaction over all accounts of a request (its key, its user, its tenant) takes the worst case or
nothing, so that any number of workers admit exactly what fits; and that a worker keeps its reservations under its own
number in each account: they are free again when it is dead, which is looked at in the moment it would matter, when a
request would be refused. One transaction each for reserving and settling takes 12 us in all, the wait for another
worker less than 1 us in the median at 70 us a request (bench/accounts): leases per worker would save less than their
edge cases cost.

The accounts stand on the slate. Money spent is asked of the ledger when an account is new there (a boot, a budget set
later); rates start afresh. Settle before the ledger is flushed: what a crash loses in between then counts as spent.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from archwright.access.known import KnownKeys
from archwright.access.tables import Principal, Scope, ScopeKind
from archwright.access.workers import alive, enrol
from archwright.home import Home
from archwright.monitor.slate import Slate, Transaction, slate_file
from archwright.policy.limits import (
    NANO,
    Ask,
    Caps,
    Level,
    Limit,
    Period,
    Short,
    caps,
    give_back,
    nearest_nusd,
    take,
    worst_nusd,
)

SLATE_BYTES = 32 * 1024 * 1024
_HEAD = struct.Struct("<5q")  # at_us, requests, tokens, spent_nusd, period
_HELD = struct.Struct("<I2q")  # worker, nusd, tokens
_ONE = struct.Struct("<5qI2q")
_KINDS: tuple[Period, ...] = ("total", "month", "day")
FREE = Ask(0, 0)
UNKNOWN = -1  # a period: what was spent is not known here

Held = list[tuple[int, int, int]]
Row = tuple[Level, int, Held]  # level, period, what each worker holds
NEW: Row = ((0, 0, 0, 0), UNKNOWN, [])
Spent = Callable[[Scope, float], float]
"""USD that a scope has spent since a time (seconds since the epoch; 0: ever)."""


class Worst(NamedTuple):
    """The most one request may take. `usd` None: the model has no price."""

    tokens: int
    usd: float | None


class Denied(NamedTuple):
    """The limit that has no room for the request. `retry_after_s` None: waiting does not help."""

    limit: Limit
    scope: ScopeKind
    retry_after_s: int | None


class Account(NamedTuple):
    key: bytes
    caps: Caps
    period: Period
    scope: Scope


class Reservation:
    """What a request may take; settled exactly once."""

    __slots__ = ("accounts", "generation", "nusd", "principal", "settled", "tokens", "version")

    def __init__(
        self, principal: Principal, accounts: tuple[Account, ...], ask: Ask, version: int, generation: int
    ) -> None:
        self.principal = principal
        self.accounts = accounts
        self.tokens, self.nusd = ask
        self.version = version
        self.generation = generation
        self.settled = False

    @property
    def limited(self) -> bool:
        return bool(self.accounts)

    @property
    def usd(self) -> float:
        return max(0, self.nusd) / NANO


class _Missing(NamedTuple):
    """What the account has spent must be asked of the ledger first, since this time."""

    account: Account
    since: float


def accounts_slate(home: Home) -> Slate:
    return Slate(home.slates, "accounts", SLATE_BYTES)


def has_accounts(home: Home) -> bool:
    """Whether a worker has opened them since the boot."""
    return slate_file(home.slates, "accounts", SLATE_BYTES).exists()


class Accounts:
    """One per process. `monotonic_us` must be the same clock in all workers; `clock` decides months and days."""

    def __init__(
        self,
        slate: Slate,
        keys: KnownKeys,
        spent: Spent,
        clock: Callable[[], float] = time.time,
        monotonic_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        self._slate = slate
        self._keys = keys
        self._spent = spent
        self._clock = clock
        self._monotonic_us = monotonic_us
        self._accounts: dict[str, tuple[Account, ...]] = {}
        self._version = keys.version
        self._generation = -1
        self._worker = 0
        self._periods: dict[Period, int] = {}
        self._period_end = float("-inf")

    def reserve(self, principal: Principal, worst: Worst) -> Reservation | Denied:
        """Raises StoreError when the shared table or the ledger refuses: then deny."""
        if not principal.limited:
            return Reservation(principal, (), FREE, self._keys.version, 0)
        tokens, usd = worst
        ask = Ask(tokens, -1 if usd is None else worst_nusd(usd))
        accounts = self._of(principal)
        if self._generation != self._slate.generation:
            self._worker, self._generation = self._slate.write(enrol), self._slate.generation
        if self._clock() >= self._period_end:
            self._turn()
        known: dict[bytes, int] = {}
        while True:
            found = self._slate.write(self._take, accounts, ask, known)
            if found is None:
                return Reservation(principal, accounts, ask, self._version, self._generation)
            if isinstance(found, Denied):
                return found
            known[found.account.key] = nearest_nusd(self._spent(found.account.scope, found.since))

    def settle(self, reservation: Reservation, tokens: int, usd: float) -> None:
        """What the request really took; a second time does nothing. Raises StoreError."""
        if reservation.settled or not reservation.accounts:
            return
        if self._clock() >= self._period_end:
            self._turn()
        self._slate.write(self._put_back, reservation, tokens, nearest_nusd(usd))
        reservation.settled = True

    def still(self, reservation: Reservation) -> bool:
        """Whether a request under way may go on: its key lives, and its budgets, if they were lowered meanwhile, still
        bear all that is spent and reserved. Cheap until something changed. Raises StoreError: then stop."""
        version = self._keys.follow()
        if version == reservation.version and self._clock() < reservation.principal.expires_at:
            return True
        if not self._keys.live(reservation.principal.key_id):
            return False
        reservation.version = version
        return self._slate.read(self._bears, self._of(reservation.principal))

    def _of(self, principal: Principal) -> tuple[Account, ...]:
        if self._version != self._keys.version:
            self._accounts.clear()
            self._version = self._keys.version
        found = self._accounts.get(principal.key_id)
        if found is None:
            scopes = self._keys.scopes(principal)
            found = tuple(_account(scope) for scope in scopes)
            self._accounts[principal.key_id] = found
        return found

    def _take(
        self, transaction: Transaction, accounts: tuple[Account, ...], ask: Ask, known: Mapping[bytes, int]
    ) -> Denied | _Missing | None:
        """None: taken from all of them."""
        now_us, worker = self._monotonic_us(), self._worker
        rows = []
        for account in accounts:
            raw = transaction.get(account.key)
            row = self._current(account, NEW if raw is None else _decoded(raw), known)
            if isinstance(row, _Missing):
                return row
            if known and account.key in known:  # also when this request is refused: the ledger is asked once
                transaction.put(account.key, _encoded(*row))
            level, period, held = row
            found = take(account.caps, level, _nusd(held), ask, now_us)
            if isinstance(found, Short) and found.held:
                level, held = self._without_dead(transaction, account, level, held, now_us)
                found = take(account.caps, level, _nusd(held), ask, now_us)
            if isinstance(found, Short):
                return self._denied(account, found)
            rows.append((account.key, found, period, held))
        tokens, nusd = ask
        for key, level, period, held in rows:
            transaction.put(key, _encoded(level, period, _with(held, worker, max(0, nusd), tokens)))
        return None

    def _put_back(self, transaction: Transaction, reservation: Reservation, tokens: int, nusd: int) -> None:
        """By what the rows say, not by the limits of then: these may have changed since."""
        now_us, worker = self._monotonic_us(), self._worker
        reserved_tokens, reserved_nusd = reservation.tokens, max(0, reservation.nusd)
        if reservation.generation != self._slate.generation:
            reserved_tokens = reserved_nusd = 0  # the slate was made anew, and does not know of it
        for account in reservation.accounts:
            raw = transaction.get(account.key)
            if raw is None:
                continue  # the slate was made anew, and nobody has asked since
            level, period, held = _decoded(raw)
            if period > 0:
                now_running = self._periods[_KINDS[period % 4]]
                if now_running > period:
                    level, period = (*level[:3], 0), now_running
            level = give_back(account.caps, level, reserved_tokens - tokens, nusd, now_us)
            held = _with(held, worker, -reserved_nusd, -reserved_tokens)
            transaction.put(account.key, _encoded(level, period, held))

    def _bears(self, transaction: Transaction, accounts: tuple[Account, ...]) -> bool:
        for account in accounts:
            raw = transaction.get(account.key)
            if raw is not None and account.caps.budget_nusd >= 0:
                level, _period, held = _decoded(raw)
                if level[3] + _nusd(held) > account.caps.budget_nusd:
                    return False
        return True

    def _current(self, account: Account, row: Row, known: Mapping[bytes, int]) -> Row | _Missing:
        """The row in the period now running: a new month or day starts at nothing."""
        level, period, held = row
        if account.caps.budget_nusd < 0:
            return level, UNKNOWN, held
        wanted = self._periods[account.period]
        if period == wanted:
            return row
        same_kind = period != UNKNOWN and period % 4 == wanted % 4
        if same_kind and period > wanted:  # another worker saw midnight a moment earlier
            return row
        if not same_kind and account.key not in known:
            return _Missing(account, wanted // 4)
        return (*level[:3], 0 if same_kind else known[account.key]), wanted, held

    def _without_dead(
        self, transaction: Transaction, account: Account, level: Level, held: Held, now_us: int
    ) -> tuple[Level, Held]:
        living = [entry for entry in held if entry[0] == self._worker or alive(transaction, entry[0])]
        tokens = sum(entry[2] for entry in held) - sum(entry[2] for entry in living)
        return (give_back(account.caps, level, tokens, 0, now_us) if tokens else level), living

    def _denied(self, account: Account, short: Short) -> Denied:
        wait_s = short.retry_after_s
        if short.limit == "budget" and wait_s is None and account.period != "total":
            wait_s = max(1, round(_next(account.period, self._clock()) - self._clock()))
        return Denied(short.limit, account.scope.kind, wait_s)

    def _turn(self) -> None:
        """A day began: which period each kind of budget is in, as its start in seconds, times 4, plus its kind."""
        now = self._clock()
        day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        starts = (0, int(day.replace(day=1).timestamp()), int(day.timestamp()))
        self._periods = {kind: start * 4 + code for code, (kind, start) in enumerate(zip(_KINDS, starts, strict=True))}
        self._period_end = _next("day", now)


def _account(scope: Scope) -> Account:
    return Account(b"a" + scope.name.encode(), caps(scope.limits), scope.limits.period, scope)


def _next(period: Period, now: float) -> float:
    """When the next day or month begins."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return (day + timedelta(days=1)).timestamp()
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()


def _decoded(raw: bytes) -> Row:
    if len(raw) == _ONE.size:  # one worker, or one at work
        at_us, requests, tokens, spent, period, worker, nusd, held = _ONE.unpack(raw)
        return (at_us, requests, tokens, spent), period, [(worker, nusd, held)]
    at_us, requests, tokens, spent, period = _HEAD.unpack_from(raw)
    return (at_us, requests, tokens, spent), period, list(_HELD.iter_unpack(raw[_HEAD.size :]))


def _encoded(level: Level, period: int, held: Held) -> bytes:
    if len(held) == 1:
        return _ONE.pack(*level, period, *held[0])
    return _HEAD.pack(*level, period) + b"".join([_HELD.pack(*entry) for entry in held])


def _nusd(held: Held) -> int:
    if len(held) == 1:
        return held[0][1]
    return sum([entry[1] for entry in held])


def _with(held: Held, worker: int, nusd: int, tokens: int) -> Held:
    """The entries with the worker's own changed by so much; one that holds nothing is gone."""
    others = []
    for entry in held:
        number, its_nusd, its_tokens = entry
        if number == worker:
            nusd += its_nusd
            tokens += its_tokens
        else:
            others.append(entry)
    if nusd > 0 or tokens > 0:
        others.append((worker, nusd if nusd > 0 else 0, tokens if tokens > 0 else 0))
    return others
