"""The dispatch of a peak by the gateway's rules: every request once, and in order."""

from __future__ import annotations

import random
from statistics import pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.admission import queue_limit
from archwright.policy.traffic import Arrival
from archwright.simulate.replica_dispatch import dispatch_arrivals

ARRIVALS = st.lists(
    st.builds(Arrival, st.floats(0, 100), st.integers(1, 2000), st.integers(2, 500)), min_size=1, max_size=60
).map(sorted)


def holds(arrival: Arrival) -> float:
    return 0.01 * arrival.output_tokens


@given(ARRIVALS, st.integers(1, 5), st.integers(1, 8))
def test_everyone_is_dealt_once_and_in_order(arrivals: list[Arrival], engines: int, slots: int) -> None:
    found = dispatch_arrivals(arrivals, engines, slots, holds)
    assert sorted(one for part in found.parts for one in part) == arrivals
    assert all(part == sorted(part, key=lambda one: one.at_s) for part in found.parts)
    if len(arrivals) <= slots * engines + queue_limit(slots * engines) // 2:
        assert found.refused == 0


@given(ARRIVALS, st.integers(1, 8))
def test_a_single_engine_has_them_all(arrivals: list[Arrival], slots: int) -> None:
    assert dispatch_arrivals(arrivals, 1, slots, holds).parts == (arrivals,)


def test_the_least_work_the_free_slot_and_the_queue() -> None:
    rows = ((0.0, 100, 100), (0.1, 10, 10), (0.2, 10, 10), (0.3, 10, 50), (0.4, 1, 2))
    arrivals = [Arrival(*row) for row in rows]
    # Two engines of two slots: the small ones go where the long one is not, the last waits.
    parts = dispatch_arrivals(arrivals, 2, 2, lambda _one: 9.0).parts
    assert parts == ([arrivals[0], *arrivals[3:]], arrivals[1:3])
    # One slot each: who waits gets the slot that is free first.
    parts = dispatch_arrivals(arrivals[:4], 2, 1, lambda one: 9.0 if one.output_tokens == 100 else 0.5).parts
    assert parts == ([arrivals[0]], arrivals[1:4])


def test_who_finds_the_queue_full_is_counted_and_stays() -> None:
    crowd = [Arrival(0.001 * number, 10, 10) for number in range(40)]
    found = dispatch_arrivals(crowd, 1, 1, lambda _one: 10.0)
    assert found.parts == (crowd,)
    # A class without a name may fill three quarters of the queue of 20; refused requests stay in the queue.
    assert found.refused == 40 - 1 - 15


def test_it_spreads_the_load_better_than_chance() -> None:
    chance = random.Random(3)
    arrivals = [Arrival(at, 100, 100) for at in sorted(chance.uniform(0, 100) for _ in range(2000))]

    def uneven(parts: tuple[list[Arrival], ...]) -> float:
        counts = [sum(second <= one.at_s < second + 2 for one in part) for part in parts for second in range(0, 100, 2)]
        return pvariance(counts)

    thinned: tuple[list[Arrival], ...] = tuple([] for _ in range(4))
    for one in arrivals:
        chance.choice(thinned).append(one)
    assert uneven(dispatch_arrivals(arrivals, 4, 64, lambda _one: 2.0).parts) < 0.5 * uneven(thinned)


@pytest.mark.parametrize("engines", [1, 2, 4])
def test_it_is_the_same_every_time(engines: int) -> None:
    chance = random.Random(7)
    arrivals = sorted(Arrival(chance.uniform(0, 50), 10, chance.randrange(2, 400)) for _ in range(300))
    assert dispatch_arrivals(arrivals, engines, 4, holds) == dispatch_arrivals(arrivals, engines, 4, holds)
