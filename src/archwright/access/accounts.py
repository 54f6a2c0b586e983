"""What keys, users and tenants have left: reserved before the work, settled after it, by all workers together.

Design: one transaction over all accounts of a request (its key, user and tenant) reserves the worst case or nothing, so
any number of workers admit exactly what fits. A worker keeps its reservations under its own number in each account.
They are freed when it is dead, which is checked only when a request would be refused.

The requests of one event-loop turn are reserved in one transaction, in order. What ended is given back by the next
transaction of this process, at the latest at `flush`, once a turn. Until then it counts as reserved.

The accounts are in a shared table. Money spent is read from the store when an account is new there (a boot, a budget
set later); rates start afresh. `flush` before the WAL: what a crash loses in between counts as spent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from archwright.access.account_codec import (
    NEW_ROW,
    PERIOD_INDEX,
    RESERVED_INDEX,
    UNKNOWN_PERIOD,
    AccountRow,
    decode_row,
    encode_row,
    sum_reserved_nusd,
    update_row,
)
from archwright.access.key_cache import KeyCache
from archwright.access.tables import LimitScope, Principal, ScopeKind
from archwright.access.worker_registry import is_worker_alive, register_worker
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.shared_table import SharedTable, Transaction, shared_table_path
from archwright.policy.usage_limits import (
    NUSD_PER_USD,
    AccountCaps,
    BudgetPeriod,
    LimitKind,
    LimitShortfall,
    WorstCaseAmount,
    nearest_nusd,
    reserve_request,
    settle_request,
    to_caps,
    worst_nusd,
)

TABLE_BYTES = 32 * 1024 * 1024
CLOCK_TOLERANCE_S = 5.0  # the clocks of two workers differ by less, and one that drifts
_PERIOD_KINDS: tuple[BudgetPeriod, ...] = ("total", "month", "day")
ZERO_ASK: WorstCaseAmount = (0, 0)
AccountRows = dict[bytes, AccountRow]
SpendLookup = Callable[[LimitScope, float], float]
"""USD that a scope has spent since a time (seconds since the epoch; 0: ever)."""


# The most one request may take: tokens, USD (None: the model has no price).
WorstCaseAsk = tuple[int, float | None]


class LimitDenial(NamedTuple):
    """The limit that has no room for the request. `retry_after_s` None: waiting does not help."""

    limit: LimitKind
    scope: ScopeKind
    retry_after_s: int | None


class Account(NamedTuple):
    key: bytes
    caps: AccountCaps
    budgeted: bool
    period: BudgetPeriod
    scope: LimitScope


class Reservation:
    """What a request may take; settled exactly once."""

    __slots__ = ("accounts", "ask", "generation", "nusd", "principal", "settled", "tokens", "version")

    def __init__(
        self, principal: Principal, accounts: tuple[Account, ...], ask: WorstCaseAmount, version: int, generation: int
    ) -> None:
        self.principal, self.accounts, self.ask = principal, accounts, ask
        self.tokens, self.nusd = ask[0], max(0, ask[1])
        self.version, self.generation = version, generation
        self.settled = False

    @property
    def limited(self) -> bool:
        return bool(self.accounts)

    def watch_since(self, version: int) -> None:
        """Have `may_continue` notice changes of keys and limits after this version of the key store."""
        self.version = version

    @property
    def usd(self) -> float:
        return self.nusd / NUSD_PER_USD


class _UnknownSpend(NamedTuple):
    """What the account has spent must be asked of the ledger first, since this time."""

    account: Account
    since: float


ReserveResult = Reservation | LimitDenial | StoreError


def open_accounts_table(home: Home) -> SharedTable:
    return SharedTable(home.shared_tables, "accounts", TABLE_BYTES)


def has_accounts_table(home: Home) -> bool:
    """Whether a worker has opened them since the boot."""
    return shared_table_path(home.shared_tables, "accounts", TABLE_BYTES).exists()


class Accounts:
    """One per process. `monotonic_us` must be the same clock in all workers; `clock` decides months and days."""

    def __init__(
        self,
        slate: SharedTable,
        keys: KeyCache,
        spent: SpendLookup,
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
        self.ended: list[tuple[Reservation, int, int]] = []
        """Settled and not yet given back: tokens, nano-USD."""
        self._periods: dict[BudgetPeriod, int] = {}
        self._day, self._period_end = float("inf"), float("-inf")
        self._turns = 0
        self.strange: set[tuple[int, int]] = set()
        """Periods of rows by which the clock was seen to have been set: what the ledger said before one is stale."""

    def reserve(self, principal: Principal, worst: WorstCaseAsk) -> Reservation | LimitDenial:
        """Raises StoreError when the shared table or the ledger refuses: then deny."""
        (found,) = self.reserve_all(((principal, worst),))
        if isinstance(found, StoreError):
            raise found
        return found

    def reserve_all(self, asked: Iterable[tuple[Principal, WorstCaseAsk]]) -> list[ReserveResult]:
        """Reserve for each request in order. From the first that the table or the ledger refuses on, its StoreError
        stands for all; those before are reserved. Raises StoreError when the table does not know this process."""
        found: list[ReserveResult] = []
        waiting: list[tuple[int, Reservation]] = []
        for place, (principal, (tokens, usd)) in enumerate(asked):
            if principal.limited:
                if not waiting:
                    self._ensure_registered()
                accounts, ask = self._get_accounts(principal), (tokens, -1 if usd is None else worst_nusd(usd))
                one = Reservation(principal, accounts, ask, self._version, self._generation)
                waiting.append((place, one))
            else:
                one = Reservation(principal, (), ZERO_ASK, self._keys.version, 0)
            found.append(one)
        known: dict[bytes, int] = {}
        while waiting:
            try:
                answers = self._slate.write(self._settle_and_reserve, waiting, known)
                self.ended.clear()
                for (place, _), answer in zip(waiting, answers, strict=False):
                    if isinstance(answer, LimitDenial):
                        found[place] = answer
                missing = answers.pop() if isinstance(answers[-1], _UnknownSpend) else None
                waiting = waiting[len(answers) :]
                if isinstance(missing, _UnknownSpend):
                    known[missing.account.key] = nearest_nusd(self._spent(missing.account.scope, missing.since))
            except StoreError as error:
                for place, _ in waiting:
                    found[place] = error
                break
        return found

    def settle(self, reservation: Reservation, tokens: int, usd: float) -> None:
        """What the request really took; a second time does nothing."""
        if not reservation.settled and reservation.accounts:
            reservation.settled = True
            self.ended.append((reservation, tokens, nearest_nusd(usd)))

    def flush(self) -> None:
        """Give back now what ended. Raises StoreError: it stays held, as long as this process lives."""
        if not self.ended:
            return
        self._roll_periods_if_due()
        try:
            self._slate.write(self._settle_and_reserve, [], {})
        finally:
            self.ended.clear()

    def may_continue(self, reservation: Reservation) -> bool:
        """True if the key lives and its budgets, perhaps lowered meanwhile, still bear what is spent and reserved.
        Cheap until something changed. Raises StoreError: then stop."""
        version = self._keys.refresh_version()
        if version == reservation.version and self._clock() < reservation.principal.expires_at:
            return True
        if not self._keys.is_live(reservation.principal.key_id):
            return False
        reservation.version = version
        self.flush()
        return self._slate.read(self._is_within_budget, self._get_accounts(reservation.principal))

    def _ensure_registered(self) -> None:
        """This process is known on the slate, and which day it is."""
        if self._generation != self._slate.generation:
            self._worker, self._generation = self._slate.write(register_worker), self._slate.generation
        self._roll_periods_if_due()

    def _get_accounts(self, principal: Principal) -> tuple[Account, ...]:
        if self._version != self._keys.version:
            self._accounts.clear()
            self._version = self._keys.version
        found = self._accounts.get(principal.key_id)
        if found is None:
            found = tuple(_build_account(scope) for scope in self._keys.list_limited_scopes(principal))
            self._accounts[principal.key_id] = found
        return found

    def _settle_and_reserve(
        self, transaction: Transaction, waiting: list[tuple[int, Reservation]], known: Mapping[bytes, int]
    ) -> list[LimitDenial | _UnknownSpend | None]:
        """Give back what ended, also where all are refused; then take, in order, to the first of which something is
        missing. None: taken from all accounts of that one."""
        now_us = self._monotonic_us()
        rows: AccountRows = {}
        for reservation, tokens, nusd in self.ended:
            self._settle_in_rows(transaction, rows, reservation, (tokens, nusd), now_us)
        found: list[LimitDenial | _UnknownSpend | None] = []
        for _, one in waiting:
            answer = self._reserve_in_rows(transaction, rows, one.accounts, one.ask, known, now_us)
            found.append(answer)
            if isinstance(answer, _UnknownSpend):
                break
        for key, row in rows.items():
            transaction.put(key, encode_row(row))
        return found

    def _reserve_in_rows(
        self,
        transaction: Transaction,
        rows: AccountRows,
        accounts: tuple[Account, ...],
        ask: WorstCaseAmount,
        known: Mapping[bytes, int],
        now_us: int,
    ) -> LimitDenial | _UnknownSpend | None:
        """Into `rows`, which this transaction has changed already and will put."""
        taken = []
        for account in accounts:
            key = account.key
            row = rows.get(key)
            if row is None:
                raw = transaction.get(key)
                row = NEW_ROW if raw is None else decode_row(raw)
            period = UNKNOWN_PERIOD
            if account.budgeted:
                period = row[PERIOD_INDEX]
                if period != self._periods[account.period]:
                    current = self._current_period_row(account, row, known, now_us)
                    if isinstance(current, _UnknownSpend):
                        return current
                    row = current
                    period = row[PERIOD_INDEX]
                    if key in known:  # also when this request is refused: the ledger is asked once
                        rows[key] = row
            changed = reserve_request(account.caps, row[:PERIOD_INDEX], sum_reserved_nusd(row), ask, now_us)
            if isinstance(changed, LimitShortfall) and changed.held:
                row = self._drop_dead_claims(transaction, account, row, now_us)
                changed = reserve_request(account.caps, row[:PERIOD_INDEX], sum_reserved_nusd(row), ask, now_us)
            if isinstance(changed, LimitShortfall):
                return self._build_denial(account, changed)
            taken.append((key, changed, period, row))
        tokens, nusd = ask
        for key, level, period, row in taken:
            rows[key] = update_row(level, period, row, self._worker, nusd if nusd > 0 else 0, tokens)
        return None

    def _settle_in_rows(
        self, transaction: Transaction, rows: AccountRows, reservation: Reservation, took: WorstCaseAmount, now_us: int
    ) -> None:
        """By what the rows say, not by the limits of then: these may have changed since."""
        tokens, nusd = took
        reserved_tokens, reserved_nusd = reservation.tokens, reservation.nusd
        if reservation.generation != self._slate.generation:
            reserved_tokens = reserved_nusd = 0  # the slate was made anew, and does not know of it
        for account in reservation.accounts:
            key = account.key
            row = rows.get(key)
            if row is None:
                raw = transaction.get(key)
                if raw is None:
                    continue  # the slate was made anew, and nobody has asked since
                row = decode_row(raw)
            level, period = row[:PERIOD_INDEX], row[PERIOD_INDEX]
            if period > 0:
                now_running = self._periods[_PERIOD_KINDS[period % 4]]
                if now_running > period:
                    fresh = self._is_unused_since(now_running, row, now_us)
                    level, period = (*level[:3], 0), now_running if fresh else UNKNOWN_PERIOD
            level = settle_request(account.caps, level, reserved_tokens - tokens, nusd, now_us)
            rows[key] = update_row(level, period, row, self._worker, -reserved_nusd, -reserved_tokens)

    def _is_within_budget(self, transaction: Transaction, accounts: tuple[Account, ...]) -> bool:
        for account in accounts:
            raw = transaction.get(account.key)
            if raw is not None and account.caps.budget_nusd >= 0:
                row, budget = decode_row(raw), account.caps.budget_nusd
                if row[3] + sum_reserved_nusd(row) > budget:
                    row = self._drop_dead_claims(transaction, account, row, self._monotonic_us())
                    if row[3] + sum_reserved_nusd(row) > budget:
                        return False
        return True

    def _current_period_row(
        self, account: Account, row: AccountRow, known: Mapping[bytes, int], now_us: int
    ) -> AccountRow | _UnknownSpend:
        """The row in the period now running. A new month or day starts at nothing; after the clock was set (the row is
        of a later period, or of one before a period in use) the ledger knows what was spent."""
        period, wanted = row[PERIOD_INDEX], self._periods[account.period]
        if period != UNKNOWN_PERIOD and period % 4 == wanted % 4:
            if wanted < period <= (self._clock() + CLOCK_TOLERANCE_S) * 4:
                return row  # another worker saw midnight a moment earlier
            if period < wanted and self._is_unused_since(wanted, row, now_us):
                return (*row[:3], 0, wanted, *row[RESERVED_INDEX:])
            if account.key not in known:
                self.strange.add((self._turns, period))
        if account.key not in known:
            return _UnknownSpend(account, wanted // 4)
        return (*row[:3], known[account.key], wanted, *row[RESERVED_INDEX:])

    def _is_unused_since(self, period: int, row: AccountRow, now_us: int) -> bool:
        """Whether an account was last used before the period began, as the clock goes now."""
        return self._clock() - (now_us - row[0]) / 1e6 < period // 4 + CLOCK_TOLERANCE_S

    def _drop_dead_claims(self, transaction: Transaction, account: Account, row: AccountRow, now_us: int) -> AccountRow:
        living, freed = list[int](), 0
        for place in range(RESERVED_INDEX, len(row), 3):
            if row[place] == self._worker or is_worker_alive(transaction, row[place]):
                living += row[place : place + 3]
            else:
                freed += row[place + 2]
        level = row[:PERIOD_INDEX]
        if freed:
            level = settle_request(account.caps, level, freed, 0, now_us)
        return (*level, row[PERIOD_INDEX], *living)

    def _build_denial(self, account: Account, short: LimitShortfall) -> LimitDenial:
        wait_s = short.retry_after_s
        if short.limit == "budget" and wait_s is None and account.period != "total":
            wait_s = max(1, round(_next_period_start(account.period, self._clock()) - self._clock()))
        return LimitDenial(short.limit, account.scope.kind, wait_s)

    def _roll_periods_if_due(self) -> None:
        """On another day: which period each kind of budget is in, as its start in seconds, times 4, plus its kind."""
        now = self._clock()
        if self._day <= now < self._period_end:
            return
        self._turns += 1
        day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        starts = (0, int(day.replace(day=1).timestamp()), int(day.timestamp()))
        kinds = enumerate(zip(_PERIOD_KINDS, starts, strict=True))
        self._periods = {kind: start * 4 + code for code, (kind, start) in kinds}
        self._day, self._period_end = day.timestamp(), _next_period_start("day", now)


def _build_account(scope: LimitScope) -> Account:
    found = to_caps(scope.limits)
    return Account(b"a" + scope.name.encode(), found, found.budget_nusd >= 0, scope.limits.period, scope)


def _next_period_start(period: BudgetPeriod, now: float) -> float:
    """When the next day or month begins."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return (day + timedelta(days=1)).timestamp()
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()
