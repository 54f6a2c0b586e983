"""Accounts of keys, users and tenants.

They reserve a request's worst case before it runs, and settle its usage afterwards.

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

from archwright.access.account_transaction import AccountTransaction, ReserveAnswer, UnknownSpend
from archwright.access.budget_periods import PeriodClock
from archwright.access.key_cache import KeyCache
from archwright.access.reservations import (
    Account,
    LimitDenial,
    Reservation,
    ReserveResult,
    WorstCaseAsk,
)
from archwright.access.tables import LimitScope, Principal
from archwright.access.worker_registry import register_worker
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.shared_table import SharedTable, Transaction, shared_table_path
from archwright.policy.usage_limits import NUSD_PER_USD, nearest_nusd, to_caps, worst_nusd

TABLE_BYTES = 32 * 1024 * 1024
SpendLookup = Callable[[LimitScope, float], float]
"""USD that a scope has spent since a time (seconds since the epoch; 0: in total)."""


def open_accounts_table(home: Home) -> SharedTable:
    return SharedTable(home.shared_tables, "accounts", TABLE_BYTES)


def has_accounts_table(home: Home) -> bool:
    """True if a worker has opened the accounts since the boot."""
    path = shared_table_path(home.shared_tables, "accounts", TABLE_BYTES)
    return path.exists()


class Accounts:
    """The accounts as one process uses them.

    `monotonic_us`: a clock of all workers; `clock`: for months and days.
    """

    def __init__(
        self,
        table: SharedTable,
        keys: KeyCache,
        spent: SpendLookup,
        *,
        clock: Callable[[], float] = time.time,
        monotonic_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        self.table = table
        self.ended: list[tuple[Reservation, int, int]] = []
        """Settled, but not yet written to the table: reservation, tokens, nano-USD."""
        self._keys = keys
        self._spent = spent
        self._clock = clock
        self._periods = PeriodClock(clock)
        self._monotonic_us = monotonic_us
        self._accounts: dict[str, tuple[Account, ...]] = {}
        self._version = keys.version
        self._generation = -1
        self._worker = 0

    @property
    def clock_changes(self) -> int:
        """Number of changes of the clock; a spend that was read before the last one is stale."""
        return len(self._periods.changes)

    def reserve(
        self,
        principal: Principal,
        worst: WorstCaseAsk,
        *,
        counted: bool = False,
    ) -> Reservation | LimitDenial:
        """Reserve for one request.

        Raises StoreError if the shared table or the usage records fail: then deny.
        """
        counted_indexes = (0,) if counted else ()
        (result,) = self.reserve_all(((principal, worst),), counted=counted_indexes)
        if isinstance(result, StoreError):
            raise result
        return result

    def reserve_all(
        self,
        requests: Iterable[tuple[Principal, WorstCaseAsk]],
        *,
        counted: Collection[int] = (),
        cached: Collection[int] = (),
    ) -> list[ReserveResult]:
        """Reserve for each request in order.

        `counted`: indexes of requests that the rates counted before. `cached`: of requests with a
        cached response: they must fit too, and are settled with no usage at once.

        If the table or the usage records fail, the failing and all later requests get the
        StoreError; earlier requests are reserved. Raises StoreError if this process cannot be
        registered in the table.
        """
        results: list[ReserveResult] = []
        pending: list[tuple[int, Reservation]] = []
        for index, (principal, worst) in enumerate(requests):
            if not principal.limited:
                results.append(Reservation(principal, version=self._keys.version))
                continue
            if not pending:
                self._ensure_registered()
            reservation = self._plan_reservation(principal, worst, counted=index in counted)
            reservation.settled = index in cached
            pending.append((index, reservation))
            results.append(reservation)

        if pending:
            self._reserve_pending(pending, results)
        return results

    def _plan_reservation(
        self,
        principal: Principal,
        worst: WorstCaseAsk,
        *,
        counted: bool,
    ) -> Reservation:
        tokens, usd = worst
        nusd = -1 if usd is None else worst_nusd(usd)
        accounts = self._get_accounts(principal)
        return Reservation(
            principal,
            accounts=accounts,
            ask=(tokens, nusd),
            version=self._version,
            generation=self._generation,
            counted=counted,
        )

    def _reserve_pending(
        self,
        pending: list[tuple[int, Reservation]],
        results: list[ReserveResult],
    ) -> None:
        """Reserve in order; replace the results of requests that are denied or fail."""
        spends: dict[bytes, int] = {}
        while pending:
            try:
                answers = self.table.write(self._settle_and_reserve, pending, spends)
                self.ended.clear()
                for (index, _reservation), answer in zip(pending, answers, strict=False):
                    if isinstance(answer, LimitDenial):
                        results[index] = answer

                last = answers[-1]
                if not isinstance(last, UnknownSpend):
                    return
                pending = pending[len(answers) - 1 :]
                spent_usd = self._spent(last.account.scope, last.since)
                spends[last.account.key] = nearest_nusd(spent_usd)
            except StoreError as error:
                for index, _reservation in pending:
                    results[index] = error
                return

    def has_budget(self, principal: Principal) -> bool:
        if not principal.limited:
            return False
        return any(account.budgeted for account in self._get_accounts(principal))

    def extend(self, reservation: Reservation, tokens: int, usd_per_token: float) -> int:
        """Reserve up to `tokens` more, as many as all budgets have room for.

        Return their number. Only budgets bound them: rates of tokens get them as a debt. Raises
        StoreError.
        """
        if reservation.generation != self.table.generation:
            return 0  # the table was recreated without this reservation
        self._periods.roll_if_due()
        nusd_per_token = usd_per_token * NUSD_PER_USD
        granted = self.table.write(
            self._settle_and_extend,
            reservation,
            tokens=tokens,
            nusd_per_token=nusd_per_token,
        )
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
        """Queue the usage of a request whose process ended before its settlement."""
        self._ensure_registered()
        accounts = self._get_accounts(principal)
        reservation = Reservation(
            principal,
            accounts=accounts,
            version=self._version,
            generation=self._generation,
        )
        self.settle(reservation, tokens, usd)

    def flush(self) -> None:
        """Write the queued settlements.

        Raises StoreError: their reservations then last until this process ends.
        """
        if not self.ended:
            return
        self._periods.roll_if_due()
        try:
            self.table.write(self._settle_and_reserve, [], {})
        finally:
            self.ended.clear()

    def may_continue(self, reservation: Reservation) -> bool:
        """True if the key is live and its current budgets cover what is spent and reserved.

        Cheap while no key changed. Raises StoreError: then stop the request.
        """
        version = self._keys.refresh_version()
        principal = reservation.principal
        if version == reservation.version and self._clock() < principal.expires_at:
            return True
        if not self._keys.is_live(principal.key_id):
            return False
        reservation.version = version
        self.flush()
        return self.table.read(self._is_within_budget, self._get_accounts(principal))

    def _ensure_registered(self) -> None:
        if self._generation != self.table.generation:
            self._worker = self.table.write(register_worker)
            self._generation = self.table.generation
        self._periods.roll_if_due()

    def _get_accounts(self, principal: Principal) -> tuple[Account, ...]:
        if self._version != self._keys.version:
            self._accounts.clear()
            self._version = self._keys.version
        accounts = self._accounts.get(principal.key_id)
        if accounts is None:
            scopes = self._keys.list_limited_scopes(principal)
            accounts = tuple([_build_account(scope) for scope in scopes])
            self._accounts[principal.key_id] = accounts
        return accounts

    def _settle_and_reserve(
        self,
        transaction: Transaction,
        pending: list[tuple[int, Reservation]],
        spends: Mapping[bytes, int],
    ) -> list[ReserveAnswer]:
        """Write the queued settlements, then reserve in order.

        The first request with an unknown spend is the last one. Settlements are written even if
        every request is refused.
        """
        accounts = self._settle_ended(transaction)
        answers: list[ReserveAnswer] = []
        for _index, reservation in pending:
            answer = accounts.reserve(reservation, spends)
            answers.append(answer)
            if isinstance(answer, UnknownSpend):
                break
            if reservation.settled and answer is None:  # a cached response
                accounts.settle(reservation, 0, 0)
        accounts.write()
        return answers

    def _settle_and_extend(
        self,
        transaction: Transaction,
        reservation: Reservation,
        *,
        tokens: int,
        nusd_per_token: float,
    ) -> int:
        """Write the queued settlements, then reserve more tokens; return how many."""
        accounts = self._settle_ended(transaction)
        granted = accounts.extend(reservation, tokens, nusd_per_token)
        accounts.write()
        return granted

    def _settle_ended(self, transaction: Transaction) -> AccountTransaction:
        """Return the accounts with the queued settlements."""
        accounts = self._begin(transaction)
        for reservation, tokens, nusd in self.ended:
            accounts.settle(reservation, tokens, nusd)
        return accounts

    def _is_within_budget(self, transaction: Transaction, accounts: tuple[Account, ...]) -> bool:
        return self._begin(transaction).is_within_budget(accounts)

    def _begin(self, transaction: Transaction) -> AccountTransaction:
        return AccountTransaction(
            transaction,
            self._periods,
            worker=self._worker,
            generation=self.table.generation,
            now_us=self._monotonic_us(),
        )


def _build_account(scope: LimitScope) -> Account:
    caps = to_caps(scope.limits)
    return Account(
        key=b"a" + scope.name.encode(),
        caps=caps,
        budgeted=caps.budget_nusd >= 0,
        period=scope.limits.period,
        scope=scope,
    )
