"""Convert cash flows from USD to the budget's currency, sum them per option, and check the budget's limits.

The exchange rate is itself a fact with an interval (last twelve months), and every amount depends on it.
Design: all sums use the same samples of all facts (`monte_carlo`), so intervals of dependent amounts are correct.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.job_window import JobWindow
from archwright.contract.needs import Budget, Placement
from archwright.contract.number_format import format_exact, format_number
from archwright.contract.plan import (
    CostCategory,
    CostLine,
    LimitProbability,
    Option,
    PlatformServers,
    Pool,
    Purchase,
    StaffNeed,
    assess_limit,
)
from archwright.contract.record import replace
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import MachineFleet
from archwright.plan.accounting.monte_carlo import SAMPLE_COUNT, MonteCarloSampler, estimate_band
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.violations import Limits, Misses, list_misses

if TYPE_CHECKING:
    from archwright.plan.accounting.monte_carlo import Worlds

USD = "USD"
# The resale value at the end is part of the total cost, but it reduces no capex.
RECEIVED_CATEGORIES: frozenset[CostCategory] = frozenset({"residual"})
AT_RISK = "at risk: "
STAFF_CATEGORY: CostCategory = "staff"
COST_LINE_BASIS = "cost.line"


class OptionDraft(NamedTuple):
    """An option before its costs are summed and checked. `terms` None: the option has no price."""

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
    staff: tuple[StaffNeed, ...] = ()
    limits: Limits = ()
    servers: tuple[PlatformServers, ...] = ()
    windows: tuple[JobWindow, ...] = ()


def is_monthly(term: CashFlow) -> bool:
    """True if the term counts against the monthly limit: recurring cost without staff."""
    return not term.once and term.budgeted


def is_capex(term: CashFlow) -> bool:
    return term.once and term.budgeted and term.category not in RECEIVED_CATEGORIES


class BudgetConverter:
    """Prices drafts in the budget's currency with samples that all options share."""

    def __init__(self, budget: Budget, catalog: Catalog, ledger: PlanProvenance) -> None:
        self.budget = budget
        self.ledger = ledger
        self.catalog = catalog
        self.draws = MonteCarloSampler(ledger)
        self.exchange = self._register_exchange_rate() if budget.currency != USD else None

    def _register_exchange_rate(self) -> Estimate:
        currency = self.budget.currency
        rate = self.catalog.exchange_rate(USD, currency)
        return self.ledger.create_driver(
            rate,
            f"exchange.{USD}-{currency}".lower(),
            "quoted",
            f"{currency} per {USD}",
            formula="reference rate of the day; interval: lowest and highest of the last 12 months",
            facts=(f"1 {USD} = {format_number(rate.value, 4)} {currency}", *((rate.basis,) if rate.basis else ())),
        )

    @property
    def exchange_rate(self) -> float:
        return self.exchange.value if self.exchange is not None else 1.0

    def list_drivers(self, term: CashFlow) -> tuple[str, ...]:
        """Return the bases that the term's amount in the budget's currency is proportional to."""
        rate = () if self.exchange is None else (self.exchange.basis,)
        return (*sorted(set(term.drivers)), *rate)

    def sample_total(self, terms: Iterable[CashFlow]) -> Worlds:
        """Return the sum of the terms over the horizon in each sample, in the budget's currency."""
        flows: dict[tuple[str, ...], float] = {}
        for term in terms:
            drivers = self.list_drivers(term)
            flows[drivers] = flows.get(drivers, 0.0) + term.sum * self.exchange_rate
        return self.draws.sample_sum(flows)

    def price_options(self, drafts: tuple[OptionDraft, ...]) -> tuple[Option, ...]:
        return tuple(self.price_option(draft) for draft in drafts)

    def price_option(self, draft: OptionDraft) -> Option:
        """Sum the draft's costs. Over budget: not feasible. The samples give the probability of the budget's limits."""
        limits = list(draft.limits)
        sums: dict[str, Any] = dict.fromkeys(("total_cost", "cost_without_staff", "cost_per_month", "capex"))
        if draft.terms is not None:
            sums = self._total_costs(draft, draft.terms)
            limits += self._assess_budget(draft.terms, sums)
            months, rate = range(self.budget.horizon_months), self.exchange_rate
            paid = (rate * sum(term.flow[month] for term in draft.terms) for month in months)
            sums["cumulative_cost"] = tuple(itertools.accumulate(paid))
        same = {name: value for name, value in draft._asdict().items() if name in Option.__struct_fields__}
        misses = (*draft.misses, *list_misses(limits[len(draft.limits) :]))
        same |= {"misses": misses, "notes": tuple(dict.fromkeys(draft.notes))}
        same |= {"limits": tuple(map(self._register_limit, limits))}
        lines = tuple(self._cost_line(term) for term in draft.terms or ())
        return Option(**same, **sums, feasible=not misses, cost_lines=lines)

    def _register_limit(self, one: LimitProbability) -> LimitProbability:
        """Give the prediction a basis of the plan. Rounded: a digest must not depend on the last digits of a power."""
        text = "predicted value of a limit of the needs, and the probability that it holds the limit"
        basis = self.ledger.create_basis(f"limit.{one.limit}", "formula", text, formula=one.basis)
        return replace(one, probability=round(one.probability, 4), predicted=replace(one.predicted, basis=basis))

    def _assess_budget(self, terms: tuple[CashFlow, ...], sums: dict[str, Any]) -> Iterable[LimitProbability]:
        budget, months = self.budget, self.budget.horizon_months
        limits = (
            ("per_month", sums["cost_per_month"], budget.per_month, filter(is_monthly, terms), months),
            ("capex", sums["capex"], budget.capex, filter(is_capex, terms), 1),
        )
        for name, amount, limit, flows, by in limits:
            if limit is not None:
                found = assess_limit(
                    (name, limit, budget.certainty), amount, basis=f"{format_exact(SAMPLE_COUNT)} joint samples"
                )
                drawn = self.sample_total(flows) / by
                share = float((drawn <= limit).mean()) if amount.low < amount.high else found.probability
                yield replace(found, probability=share)

    def _total_costs(self, draft: OptionDraft, terms: tuple[CashFlow, ...]) -> dict[str, Any]:
        months, currency = self.budget.horizon_months, self.budget.currency
        basis = self.ledger.create_basis(
            f"{draft.name}.cost",
            "formula",
            "recurring cost without staff, mean over the horizon with growth; the total includes every line",
            formula=f"sum of the cost lines over {months} months; interval: 5 and 95 % of "
            f"{format_exact(SAMPLE_COUNT)} joint samples of the facts",
            facts=tuple(dict.fromkeys(driver for term in terms for driver in self.list_drivers(term))),
        )

        def summed(chosen: Iterable[CashFlow], unit: str, by: float = 1.0) -> Estimate:
            found = tuple(chosen)
            value = sum(term.sum for term in found) * self.exchange_rate / by
            return estimate_band(value, self.sample_total(found) / by, unit, basis)

        if any(map(is_capex, terms)):
            capex = summed(filter(is_capex, terms), currency)
        else:
            why = "no purchases: all machines are rented or owned already"
            capex = exact_estimate(0.0, currency, self.ledger.create_basis("capex.none", "formula", why))
        month = summed(filter(is_monthly, terms), f"{currency}/month", months)
        bare = summed((term for term in terms if term.category != STAFF_CATEGORY), currency)
        sums = {"total_cost": summed(terms, currency), "cost_per_month": month, "capex": capex}
        return {**sums, "cost_without_staff": bare}

    def _cost_line(self, term: CashFlow) -> CostLine:
        """Convert a term to the budget's currency, with the interval of its facts and of the exchange rate."""
        by = 1 if term.once else self.budget.horizon_months
        unit = self.budget.currency if term.once else f"{self.budget.currency}/month"
        drivers, value = self.list_drivers(term), term.sum * self.exchange_rate / by
        low, high = sorted(value * end for end in self.draws.relative_band(drivers))
        definition = "a cash flow that is proportional to each fact that the line names as a driver"
        basis = self.ledger.create_basis(COST_LINE_BASIS, "formula", definition)
        return CostLine(
            name=term.line,
            amount=Estimate(value=value, low=low, high=high, unit=unit, basis=basis),
            once=term.once,
            recurring_budget=term.budgeted,
            category=term.category,
            drivers=drivers,
            by_year=tuple(self.exchange_rate * usd for usd in term.sums_by_year()),
        )
