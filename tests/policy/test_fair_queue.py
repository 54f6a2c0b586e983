"""Whose turn it is: an order that refuses nobody, learned from who left before an answer came."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.fair_queue import (
    SHORTEST_WAIT_S,
    WAIT_BUCKETS,
    AbandonmentModel,
    FairQueue,
    TenantQueue,
    find_wait_bucket,
)


class One(NamedTuple):
    since: float
    gone: bool = False


@dataclass
class Leaving:
    since: float
    gone: bool = False


class Of(NamedTuple):
    since: float
    tenant: str
    gone: bool = False


def learned(left: dict[float, int], stayed: dict[float, int] | None = None) -> TenantQueue[One]:
    """A line that has seen so many leave and stay after waits of so many seconds."""
    line: TenantQueue[One] = TenantQueue(AbandonmentModel())
    for counts, ended in ((left, True), (stayed or {}, False)):
        for waited_s, count in counts.items():
            for _ in range(count):
                served(line.abandonment, waited_s, left=ended)
    return line


def served(abandonment: AbandonmentModel, waited_s: float, *, left: bool) -> None:
    abandonment.record_start(find_wait_bucket(waited_s))
    abandonment.record_end(find_wait_bucket(waited_s), left=left)


def drained(line: TenantQueue[One], now: float) -> list[float]:
    found = []
    while (one := line.peek_next(now)) is not None:
        assert line.pop() is one
        found.append(one.since)
    return found


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_longer_wait_is_no_younger(one: float, other: float) -> None:
    assert 0 <= find_wait_bucket(min(one, other)) <= find_wait_bucket(max(one, other)) < WAIT_BUCKETS


def test_the_steps() -> None:
    assert [find_wait_bucket(seconds) for seconds in (0.0, SHORTEST_WAIT_S, 0.1, 1.7, 3.3)] == [0, 1, 3, 11, 13]


def test_who_waited_as_long_as_those_who_left_comes_after_those_who_will_stay() -> None:
    line = learned({1.7: 4}, {0.6: 4})
    for since in (50.0, 51.0, 51.4):
        line.add(One(since))
    # After 1.7 s the oldest is of the age at which clients left; after 5 s nobody knows, and it is first again.
    assert line.peek_next(51.7) == One(51.0)
    assert [one.since for one in line] == [50.0, 51.0, 51.4]
    assert line.peek_next(55.0) == One(50.0)
    assert drained(line, 51.7) == [51.0, 51.4, 50.0]


def test_one_who_left_is_no_reason_and_two_are() -> None:
    for times, first in ((1, 0.0), (2, 1.0)):
        line = learned({1.7: times})
        line.add(One(0.0))
        line.add(One(1.0))
        assert line.peek_next(1.7) == One(first)


def test_where_all_leave_whatever_they_waited_the_order_is_that_of_arrival() -> None:
    line = learned(dict.fromkeys((0.02, 0.3, 0.6, 1.7), 3))
    for since in (0.0, 1.1, 1.4, 1.69):
        line.add(One(since))
    assert drained(line, 1.7) == [0.0, 1.1, 1.4, 1.69]


def test_an_age_in_doubt_is_tried_by_one_and_forgotten_in_the_end() -> None:
    abandonment = learned({1.7: 2}).abandonment
    at, answers = find_wait_bucket(1.7), 0
    while abandonment.is_likely_abandoned(at):
        served(abandonment, 0.3, left=False)
        answers += 1
    assert 5 <= answers <= 60
    for _ in range(60):
        served(abandonment, 0.3, left=False)
    abandonment.record_start(at)
    assert not abandonment.is_likely_abandoned(at)
    abandonment.record_start(at)
    assert abandonment.is_likely_abandoned(at), "two more are not sent after it before the first has ended"
    abandonment.record_end(at, left=False)
    abandonment.record_end(at, left=False)
    assert not abandonment.is_likely_abandoned(at)
    for _ in range(300):
        served(abandonment, 0.3, left=False)
    assert not abandonment.active


HISTORY = st.lists(st.tuples(st.floats(0, 1000), st.booleans()), max_size=60)
LINE = st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=30)


@given(HISTORY, LINE, st.floats(100, 1000))
def test_everybody_who_is_there_is_served_once(
    history: list[tuple[float, bool]], waiting: list[tuple[float, bool]], now: float
) -> None:
    line: TenantQueue[One] = TenantQueue(AbandonmentModel())
    for waited_s, left in history:
        served(line.abandonment, waited_s, left=left)
    arrivals = [One(since, gone) for since, gone in sorted(waiting)]
    for one in arrivals:
        line.add(one)
    there = [one.since for one in arrivals if not one.gone]
    found = drained(line, now)
    assert sorted(found) == there and list(line) == []
    poor = [line.abandonment.is_likely_abandoned(find_wait_bucket(now - since)) for since in found]
    assert poor == sorted(poor), "those who will stay first"
    for which in (True, False):
        part = [since for since, one in zip(found, poor, strict=True) if one == which]
        assert part == sorted(part), "and in order of arrival"


def test_those_who_are_gone_are_let_go_of_and_the_others_keep_their_order() -> None:
    line = learned({1.0: 3})
    for since, gone in ((0.0, True), (0.1, False), (0.2, True), (4.0, False), (4.1, True), (4.2, False)):
        line.add(One(since, gone))
    assert line.peek_next(1.2) == One(4.0), "the older ones are passed by"
    line.remove_departed()
    assert [one.since for one in line] == [0.1, 4.0, 4.2]
    assert drained(line, 1e4) == [0.1, 4.0, 4.2]


@given(st.lists(st.floats(0, 1000), max_size=60), LINE)
def test_where_nobody_left_it_is_first_come_first_served(
    stayed: list[float], waiting: list[tuple[float, bool]]
) -> None:
    line: TenantQueue[One] = TenantQueue(AbandonmentModel())
    for waited_s in stayed:
        served(line.abandonment, waited_s, left=False)
    for since, _ in sorted(waiting):
        line.add(One(since))
    assert drained(line, 200.0) == sorted(since for since, _ in waiting)


TENANTS = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100)), max_size=40)


@given(TENANTS, st.integers(1, 5), HISTORY, st.lists(st.sampled_from("abc"), max_size=5))
def test_a_slot_goes_to_the_tenant_with_the_fewest_and_of_it_to_who_came_first(
    waiting: list[tuple[str, float]], slots: int, history: list[tuple[float, bool]], running: list[str]
) -> None:
    """Slots come free in the order they were taken; of those who will likely stay first, and nobody is left out."""
    lines: FairQueue[Of] = FairQueue()
    for waited_s, left in history:
        served(lines.abandonment, waited_s, left=left)
    there = [Of(since, tenant) for tenant, since in sorted(waiting, key=itemgetter(1))]
    for of in there:
        lines.add(of.tenant, of)
    held = Counter(running)
    while (one := lines.peek_next(100.0, held)) is not None:
        assert lines.pop() is one
        likely = [
            of for of in there if not lines.abandonment.is_likely_abandoned(find_wait_bucket(100.0 - of.since))
        ] or there
        assert held[one.tenant] == min(held[of.tenant] for of in likely)
        assert one is next(of for of in likely if of.tenant == one.tenant)
        there.remove(one)
        running.append(one.tenant)
        held[one.tenant] += 1
        if len(running) >= slots:
            held[running.pop(0)] -= 1
    assert not there and list(lines) == []


def test_who_will_likely_stay_comes_before_a_tenant_with_fewer_slots() -> None:
    lines: FairQueue[One] = FairQueue()
    for waited_s, left in ((1.7, True), (1.7, True), (0.6, False)):
        served(lines.abandonment, waited_s, left=left)
    for tenant, since in (("few", 50.0), ("many", 51.4)):
        lines.add(tenant, One(since))
    found = []
    while (one := lines.peek_next(51.7, {"many": 3})) is not None:
        lines.pop()
        found.append(one.since)
    assert found == [51.4, 50.0]


def test_one_who_was_passed_by_and_left_is_not_served() -> None:
    line: TenantQueue[Leaving] = TenantQueue(learned({1.7: 4}).abandonment)
    first, second = Leaving(50.0), Leaving(51.0)
    line.add(first)
    line.add(second)
    assert line.peek_next(51.7) is second
    first.gone = True
    assert line.peek_next(55.0) is second


def test_tenants_with_as_many_take_turns() -> None:
    turns: FairQueue[One] = FairQueue()
    for since in range(4):
        turns.add("loud", One(float(since)))
    turns.add("quiet", One(9.0))
    turns.add("quiet", One(10.0))
    order = []
    while (found := turns.peek_next(10.0, {})) is not None:
        turns.pop()
        order.append(found.since)
    assert order == [0.0, 9.0, 1.0, 10.0, 2.0, 3.0]


def test_who_comes_last_for_the_tenant_of_whom_most_wait_makes_room() -> None:
    lines: FairQueue[One] = FairQueue()
    assert lines.find_displaceable("quiet") is None and lines.count_ahead("quiet") == 0
    lines.add("soft", One(0.5))
    for since in (0.0, 1.0, 2.0):
        lines.add("loud", One(since, gone=since == 2.0))
    assert lines.find_displaceable("quiet") == One(1.0), "not one who is gone"
    assert lines.find_displaceable("loud") is None
    lines.record_departure("soft")
    assert (lines.count_ahead("quiet"), lines.count_ahead("loud")) == (1, 3)
    for since in (3.0, 4.0):
        lines.add("quiet", One(since))
    assert lines.find_displaceable("quiet") is None, "as many of each"
    assert (lines.count_ahead("quiet"), lines.count_ahead("loud"), lines.count) == (2 + 3, 3 + 2, 5)
    for _ in range(2):
        lines.record_departure("loud")
    assert (lines.count_ahead("quiet"), lines.count) == (2 + 1, 3)
