"""One transaction over accounts: it reserves and settles in their rows, and writes them."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from archwright.access.account_codec import (
    NEW_ROW,
    PERIOD_INDEX,
    RESERVED_FIELDS,
    RESERVED_INDEX,
    SPENT_INDEX,
    UNKNOWN_PERIOD,
    AccountRow,
    decode_row,
    encode_row,
    sum_reserved_nusd,
    update_row,
)
from archwright.access.budget_levels import note_refusal
from archwright.access.budget_periods import PERIOD_KINDS, PeriodClock, find_next_start
from archwright.access.parallel_counts import change_parallel_count, is_below_parallel_limit
from archwright.access.reservations import Account, LimitDenial, Reservation
from archwright.access.worker_registry import is_worker_alive
from archwright.monitor.shared_table import Transaction
from archwright.policy.usage_limits import (
    AccountCaps,
    AccountLevel,
    LimitShortfall,
    reserve_request,
    settle_request,
)

PARALLEL_RETRY_S = 1  # nobody knows when a running request ends


class UnknownSpend(NamedTuple):
    """The account's spend since a time must be read from the usage records first."""

    account: Account
    since: float


ReserveAnswer = LimitDenial | UnknownSpend | None
_ReservedRow = tuple[Account, AccountRow, int, AccountLevel]
"""An account, its row and period, and its level with the worst case of a request.

A plain tuple, because every request creates one for each account.
"""


