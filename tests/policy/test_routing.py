from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.routing import (
    AFFINITY_BOUND,
    ReplicaLoad,
    hash_replica_name,
    hash_to_fraction,
    mix_bits,
    select_by_prefix,
    select_least_work,
    select_weighted_index,
)


def load(running: int = 0, slots: int = 2, work: int = 0, *, healthy: bool = True) -> ReplicaLoad:
    return ReplicaLoad(running=running, slots=slots, work_tokens=work, healthy=healthy)


LOADS = st.lists(st.builds(load, st.integers(0, 3), st.integers(1, 3), st.integers(0, 99), healthy=st.booleans()))


@given(LOADS)
def test_the_least_work_is_chosen_ties_go_to_fewer_running_then_to_the_earlier(loads: list[ReplicaLoad]) -> None:
    able = [index for index, one in enumerate(loads) if one.healthy and one.running < one.slots]
    order = sorted(able, key=lambda at: (loads[at].work_tokens / loads[at].slots, loads[at].running / loads[at].slots))
    assert select_least_work(loads) == next(iter(order), None)


SEEDS = [hash_replica_name(f"unix:engine-{number}") for number in range(8)]


@given(LOADS.filter(bool), st.integers(0, (1 << 64) - 1))
def test_affinity_selects_a_replica_if_least_work_can(loads: list[ReplicaLoad], prefix: int) -> None:
    seeds = [hash_replica_name(str(number)) for number in range(len(loads))]
    chosen = select_by_prefix(loads, seeds, prefix)
    assert (chosen is None) == (select_least_work(loads) is None)
    if chosen is not None:
        assert loads[chosen].healthy and loads[chosen].running < loads[chosen].slots


@given(st.integers(1, 8), st.lists(st.integers(0, 40), max_size=60))
def test_no_replica_is_loaded_beyond_the_bound(count: int, prefixes: list[int]) -> None:
    """For any repeated prefixes, a replica runs at most the bound times the mean, rounded up."""
    running = [0] * count
    for number, prefix in enumerate(prefixes, 1):
        loads = [load(running=one, slots=64) for one in running]
        chosen = select_by_prefix(loads, SEEDS[:count], mix_bits(prefix))
        assert chosen is not None
        running[chosen] += 1
        assert running[chosen] <= math.ceil(AFFINITY_BOUND * number / count)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 7))
def test_a_replica_that_goes_moves_only_its_own(prefix: int, gone: int) -> None:
    idle = [load(slots=8) for _ in SEEDS]
    before = select_by_prefix(idle, SEEDS, prefix)
    rest = [one for index, one in enumerate(SEEDS) if index != gone]
    after = select_by_prefix(idle[1:], rest, prefix)
    assert before is not None and after is not None
    if before != gone:
        assert rest[after] == SEEDS[before]


def test_beginnings_spread_and_stay() -> None:
    idle = [load(slots=8) for _ in SEEDS]
    counts = [0] * len(SEEDS)
    for number in range(8000):
        prefix = hash_replica_name(f"beginning {number}")
        chosen = select_by_prefix(idle, SEEDS, prefix)
        assert chosen is not None and chosen == select_by_prefix(idle, SEEDS, prefix)
        counts[chosen] += 1
    assert all(abs(count - 1000) < 5 * math.sqrt(1000) for count in counts), counts


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6).filter(lambda weights: sum(weights) > 0), st.floats(0, 1))
def test_a_split_never_chooses_a_weight_of_zero(weights: list[float], at: float) -> None:
    assert weights[select_weighted_index(weights, min(at, 1 - 2**-53))] > 0


def test_a_split_keeps_its_shares_and_purposes_are_independent() -> None:
    ids = [f"aw-{number:024x}" for number in range(20_000)]
    canary = [select_weighted_index((0.9, 0.1), hash_to_fraction(one, "split")) for one in ids]
    mirrored = [hash_to_fraction(one, "shadow") < 0.1 for one in ids]
    assert sum(canary) == pytest.approx(2000, abs=5 * math.sqrt(2000))
    both = sum(one and other for one, other in zip(canary, mirrored, strict=True))
    assert both == pytest.approx(200, abs=5 * math.sqrt(200))
    assert canary == [select_weighted_index((0.9, 0.1), hash_to_fraction(one, "split")) for one in ids]
