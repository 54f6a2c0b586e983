"""The order of a fair queue, by tenant and by abandoned waiting times; nobody is rejected."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import itemgetter

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


@dataclass
class Waiting:
    since: float
    gone: bool = False
    tenant: str = ""


def learned(left: dict[float, int], stayed: dict[float, int] | None = None) -> TenantQueue[Waiting]:
    """A queue that recorded these numbers of abandoned and served requests per waiting time."""
    queue: TenantQueue[Waiting] = TenantQueue(AbandonmentModel())
    for counts, ended in ((left, True), (stayed or {}, False)):
        for waited_s, count in counts.items():
            for _ in range(count):
                served(queue.abandonment, waited_s, left=ended)
    return queue


def served(abandonment: AbandonmentModel, waited_s: float, *, left: bool) -> None:
    abandonment.record_start(find_wait_bucket(waited_s))
    abandonment.record_end(find_wait_bucket(waited_s), left=left)


def add_all(queue: TenantQueue[Waiting], *times: float) -> TenantQueue[Waiting]:
    for since in times:
        queue.add(Waiting(since))
    return queue


def drained(queue: TenantQueue[Waiting], now: float) -> list[float]:
    found = []
    while (one := queue.peek_next(now)) is not None:
        assert queue.pop() is one
        found.append(one.since)
    return found


def drained_fairly(queues: FairQueue[Waiting], now: float, active: dict[str, int]) -> list[float]:
    found = []
    while (one := queues.peek_next(now, active)) is not None:
        queues.pop()
        found.append(one.since)
    return found


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_longer_wait_is_no_younger(one: float, other: float) -> None:
    assert 0 <= find_wait_bucket(min(one, other)) <= find_wait_bucket(max(one, other)) < WAIT_BUCKETS


def test_the_steps() -> None:
    assert [find_wait_bucket(seconds) for seconds in (0.0, SHORTEST_WAIT_S, 0.1, 1.7, 3.3)] == [0, 1, 3, 11, 13]


def test_likely_abandoned_requests_come_after_the_others() -> None:
    queue = add_all(learned({1.7: 4}, {0.6: 4}), 50.0, 51.0, 51.4)
    # After 1.7 s the oldest is in an abandoned bucket. After 5 s its bucket has no data, so it is first again.
    assert queue.peek_next(51.7) == Waiting(51.0)
    assert [one.since for one in queue] == [50.0, 51.0, 51.4]
    assert queue.peek_next(55.0) == Waiting(50.0)
    assert drained(queue, 51.7) == [51.0, 51.4, 50.0]


def test_one_departure_changes_nothing_and_two_do() -> None:
    for times, first in ((1, 0.0), (2, 1.0)):
        assert add_all(learned({1.7: times}), 0.0, 1.0).peek_next(1.7) == Waiting(first)


def test_if_all_waits_are_abandoned_the_order_is_fifo() -> None:
    queue = add_all(learned(dict.fromkeys((0.02, 0.3, 0.6, 1.7), 3)), 0.0, 1.1, 1.4, 1.69)
    assert drained(queue, 1.7) == [0.0, 1.1, 1.4, 1.69]


def test_an_abandoned_bucket_is_retried_by_two_and_forgotten_in_the_end() -> None:
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
    assert abandonment.is_likely_abandoned(at), "at most two trial requests run at a time"
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
    queue: TenantQueue[Waiting] = TenantQueue(AbandonmentModel())
    for waited_s, left in history:
        served(queue.abandonment, waited_s, left=left)
    arrivals = [Waiting(since, gone) for since, gone in sorted(waiting)]
    for one in arrivals:
        queue.add(one)
    there = [one.since for one in arrivals if not one.gone]
    found = drained(queue, now)
    assert sorted(found) == there and list(queue) == []
    poor = [queue.abandonment.is_likely_abandoned(find_wait_bucket(now - since)) for since in found]
    order = list(zip(poor, found, strict=True))
    assert order == sorted(order), "likely present clients first, and in order of arrival"


def test_departed_requests_are_removed_and_the_others_keep_their_order() -> None:
    queue = learned({1.0: 3})
    for since, gone in ((0.0, True), (0.1, False), (0.2, True), (4.0, False), (4.1, True), (4.2, False)):
        queue.add(Waiting(since, gone))
    assert queue.peek_next(1.2) == Waiting(4.0), "the older requests are skipped"
    queue.remove_departed()
    assert [one.since for one in queue] == [0.1, 4.0, 4.2]
    assert drained(queue, 1e4) == [0.1, 4.0, 4.2]


@given(st.lists(st.floats(0, 1000), max_size=60), st.lists(st.floats(0, 100), max_size=30).map(sorted))
def test_without_departures_the_order_is_fifo(stayed: list[float], waiting: list[float]) -> None:
    assert drained(add_all(learned({}, dict.fromkeys(stayed, 1)), *waiting), 200.0) == waiting


TENANTS = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100)), max_size=40)


@given(TENANTS, st.integers(1, 5), HISTORY, st.lists(st.sampled_from("abc"), max_size=5))
def test_a_slot_goes_to_the_tenant_with_the_fewest_slots_first_in_first_out(
    waiting: list[tuple[str, float]], slots: int, history: list[tuple[float, bool]], running: list[str]
) -> None:
    """Slots become free in order; likely present clients come first, and every request is served."""
    queues: FairQueue[Waiting] = FairQueue()
    for waited_s, left in history:
        served(queues.abandonment, waited_s, left=left)
    there = [Waiting(since, tenant=tenant) for tenant, since in sorted(waiting, key=itemgetter(1))]
    for of in there:
        queues.add(of.tenant, of)
    held = Counter(running)
    while (one := queues.peek_next(100.0, held)) is not None:
        assert queues.pop() is one
        likely = [
            of for of in there if not queues.abandonment.is_likely_abandoned(find_wait_bucket(100.0 - of.since))
        ] or there
        assert held[one.tenant] == min(held[of.tenant] for of in likely)
        assert one is next(of for of in likely if of.tenant == one.tenant)
        there.remove(one)
        running.append(one.tenant)
        held[one.tenant] += 1
        if len(running) >= slots:
            held[running.pop(0)] -= 1
    assert not there and list(queues) == []


def test_a_likely_present_client_comes_before_a_tenant_with_fewer_slots() -> None:
    queues: FairQueue[Waiting] = FairQueue()
    for waited_s, left in ((1.7, True), (1.7, True), (0.6, False)):
        served(queues.abandonment, waited_s, left=left)
    for tenant, since in (("few", 50.0), ("many", 51.4)):
        queues.add(tenant, Waiting(since))
    assert drained_fairly(queues, 51.7, {"many": 3}) == [51.4, 50.0]


def test_a_skipped_request_whose_client_left_is_not_served() -> None:
    queue = add_all(learned({1.7: 4}), 50.0, 51.0)
    first, second = queue
    assert queue.peek_next(51.7) is second
    first.gone = True
    assert queue.peek_next(55.0) is second


def test_tenants_with_as_many_take_turns() -> None:
    queues: FairQueue[Waiting] = FairQueue()
    for tenant, since in (*(("loud", float(number)) for number in range(4)), ("quiet", 9.0), ("quiet", 10.0)):
        queues.add(tenant, Waiting(since))
    assert drained_fairly(queues, 10.0, {}) == [0.0, 9.0, 1.0, 10.0, 2.0, 3.0]


def test_the_newest_request_of_the_largest_tenant_is_displaceable() -> None:
    queues: FairQueue[Waiting] = FairQueue()
    assert queues.find_displaceable("quiet") is None and queues.count_ahead("quiet") == 0
    queues.add("soft", Waiting(0.5))
    for since in (0.0, 1.0, 2.0):
        queues.add("loud", Waiting(since, gone=since == 2.0))
    assert queues.find_displaceable("quiet") == Waiting(1.0), "not a request whose client left"
    assert queues.find_displaceable("loud") is None
    queues.record_departure("soft")
    assert (queues.count_ahead("quiet"), queues.count_ahead("loud")) == (1, 3)
    for since in (3.0, 4.0):
        queues.add("quiet", Waiting(since))
    assert queues.find_displaceable("quiet") is None, "equally many"
    assert (queues.count_ahead("quiet"), queues.count_ahead("loud"), queues.count) == (2 + 3, 3 + 2, 5)
    for _ in range(2):
        queues.record_departure("loud")
    assert (queues.count_ahead("quiet"), queues.count) == (2 + 1, 3)
