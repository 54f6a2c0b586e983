"""percentile: the definition, its ends, and agreement with an independent implementation."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.contract.percentile import percentile

numbers = st.floats(min_value=-1e9, max_value=1e9)


def test_ends_and_middle() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.0) == 1.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 1.0) == 3.0
    assert percentile([1.0, 2.0], 0.25) == 1.25
    assert percentile([7], 0.95) == 7.0


def test_no_values_and_bad_q_are_bugs_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
    for q in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="q must lie"):
            percentile([1.0], q)


@given(st.lists(numbers, min_size=2, max_size=60), st.integers(1, 99))
def test_agrees_with_the_standard_library(values: list[float], percent: int) -> None:
    expected = statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
    assert percentile(values, percent / 100) == pytest.approx(expected, rel=1e-9, abs=1e-5)


@given(st.lists(numbers, min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_stays_between_the_extremes_and_grows_with_q(values: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert min(values) <= percentile(values, low) <= max(values)
    assert percentile(values, low) <= percentile(values, high) + 1e-6
