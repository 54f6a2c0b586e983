"""Estimate arithmetic: order is kept, exact parts change nothing, bands combine as the formulas say."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.contract.estimate import Estimate, exact_estimate, multiply_estimates, sum_estimates, within_factor

positive = st.floats(min_value=1e-3, max_value=1e6)
factors = st.floats(min_value=1.0, max_value=10.0)
estimates = st.builds(lambda value, factor: within_factor(value, factor, "s"), positive, factors)
signed = st.lists(st.integers(-800, 800).map(lambda n: n / 8), min_size=3, max_size=3).map(
    lambda three: Estimate(low=sorted(three)[0], value=sorted(three)[1], high=sorted(three)[2], unit="s")
)


def test_a_broken_estimate_is_refused() -> None:
    with pytest.raises(ValueError, match="out of order"):
        Estimate(value=1.0, low=2.0, high=3.0, unit="s")
    for broken in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not finite"):
            Estimate(value=1.0, low=0.0, high=broken, unit="s")
    for level in (0.0, 90.0, math.nan):
        with pytest.raises(ValueError, match="probability"):
            Estimate(value=1.0, low=1.0, high=1.0, unit="s", level=level)


def test_a_broken_estimate_in_a_file_is_a_validation_error() -> None:
    with pytest.raises(msgspec.ValidationError, match="out of order"):
        msgspec.json.decode(b'{"value": 3, "low": 4, "high": 5, "unit": "s"}', type=Estimate)


def test_factor() -> None:
    assert within_factor(10.0, 2.0, "s").factor == 2.0
    assert exact_estimate(5.0, "s").factor == exact_estimate(0.0, "s").factor == exact_estimate(-1.0, "s").factor == 1.0
    assert Estimate(value=1.0, low=0.0, high=2.0, unit="s").factor == math.inf
    assert Estimate(value=2.0, low=1.0, high=10.0, unit="s").factor == 5.0


def test_holds_includes_both_ends() -> None:
    band = Estimate(value=2.0, low=1.0, high=3.0, unit="s")
    assert [band.contains(x) for x in (0.999, 1.0, 2.0, 3.0, 3.001)] == [False, True, True, True, False]


def test_the_chance_of_a_limit_follows_the_band_on_its_side() -> None:
    skewed = Estimate(value=1.0, low=0.5, high=8.0, unit="s")
    for limit, chance in ((0.5, 0.05), (1.0, 0.5), (8.0, 0.95), (math.sqrt(8.0), 0.7946)):
        assert skewed.chance_below(limit) == pytest.approx(chance, abs=1e-4)
    to_zero = Estimate(value=1.0, low=0.0, high=3.0, unit="s")
    assert [to_zero.chance_below(limit) for limit in (0.0, 3.0)] == pytest.approx([0.05, 0.95])
    assert [exact_estimate(2.0, "s").chance_below(limit) for limit in (1.9, 2.0, 2.1)] == [0, 1, 1]


@given(estimates, st.floats(0.01, 0.99))
def test_a_quantile_has_its_chance(estimate: Estimate, share: float) -> None:
    at = estimate.quantile(share)
    if estimate.factor > 1.001:
        assert estimate.chance_below(at) == pytest.approx(share, abs=1e-3)
    assert estimate.quantile(0.05) == pytest.approx(estimate.low) and estimate.quantile(0.5) == estimate.value


@given(estimates, positive)
def test_scaling_keeps_the_factor(estimate: Estimate, by: float) -> None:
    scaled = estimate.scaled(by)
    assert scaled.factor == pytest.approx(estimate.factor)
    assert (scaled.unit, scaled.basis, scaled.level) == (estimate.unit, estimate.basis, estimate.level)


@given(estimates, positive)
def test_what_divides_changes_its_ends(estimate: Estimate, amount: float) -> None:
    each = estimate.divide_amount(amount, "s", "b")
    assert (each.value, each.low, each.high) == tuple(amount / x for x in (estimate.value, estimate.high, estimate.low))
    assert (each.unit, each.basis, each.level) == ("s", "b", estimate.level)


def test_scaling_may_rename() -> None:
    scaled = exact_estimate(1.0, "s", "a").scaled(1000.0, unit="ms", basis="b")
    assert (scaled.value, scaled.unit, scaled.basis) == (1000.0, "ms", "b")


@given(st.lists(estimates, min_size=1, max_size=5))
def test_a_product_adds_squared_log_widths(parts: list[Estimate]) -> None:
    result = multiply_estimates(parts, "x", "b")
    assert result.value == pytest.approx(math.prod(e.value for e in parts))
    width = math.sqrt(sum(math.log(e.high / e.value) ** 2 for e in parts))
    assert result.high == pytest.approx(result.value * math.exp(width))
    assert max(e.factor for e in parts) <= result.factor * 1.000001
    assert result.factor <= math.prod(e.factor for e in parts) * 1.000001


@given(st.lists(signed, min_size=1, max_size=4))
def test_a_product_of_any_signs_stays_in_order_and_holds_its_corners(parts: list[Estimate]) -> None:
    result = multiply_estimates(parts, "x")
    if any(e.low <= 0 for e in parts):
        for corner in (math.prod(e.low for e in parts), math.prod(e.high for e in parts)):
            assert result.low <= corner <= result.high


@given(st.lists(signed, min_size=1, max_size=5))
def test_a_sum_adds_squared_widths(parts: list[Estimate]) -> None:
    result = sum_estimates(parts, "x", "b")
    above = math.sqrt(sum((e.high - e.value) ** 2 for e in parts))
    assert result.high - result.value == pytest.approx(above, abs=1e-6)
    assert result.high <= sum(e.high for e in parts) + 1e-6
    assert result.low >= sum(e.low for e in parts) - 1e-6


def test_exact_parts_change_nothing_and_nothing_combines_to_the_neutral_element() -> None:
    band = within_factor(10.0, 2.0, "s")
    assert multiply_estimates([band, exact_estimate(3.0, "")], "s").factor == pytest.approx(2.0)
    assert sum_estimates([band, exact_estimate(3.0, "s")], "s").low == pytest.approx(8.0)
    assert multiply_estimates([], "x").value == 1.0
    assert sum_estimates([], "x").value == 0.0


def test_what_is_combined_is_believed_as_much_as_its_least_certain_part() -> None:
    vague = Estimate(value=2.0, low=1.0, high=3.0, unit="s", level=0.5)
    assert multiply_estimates([vague, within_factor(1.0, 2.0, "s")], "s").level == 0.5
    assert sum_estimates([vague, exact_estimate(1.0, "s")], "s").level == 0.5
    assert sum_estimates([exact_estimate(1.0, "s")], "s").level == 0.9


def test_the_band_of_a_product_has_its_level() -> None:
    """A 90 % interval of log-normal factors holds about 90 % of the products drawn."""
    draw = random.Random(7)
    z = 1.6448536269514722
    parts = [within_factor(2.0, 1.5, "x"), within_factor(5.0, 3.0, "x")]
    result = multiply_estimates(parts, "x")
    inside = 0
    for _ in range(5_000):
        sample = math.prod(e.value * e.factor ** (draw.gauss(0, 1) / z) for e in parts)
        inside += result.contains(sample)
    assert 0.88 < inside / 5_000 < 0.92
