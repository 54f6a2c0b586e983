"""Bill of materials: the cost lines of an option as quantities with unit prices, and the payments of each year.

A line whose amount is proportional to one price per unit has quantity = amount / price. All other lines are lump sums,
so that the bill adds up to the total of the plan.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from archwright.contract.evidence import Basis
from archwright.contract.plan import CostCategory, CostLine, Option, Plan
from archwright.plan.cost.prices import parse_source

MONTHS_PER_YEAR = 12
# Categories whose quantity is a price's quantity; the others are shares of prices, or people.
COUNTED: frozenset[CostCategory] = frozenset(
    {"purchase", "refresh", "compute", "storage", "network", "egress", "platform", "energy", "tokens"}
)
GROUPS: dict[str, tuple[CostCategory, ...]] = {
    "Machines to buy": ("purchase", "refresh"),
    "Network": ("network", "egress"),
    "Storage": ("storage",),
    "Platform servers and services": ("platform", "licence"),
    "Rented machines": ("compute",),
    "Hosted models": ("tokens",),
    "Power, space, support": ("energy", "facility", "support"),
    "Staff": ("staff",),
    "Resale value at the end": ("residual",),
}
GROUP_OF = {category: group for group, categories in GROUPS.items() for category in categories}
LUMP_SUM = "lump sum"
UNIT_NAMES = {
    "USD/month": LUMP_SUM,
    "USD": "machines",
    "USD/h": "machine-hours",
    "USD/switch": "switches",
    "USD/server": "servers",
}
GB = 1e9
# Facts that the source of a lump sum names; the chapter on sources has all of them.
MOST_DEFINITIONS = 2


class BillLine(NamedTuple):
    """`unit_price`: low, typical and high, in the plan's currency. `year`: of the payment, None if each month.

    `times`: months of a monthly line, else 1; `amount` = quantity x typical price x times. `basis`: the price's basis.
    """

    group: str
    item: str
    quantity: float
    unit: str
    unit_price: tuple[float, float, float]
    times: float
    amount: float
    year: int | None
    source: str
    as_of: str
    confidence: str
    basis: Basis | None = None
    once: bool = False


class YearCost(NamedTuple):
    """Payments of a year; `resale` is received. Plans of older releases state the total only."""

    year: int
    total: float
    purchases: float | None = None
    running: float | None = None
    staff: float | None = None
    resale: float | None = None


def build_bill(plan: Plan, option: Option) -> tuple[BillLine, ...]:
    """The lines by group, then by amount; their amounts add up to the sum of the cost lines."""
    bases = {basis.id: basis for basis in plan.bases}
    lines = [made for line in option.cost_lines for made in _split_line(plan, line, bases)]
    order = list(GROUPS)
    return tuple(sorted(lines, key=lambda one: (order.index(one.group), one.year or 0, -abs(one.amount))))


def _split_line(plan: Plan, line: CostLine, bases: Mapping[str, Basis]) -> Iterable[BillLine]:
    """One line for each year of payment; a recurring cost has one line."""
    unit, prices, basis = _unit_price(line, bases)
    price, facts = prices[1], [bases[name] for name in line.drivers if name in bases]
    if basis is not None:
        source, as_of, confidence = parse_source(basis.facts[0] if basis.facts else f"{basis.definition}, undated")
    else:
        named = "; ".join(fact.definition for fact in facts[:MOST_DEFINITIONS])
        source, as_of, confidence = f"computed from: {named or line.name}", plan.created_at[:10], "computed"
    months = 1.0 if line.once else float(plan.horizon_months)
    paid: list[tuple[int | None, float]] = [
        (year, amount) for year, amount in enumerate(line.by_year, 1) if amount and line.once
    ]
    for year, amount in paid or [(None, line.amount.value)]:
        yield BillLine(
            group=GROUP_OF[line.category],
            item=line.name,
            quantity=amount / price if price else 1.0,
            unit=unit if line.once else f"{unit} a month",
            unit_price=prices,
            times=months,
            amount=amount * months,
            year=year,
            source=source,
            as_of=as_of,
            confidence=confidence,
            basis=basis,
            once=line.once,
        )


def _unit_price(line: CostLine, bases: Mapping[str, Basis]) -> tuple[str, tuple[float, float, float], Basis | None]:
    """Unit, price in the plan's currency, and the basis of the price; a lump sum without one."""
    found = {name: basis.estimate for name in line.drivers if (basis := bases.get(name)) is not None}
    stated = {name: estimate for name, estimate in found.items() if estimate is not None}
    priced = {name: price for name, price in stated.items() if price.unit.startswith("USD") and price.value}
    if line.category not in COUNTED or len(priced) != 1:
        return LUMP_SUM, (line.amount.low, line.amount.value, line.amount.high), None
    ((name, price),) = priced.items()
    factors = (rate.value for basis, rate in stated.items() if basis.startswith(("exchange.", "discount.")))
    per_byte = price.unit.startswith("USD/byte")
    factor = math.prod(factors) * (GB if per_byte else 1.0)
    unit = price.unit.removeprefix("USD/").removesuffix("-month").removesuffix("/month")
    unit = "GB" if per_byte else UNIT_NAMES.get(price.unit, unit)
    return unit, (price.low * factor, price.value * factor, price.high * factor), bases[name]


def name_price(line: BillLine) -> str:
    """The machine that is priced, else the definition of the price, else the line itself."""
    if line.basis is None:
        return line.item
    if line.basis.id.startswith("price."):
        return line.basis.id.removeprefix("price.").removeprefix("node.").removeprefix("spot.")
    return line.basis.definition


def sum_years(plan: Plan, option: Option) -> tuple[YearCost, ...]:
    """Payments of each year of the horizon; the total only if the plan file does not state the lines by year."""
    paid = option.cumulative_cost
    ends = [min(end, len(paid)) for end in range(MONTHS_PER_YEAR, len(paid) + MONTHS_PER_YEAR, MONTHS_PER_YEAR)]
    totals = [paid[end - 1] - (paid[start - 1] if start else 0.0) for start, end in zip([0, *ends], ends, strict=False)]
    years = []
    for year, total in enumerate(totals):
        if not all(len(line.by_year) == len(totals) for line in option.cost_lines):
            years.append(YearCost(year + 1, total))
            continue
        parts = dict.fromkeys(("purchases", "running", "staff", "resale"), 0.0)
        for line in option.cost_lines:
            bought = "resale" if line.category == "residual" else "purchases"
            parts["staff" if not line.recurring_budget else bought if line.once else "running"] += line.by_year[year]
        years.append(YearCost(year + 1, total, **parts))
    return tuple(years)


def total_without_staff(plan: Plan, option: Option) -> float | None:
    """The total over the horizon less the lines of staff; None without a total."""
    if option.total_cost is None:
        return None
    staff = sum(c.total_over(plan.horizon_months) for c in option.cost_lines if not c.recurring_budget)
    return option.total_cost.value - staff
