"""From dollars to the budget's currency, and from priced lines to an option judged against the budget.

Facts are priced in USD; the exchange rate is itself an estimate (band: the last twelve months). Lines of one
option share that rate, so they are summed in USD first and converted once: their bands are not independent.
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.facts import Catalog
from archwright.contract.estimate import Estimate, exact, product, total
from archwright.contract.needs import Budget, Placement
from archwright.contract.plan import CostLine, Miss, Option, Pool
from archwright.plan.ledger import Ledger
from archwright.plan.wording import digits

USD = "USD"


class UsdLine(NamedTuple):
    """A recurring cost per month, mean over the horizon."""

    name: str
    amount: Estimate


class Draft(NamedTuple):
    """An option before its costs are summed and judged. `lines` None: it has no price."""

    name: str
    placement: Placement
    provider: str
    regions: tuple[str, ...] = ()
    misses: tuple[Miss, ...] = ()
    lines: tuple[UsdLine, ...] | None = None
    pools: tuple[Pool, ...] = ()
    models: dict[str, str] = {}
    notes: tuple[str, ...] = ()


class Purse:
    """Knows the budget and the exchange rate."""

    def __init__(self, budget: Budget, catalog: Catalog, ledger: Ledger) -> None:
        self.budget = budget
        self._ledger = ledger
        self._rate = self._exchange(catalog) if budget.currency != USD else None

    def _exchange(self, catalog: Catalog) -> Estimate:
        currency = self.budget.currency
        rate = catalog.exchange(USD, currency)
        basis = self._ledger.basis(
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
        if draft.lines is not None:
            month_usd = total([line.amount for line in draft.lines], USD, self._sum_basis(draft))
            monthly = self.local(month_usd, f"{currency}/month")
            whole = monthly.scaled(months, unit=currency)
            capex = exact(0.0, currency, self._no_capex())
            judge_limit("per_month", monthly, self.budget.per_month, misses, notes)
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
            cost_lines=tuple(
                CostLine(name=line.name, amount=self.local(line.amount, f"{currency}/month"))
                for line in draft.lines or ()
            ),
            pools=draft.pools,
            models=draft.models,
            notes=tuple(dict.fromkeys(notes)),
        )

    def _sum_basis(self, draft: Draft) -> str:
        facts = tuple(line.amount.basis for line in draft.lines or ())
        if self._rate is not None:
            facts += (self._rate.basis, f"1 {USD} = {self._rate.value:.4f} {self.budget.currency}")
        return self._ledger.basis(
            f"{draft.name}.cost",
            "formula",
            "recurring spend without staff, mean over the horizon with growth",
            formula=f"sum of the cost lines; total = that x {self.budget.horizon_months} months",
            facts=facts,
        )

    def _no_capex(self) -> str:
        return self._ledger.basis("capex.none", "formula", "nothing is bought: everything is rented or already there")


def judge_limit(name: str, estimate: Estimate, limit: float | None, misses: list[Miss], notes: list[str]) -> None:
    """A limit is judged on the value; inside the band above the value it is at risk."""
    if limit is None:
        return
    if estimate.value > limit:
        misses.append(Miss(constraint=name, value=estimate.value, limit=limit))
    elif estimate.high > limit:
        low, high = digits(estimate.low), digits(estimate.high)
        notes.append(f"at risk: {name} limit {digits(limit)} lies inside the band {low} .. {high}")
