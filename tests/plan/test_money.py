"""Dollars, the budget's currency, and limits."""

from __future__ import annotations

from typing import Any

import pytest

from archwright.catalog.facts import Catalog
from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.needs import Budget
from archwright.contract.plan import Miss, Option
from archwright.plan.ledger import Ledger
from archwright.plan.money import Draft, Purse, judge_limit
from archwright.plan.terms import recurring


def purse(catalog: Catalog, currency: str, **limits: Any) -> Purse:
    return Purse(Budget(currency=currency, horizon_months=10, **limits), catalog, Ledger())


def draft(to: Purse, *amounts: float) -> Draft:
    """Lines of ten months whose facts are off by a fifth."""
    terms = tuple(
        recurring(f"line {i}", "compute", a, 10, (to.ledger.drive(within_factor(a, 1.2, "USD/month", f"b{i}")),))
        for i, a in enumerate(amounts)
    )
    return Draft(name="o", placement="cloud", provider="p", terms=terms)


def priced(to: Purse, *amounts: float) -> Option:
    return to.option(draft(to, *amounts))


def test_dollars_stay_dollars(catalog: Catalog) -> None:
    option = priced(purse(catalog, "USD"), 100, 50)
    assert option.cost_per_month is not None and option.total_cost is not None and option.capex is not None
    assert option.cost_per_month.value == 150
    assert option.total_cost.value == 1500
    assert (option.total_cost.unit, option.capex.value) == ("USD", 0)
    assert [line.amount.value for line in option.cost_lines] == [100, 50]
    assert option.feasible


def test_another_currency_adds_the_band_of_its_rate(catalog: Catalog) -> None:
    rate = catalog.exchange("USD", "EUR")
    option = priced(purse(catalog, "EUR"), 100)
    cost = option.cost_per_month
    assert cost is not None and cost.unit == "EUR/month"
    assert cost.value == pytest.approx(100 * rate.value)
    assert cost.value / cost.low > 1.2
    assert option.cost_lines[0].amount.value == pytest.approx(cost.value)


def test_over_budget_is_not_feasible_and_still_priced(catalog: Catalog) -> None:
    option = priced(purse(catalog, "USD", per_month=99.0), 100)
    assert not option.feasible
    assert option.misses == (Miss(constraint="per_month", value=100.0, limit=99.0),)
    assert option.total_cost is not None


def test_a_limit_inside_the_band_is_at_risk(catalog: Catalog) -> None:
    option = priced(purse(catalog, "USD", per_month=110.0), 100)
    assert option.feasible
    assert option.notes[0].startswith("at risk: per_month")


def test_without_lines_there_is_no_price(catalog: Catalog) -> None:
    option = purse(catalog, "USD", per_month=1.0).option(Draft(name="o", placement="cloud", provider="p"))
    assert (option.total_cost, option.cost_per_month, option.capex, option.cost_lines) == (None, None, None, ())


@pytest.mark.parametrize(("limit", "misses", "notes"), [(None, 0, 0), (3.0, 0, 0), (1.5, 0, 1), (0.9, 1, 0)])
def test_limits_are_judged_on_the_value(limit: float | None, misses: int, notes: int) -> None:
    broken: list[Miss] = []
    said: list[str] = []
    judge_limit("x", Estimate(value=1, low=0.5, high=2, unit="s"), limit, broken, said)
    assert (len(broken), len(said)) == (misses, notes)
