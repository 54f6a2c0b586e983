"""From dollars to the budget's currency, and from priced lines to an option judged against the budget.

Facts are priced in USD; the exchange rate is itself an estimate (band: the last twelve months). Lines of one
option share that rate, so they are summed in USD first and converted once: their bands are not independent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.facts import Catalog
from archwright.contract.estimate import Estimate, exact, product, total
from archwright.contract.needs import Budget, Placement
from archwright.contract.plan import Category, CostLine, Miss, Option, Pool, Purchase
from archwright.plan.fleet import Fleet
from archwright.plan.ledger import Ledger
from archwright.plan.terms import Term
from archwright.plan.wording import digits

USD = "USD"
CAPEX: frozenset[Category] = frozenset({"purchase"})


class Draft(NamedTuple):
    """An option before its costs are summed and judged. `terms` None: it has no price."""

    name: str
    placement: Placement
    provider: str
    regions: tuple[str, ...] = ()
    misses: tuple[Miss, ...] = ()
    terms: tuple[Term, ...] | None = None
    pools: tuple[Pool, ...] = ()
    models: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    purchases: tuple[Purchase, ...] = ()
    power_kw: Estimate | None = None
    rack_units: float | None = None
    energy_kwh_per_month: Estimate | None = None
    carbon_kg_per_month: Estimate | None = None
    fleets: tuple[Fleet, ...] = ()


class Purse:
    """Knows the budget and the exchange rate."""

    def __init__(self, budget: Budget, catalog: Catalog, ledger: Ledger) -> None:
        self.budget = budget
        self.ledger = ledger
        self._rate = self._exchange(catalog) if budget.currency != USD else None

    def _exchange(self, catalog: Catalog) -> Estimate:
        currency = self.budget.currency
        rate = catalog.exchange(USD, currency)
        basis = self.ledger.basis(
            f"exchange.{USD}-{currency}".lower(),
            "quoted",
            f"how many {currency} one {USD} buys",
            formula="reference rate of the day; band: lowest and highest of the last 12 months",
            facts=(rate.basis,) if rate.basis else (),
        )
        return Estimate(value=rate.value, low=rate.low, high=rate.high, unit=rate.unit, level=rate.level, basis=basis)

    def local(self, usd: Estimate, unit: str) -> Estimate:
        """`usd` in the budget's currency; keeps the basis of the amount, which names the rate as its fact."""
        if self._rate is None:
            return usd.scaled(1.0, unit=unit)
        return product([usd, self._rate], unit, usd.basis)

    def option(self, draft: Draft) -> Option:
        """The draft with its sums; over budget means not feasible, a limit inside the band means at risk."""
        months, currency = self.budget.horizon_months, self.budget.currency
        misses, notes = list(draft.misses), list(draft.notes)
        monthly = whole = capex = None
        lines = tuple(self._line(term) for term in draft.terms or ())
        if draft.terms is not None:
            basis = self._sum_basis(draft)
            recurring = [line.amount for line in lines if not line.once and line.recurring_budget]
            monthly = total(recurring or [exact(0.0, "")], f"{currency}/month", basis)
            once = [line.amount for line in lines if line.once]
            spent = [line.amount for line in lines if line.once and line.category in CAPEX]
            capex = total(spent, currency, basis) if spent else exact(0.0, currency, self._no_capex())
            every = [line.amount.scaled(months, unit=currency) for line in lines if not line.once]
            whole = total([*every, *once] or [exact(0.0, "")], currency, basis)
            judge_limit("per_month", monthly, self.budget.per_month, misses, notes)
            judge_limit("capex", capex, self.budget.capex, misses, notes)
        return Option(
            name=draft.name,
            placement=draft.placement,
            provider=draft.provider,
            regions=draft.regions,
            feasible=not misses,
            misses=tuple(misses),
            total_cost=whole,
            cost_per_month=monthly,
            capex=capex,
            cost_lines=lines,
            pools=draft.pools,
            models=draft.models,
            notes=tuple(dict.fromkeys(notes)),
            cumulative_cost=tuple(self._cumulative(draft.terms or ())),
            purchases=draft.purchases,
            power_kw=draft.power_kw,
            rack_units=draft.rack_units,
            energy_kwh_per_month=draft.energy_kwh_per_month,
            carbon_kg_per_month=draft.carbon_kg_per_month,
        )

    def _line(self, term: Term) -> CostLine:
        """A term in the budget's currency, with the band of its facts and of the exchange rate."""
        months, currency = self.budget.horizon_months, self.budget.currency
        usd = term.sum if term.once else term.sum / months
        moved = [self._relative(basis) for basis in term.drivers]
        band = product([*moved, exact(1.0, "")], "")
        sign = math.copysign(1.0, usd)
        ends = sorted((usd * band.low, usd * band.high))
        basis = self.ledger.basis(
            f"cost.{term.line}",
            "formula",
            "a flow of money, proportional to the facts named",
            facts=term.drivers,
        )
        amount = Estimate(value=usd, low=ends[0], high=ends[1], unit=USD, basis=basis)
        positive = amount if sign > 0 else Estimate(value=-usd, low=-ends[1], high=-ends[0], unit=USD, basis=basis)
        local = self.local(positive, currency if term.once else f"{currency}/month")
        if sign < 0:
            local = Estimate(value=-local.value, low=-local.high, high=-local.low, unit=local.unit, basis=basis)
        return CostLine(
            name=term.line,
            amount=local,
            once=term.once,
            recurring_budget=term.budgeted,
            category=term.category,
            drivers=term.drivers,
        )

    def _relative(self, basis: str) -> Estimate:
        """A driver's band around 1."""
        estimate = self.ledger.driver(basis)
        return estimate.scaled(1 / estimate.value, unit="")

    def _cumulative(self, terms: tuple[Term, ...]) -> Iterable[float]:
        rate = self._rate.value if self._rate is not None else 1.0
        return itertools.accumulate(rate * sum(month) for month in zip(*(term.flow for term in terms), strict=True))

    def _sum_basis(self, draft: Draft) -> str:
        facts = tuple(f"cost.{term.line}" for term in draft.terms or ())
        if self._rate is not None:
            facts += (self._rate.basis, f"1 {USD} = {self._rate.value:.4f} {self.budget.currency}")
        return self.ledger.basis(
            f"{draft.name}.cost",
            "formula",
            "recurring spend without staff, mean over the horizon with growth",
            formula=f"sum of the cost lines; total = that x {self.budget.horizon_months} months",
            facts=facts,
        )

    def _no_capex(self) -> str:
        return self.ledger.basis("capex.none", "formula", "nothing is bought: everything is rented or already there")


def judge_limit(name: str, estimate: Estimate, limit: float | None, misses: list[Miss], notes: list[str]) -> None:
    """A limit is judged on the value; inside the band above the value it is at risk."""
    if limit is None:
        return
    if estimate.value > limit:
        misses.append(Miss(constraint=name, value=estimate.value, limit=limit))
    elif estimate.high > limit:
        low, high = digits(estimate.low), digits(estimate.high)
        notes.append(f"at risk: {name} limit {digits(limit)} lies inside the band {low} .. {high}")
