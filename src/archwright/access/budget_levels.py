"""How much of each budget is used, read from the accounts of all workers without a change.

An account that was not used since the boot has no row, so its spend comes from the usage records.
"""

import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from archwright.access.account_codec import PERIOD_INDEX, decode_row, sum_reserved_nusd
from archwright.monitor.shared_table import SharedTable, Transaction
from archwright.policy.usage_limits import BudgetPeriod, UsageLimits, nearest_nusd

PERIOD_KINDS: tuple[BudgetPeriod, ...] = ("total", "month", "day")
_REFUSAL = struct.Struct("<2q")  # period and budget at the time of the refusal
_REFUSAL_PREFIX = b"x"
DAY_S = 86_400
SumSpend = Callable[[int], Counter[str]]
"""Nano-USD by scope since a day (days since 1970; 0: in total)."""


@dataclass(frozen=True, slots=True)
class BudgetLevel:
    """The use of one budget in its current period, in nano-USD. `since`: start of the period, seconds since 1970.

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


def encode_periods(now: float) -> dict[BudgetPeriod, int]:
    """Return the current period of each kind of budget: 4 x its start in seconds + the kind's
    index.
    """
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    starts = (0, int(day.replace(day=1).timestamp()), int(day.timestamp()))
    kinds = enumerate(zip(PERIOD_KINDS, starts, strict=True))
    return {kind: start * 4 + code for code, (kind, start) in kinds}


def note_refusal(transaction: Transaction, account: bytes, period: int, budget_nusd: int) -> None:
    """Note that a request did not fit into what is left of the account's budget."""
    noted = _REFUSAL.pack(period, budget_nusd)
    if transaction.get(_REFUSAL_PREFIX + account) != noted:
        transaction.put(_REFUSAL_PREFIX + account, noted)


def read_budget_levels(
    table: SharedTable, limits: Mapping[str, UsageLimits], sum_spend: SumSpend, now: float
) -> dict[str, BudgetLevel]:
    """Return the level of each scope with a budget. Raises StoreError."""
    budgets = {scope: one for scope, one in limits.items() if one.budget_usd is not None}
    return table.read(_read_levels, budgets, sum_spend, encode_periods(now))


def _read_levels(
    transaction: Transaction,
    budgets: Mapping[str, UsageLimits],
    sum_spend: SumSpend,
    periods: Mapping[BudgetPeriod, int],
) -> dict[str, BudgetLevel]:
    levels: dict[str, BudgetLevel] = {}
    for scope, limits in budgets.items():
        account, period = b"a" + scope.encode(), periods[limits.period]
        budget_nusd = nearest_nusd(limits.budget_usd or 0.0)
        raw = transaction.get(account)
        row = None if raw is None else decode_row(raw)
        since = period // 4
        if row is not None and row[PERIOD_INDEX] == period:
            spent_nusd = row[PERIOD_INDEX - 1]
        else:
            spent_nusd = sum_spend(since // DAY_S)[scope]
        reserved_nusd = 0 if row is None else sum_reserved_nusd(row)
        refused = transaction.get(_REFUSAL_PREFIX + account) == _REFUSAL.pack(period, budget_nusd)
        levels[scope] = BudgetLevel(budget_nusd, spent_nusd, reserved_nusd, since, refused)
    return levels
