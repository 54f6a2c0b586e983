"""Accounts of keys, users and tenants: reserve a request's worst case before it runs, settle its
usage afterwards.

Design: one transaction over all accounts of a request (its key, user and tenant) reserves the worst
case or nothing, so all workers of a machine together never exceed a limit. A worker's reservations
are stored under its own number in each account. They are released if the worker is dead, which is
checked only before a request would be refused.

The requests of one event-loop tick are reserved in one transaction, in order. Settlements are
written by the next transaction of this process, at the latest by `flush` once per tick. Until then
they count as reserved.

The accounts are in a shared table. If an account is new there (after a boot, or with a new budget),
its spend is read from the usage records; rate limits start empty. Call `flush` before the WAL's
flush: after a crash in between, the reservations count as spent.
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
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
from archwright.access.budget_levels import PERIOD_KINDS, encode_periods, note_refusal
from archwright.access.key_cache import KeyCache
from archwright.access.parallel_counts import change_parallel_count, is_below_parallel_limit
from archwright.access.tables import LimitScope, Principal, ScopeKind
from archwright.access.worker_registry import is_worker_alive, register_worker
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.shared_table import SharedTable, Transaction, shared_table_path
from archwright.policy.usage_limits import (
    NUSD_PER_USD,
    AccountCaps,
    AccountLevel,
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
PARALLEL_RETRY_S = 1  # nobody knows when a running request ends
CLOCK_TOLERANCE_S = 5.0  # most difference between the clocks of two workers
SPENT_INDEX = 3  # of a row
ZERO_ASK: WorstCaseAmount = (0, 0)
AccountRows = dict[bytes, AccountRow]
SpendLookup = Callable[[LimitScope, float], float]
"""USD that a scope has spent since a time (seconds since the epoch; 0: in total)."""
WorstCaseAsk = tuple[int, float | None]
"""Upper bound of one request: tokens, USD (None: the model has no price)."""


@dataclass(frozen=True)
class LimitDenial:
    """The limit that a request exceeds; `retry_after_s` None: a retry does not help. `rates`: of
    its account.
    """

    limit: LimitKind
    scope: ScopeKind
    retry_after_s: int | None
    rates: tuple[tuple[AccountCaps, AccountLevel], ...] = field(default=(), compare=False)


class Account(NamedTuple):
    key: bytes
    caps: AccountCaps
    budgeted: bool
    period: BudgetPeriod
    scope: LimitScope


class Reservation:
    """Reserved worst case of a request, settled exactly once. `counted`: the rate of requests
    counted it before.

    `parallel`: the accounts that count it as running until it is settled; none for a use without a
    request. `rates`: limits and level of each account after the reservation.
    """

    __slots__ = (
        *(
            "accounts",
            "ask",
            "counted",
            "generation",
            "nusd",
            "parallel",
            "principal",
            "rates",
            "settled",
            "tokens",
            "version",
        ),
    )

    def __init__(
        self,
        principal: Principal,
        accounts: tuple[Account, ...],
        ask: WorstCaseAmount,
        version: int,
        generation: int,
        *,
        counted: bool = False,
    ) -> None:
        self.principal, self.accounts, self.ask, self.counted = principal, accounts, ask, counted
        self.tokens, self.nusd = ask[0], max(0, ask[1])
        self.parallel = [] if ask == ZERO_ASK else [account for account in accounts if account.caps.parallel >= 0]
        self.version, self.generation = version, generation
        self.rates: list[tuple[AccountCaps, AccountLevel]] = []
        self.settled = False

    @property
    def limited(self) -> bool:
        return bool(self.accounts)

    def watch_since(self, version: int) -> None:
        """Have `may_continue` notice changes of keys and limits after this version of the key
        store.
        """
        self.version = version

    @property
    def usd(self) -> float:
        return self.nusd / NUSD_PER_USD


class _UnknownSpend(NamedTuple):
    """The account's spend since a time must be read from the usage records first."""

    account: Account
    since: float


ReserveResult = Reservation | LimitDenial | StoreError


def open_accounts_table(home: Home) -> SharedTable:
    return SharedTable(home.shared_tables, "accounts", TABLE_BYTES)


