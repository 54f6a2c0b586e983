from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.overflow import estimate_wait_s, should_overflow


@pytest.mark.parametrize(
    ("ahead", "slots", "expected"), [(0, 4, 0.0), (3, 4, 0.0), (4, 4, 0.5), (7, 4, 2.0), (8, 4, 2.5), (0, 0, math.inf)]
)
def test_waiting_begins_when_the_slots_are_taken(ahead: int, slots: int, expected: float) -> None:
    assert estimate_wait_s(ahead, slots, 2.0) == expected


@given(st.floats(0), st.floats(0, 1e6), st.floats(0, 1e6))
def test_our_own_capacity_comes_first(own: float, limit: float, other: float) -> None:
    """No overflow within the limit, or if the other wait is longer."""
    assert should_overflow(own, limit, other_wait_s=other) == (own > limit and other < own)
