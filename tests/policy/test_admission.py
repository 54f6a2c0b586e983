from __future__ import annotations

import math

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


NOW, QUEUED = Admit(queued=False), Admit(queued=True)


@pytest.mark.parametrize(
    ("load", "left_s", "expected"),
    [
        *((crowd(0), math.inf, NOW), (crowd(3), math.inf, NOW), (crowd(4), math.inf, QUEUED)),
        *(
            (crowd(35), math.inf, QUEUED),
            (crowd(36), math.inf, Reject(retry_after_s=1)),
            (crowd(0, 0), math.inf, Reject(retry_after_s=2)),
        ),
        (crowd(36, service_s=10), math.inf, Reject(retry_after_s=8)),
        # Four run and two wait: the third waiting request gets a slot after 3 of 4 slots' periods of 2 s.
        (crowd(6, service_s=2.0), 1.5, QUEUED),
        (crowd(6, service_s=2.0), 1.4, Reject(retry_after_s=2, late=True)),
        # Less urgent waiting requests are not ahead of it; with a free slot there is no wait.
        (crowd(6, before=4, service_s=2.0), 0.5, QUEUED),
        (crowd(3, service_s=2.0), 0.0, NOW),
    ],
)
def test_admits_slots_then_queue_then_rejects(load: PoolLoad, left_s: float, expected: Admit | Reject) -> None:
    assert queue_limit(4) == 32
    assert decide_admission(load, "interactive", left_s) == expected


@pytest.mark.parametrize(("priority", "fit"), [("interactive", 36), ("normal", 28), ("batch", 16)])
def test_the_least_urgent_are_shed_first(priority: Priority, fit: int) -> None:
    assert isinstance(decide_admission(crowd(fit - 1), priority), Admit)
    assert isinstance(decide_admission(crowd(fit), priority), Reject)


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
