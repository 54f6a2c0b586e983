"""From dollars to the budget's currency, and from a draft's flows to an option judged against the budget.

Facts are priced in USD; the exchange rate is itself a fact (band: the last twelve months) on which every amount
rests. All sums use the same samples of all facts (`monte_carlo`), so bands of dependent amounts come out right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.needs import Budget, Placement
from archwright.contract.plan import ConstraintViolation, CostCategory, CostLine, Option, Pool, Purchase
from archwright.contract.record import replace
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import MachineFleet
from archwright.plan.accounting.monte_carlo import SAMPLE_COUNT, MonteCarloSampler, estimate_band
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.explain.formatting import format_number
from archwright.plan.violations import Misses, build_violation

if TYPE_CHECKING:
    from archwright.plan.accounting.monte_carlo import Worlds

USD = "USD"
# What machines still fetch at the end is in the total, but no money to buy with.
RECEIVED_CATEGORIES: frozenset[CostCategory] = frozenset({"residual"})
AT_RISK = "at risk: "
# A risk of which nobody knows whether it is one: it rests on no promise and no measurement.
UNVERIFIED = f"{AT_RISK}not known: "
COST_LINE_BASIS = "cost.line"


class OptionDraft(NamedTuple):
    """An option before its costs are summed and judged. `terms` None: it has no price."""

    name: str
    placement: Placement
    provider: str
    regions: tuple[str, ...] = ()
    misses: Misses = ()
    terms: tuple[CashFlow, ...] | None = None
    pools: tuple[Pool, ...] = ()
    models: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    purchases: tuple[Purchase, ...] = ()
    power_kw: Estimate | None = None
    rack_units: float | None = None
    energy_kwh_per_month: Estimate | None = None
    carbon_kg_per_month: Estimate | None = None
    fleets: tuple[MachineFleet, ...] = ()


class CostTotals(NamedTuple):
    """What a draft costs in the budget's currency: over the horizon, per month (mean), and to buy."""

    total_cost: Estimate
    cost_per_month: Estimate
    capex: Estimate


def is_monthly(term: CashFlow) -> bool:
    """Counts against the monthly limit: recurring spend without staff."""
    return not term.once and term.budgeted


def is_capex(term: CashFlow) -> bool:
    return term.once and term.budgeted and term.category not in RECEIVED_CATEGORIES


