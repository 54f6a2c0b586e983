from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.overflow import estimate_wait_s, should_overflow


@pytest.mark.parametrize(("ahead", "expected"), [(0, 0.0), (3, 0.0), (4, 0.5), (7, 2.0), (8, 2.5)])
def test_waiting_begins_when_the_slots_are_taken(ahead: int, expected: float) -> None:
    assert estimate_wait_s(ahead, 4, 2.0) == expected


def test_without_slots_the_wait_is_without_end() -> None:
    assert estimate_wait_s(0, 0, 1.0) == math.inf and should_overflow(estimate_wait_s(0, 0, 1.0), 3600.0)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6))
def test_our_own_capacity_comes_first(own: float, limit: float, other: float) -> None:
    """No overflow within the limit, or if the other wait is longer."""
    assert should_overflow(own, limit, other_wait_s=other) == (own > limit and other < own)
