"""Cash flows: what an option pays in each month, in USD, and the facts that the amount is proportional to.

Design: an option is a tuple of terms, so one sample of every fact prices all options together, and facts that options
share (an exchange rate, an engine's speed) change all of them alike.
"""

from collections.abc import Iterable
from typing import NamedTuple

from archwright.contract.plan import CostCategory


class CashFlow(NamedTuple):
    """One cost line: `flow[m]` is paid in month m at the drivers' central values; a negative amount is received.

    `drivers`: bases with an estimate in the ledger; the whole flow is proportional to each. `once`: a purchase (capex),
    else a recurring cost. `budgeted` False: not counted against the monthly limit (staff). `machines_of`: the workloads
    whose machines the line pays for.
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

    def sums_by_year(self) -> tuple[float, ...]:
        return tuple(sum(self.flow[month : month + 12]) for month in range(0, len(self.flow), 12))


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
