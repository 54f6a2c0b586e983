"""Hardware over a horizon: purchases per year, support and repairs that rise with age, renewal and resale.

No machine leaves because of an age. Every cost is a continuous function of the age, in shares of the price as new:
    value of a used machine      resale x (residual / resale)^(age / life)
    support per year             support x support.rise^(years after support.term)
    repairs per year             failures per year x failures.rise^(age in years) x cost of a repair
A machine is renewed when a new one, its purchase less its resale value, costs less over the rest of the horizon than
extended support and repairs. An earlier purchase costs more for every horizon, so a larger need never costs less.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import ServerSpec
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs, OwnedMachine
from archwright.contract.number_format import format_exact
from archwright.contract.plan import CostCategory
from archwright.errors import CatalogError
from archwright.plan.accounting.cash_flow import CashFlow, make_varying_flow
from archwright.plan.accounting.fleet import MachineFleet
from archwright.plan.cost.prices import AgedHardware, PriceBook, UnitPrice, compute_resale_share
from archwright.plan.demand.forecast import MONTHS_PER_YEAR

GPU_LIFE, SERVER_LIFE = "life.gpu", "life.server"
TERM, SUPPORT_RISE, FAILURES_RISE = "support.term", "support.rise", "failures.rise"
FAILURE_PARTS = {True: "failures.gpu", False: "failures.server"}
REPAIR = "failures.repair"
# For each month: pairs (units, age in months).
AgedUnits = Sequence[Sequence[tuple[float, float]]]
ReadPart = Callable[[str], Estimate]


class AgeingCurve(NamedTuple):
    """Costs of hardware by its age in months, in shares of its price as new; `support`, `repairs`: per year."""

    life: float
    resale: float
    residual: float
    support: float
    term: float
    support_rise: float
    repairs: float
    failures_rise: float

    def worth(self, age: float) -> float:
        return compute_resale_share(age, self.life, self.resale, self.residual)

    def support_factor(self, age: float) -> float:
        return compute_support_factor(age, self.term, self.support_rise)

    def repair_factor(self, age: float) -> float:
        return compute_repair_factor(age, self.failures_rise)

    def upkeep(self, months: int, age: float = 0.0) -> float:
        """Return support and repairs over `months`, from `age` on."""
        return _sum_upkeep(self, months, age)

    def hold(self, months: int) -> float:
        """Return the cost of a machine that is bought, kept for `months` and sold."""
        return 1 + self.upkeep(months) - self.worth(months)


# Options and models ask for the same few spans of each machine again.
@functools.lru_cache(maxsize=4096)
def _sum_upkeep(curve: AgeingCurve, months: int, age: float) -> float:
    ages = [age + month for month in range(months)]
    support = curve.support * sum(map(curve.support_factor, ages))
    repairs = curve.repairs * sum(map(curve.repair_factor, ages))
    return (support + repairs) / MONTHS_PER_YEAR


def compute_support_factor(age: float, term: float, rise: float) -> float:
    """Return support at an age in months, relative to support as new; `rise`: per year after the `term`."""
    return float(rise ** (max(0.0, age - term) / MONTHS_PER_YEAR))


def compute_repair_factor(age: float, rise: float) -> float:
    return float(rise ** (age / MONTHS_PER_YEAR))


def select_life_part(node: ServerSpec) -> str:
    return GPU_LIFE if node.accelerator is not None else SERVER_LIFE


def read_ageing_curve(part: ReadPart, life: str, node: ServerSpec | None = None) -> AgeingCurve:
    """Return the curve of a machine; without `node`, of hardware whose repairs are not counted."""
    return AgeingCurve(
        life=MONTHS_PER_YEAR * part(life).value,
        resale=part("resale").value,
        residual=part("residual").value,
        support=part("support").value,
        term=MONTHS_PER_YEAR * part(TERM).value,
        support_rise=part(SUPPORT_RISE).value,
        repairs=_count_failures(part, node) * part(REPAIR).value / node.price_usd if node is not None else 0.0,
        failures_rise=part(FAILURES_RISE).value,
    )


def _count_failures(part: ReadPart, node: ServerSpec) -> float:
    """Return the failures of a new machine per year."""
    return part(FAILURE_PARTS[node.accelerator is not None]).value * max(1, node.accelerator_count)


@functools.lru_cache(maxsize=4096)
def plan_generations(curve: AgeingCurve, months: int) -> tuple[int, ...]:
    """Return the months that each of the successive machines is kept, at the lowest cost; a renewal starts a year."""
    rest: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    lengths = range(months % MONTHS_PER_YEAR or MONTHS_PER_YEAR, months + 1, MONTHS_PER_YEAR)
    for left in lengths:
        found: list[tuple[float, tuple[int, ...]]] = [(curve.hold(left), (left,))]
        for shorter, (usd, others) in zip(lengths, rest[1:], strict=False):
            kept = left - shorter
            found.append((curve.hold(kept) + usd, (kept, *others)))
        rest.append(min(found, key=lambda one: (round(one[0], 9), len(one[1]))))
    return rest[-1][1]


class HardwarePurchase(NamedTuple):
    """Hardware with a unit price; `units[m]` are needed in month m. `life`: catalog part; `node`: of a machine."""

    line: str
    category: CostCategory
    price: UnitPrice
    units: Sequence[float]
    life: str
    node: ServerSpec | None = None


class Generation(NamedTuple):
    """Units bought in month `start` and kept for `months`; `renewed`: they replace older units."""

    units: float
    start: int
    months: int
    renewed: bool

    @property
    def end(self) -> int:
        return self.start + self.months


def list_generations(curve: AgeingCurve, units: Sequence[float]) -> list[Generation]:
    """Return the purchases for `units` per month; missing units are bought at the start of each year."""
    months, present, found = len(units), 0.0, list[Generation]()
    for month in range(0, months, MONTHS_PER_YEAR):
        needed, at = max(units[month : month + MONTHS_PER_YEAR]), month
        for kept in plan_generations(curve, months - month) if needed > present else ():
            found.append(Generation(needed - present, at, kept, at > month))
            at += kept
        present = max(needed, present)
    return found


def list_ages(generations: Sequence[Generation], months: int) -> AgedUnits:
    return [
        [(one.units, month - one.start) for one in generations if one.start <= month < one.end]
        for month in range(months)
    ]


def price_lifecycle(quotes: PriceBook, what: HardwarePurchase, *, first_paid: bool = True) -> list[CashFlow]:
    """Return purchase, renewals and resale value. `first_paid` False: another line pays the first purchase."""
    curve, months = read_ageing_curve(quotes.parameter, what.life, what.node), len(what.units)
    generations = list_generations(curve, what.units)
    first, again = [0.0] * months, [0.0] * months
    for one in generations:
        (again if one.renewed else first)[one.start] += one.units * what.price.usd
    drivers, terms = what.price.drivers, list[CashFlow]()
    if first_paid:
        terms.append(CashFlow(what.line, what.category, tuple(first), drivers, once=True))
    terms.append(CashFlow(f"{what.line}, renewed", "refresh", tuple(again), drivers, once=True))
    sold = [(one.end, AgedHardware(one.units, one.months, curve.life)) for one in generations]
    terms += _price_sales(quotes, f"{what.line}, resale value", what.price, sold, months)
    return [term for term in terms if term.sum]


def _price_sales(
    quotes: PriceBook, line: str, price: UnitPrice, sold: Sequence[tuple[int, AgedHardware]], months: int
) -> Iterable[CashFlow]:
    """Yield the value of used hardware; `sold`: month of the sale (at the end: in the last month), and the units."""
    if sold:
        worth, flow = quotes.residual_value([one for _, one in sold]), [0.0] * months
        shares = quotes.parameter("resale").value, quotes.parameter("residual").value
        for month, one in sold:
            flow[min(month, months - 1)] -= price.usd * one.units * compute_resale_share(one.age, one.life, *shares)
        yield CashFlow(line, "residual", tuple(flow), (*price.drivers, *worth.drivers), once=True)


def price_support(quotes: PriceBook, name: str, price: UnitPrice, aged: AgedUnits) -> CashFlow:
    term, rise, support = quotes.parameter(TERM), quotes.parameter(SUPPORT_RISE), quotes.part("support")
    pairs = ((term.value, rise.value), (term.high, rise.low), (term.low, rise.high))
    factors = [
        [
            sum(units * compute_support_factor(age, MONTHS_PER_YEAR * years, by) for units, age in month)
            for month in aged
        ]
        for years, by in pairs
    ]
    paid = price.usd * support.usd / MONTHS_PER_YEAR
    drivers = (*price.drivers, *support.drivers, *quotes.ageing("support", [*map(sum, factors)], (TERM, SUPPORT_RISE)))
    return make_varying_flow(f"support of {name}", "support", [paid * one for one in factors[0]], drivers)


def price_repairs(quotes: PriceBook, name: str, node: ServerSpec, aged: AgedUnits) -> CashFlow:
    """Return the cost of failures that support does not pay: diagnosis, exchange of the part, test."""
    rise, repair = quotes.parameter(FAILURES_RISE), quotes.part(REPAIR)
    factors = [
        [sum(units * compute_repair_factor(age, by) for units, age in month) for month in aged]
        for by in (rise.value, rise.low, rise.high)
    ]
    paid = _count_failures(quotes.parameter, node) * repair.usd / MONTHS_PER_YEAR
    failures = quotes.part(FAILURE_PARTS[node.accelerator is not None]).drivers
    drivers = (*repair.drivers, *failures, *quotes.ageing("failures", [*map(sum, factors)], (FAILURES_RISE,)))
    return make_varying_flow(f"repairs of {name}", "support", [paid * one for one in factors[0]], drivers)


def find_owned_node(catalog: Catalog, owned: OwnedMachine) -> ServerSpec | None:
    """Return the catalog row of an owned machine; None if there is none."""
    try:
        count, device = catalog.resolve_machine(owned.machine)
    except CatalogError:
        return None
    alike = (node for node in catalog.nodes.values() if node.accelerator_count == count and node.accelerator)
    return next((node for node in alike if catalog.accelerator(node.accelerator or "").id == device.id), None)


class OwnedStock(NamedTuple):
    """Owned machines of one type and age, and how many of them an option keeps in each month."""

    node: ServerSpec
    machines: int
    age_months: float
    kept: tuple[int, ...]

    @property
    def free(self) -> Iterable[tuple[int, int]]:
        """Pairs (month, machines that have no work from that month on)."""
        steps = enumerate(zip((self.machines, *self.kept), self.kept, strict=False))
        return ((month, before - after) for month, (before, after) in steps if before > after)


def list_owned(catalog: Catalog, needs: Needs, fleets: Iterable[MachineFleet]) -> list[OwnedStock]:
    """Return the owned machines that the catalog knows; `fleets`: the machines of the option."""
    counts, used = dict[tuple[str, float], int](), dict[tuple[str, float], list[float]]()
    for owned in needs.placement.owned:
        if (node := find_owned_node(catalog, owned)) is not None:
            key = (node.id, owned.age_months)
            counts[key] = counts.get(key, 0) + owned.count
    months = needs.budget.horizon_months
    for fleet in fleets:
        if fleet.purchase == "owned" and fleet.node is not None:
            row = used.setdefault((fleet.node.id, fleet.age_months), [0.0] * months)
            row[:] = [a + b for a, b in zip(row, fleet.machines, strict=True)]
    found = []
    for (name, age), count in counts.items():
        work = used.get((name, age), [0.0] * months)
        kept = tuple(min(count, round(max(work[month:]))) for month in range(months))
        found.append(OwnedStock(catalog.nodes[name], count, age, kept))
    return found


def describe_purchases(quotes: PriceBook, fleet: MachineFleet, node: ServerSpec) -> str:
    """Return the schedule of bought machines: purchases, extended support, renewals and sales."""
    curve, steps = read_ageing_curve(quotes.parameter, select_life_part(node), node), Counter[tuple[int, str]]()
    for one in list_generations(curve, fleet.machines):
        steps[one.start, "renew" if one.renewed else "buy"] += round(one.units)
        if one.months > curve.term:
            steps[one.start + round(curve.term), "extend the support of"] += round(one.units)
        steps[one.end, "sell"] += round(one.units)
    return f"{node.id} for {', '.join(fleet.workloads)} in {fleet.where.region}: {_join_steps(steps)}"


def describe_owned(quotes: PriceBook, owned: OwnedStock, format_amount: Callable[[float], str]) -> Iterable[str]:
    """Yield the use of owned machines, and the estimated proceeds of those without work: advice, in no cost."""
    curve = read_ageing_curve(quotes.parameter, select_life_part(owned.node), owned.node)
    named = f"{owned.machines} owned {owned.node.id}, {format_exact(owned.age_months)} months old"
    steps, months, price = Counter({(0, "keep"): owned.kept[0]}), len(owned.kept), owned.node.price_usd
    extended = max(0, math.ceil(curve.term - owned.age_months))
    if extended < months and owned.kept[extended]:
        steps[extended, "extend the support of"] = owned.kept[extended]
    steps.update({(month, "release"): count for month, count in owned.free})
    yield f"{named}: {_join_steps(+steps)}"
    for month, count in owned.free:
        low, value, high = (format_amount(count * price * share) for share in _list_resale_shares(quotes, owned, month))
        sale = f"to sell {count} in month {month} brings about {value} ({low} to {high})"
        yield f"{named}: {sale}. The cost of no option contains it"
    if any(owned.kept) and curve.upkeep(months, owned.age_months) > 1 + curve.upkeep(months):
        old, new = curve.upkeep(months, owned.age_months), 1 + curve.upkeep(months)
        costs = f"support and repairs of each cost {format_amount(old * price)} over the horizon"
        yield f"{named}: {costs}. A new machine with its support costs {format_amount(new * price)}"


def _list_resale_shares(quotes: PriceBook, owned: OwnedStock, month: int) -> Iterable[float]:
    """Return the low, central and high resale value of a machine, in shares of its price as new."""
    resale, residual = quotes.parameter("resale"), quotes.parameter("residual")
    age, life = owned.age_months + month, MONTHS_PER_YEAR * quotes.lifetime_years(select_life_part(owned.node))
    ends = ((resale.low, residual.low), (resale.value, residual.value), (resale.high, residual.high))
    return (compute_resale_share(age, life, *end) for end in ends)


def _join_steps(steps: Counter[tuple[int, str]]) -> str:
    """Join dated steps; month 0 is the start of the plan."""
    return "; ".join(f"{what} {count} in month {month}" for (month, what), count in sorted(steps.items()))


def price_monthly_charge(quotes: PriceBook, what: HardwarePurchase) -> CashFlow:
    """Return the price as a monthly charge over the hardware's life, for sites that may buy nothing."""
    usd = what.price.usd / (MONTHS_PER_YEAR * quotes.lifetime_years(what.life))
    return make_varying_flow(what.line, what.category, [usd * count for count in what.units], what.price.drivers)
