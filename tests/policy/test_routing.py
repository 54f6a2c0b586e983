from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.routing import ReplicaLoad, least_work


def load(running: int = 0, slots: int = 2, work: int = 0, *, healthy: bool = True) -> ReplicaLoad:
    return ReplicaLoad(running=running, slots=slots, work_tokens=work, healthy=healthy)


def test_least_work_per_slot_wins() -> None:
    assert least_work([load(work=300), load(work=100), load(work=200)]) == 1
    assert least_work([load(work=300, slots=4), load(work=200, slots=2)]) == 0


def test_ties_go_to_fewer_running_then_to_the_earlier() -> None:
    assert least_work([load(running=1), load(running=0)]) == 1
    assert least_work([load(), load()]) == 0


def test_full_and_unhealthy_are_passed_over() -> None:
    assert least_work([load(healthy=False), load(running=2), load(running=1, work=900)]) == 2
    assert least_work([load(healthy=False), load(running=2)]) is None
    assert least_work([]) is None


LOADS = st.lists(st.builds(load, st.integers(0, 3), st.integers(1, 3), st.integers(0, 99), healthy=st.booleans()))


@given(LOADS)
def test_chosen_can_take_it(loads: list[ReplicaLoad]) -> None:
    chosen = least_work(loads)
    able = [one for one in loads if one.healthy and one.running < one.slots]
    assert (chosen is None) == (not able)
    if chosen is not None:
        assert loads[chosen] in able
        assert all(loads[chosen].work_tokens / loads[chosen].slots <= o.work_tokens / o.slots for o in able)