class AccountTransaction:
    """The rows of accounts as one transaction changes them.

    `worker`: the number of this process in the table. `generation`: of the table; reservations of
    an earlier one are lost. `now_us`: by a clock of all workers.
    """

    __slots__ = ("_generation", "_now_us", "_periods", "_rows", "_transaction", "_worker")

    def __init__(
        self,
        transaction: Transaction,
        periods: PeriodClock,
        *,
        worker: int,
        generation: int,
        now_us: int,
    ) -> None:
        self._transaction = transaction
        self._periods = periods
        self._worker = worker
        self._generation = generation
        self._now_us = now_us
        self._rows: dict[bytes, AccountRow] = {}

    def write(self) -> None:
        """Write the changed rows."""
        for key, row in self._rows.items():
            self._transaction.put(key, encode_row(row))

    def reserve(self, reservation: Reservation, spends: Mapping[bytes, int]) -> ReserveAnswer:
        """Reserve in all accounts of a request, or in none of them.

        `spends`: nano-USD by account, as read from the usage records. None: reserved.
        """
        periods = self._periods.current
        reserved: list[_ReservedRow] = []
        for account in reservation.accounts:
            row = self._find_row(account.key) or NEW_ROW
            if account.budgeted and row[PERIOD_INDEX] != periods[account.period]:
                current = self._find_current_row(account, row, spends)
                if isinstance(current, UnknownSpend):
                    return current
                row = current

            level = self._reserve_in_row(account, row, reservation)
            if isinstance(level, LimitShortfall) and level.held:
                row = self._drop_dead_claims(account, row)
                level = self._reserve_in_row(account, row, reservation)
            if isinstance(level, LimitShortfall):
                return self._build_denial(account, row, level)
            period = row[PERIOD_INDEX] if account.budgeted else UNKNOWN_PERIOD
            reserved.append((account, row, period, level))

        if reservation.parallel:
            full_account = self._find_full_account(reservation)
            if full_account is not None:
                return _build_parallel_denial(full_account, reserved)
            self._change_parallel_counts(reservation, 1)

        reservation.rates = [(account.caps, level) for account, _, _, level in reserved]
        for account, row, period, level in reserved:
            self._rows[account.key] = update_row(
                row,
                level,
                period=period,
                worker=self._worker,
                nusd=reservation.nusd,
                tokens=reservation.tokens,
            )
        return None

    def extend(self, reservation: Reservation, tokens: int, nusd_per_token: float) -> int:
        """Reserve more tokens; return how many of `tokens` all budgets have space for."""
        granted = tokens
        for account in reservation.accounts:
            row = self._read_live_row(account)
            if row is None:
                return 0  # its spend must be read anew
            self._rows[account.key] = row
            if account.budgeted and nusd_per_token > 0:
                left_nusd = max(0, _count_left_nusd(account, row))
                granted = min(granted, math.floor(left_nusd / nusd_per_token))
        if not granted:
            return 0

        nusd = math.ceil(granted * nusd_per_token)
        for account in reservation.accounts:
            row = self._rows[account.key]
            level = row[:PERIOD_INDEX]
            self._rows[account.key] = update_row(
                row,
                settle_request(account.caps, level, -granted, 0, self._now_us),
                period=row[PERIOD_INDEX],
                worker=self._worker,
                nusd=nusd,
                tokens=granted,
            )
        return granted

    def settle(self, reservation: Reservation, tokens: int, nusd: int) -> None:
        """Settle by the current rows; the limits may have changed since the reservation."""
        reserved_tokens = reservation.tokens
        reserved_nusd = reservation.nusd
        if reservation.generation != self._generation:
            # The table was recreated without this reservation.
            reserved_tokens = 0
            reserved_nusd = 0
        elif reservation.parallel:
            self._change_parallel_counts(reservation, -1)

        for account in reservation.accounts:
            row = self._find_row(account.key)
            if row is None:
                continue  # the table was recreated, and the account has not been used since
            if row[PERIOD_INDEX] > 0:  # neither in total nor unknown
                row = self._end_past_period(row)
            unused_tokens = reserved_tokens - tokens
            level = row[:PERIOD_INDEX]
            self._rows[account.key] = update_row(
                row,
                settle_request(account.caps, level, unused_tokens, nusd, self._now_us),
                period=row[PERIOD_INDEX],
                worker=self._worker,
                nusd=-reserved_nusd,
                tokens=-reserved_tokens,
            )

    def is_within_budget(self, accounts: tuple[Account, ...]) -> bool:
        """True if the budgets cover what is spent and reserved."""
        for account in accounts:
            row = self._find_row(account.key)
            if row is None or account.caps.budget_nusd < 0:
                continue
            if _count_left_nusd(account, row) >= 0:
                continue
            live_row = self._drop_dead_claims(account, row)
            if _count_left_nusd(account, live_row) < 0:
                return False
        return True

    def _find_row(self, key: bytes) -> AccountRow | None:
        """Return the row of an account with the changes so far; None if it has none."""
        row = self._rows.get(key)
        if row is None:
            raw = self._transaction.get(key)
            if raw is not None:
                return decode_row(raw)
        return row

    def _read_live_row(self, account: Account) -> AccountRow | None:
        """Return the row of an account without the reservations of dead workers.

        None if its spend is unknown.
        """
        row = self._find_row(account.key) or NEW_ROW
        if account.budgeted and row[PERIOD_INDEX] != self._periods.current[account.period]:
            current = self._find_current_row(account, row, {})
            if isinstance(current, UnknownSpend):
                return None
            row = current
        return self._drop_dead_claims(account, row)

    def _find_current_row(
        self,
        account: Account,
        row: AccountRow,
        spends: Mapping[bytes, int],
    ) -> AccountRow | UnknownSpend:
        """Return a row of another period in the current one; a new month or day has spend 0.

        If the clock was changed (the row is of a later period, or was used after the current period
        began), the spend must be read from the usage records. A spend that was read is kept even if
        this request is refused, so that it is read only once.
        """
        period = row[PERIOD_INDEX]
        current = self._periods.current[account.period]
        is_same_kind = period != UNKNOWN_PERIOD and period % 4 == current % 4
        is_later = is_same_kind and period > current
        is_past = is_same_kind and period < current

        if is_later and self._periods.is_just_ahead(period):
            current_row = row  # another worker reached midnight slightly earlier
        elif is_past and self._is_unused_since(current, row):
            current_row = _start_period(row, current, spent_nusd=0)
        elif account.key in spends:
            current_row = _start_period(row, current, spent_nusd=spends[account.key])
        else:
            if is_same_kind:
                self._periods.note_change(period)
            return UnknownSpend(account, current // 4)

        if account.key in spends:
            self._rows[account.key] = current_row
        return current_row

    def _end_past_period(self, row: AccountRow) -> AccountRow:
        """Return the row with no spend if its period is over."""
        period = row[PERIOD_INDEX]
        current = self._periods.current[PERIOD_KINDS[period % 4]]
        if current <= period:
            return row
        if self._is_unused_since(current, row):
            return _start_period(row, current, spent_nusd=0)
        return _start_period(row, UNKNOWN_PERIOD, spent_nusd=0)

    def _is_unused_since(self, period: int, row: AccountRow) -> bool:
        """True if the account was last used before the period began, by the current clock."""
        used_at_us = row[0]
        age_s = (self._now_us - used_at_us) / 1e6
        return self._periods.is_before(age_s, period)

    def _reserve_in_row(
        self,
        account: Account,
        row: AccountRow,
        reservation: Reservation,
    ) -> AccountLevel | LimitShortfall:
        return reserve_request(
            account.caps,
            row[:PERIOD_INDEX],
            sum_reserved_nusd(row),
            reservation.ask,
            self._now_us,
            counted=reservation.counted,
        )

    def _drop_dead_claims(self, account: Account, row: AccountRow) -> AccountRow:
        """Return the row without the reservations of dead workers."""
        live_claims: AccountRow = ()
        released_tokens = 0
        for index in range(RESERVED_INDEX, len(row), RESERVED_FIELDS):
            worker = row[index]
            if worker == self._worker or is_worker_alive(self._transaction, worker):
                live_claims += row[index : index + RESERVED_FIELDS]
            else:
                released_tokens += row[index + 2]

        level = row[:PERIOD_INDEX]
        if released_tokens:
            level = settle_request(account.caps, level, released_tokens, 0, self._now_us)
        return (*level, row[PERIOD_INDEX], *live_claims)

    def _build_denial(
        self,
        account: Account,
        row: AccountRow,
        shortfall: LimitShortfall,
    ) -> LimitDenial:
        wait_s = shortfall.retry_after_s
        if shortfall.limit == "budget" and wait_s is None:
            note_refusal(
                self._transaction,
                account.key,
                period=self._periods.current[account.period],
                budget_nusd=account.caps.budget_nusd,
            )
            if account.period != "total":
                now = self._periods.now()
                wait_s = max(1, round(find_next_start(account.period, now) - now))

        level = settle_request(account.caps, row[:PERIOD_INDEX], 0, 0, self._now_us)
        rates = ((account.caps, level),)
        return LimitDenial(shortfall.limit, account.scope.kind, wait_s, rates)

    def _find_full_account(self, reservation: Reservation) -> Account | None:
        """Return the first account that runs as many requests as its limit `parallel` allows."""
        for account in reservation.parallel:
            is_below = is_below_parallel_limit(
                self._transaction,
                account.key,
                limit=account.caps.parallel,
                worker=self._worker,
            )
            if not is_below:
                return account
        return None

    def _change_parallel_counts(self, reservation: Reservation, change: int) -> None:
        for account in reservation.parallel:
            change_parallel_count(
                self._transaction,
                account.key,
                worker=self._worker,
                change=change,
            )


def _count_left_nusd(account: Account, row: AccountRow) -> int:
    """Return the nano-USD that the budget has left; negative: more is spent and reserved."""
    return account.caps.budget_nusd - row[SPENT_INDEX] - sum_reserved_nusd(row)


def _start_period(row: AccountRow, period: int, *, spent_nusd: int) -> AccountRow:
    return (*row[:SPENT_INDEX], spent_nusd, period, *row[RESERVED_INDEX:])


def _build_parallel_denial(account: Account, reserved: list[_ReservedRow]) -> LimitDenial:
    """Build the denial of a request for which only the limit `parallel` has no space."""
    wait_s = PARALLEL_RETRY_S if account.caps.parallel else None
    rates: list[tuple[AccountCaps, AccountLevel]] = []
    for reserved_account, row, _period, _level in reserved:
        rates.append((reserved_account.caps, row[:PERIOD_INDEX]))
    return LimitDenial("parallel", account.scope.kind, wait_s, tuple(rates))