class BudgetConverter:
    """Knows the budget and the exchange rate, and keeps the draws that all options share."""

    def __init__(self, budget: Budget, catalog: Catalog, ledger: PlanProvenance) -> None:
        self.budget = budget
        self.ledger = ledger
        self.catalog = catalog
        self.draws = MonteCarloSampler(ledger)
        self.exchange = self._register_exchange_rate() if budget.currency != USD else None

    def _register_exchange_rate(self) -> Estimate:
        currency = self.budget.currency
        rate = self.catalog.exchange_rate(USD, currency)
        basis = self.ledger.create_basis(
            f"exchange.{USD}-{currency}".lower(),
            "quoted",
            f"how many {currency} one {USD} buys",
            formula="reference rate of the day; band: lowest and highest of the last 12 months",
            facts=(f"1 {USD} = {rate.value:.4f} {currency}", *((rate.basis,) if rate.basis else ())),
        )
        held = replace(rate, basis=basis)
        self.ledger.register_driver(held)
        return held

    @property
    def exchange_rate(self) -> float:
        return self.exchange.value if self.exchange is not None else 1.0

    def list_drivers(self, term: CashFlow) -> tuple[str, ...]:
        """Everything the term's amount in the budget's currency is proportional to."""
        rate = () if self.exchange is None else (self.exchange.basis,)
        return (*sorted(set(term.drivers)), *rate)

    def sample_total(self, terms: Iterable[CashFlow]) -> Worlds:
        """The sum of the terms over the horizon in every world, in the budget's currency."""
        flows: dict[tuple[str, ...], float] = {}
        for term in terms:
            drivers = self.list_drivers(term)
            flows[drivers] = flows.get(drivers, 0.0) + term.sum * self.exchange_rate
        return self.draws.sample_sum(flows)

    def price_options(self, drafts: tuple[OptionDraft, ...]) -> tuple[Option, ...]:
        return tuple(self.price_option(draft) for draft in drafts)

    def price_option(self, draft: OptionDraft) -> Option:
        """The draft with its sums; over budget means not feasible, a limit inside the band means at risk."""
        misses, notes = list(draft.misses), list(draft.notes)
        sums: dict[str, Any] = dict.fromkeys(CostTotals._fields)
        if draft.terms is not None:
            sums = self._total_costs(draft, draft.terms)._asdict()
            check_limit("per_month", sums["cost_per_month"], self.budget.per_month, misses, notes)
            check_limit("capex", sums["capex"], self.budget.capex, misses, notes)
            months, rate = range(self.budget.horizon_months), self.exchange_rate
            paid = (rate * sum(term.flow[month] for term in draft.terms) for month in months)
            sums["cumulative_cost"] = tuple(itertools.accumulate(paid))
        same = {name: value for name, value in draft._asdict().items() if name in Option.__struct_fields__}
        judged = {**same, "misses": tuple(misses), "notes": tuple(dict.fromkeys(notes))}
        lines = tuple(self._cost_line(term) for term in draft.terms or ())
        return Option(**judged, **sums, feasible=not misses, cost_lines=lines)

    def _total_costs(self, draft: OptionDraft, terms: tuple[CashFlow, ...]) -> CostTotals:
        months, currency, basis = self.budget.horizon_months, self.budget.currency, self._sum_basis(draft, terms)

        def summed(chosen: Iterable[CashFlow], unit: str, by: float = 1.0) -> Estimate:
            found = tuple(chosen)
            value = sum(term.sum for term in found) * self.exchange_rate / by
            return estimate_band(value, self.sample_total(found) / by, unit, basis)

        if any(map(is_capex, terms)):
            capex = summed(filter(is_capex, terms), currency)
        else:
            why = "nothing is bought: everything is rented or already there"
            capex = exact_estimate(0.0, currency, self.ledger.create_basis("capex.none", "formula", why))
        month = summed(filter(is_monthly, terms), f"{currency}/month", months)
        return CostTotals(summed(terms, currency), month, capex)

    def _cost_line(self, term: CashFlow) -> CostLine:
        """A term in the budget's currency, with the band of its facts and of the exchange rate."""
        by = 1 if term.once else self.budget.horizon_months
        unit = self.budget.currency if term.once else f"{self.budget.currency}/month"
        drivers, value = self.list_drivers(term), term.sum * self.exchange_rate / by
        low, high = sorted(value * end for end in self.draws.relative_band(drivers))
        return CostLine(
            name=term.line,
            amount=Estimate(value=value, low=low, high=high, unit=unit, basis=self._line_basis),
            once=term.once,
            recurring_budget=term.budgeted,
            category=term.category,
            drivers=drivers,
        )

    def _sum_basis(self, draft: OptionDraft, terms: tuple[CashFlow, ...]) -> str:
        return self.ledger.create_basis(
            f"{draft.name}.cost",
            "formula",
            "recurring spend without staff, mean over the horizon with growth; the total counts every line",
            formula=f"sum of the cost lines over {self.budget.horizon_months} months; band: 5 and 95 % of "
            f"{SAMPLE_COUNT:,} joint draws of the facts",
            facts=tuple(dict.fromkeys(driver for term in terms for driver in self.list_drivers(term))),
        )

    @cached_property
    def _line_basis(self) -> str:
        return self.ledger.create_basis(
            COST_LINE_BASIS,
            "formula",
            "a flow of money, proportional to each of the facts that the line names as its drivers",
        )


def check_limit(
    name: str, estimate: Estimate, limit: float | None, misses: list[ConstraintViolation], notes: list[str]
) -> None:
    """A limit is judged on the value; inside the band above the value it is at risk."""
    if limit is None:
        return
    if estimate.value > limit:
        misses.append(build_violation(name, estimate.value, limit))
    elif estimate.high > limit:
        low, high = format_number(estimate.low), format_number(estimate.high)
        notes.append(f"{AT_RISK}{name} limit {format_number(limit)} lies inside the band {low} .. {high}")
