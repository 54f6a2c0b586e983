"""The reservation of a request in the accounts of its key, user and tenant, or its denial."""

from dataclasses import dataclass, field
from typing import NamedTuple

from archwright.access.tables import LimitScope, Principal, ScopeKind
from archwright.errors import StoreError
from archwright.policy.usage_limits import (
    NUSD_PER_USD,
    AccountCaps,
    AccountLevel,
    BudgetPeriod,
    LimitKind,
    WorstCaseAmount,
)

ZERO_ASK: WorstCaseAmount = (0, 0)
WorstCaseAsk = tuple[int, float | None]
"""Upper bound of one request: tokens, USD (None: the model has no price)."""


class Account(NamedTuple):
    """An account of a key, user or tenant, under its `key` in the shared table."""

    key: bytes
    caps: AccountCaps
    budgeted: bool
    period: BudgetPeriod
    scope: LimitScope


@dataclass(frozen=True)
class LimitDenial:
    """The limit that a request exceeds; `retry_after_s` None: a retry does not help.

    `rates`: of its account.
    """

    limit: LimitKind
    scope: ScopeKind
    retry_after_s: int | None
    rates: tuple[tuple[AccountCaps, AccountLevel], ...] = field(default=(), compare=False)


class Reservation:
    """Reserved worst case of a request, settled exactly once.

    `counted`: the rate of requests counted it before. `parallel`: the accounts that count it as
    running until it is settled; none for a use without a request. `rates`: limits and level of each
    account after the reservation.
    """

    __slots__ = (
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
    )

    def __init__(
        self,
        principal: Principal,
        *,
        accounts: tuple[Account, ...] = (),
        ask: WorstCaseAmount = ZERO_ASK,
        version: int,
        generation: int = 0,
        counted: bool = False,
    ) -> None:
        self.principal = principal
        self.accounts = accounts
        self.ask = ask
        self.counted = counted
        tokens, nusd = ask
        self.tokens = tokens
        self.nusd = nusd if nusd > 0 else 0
        self.parallel: list[Account] = []
        if ask != ZERO_ASK:
            self.parallel = [account for account in accounts if account.caps.parallel >= 0]
        self.version = version
        self.generation = generation
        self.rates: list[tuple[AccountCaps, AccountLevel]] = []
        self.settled = False

    @property
    def limited(self) -> bool:
        return bool(self.accounts)

    def watch_since(self, version: int) -> None:
        """Have `may_continue` notice changes since this version of the key store."""
        self.version = version

    @property
    def usd(self) -> float:
        return self.nusd / NUSD_PER_USD


ReserveResult = Reservation | LimitDenial | StoreError
