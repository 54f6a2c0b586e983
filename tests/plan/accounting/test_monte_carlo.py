"""One draw of a fact serves every option, and keeps the fact's own band."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.contract.estimate import Estimate, exact_estimate, within_factor
from archwright.plan.accounting.monte_carlo import SAMPLE_COUNT, TAIL_COUNT, MonteCarloSampler, estimate_band
from archwright.plan.accounting.provenance import PlanProvenance


def draws(*facts: Estimate) -> MonteCarloSampler:
    ledger = PlanProvenance()
    for fact in facts:
        ledger.register_driver(fact)
    return MonteCarloSampler(ledger)


def estimate(low: float, value: float, high: float, level: float = 0.9) -> Estimate:
    return Estimate(value=value, low=low, high=high, unit="USD", level=level, basis="f")


@given(st.floats(0.1, 1), st.floats(1, 10), st.floats(0.01, 1e6))
@settings(max_examples=20)
def test_a_single_fact_keeps_its_own_band(below: float, above: float, value: float) -> None:
    low, high = draws(estimate(value * below, value, value * above)).relative_band(("f",))
    assert (low, high) == pytest.approx((below, above), rel=0.02)


@pytest.mark.parametrize(
    ("low", "value", "high"), [(-1, 2, 3), (0, 1, 4), (-5, -2, -1)], ids=["below zero", "to zero", "a gain"]
)
def test_a_band_that_reaches_zero_is_normal_on_each_side(low: float, value: float, high: float) -> None:
    made = draws(estimate(low, value, high)).sample_product(("f",)) * value
    around = estimate_band(value, made, "", "")
    assert (around.low, around.high) == pytest.approx((low, high), abs=0.02 * (high - low))


def test_certain_zero_and_unknown_facts_and_intervals_of_other_levels() -> None:
    with pytest.raises(KeyError):
        draws().sample_driver("nobody")
    assert set(draws(exact_estimate(3, "", "f")).sample_driver("f")) == {1.0}
    assert set(draws(estimate(-1, 0, 1)).sample_driver("f")) == {1.0}
    sure, unsure = (draws(estimate(0.5, 1, 2, level)).relative_band(("f",)) for level in (1.0, 0.5))
    assert sure[0] > 0.5 and sure[1] < 2
    assert unsure[0] < 0.5 and unsure[1] > 2


def test_independent_facts_add_in_logs_and_a_sum_of_two_is_surer_than_twice_one() -> None:
    two = MonteCarloSampler(ledger := PlanProvenance())
    for name in ("a", "b"):
        ledger.register_driver(within_factor(1, 2, "", name))
    low, high = two.relative_band(("a", "b"))
    assert (low, high) == pytest.approx((2 ** -(2**0.5), 2 ** (2**0.5)), rel=0.05)
    together = two.sample_sum({("a",): 1.0, ("b",): 1.0})
    alone = two.sample_sum({("a",): 2.0})
    assert estimate_band(2, together, "", "").high < estimate_band(2, alone, "", "").high
    assert (two.sample_sum({("a",): 3.0}) == 3 * two.sample_driver("a")).all()


def test_the_draws_of_a_fact_depend_on_its_name_alone() -> None:
    alone = draws(within_factor(1, 2, "", "a"))
    among = draws(within_factor(1, 3, "", "b"), within_factor(1, 2, "", "a"))
    among.sample_product(("b",))
    assert (alone.sample_driver("a") == among.sample_driver("a")).all()
    assert not (among.sample_driver("a") == among.sample_driver("b")).all()


def test_the_band_leaves_five_percent_on_each_side_and_holds_its_value() -> None:
    made = draws(within_factor(1, 2, "", "f")).sample_driver("f")
    around = estimate_band(1.0, made, "EUR", "b")
    assert (around.unit, around.level, around.basis) == ("EUR", 0.9, "b")
    assert (made < around.low).sum() == (made > around.high).sum() == TAIL_COUNT == SAMPLE_COUNT // 20
    assert estimate_band(100.0, made, "", "").high == 100.0 and estimate_band(0.001, made, "", "").low == 0.001


def test_what_was_made_from_the_same_facts_moves_together() -> None:
    ledger = PlanProvenance()
    ledger.create_basis("speed", "calibrated", "d")
    for name, factor in (("here", 1.5), ("there", 2.0)):
        ledger.create_basis(name, "formula", "d", facts=("speed",))
        ledger.register_driver(within_factor(1, factor, "", name))
    made = MonteCarloSampler(ledger)
    assert ((made.sample_driver("here") > 1) == (made.sample_driver("there") > 1)).all()
