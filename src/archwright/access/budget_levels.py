"""How much of each budget is used, read from the accounts of all workers without a change.

An account that was not used since the boot has no row, so its spend comes from the usage records.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from archwright.access.account_codec import (
    NEW_ROW,
    PERIOD_INDEX,
    SPENT_INDEX,
    decode_row,
    sum_reserved_nusd,
)
from archwright.access.budget_periods import encode_periods
from archwright.monitor.shared_table import SharedTable, Transaction
from archwright.policy.usage_limits import UsageLimits, nearest_nusd

_REFUSAL = struct.Struct("<2q")  # period and budget at the time of the refusal
_REFUSAL_PREFIX = b"x"
DAY_S = 86_400
SumSpend = Callable[[int], Counter[str]]
"""Nano-USD by scope since a day (days since 1970; 0: in total)."""


@dataclass(frozen=True, slots=True)
class BudgetLevel:
    """The use of one budget in its current period, in nano-USD.

    `since`: start of the period, seconds since 1970.
    `refused`: a request of this period did not fit, although no other request was running.
    """

    budget_nusd: int
    spent_nusd: int
    reserved_nusd: int
    since: int
    refused: bool

    @property
    def left_nusd(self) -> int:
        return max(0, self.budget_nusd - self.spent_nusd - self.reserved_nusd)


def note_refusal(
    transaction: Transaction,
    account: bytes,
    *,
    period: int,
    budget_nusd: int,
) -> None:
    """Note that a request did not fit into what is left of the account's budget."""
    refusal = _REFUSAL.pack(period, budget_nusd)
    if transaction.get(_REFUSAL_PREFIX + account) != refusal:
        transaction.put(_REFUSAL_PREFIX + account, refusal)


def read_budget_levels(
    table: SharedTable,
    limits: Mapping[str, UsageLimits],
    sum_spend: SumSpend,
    *,
    now: float,
) -> dict[str, BudgetLevel]:
    """Return the level of each scope with a budget. Raises StoreError."""
    budgets: list[_Budget] = []
    periods = encode_periods(now)
    for scope, limit in limits.items():
        if limit.budget_usd is not None:
            budget_nusd = nearest_nusd(limit.budget_usd)
            budgets.append(_Budget(scope, budget_nusd, periods[limit.period]))
    return table.read(_read_levels, budgets, sum_spend)


class _Budget(NamedTuple):
    """The budget of a scope in its current period."""

    scope: str
    nusd: int
    period: int


def _read_levels(
    transaction: Transaction,
    budgets: Iterable[_Budget],
    sum_spend: SumSpend,
) -> dict[str, BudgetLevel]:
    levels: dict[str, BudgetLevel] = {}
    for budget in budgets:
        account = b"a" + budget.scope.encode()
        since = budget.period // 4
        raw = transaction.get(account)
        row = NEW_ROW if raw is None else decode_row(raw)
        spent_nusd = row[SPENT_INDEX]
        if row[PERIOD_INDEX] != budget.period:
            spent_nusd = sum_spend(since // DAY_S)[budget.scope]

        last_refusal = transaction.get(_REFUSAL_PREFIX + account)
        levels[budget.scope] = BudgetLevel(
            budget_nusd=budget.nusd,
            spent_nusd=spent_nusd,
            reserved_nusd=sum_reserved_nusd(row),
            since=since,
            refused=last_refusal == _REFUSAL.pack(budget.period, budget.nusd),
        )
    return levels
