from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.admission import LONGEST_RETRY_S, Admit, Reject, admit, queue_limit


@pytest.mark.parametrize(
    ("in_flight", "expected"),
    [(0, Admit(queued=False)), (3, Admit(queued=False)), (4, Admit(queued=True)), (35, Admit(queued=True))],
)
def test_admits_slots_then_queue(in_flight: int, expected: Admit) -> None:
    assert admit(in_flight, 4, queue_limit(4)) == expected


def test_rejects_when_the_queue_is_full() -> None:
    assert queue_limit(4) == 32
    assert admit(36, 4, 32) == Reject(retry_after_s=1)
    assert admit(36, 4, 32, service_s=10) == Reject(retry_after_s=8)


def test_rejects_without_slots() -> None:
    assert admit(0, 0, 10) == Reject(retry_after_s=1)


@given(st.integers(0, 500), st.integers(0, 64), st.integers(0, 500), st.floats(0, 1e6))
def test_exactly_slots_and_queue_fit(in_flight: int, slots: int, limit: int, service_s: float) -> None:
    decision = admit(in_flight, slots, limit, service_s)
    assert isinstance(decision, Admit) == (slots > 0 and in_flight < slots + limit)
    if isinstance(decision, Reject):
        assert 1 <= decision.retry_after_s <= LONGEST_RETRY_S