def has_accounts_table(home: Home) -> bool:
    """True if a worker has opened the accounts since the boot."""
    return shared_table_path(home.shared_tables, "accounts", TABLE_BYTES).exists()


class Accounts:
    """The accounts as one process uses them. `monotonic_us`: a clock of all workers; `clock`: for
    months and days.
    """

    def __init__(
        self,
        table: SharedTable,
        keys: KeyCache,
        spent: SpendLookup,
        clock: Callable[[], float] = time.time,
        monotonic_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        self._table = table
        self._keys = keys
        self._spent = spent
        self._clock = clock
        self._monotonic_us = monotonic_us
        self._accounts: dict[str, tuple[Account, ...]] = {}
        self._version = keys.version
        self._generation = -1
        self._worker = 0
        self.ended: list[tuple[Reservation, int, int]] = []
        """Settled, but not yet written to the table: reservation, tokens, nano-USD."""
        self._periods: dict[BudgetPeriod, int] = {}
        self._day, self._period_end = float("inf"), float("-inf")
        self._day_changes = 0
        self.clock_changes: set[tuple[int, int]] = set()
        """Periods of rows that show a changed clock; a spend that was read before such a change is
        stale.
        """

    @property
    def table(self) -> SharedTable:
        return self._table

    def reserve(self, principal: Principal, worst: WorstCaseAsk, *, counted: bool = False) -> Reservation | LimitDenial:
        """Reserve for one request. Raises StoreError if the shared table or the usage records fail:
        then deny.
        """
        (result,) = self.reserve_all(((principal, worst),), (0,) if counted else ())
        if isinstance(result, StoreError):
            raise result
        return result

    def reserve_all(
        self,
        asked: Iterable[tuple[Principal, WorstCaseAsk]],
        counted: Collection[int] = (),
        cached: Collection[int] = (),
    ) -> list[ReserveResult]:
        """Reserve for each request in order. `counted`: indexes of requests that the rates counted
        before. `cached`: of requests with a cached response: they must fit too, and are settled
        with no usage at once.

        If the table or the usage records fail, the failing and all later requests get the
        StoreError; earlier requests are reserved. Raises StoreError if this process cannot be
        registered in the table.
        """
        results: list[ReserveResult] = []
        pending: list[tuple[int, Reservation]] = []
        for index, (principal, (tokens, usd)) in enumerate(asked):
            if principal.limited:
                if not pending:
                    self._ensure_registered()
                accounts, ask = self._get_accounts(principal), (tokens, -1 if usd is None else worst_nusd(usd))
                reservation = Reservation(
                    principal, accounts, ask, self._version, self._generation, counted=index in counted
                )
                reservation.settled = index in cached
                pending.append((index, reservation))
            else:
                reservation = Reservation(principal, (), ZERO_ASK, self._keys.version, 0)
            results.append(reservation)
        spends: dict[bytes, int] = {}
        while pending:
            try:
                answers = self._table.write(self._settle_and_reserve, pending, spends)
                self.ended.clear()
                for (index, _), answer in zip(pending, answers, strict=False):
                    if isinstance(answer, LimitDenial):
                        results[index] = answer
                missing = answers.pop() if isinstance(answers[-1], _UnknownSpend) else None
                pending = pending[len(answers) :]
                if isinstance(missing, _UnknownSpend):
                    spends[missing.account.key] = nearest_nusd(self._spent(missing.account.scope, missing.since))
            except StoreError as error:
                for index, _ in pending:
                    results[index] = error
                break
        return results

    def has_budget(self, principal: Principal) -> bool:
        return principal.limited and any(account.budgeted for account in self._get_accounts(principal))

    def extend(self, reservation: Reservation, tokens: int, usd_per_token: float) -> int:
        """Reserve up to `tokens` more, as many as all budgets have room for. Return their number.

        Only budgets bound them: rates of tokens get them as a debt. Raises StoreError."""
        if reservation.generation != self._table.generation:
            return 0  # the table was recreated without this reservation
        self._roll_periods_if_due()
        nusd_per_token = usd_per_token * NUSD_PER_USD
        granted = self._table.write(self._settle_and_extend, reservation, tokens, nusd_per_token)
        self.ended.clear()
        reservation.tokens += granted
        reservation.nusd += math.ceil(granted * nusd_per_token)
        return granted

    def settle(self, reservation: Reservation, tokens: int, usd: float) -> None:
        """Queue the actual usage of a request; a second call has no effect."""
        if not reservation.settled and reservation.accounts:
            reservation.settled = True
            self.ended.append((reservation, tokens, nearest_nusd(usd)))

    def add_usage(self, principal: Principal, tokens: int, usd: float) -> None:
        """Queue the usage of a request whose process ended between its result and its settlement."""
        self._ensure_registered()
        accounts = self._get_accounts(principal)
        self.settle(Reservation(principal, accounts, ZERO_ASK, self._version, self._generation), tokens, usd)

    def flush(self) -> None:
        """Write the queued settlements. Raises StoreError: their reservations then last until this
        process ends.
        """
        if not self.ended:
            return
        self._roll_periods_if_due()
        try:
            self._table.write(self._settle_and_reserve, [], {})
        finally:
            self.ended.clear()

    def may_continue(self, reservation: Reservation) -> bool:
        """True if the key is live and its current budgets cover what is spent and reserved.

        Cheap while no key changed. Raises StoreError: then stop the request."""
        version = self._keys.refresh_version()
        if version == reservation.version and self._clock() < reservation.principal.expires_at:
            return True
        if not self._keys.is_live(reservation.principal.key_id):
            return False
        reservation.version = version
        self.flush()
        return self._table.read(self._is_within_budget, self._get_accounts(reservation.principal))

    def _ensure_registered(self) -> None:
        if self._generation != self._table.generation:
            self._worker, self._generation = self._table.write(register_worker), self._table.generation
        self._roll_periods_if_due()

    def _get_accounts(self, principal: Principal) -> tuple[Account, ...]:
        if self._version != self._keys.version:
            self._accounts.clear()
            self._version = self._keys.version
        accounts = self._accounts.get(principal.key_id)
        if accounts is None:
            scopes = ((scope, to_caps(scope.limits)) for scope in self._keys.list_limited_scopes(principal))
            accounts = self._accounts[principal.key_id] = tuple(
                Account(b"a" + scope.name.encode(), caps, caps.budget_nusd >= 0, scope.limits.period, scope)
                for scope, caps in scopes
            )
        return accounts

    def _settle_and_reserve(
        self, transaction: Transaction, pending: list[tuple[int, Reservation]], spends: Mapping[bytes, int]
    ) -> list[LimitDenial | _UnknownSpend | None]:
        """Write the queued settlements, then reserve in order up to the first request with an
        unknown spend.

        Settlements are written even if every request is refused. None: reserved in all accounts of
        that request.
        """
        now_us = self._monotonic_us()
        rows: AccountRows = {}
        for reservation, tokens, nusd in self.ended:
            self._settle_in_rows(transaction, rows, reservation, (tokens, nusd), now_us)
        answers: list[LimitDenial | _UnknownSpend | None] = []
        for _, one in pending:
            answer = self._reserve_in_rows(transaction, rows, one, spends, now_us)
            answers.append(answer)
            if isinstance(answer, _UnknownSpend):
                break
            if one.settled and answer is None:  # a cached response
                self._settle_in_rows(transaction, rows, one, (0, 0), now_us)
        for key, row in rows.items():
            transaction.put(key, encode_row(row))
        return answers

    def _reserve_in_rows(
        self,
        transaction: Transaction,
        rows: AccountRows,
        wanted: Reservation,
        spends: Mapping[bytes, int],
        now_us: int,
    ) -> LimitDenial | _UnknownSpend | None:
        """Reserve in `rows`, the rows that this transaction has changed and will write at its end."""
        reserved, ask, counted = [], wanted.ask, wanted.counted
        for account in wanted.accounts:
            key = account.key
            row = rows.get(key) or _read_row(transaction, key)
            period = UNKNOWN_PERIOD
            if account.budgeted:
                period = row[PERIOD_INDEX]
                if period != self._periods[account.period]:
                    current = self._current_period_row(account, row, spends, now_us)
                    if isinstance(current, _UnknownSpend):
                        return current
                    row = current
                    period = row[PERIOD_INDEX]
                    if key in spends:  # even if this request is refused: the spend is read only once
                        rows[key] = row
            level, held = row[:PERIOD_INDEX], sum_reserved_nusd(row)
            changed = reserve_request(account.caps, level, held, ask, now_us, counted=counted)
            if isinstance(changed, LimitShortfall) and changed.held:
                row = self._drop_dead_claims(transaction, account, row, now_us)
                level, held = row[:PERIOD_INDEX], sum_reserved_nusd(row)
                changed = reserve_request(account.caps, level, held, ask, now_us, counted=counted)
            if isinstance(changed, LimitShortfall):
                level = settle_request(account.caps, level, 0, 0, now_us)
                return self._build_denial(transaction, account, changed, level)
            reserved.append((key, changed, period, row, account.caps))
        full = self._find_full_account(transaction, wanted.parallel) if wanted.parallel else None
        if full is not None:
            return self._build_parallel_denial(full, reserved)
        tokens, nusd = ask
        wanted.rates = [(caps, changed) for _, changed, _, _, caps in reserved]
        self._change_parallel_counts(transaction, wanted, 1)
        for key, changed, period, row, _ in reserved:
            rows[key] = update_row(changed, period, row, self._worker, nusd if nusd > 0 else 0, tokens)
        return None

    def _settle_and_extend(
        self, transaction: Transaction, reservation: Reservation, tokens: int, nusd_per_token: float
    ) -> int:
        """Write the queued settlements, then the room that is left for more tokens of a
        reservation.
        """
        now_us = self._monotonic_us()
        rows: AccountRows = {}
        for ended, used_tokens, used_nusd in self.ended:
            self._settle_in_rows(transaction, rows, ended, (used_tokens, used_nusd), now_us)

        granted = tokens
        for account in reservation.accounts:
            row = self._read_current_row(transaction, rows, account, now_us)
            if row is None:  # its spend must be read anew
                granted = 0
                break
            rows[account.key] = row
            if account.budgeted and nusd_per_token > 0:
                room = account.caps.budget_nusd - row[SPENT_INDEX] - sum_reserved_nusd(row)
                granted = min(granted, math.floor(max(0, room) / nusd_per_token))

        nusd = math.ceil(granted * nusd_per_token)
        for account in reservation.accounts if granted else ():
            row = rows[account.key]
            level = settle_request(account.caps, row[:PERIOD_INDEX], -granted, 0, now_us)
            rows[account.key] = update_row(level, row[PERIOD_INDEX], row, self._worker, nusd, granted)
        for key, row in rows.items():
            transaction.put(key, encode_row(row))
        return granted

    def _read_current_row(
        self, transaction: Transaction, rows: AccountRows, account: Account, now_us: int
    ) -> AccountRow | None:
        """Return the row of an account without the reservations of dead workers; None if its spend
        is unknown.
        """
        row = rows.get(account.key)
        if row is None:
            raw = transaction.get(account.key)
            row = NEW_ROW if raw is None else decode_row(raw)
        if account.budgeted and row[PERIOD_INDEX] != self._periods[account.period]:
            current = self._current_period_row(account, row, {}, now_us)
            if isinstance(current, _UnknownSpend):
                return None
            row = current
        return self._drop_dead_claims(transaction, account, row, now_us)

    def _settle_in_rows(
        self, transaction: Transaction, rows: AccountRows, reservation: Reservation, used: WorstCaseAmount, now_us: int
    ) -> None:
        """Settle by the current rows; the limits may have changed since the reservation."""
        tokens, nusd = used
        reserved_tokens, reserved_nusd = reservation.tokens, reservation.nusd
        if reservation.generation != self._table.generation:
            reserved_tokens = reserved_nusd = 0  # the table was recreated without this reservation
        elif reservation.parallel:
            self._change_parallel_counts(transaction, reservation, -1)
        for account in reservation.accounts:
            key = account.key
            row = rows.get(key)
            if row is None:
                raw = transaction.get(key)
                if raw is None:
                    continue  # the table was recreated, and the account has not been used since
                row = decode_row(raw)
            level, period = row[:PERIOD_INDEX], row[PERIOD_INDEX]
            if period > 0:
                current = self._periods[PERIOD_KINDS[period % 4]]
                if current > period:
                    unused = self._is_unused_since(current, row, now_us)
                    level, period = (*level[:3], 0), current if unused else UNKNOWN_PERIOD
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
        self, account: Account, row: AccountRow, spends: Mapping[bytes, int], now_us: int
    ) -> AccountRow | _UnknownSpend:
        """Return the row in the current period; a new month or day starts with spend 0.

        If the clock was changed (the row is of a later period, or was used after the current period
        began), the spend must be read from the usage records.
        """
        period, current = row[PERIOD_INDEX], self._periods[account.period]
        if period != UNKNOWN_PERIOD and period % 4 == current % 4:
            if current < period <= (self._clock() + CLOCK_TOLERANCE_S) * 4:
                return row  # another worker reached midnight slightly earlier
            if period < current and self._is_unused_since(current, row, now_us):
                return (*row[:3], 0, current, *row[RESERVED_INDEX:])
            if account.key not in spends:
                self.clock_changes.add((self._day_changes, period))
        if account.key not in spends:
            return _UnknownSpend(account, current // 4)
        return (*row[:3], spends[account.key], current, *row[RESERVED_INDEX:])

    def _is_unused_since(self, period: int, row: AccountRow, now_us: int) -> bool:
        """True if the account was last used before the period began, by the current clock."""
        return self._clock() - (now_us - row[0]) / 1e6 < period // 4 + CLOCK_TOLERANCE_S

    def _drop_dead_claims(self, transaction: Transaction, account: Account, row: AccountRow, now_us: int) -> AccountRow:
        live, released_tokens = list[int](), 0
        for place in range(RESERVED_INDEX, len(row), 3):
            if row[place] == self._worker or is_worker_alive(transaction, row[place]):
                live += row[place : place + 3]
            else:
                released_tokens += row[place + 2]
        level = row[:PERIOD_INDEX]
        if released_tokens:
            level = settle_request(account.caps, level, released_tokens, 0, now_us)
        return (*level, row[PERIOD_INDEX], *live)

    def _build_denial(
        self, transaction: Transaction, account: Account, short: LimitShortfall, level: AccountLevel
    ) -> LimitDenial:
        wait_s = short.retry_after_s
        if short.limit == "budget" and wait_s is None:
            note_refusal(transaction, account.key, self._periods[account.period], account.caps.budget_nusd)
        if short.limit == "budget" and wait_s is None and account.period != "total":
            wait_s = max(1, round(_next_period_start(account.period, self._clock()) - self._clock()))
        return LimitDenial(short.limit, account.scope.kind, wait_s, ((account.caps, level),))

    def _find_full_account(self, transaction: Transaction, accounts: Iterable[Account]) -> Account | None:
        """Return the first account that runs as many requests as its limit `parallel` allows."""
        for account in accounts:
            if not is_below_parallel_limit(transaction, account.key, account.caps.parallel, self._worker):
                return account
        return None

    def _change_parallel_counts(self, transaction: Transaction, reservation: Reservation, change: int) -> None:
        for account in reservation.parallel:
            change_parallel_count(transaction, account.key, self._worker, change)

    def _build_parallel_denial(
        self, account: Account, reserved: list[tuple[bytes, AccountLevel, int, AccountRow, AccountCaps]]
    ) -> LimitDenial:
        """Build the denial of a request for which only the limit `parallel` has no room."""
        wait_s = PARALLEL_RETRY_S if account.caps.parallel else None
        rates = tuple((caps, row[:PERIOD_INDEX]) for _key, _changed, _period, row, caps in reserved)
        return LimitDenial("parallel", account.scope.kind, wait_s, rates)

    def _roll_periods_if_due(self) -> None:
        """On a new day, set the current period per kind of budget: 4 x its start in seconds + the
        kind's index.
        """
        now = self._clock()
        if self._day <= now < self._period_end:
            return
        self._day_changes += 1
        day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self._periods = encode_periods(now)
        self._day, self._period_end = day.timestamp(), _next_period_start("day", now)


def _read_row(transaction: Transaction, key: bytes) -> AccountRow:
    raw = transaction.get(key)
    return NEW_ROW if raw is None else decode_row(raw)


def _next_period_start(period: BudgetPeriod, now: float) -> float:
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return (day + timedelta(days=1)).timestamp()
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()
