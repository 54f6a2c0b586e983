"""Currency conversion, budget limits, and properties of sums."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs
from archwright.contract.plan import ConstraintViolation, Option
from archwright.plan.accounting.budget import OptionDraft

from ..option_samples import MONTHS, Made, buy, draft, fact, needs, rent, world, worlds

QUICK = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def priced(catalog: Catalog, wanted: Needs, *amounts: float) -> Option:
    """Lines whose facts are off by a fifth."""
    facts = {f"f{i}": fact(f"f{i}", 1, 1.2) for i in range(len(amounts))}
    terms = (rent(amount, f"f{i}", line=f"line {i}") for i, amount in enumerate(amounts))
    return world(catalog, wanted, facts, draft("o", *terms)).options[0]


def test_dollars_stay_dollars(catalog: Catalog) -> None:
    option = priced(catalog, needs(), 100, 50)
    assert option.cost_per_month is not None and option.total_cost is not None and option.capex is not None
    assert option.cost_per_month.value == pytest.approx(150)
    assert option.total_cost.value == pytest.approx(1500)
    assert (option.total_cost.unit, option.capex.value, option.capex.low) == ("USD", 0, 0)
    assert [line.amount.value for line in option.cost_lines] == [100, 50]
    assert [line.drivers for line in option.cost_lines] == [("f0",), ("f1",)]
    assert option.feasible


def test_another_currency_adds_the_band_of_its_rate(catalog: Catalog) -> None:
    rate = catalog.exchange_rate("USD", "EUR")
    option = priced(catalog, needs("EUR"), 100)
    cost = option.cost_per_month
    assert cost is not None and cost.unit == "EUR/month"
    assert cost.value == pytest.approx(100 * rate.value)
    assert cost.value / cost.low > 1.2
    assert option.cost_lines[0].amount.value == pytest.approx(cost.value)
    assert option.cost_lines[0].drivers == ("f0", "exchange.usd-eur")


def test_the_basis_of_a_sum_names_the_facts_of_its_lines(catalog: Catalog) -> None:
    made = world(catalog, needs("EUR"), {"a": fact("a"), "b": fact("b")}, draft("o", rent(1, "a"), rent(2, "b", "a")))
    bases = {basis.id: basis for basis in made.ledger.collect_bases(made.options)}
    assert bases["o.cost"].facts == ("a", "exchange.usd-eur", "b")
    assert {"a", "b", "exchange.usd-eur", "cost.line", "capex.none"} <= bases.keys()


def test_what_counts_where(catalog: Catalog) -> None:
    """Staff is in the total only; a later purchase and a residual too; capex is what is bought to begin with."""
    staff = rent(1000, line="people", category="staff")._replace(budgeted=False)
    terms = (rent(10), staff, buy(500), buy(70, category="network"), buy(200, category="refresh", month=7))
    residual = buy(-90, category="residual", month=MONTHS - 1)
    option = world(catalog, needs(capex=1e6), {}, draft("o", *terms, residual)).options[0]
    assert option.cost_per_month is not None and option.total_cost is not None and option.capex is not None
    assert option.cost_per_month.value == pytest.approx(10)
    assert option.capex.value == pytest.approx(770)  # what is renewed has to be found too
    assert option.total_cost.value == pytest.approx(100 + 10000 + 570 + 200 - 90)
    assert option.cumulative_cost[0] == pytest.approx(10 + 1000 + 570)
    assert option.cumulative_cost[-1] == pytest.approx(option.total_cost.value)
    assert len(option.cumulative_cost) == MONTHS
    assert [line.once for line in option.cost_lines] == [False, False, True, True, True, True]
    assert option.cost_lines[-1].amount.value == pytest.approx(-90)


def test_a_negative_line_keeps_its_band_in_order(catalog: Catalog) -> None:
    facts = {"r": fact("r", 100, 2)}
    option = world(catalog, needs(), facts, draft("o", buy(-100, "r", category="residual"))).options[0]
    amount = option.cost_lines[0].amount
    assert (amount.low, amount.value, amount.high) == pytest.approx((-200, -100, -50), rel=0.02)


def test_a_fact_named_twice_counts_once(catalog: Catalog) -> None:
    facts = {"a": fact("a", 1, 1.5)}
    once, twice = world(catalog, needs(), facts, draft("x", rent(1, "a")), draft("y", rent(1, "a", "a"))).options
    assert once.cost_lines == twice.cost_lines


def test_an_option_over_budget_is_not_feasible_and_the_samples_tell_how_likely_it_keeps_a_limit(
    catalog: Catalog,
) -> None:
    option = priced(catalog, needs(per_month=99.0), 100)
    assert option.misses == (ConstraintViolation(constraint="per_month", value=100.0, limit=99.0),)
    assert not option.feasible and option.total_cost is not None
    option = priced(catalog, needs(per_month=110.0), 100)
    (month, capex) = option.limits
    assert option.feasible and month.limit == "per_month" and 0.5 < month.probability < 0.95
    assert capex.probability == 1, "nothing is bought"
    assert option.cost_per_month is not None
    low, high = option.cost_per_month.low, option.cost_per_month.high
    for limit, expected in ((100.0, 0.5), (high, 0.95), (low, 0.05)):
        (month, _) = priced(catalog, needs(per_month=limit), 100).limits
        assert month.probability == pytest.approx(expected, abs=0.002)


def test_without_terms_there_is_no_price_and_with_none_it_is_zero(catalog: Catalog) -> None:
    free = draft("free")
    unpriced = OptionDraft(name="o", placement="cloud", provider="p")
    option, other = world(catalog, needs(per_month=1.0), {}, unpriced, free).options
    assert (sums(option), option.cost_lines, option.cumulative_cost) == ([], (), ())
    assert other.total_cost is not None and (other.total_cost.value, other.total_cost.high) == (0, 0)
    assert other.cumulative_cost == (0.0,) * MONTHS


# --- properties


@given(worlds())
@QUICK
def test_the_order_of_options_and_lines_changes_nothing(catalog: Catalog, made: Made) -> None:
    wanted, facts, drafts = made
    there = {option.name: option for option in world(catalog, wanted, facts, *drafts).options}
    turned = [one._replace(terms=tuple(reversed(one.terms or ()))) for one in reversed(drafts)]
    for option in world(catalog, wanted, dict(reversed(facts.items())), *turned).options:
        other = there[option.name]
        assert option.feasible == other.feasible
        for one, two in zip(sums(option), sums(other), strict=True):
            assert (one.low, one.value, one.high) == pytest.approx((two.low, two.value, two.high))


@given(worlds())
@QUICK
def test_twice_the_flows_are_twice_the_money_and_twice_the_band(catalog: Catalog, made: Made) -> None:
    wanted, facts, drafts = made
    doubled = [
        one._replace(terms=tuple(t._replace(flow=tuple(2 * x for x in t.flow)) for t in one.terms or ()))
        for one in drafts
    ]
    before, after = (world(catalog, wanted, facts, *some).options for some in (drafts, doubled))
    for once, twice in zip(before, after, strict=True):
        for one, two in zip(sums(once), sums(twice), strict=True):
            assert (2 * one.low, 2 * one.value, 2 * one.high) == pytest.approx((two.low, two.value, two.high))


@given(worlds(), st.sampled_from(["f0", "f1", "f2", "f3"]))
@QUICK
def test_a_wider_fact_never_narrows_what_rests_on_it_alone(catalog: Catalog, made: Made, name: str) -> None:
    wanted, facts, _ = made
    narrow, wide = (
        sums(world(catalog, wanted, {**facts, name: fact(name, 1, by)}, draft("o", rent(10, name))).options[0])[0]
        for by in (1.1, 1.7)
    )
    assert wide.low <= narrow.low and narrow.high <= wide.high


def sums(option: Option) -> list[Estimate]:
    found = [option.total_cost, option.cost_per_month, option.capex]
    return [estimate for estimate in found if estimate is not None]
