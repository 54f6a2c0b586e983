"""Hardware over a horizon: bought year by year as it is needed, again at the end of its economic life, sold at the end.

What it sells for falls geometrically to the residual share at the end of its life: residual^(age / life). So a unit
costs the more the earlier it is bought, whatever the horizon: nothing is gained by needing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from archwright.contract.plan import CostCategory
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.cost.prices import AgedHardware, PriceBook, UnitPrice

MONTHS_PER_YEAR = 12
GPU_LIFE, SERVER_LIFE = "life.gpu", "life.server"


class HardwarePurchase(NamedTuple):
    """Hardware whose unit costs `price`; `units[m]` are needed in month m. `life` is a part of the catalog (years)."""

    line: str
    category: CostCategory
    price: UnitPrice
    units: Sequence[float]
    life: str


class PurchaseCohort(NamedTuple):
    """Units bought together; `renewal` of others."""

    month: int
    units: float
    renewal: bool


def price_lifecycle(quotes: PriceBook, what: HardwarePurchase, *, first_paid: bool = True) -> list[CashFlow]:
    """The purchase (unless somebody else states it: `first_paid` False), renewals, and what is left at the end."""
    life = max(1, round(MONTHS_PER_YEAR * quotes.lifetime_years(what.life)))
    months, cohorts = len(what.units), _build_cohorts(what, life)
    first, again, end = [0.0] * months, [0.0] * months, [0.0] * months
    for one in cohorts:
        (again if one.renewal else first)[one.month] += one.units * what.price.usd
    drivers, terms = what.price.drivers, list[CashFlow]()
    if first_paid:
        terms.append(CashFlow(what.line, what.category, tuple(first), drivers, once=True))
    terms.append(CashFlow(f"{what.line}, renewed", "refresh", tuple(again), drivers, once=True))
    left = [AgedHardware(one.units, months - one.month, life) for one in cohorts if one.month + life >= months]
    if left:
        worth = quotes.residual_value(left)
        end[-1] = -what.price.usd * worth.usd
        line = f"{what.line}, worth at the end"
        terms.append(CashFlow(line, "residual", tuple(end), (*drivers, *worth.drivers), once=True))
    return [term for term in terms if term.sum]


def _build_cohorts(what: HardwarePurchase, life: int) -> list[PurchaseCohort]:
    """At the start of each year what that year takes beyond what is there; each again when its life is over."""
    months, found, there = len(what.units), list[PurchaseCohort](), 0.0
    for month in range(0, months, MONTHS_PER_YEAR):
        needed = max(what.units[month : month + MONTHS_PER_YEAR])
        if needed > there:
            found += [PurchaseCohort(at, needed - there, at > month) for at in range(month, months, life)]
            there = needed
    return found
