"""Hardware over a horizon: bought, bought again at the end of its economic life, sold at the end of the horizon.

What it sells for falls geometrically to the residual share at the end of its life: residual^(age / life).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from archwright.contract.plan import Category
from archwright.plan.quotes import Price, Quotes
from archwright.plan.terms import Term, bought


class Bought(NamedTuple):
    """Hardware whose unit costs `price`; `units[m]` are needed in month m. `life` is a part of the catalog, in years.
    `age_months` None: bought in the first month; else it is there already, that old, and only its renewal is paid.
    """

    line: str
    category: Category
    price: Price
    units: Sequence[float]
    life: str
    age_months: float | None = None


def renewed(quotes: Quotes, what: Bought, months: int, *, first_paid: bool = True) -> list[Term]:
    """The purchase (unless somebody else states it: `first_paid` False), renewals, and what is left at the end."""
    life = max(1, round(12 * quotes.years(what.life)))
    at = 0 if what.age_months is None else max(0, round(life - what.age_months))
    terms, last, last_units = [], None, 0.0
    while at < months:
        units = max(what.units[at : at + life])
        renewal = at > 0 or what.age_months is not None
        if renewal or first_paid:
            category: Category = "refresh" if renewal else what.category
            line = f"{what.line}, renewed" if renewal else what.line
            terms.append(bought(line, category, units * what.price.usd, months, what.price.drivers, at_month=at))
        last, last_units, at = at, units, at + life
    if last is not None:
        terms.append(_sold(quotes, what, last_units, (months - last, life), months))
    return [term for term in terms if term.sum]


def _sold(quotes: Quotes, what: Bought, units: float, age: tuple[int, int], months: int) -> Term:
    worth = quotes.worth(*age)
    usd = -units * what.price.usd * worth.usd
    drivers = (*what.price.drivers, *worth.drivers)
    return bought(f"{what.line}, worth at the end", "residual", usd, months, drivers, at_month=months - 1)
