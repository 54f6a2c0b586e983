"""Options made of a few flows over a few facts: what the tests of money and of the decision start from."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.needs import Budget, Goal, Needs, Organisation, Placement, PlacementNeeds
from archwright.contract.plan import ConstraintViolation, CostCategory, LimitProbability, Option, assess_limit
from archwright.contract.record import replace
from archwright.plan.accounting.budget import BudgetConverter, OptionDraft
from archwright.plan.accounting.cash_flow import CashFlow, make_one_time_flow, make_recurring_flow
from archwright.plan.accounting.provenance import PlanProvenance

from ..small_plans import PLAN

MONTHS = 10
EMPTY_PLAN = replace(PLAN, organisation="", currency="USD", horizon_months=1)
Made = tuple[Needs, dict[str, Estimate], tuple[OptionDraft, ...]]


class World(NamedTuple):
    """Needs, the facts behind its options, and the options themselves."""

    needs: Needs
    ledger: PlanProvenance
    purse: BudgetConverter
    drafts: tuple[OptionDraft, ...]

    @property
    def options(self) -> tuple[Option, ...]:
        return self.purse.price_options(self.drafts)


def needs(
    currency: str = "USD", *, prefer: Placement | None = None, worth: float | None = None, **limits: Any
) -> Needs:
    return Needs(
        version=1,
        organisation=Organisation(name="o", country="DE"),
        workloads=(),
        goals=(Goal(text="g", value_per_month=worth), Goal(text="untold")),
        budget=Budget(currency=currency, horizon_months=MONTHS, **limits),
        placement=PlacementNeeds(prefer=prefer),
    )


def world(catalog: Catalog, wanted: Needs, facts: dict[str, Estimate], *drafts: OptionDraft) -> World:
    ledger = PlanProvenance()
    for name, estimate in facts.items():
        ledger.create_basis(name, "quoted", f"price of {name}")
        ledger.register_driver(estimate)
    return World(wanted, ledger, BudgetConverter(wanted.budget, catalog, ledger), drafts)


def fact(name: str, value: float = 1.0, factor: float = 1.25) -> Estimate:
    return within_factor(value, factor, "USD/h", name)


def rent(usd: float, *drivers: str, line: str = "rent", category: CostCategory = "compute") -> CashFlow:
    return make_recurring_flow(line, category, usd, MONTHS, drivers)


def buy(usd: float, *drivers: str, category: CostCategory = "purchase", month: int = 0) -> CashFlow:
    return make_one_time_flow("servers", category, usd, MONTHS, drivers, at_month=month)


def draft(
    name: str,
    *terms: CashFlow,
    misses: tuple[ConstraintViolation, ...] = (),
    placement: Placement = "cloud",
    **more: Any,
) -> OptionDraft:
    return OptionDraft(name=name, placement=placement, provider=name, terms=terms, misses=misses, **more)


def build_option(name: str, total: Estimate | None, *misses: ConstraintViolation, **more: Any) -> Option:
    """An option of a cloud that costs `total` altogether, in a month and to buy, unless `more` says otherwise."""
    fields = {"placement": "cloud", "provider": name, "regions": (), "cost_per_month": total, "capex": total, **more}
    return Option(name=name, feasible=not misses, misses=misses, total_cost=total, **fields)


AMOUNTS = st.floats(10, 1000)
FACTORS = st.sampled_from([1.0, 1.05, 1.25, 1.6])


def doubtful(name: str, stated: float, value: float) -> LimitProbability:
    """A limit with the probability that a value within a factor of two holds it; 70 % are required."""
    return assess_limit((name, stated, 0.7), within_factor(value, 2.0, "s"))


RISKY = (doubtful("chat.ttft_p95_s", 1.0, 2.0),)
FACTS = ("f0", "f1", "f2", "f3")


@st.composite
def terms_of(draw: st.DrawFn) -> tuple[CashFlow, ...]:
    """One to four flows; a purchase among them now and then."""
    found = []
    for index in range(draw(st.integers(1, 4))):
        drivers = draw(st.lists(st.sampled_from(FACTS), max_size=3, unique=True))
        amount = draw(AMOUNTS)
        made = rent(amount, *drivers, line=f"l{index}") if draw(st.booleans()) else buy(5 * amount, *drivers)
        found.append(made)
    return tuple(found)


@st.composite
def worlds(draw: st.DrawFn) -> Made:
    """Needs with or without limits, facts with bands, and two to five options."""
    limits: dict[str, Any] = {
        "per_month": draw(st.none() | st.floats(100, 3000)),
        "capex": draw(st.floats(0, 5000)),
        "prefer": draw(st.sampled_from([None, "on-premises"])),
        "worth": draw(st.none() | st.floats(1, 5000)),
    }
    wanted = needs(draw(st.sampled_from(["USD", "EUR"])), **limits)
    facts = {name: fact(name, draw(st.floats(0.5, 50)), draw(FACTORS)) for name in FACTS}
    placements: st.SearchStrategy[Placement] = st.sampled_from(["cloud", "on-premises"])
    drafts = tuple(
        draft(f"o{index}", *draw(terms_of()), placement=draw(placements), limits=draw(st.sampled_from([(), RISKY])))
        for index in range(draw(st.integers(2, 5)))
    )
    return wanted, facts, drafts
