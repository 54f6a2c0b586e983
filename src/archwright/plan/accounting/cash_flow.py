"""A flow of money: what an option pays in each month, in USD, and the facts the amount is proportional to.

An option is a tuple of terms, so that one draw of every fact prices all options at once: what they share (an
exchange rate, an engine's speed) moves them together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from archwright.contract.plan import CostCategory


class CashFlow(NamedTuple):
    """`flow[m]` is paid in month m of the horizon, at the drivers' own values; negative is received.

    `drivers` are bases whose estimates the ledger holds; the whole flow is proportional to each. `once` makes it a
    purchase (capex), else it recurs. `budgeted` False keeps it out of the monthly limit: staff. `machines_of`: the
    workloads whose machines it pays, none where it pays for something else.
    """

    line: str
    category: CostCategory
    flow: tuple[float, ...]
    drivers: tuple[str, ...] = ()
    once: bool = False
    budgeted: bool = True
    machines_of: tuple[str, ...] = ()

    @property
    def sum(self) -> float:
        return sum(self.flow)


def make_recurring_flow(
    line: str, category: CostCategory, usd_per_month: float, months: int, drivers: Iterable[str] = ()
) -> CashFlow:
    return CashFlow(line, category, (usd_per_month,) * months, tuple(drivers))


def make_varying_flow(line: str, category: CostCategory, usd: Iterable[float], drivers: Iterable[str] = ()) -> CashFlow:
    return CashFlow(line, category, tuple(usd), tuple(drivers))


def make_one_time_flow(
    line: str, category: CostCategory, usd: float, months: int, drivers: Iterable[str] = (), *, at_month: int = 0
) -> CashFlow:
    flow = tuple(usd if month == at_month else 0.0 for month in range(months))
    return CashFlow(line, category, flow, tuple(drivers), once=True)
