"""Hardware over a horizon: purchases per year, renewal at the end of the economic life, resale at the end.

The resale value falls geometrically to the residual share at the end of the life: residual^(age / life). So an earlier
purchase costs more, for every horizon, and a larger need never costs less.
"""

from collections.abc import Sequence
from typing import NamedTuple

from archwright.contract.plan import CostCategory
from archwright.plan.accounting.cash_flow import CashFlow, make_varying_flow
from archwright.plan.cost.prices import AgedHardware, PriceBook, UnitPrice
from archwright.plan.demand.forecast import MONTHS_PER_YEAR

GPU_LIFE, SERVER_LIFE = "life.gpu", "life.server"


class HardwarePurchase(NamedTuple):
    """Hardware with a unit price; `units[m]` are needed in month m. `life`: catalog part, in years."""

    line: str
    category: CostCategory
    price: UnitPrice
    units: Sequence[float]
    life: str


def price_lifecycle(quotes: PriceBook, what: HardwarePurchase, *, first_paid: bool = True) -> list[CashFlow]:
    """Return purchase, renewals and resale value. `first_paid` False: another line pays the first purchase."""
    life = max(1, round(MONTHS_PER_YEAR * quotes.lifetime_years(what.life)))
    months, present, left = len(what.units), 0.0, list[AgedHardware]()
    first, again, end = [0.0] * months, [0.0] * months, [0.0] * months
    # The missing units are bought at the start of each year, and renewed at the end of their life.
    for month in range(0, months, MONTHS_PER_YEAR):
        needed = max(what.units[month : month + MONTHS_PER_YEAR])
        for at in range(month, months, life) if needed > present else ():
            (again if at > month else first)[at] += (needed - present) * what.price.usd
            left += [AgedHardware(needed - present, months - at, life)] if at + life >= months else []
        present = max(needed, present)
    drivers, terms = what.price.drivers, list[CashFlow]()
    if first_paid:
        terms.append(CashFlow(what.line, what.category, tuple(first), drivers, once=True))
    terms.append(CashFlow(f"{what.line}, renewed", "refresh", tuple(again), drivers, once=True))
    if left:
        worth = quotes.residual_value(left)
        end[-1] = -what.price.usd * worth.usd
        line = f"{what.line}, resale value"
        terms.append(CashFlow(line, "residual", tuple(end), (*drivers, *worth.drivers), once=True))
    return [term for term in terms if term.sum]


def price_monthly_charge(quotes: PriceBook, what: HardwarePurchase) -> CashFlow:
    """Return the price as a monthly charge over the hardware's life, for sites that may buy nothing."""
    usd = what.price.usd / (MONTHS_PER_YEAR * quotes.lifetime_years(what.life))
    return make_varying_flow(what.line, what.category, [usd * count for count in what.units], what.price.drivers)
