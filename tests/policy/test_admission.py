from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.admission import (
    LONGEST_RETRY_S,
    QUEUE_SHARES,
    Admit,
    PoolLoad,
    Priority,
    Reject,
    decide_admission,
    queue_limit,
)

PRIORITIES = st.sampled_from(list(QUEUE_SHARES))


def crowd(in_flight: int, slots: int = 4, before: int | None = None, service_s: float = 1.0) -> PoolLoad:
    return PoolLoad(in_flight, slots, in_flight if before is None else before, service_s)


@pytest.mark.parametrize(
    ("in_flight", "expected"),
    [(0, Admit(queued=False)), (3, Admit(queued=False)), (4, Admit(queued=True)), (35, Admit(queued=True))],
)
def test_admits_slots_then_queue(in_flight: int, expected: Admit) -> None:
    assert decide_admission(crowd(in_flight), "interactive") == expected


def test_rejects_when_the_queue_is_full() -> None:
    assert queue_limit(4) == 32
    assert decide_admission(crowd(36), "interactive") == Reject(retry_after_s=1)
    assert decide_admission(crowd(36, service_s=10), "interactive") == Reject(retry_after_s=8)


@pytest.mark.parametrize(("priority", "fit"), [("interactive", 36), ("normal", 28), ("batch", 16)])
def test_the_least_urgent_are_shed_first(priority: Priority, fit: int) -> None:
    assert isinstance(decide_admission(crowd(fit - 1), priority), Admit)
    assert isinstance(decide_admission(crowd(fit), priority), Reject)


def test_rejects_without_slots() -> None:
    assert decide_admission(crowd(0, 0)) == Reject(retry_after_s=2)


def test_a_request_that_would_begin_too_late_is_rejected_at_once() -> None:
    # Four run and two wait: the third waiting request gets a slot after 3 of 4 slots' periods of 2 s.
    assert decide_admission(crowd(6, service_s=2.0), left_s=1.5) == Admit(queued=True)
    assert decide_admission(crowd(6, service_s=2.0), left_s=1.4) == Reject(retry_after_s=2, late=True)
    # Less urgent waiting requests are not ahead of it; with a free slot there is no wait.
    assert decide_admission(crowd(6, before=4, service_s=2.0), left_s=0.5) == Admit(queued=True)
    assert decide_admission(crowd(3, service_s=2.0), left_s=0.0) == Admit(queued=False)


@given(st.integers(0, 500), st.integers(0, 64), PRIORITIES, st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_decision_is_one_of_the_three(
    in_flight: int, slots: int, priority: Priority, service_s: float, left_s: float
) -> None:
    decision = decide_admission(crowd(in_flight, slots, service_s=service_s), priority, left_s)
    if isinstance(decision, Reject):
        assert 1 <= decision.retry_after_s <= LONGEST_RETRY_S
        assert in_flight >= slots, "a free slot is never refused"
        if decision.late:
            assert (in_flight - slots + 1) * service_s / slots > left_s
    else:
        assert decision.queued == (in_flight >= slots)


@given(st.integers(0, 500), st.integers(0, 64), st.floats(0, 10), st.floats(0, 100))
def test_the_more_urgent_is_never_refused_where_the_less_is_taken(
    in_flight: int, slots: int, service_s: float, left_s: float
) -> None:
    taken = [
        isinstance(decide_admission(crowd(in_flight, slots, service_s=service_s), one, left_s), Admit)
        for one in QUEUE_SHARES
    ]
    assert taken == sorted(taken, reverse=True)
