"""The batching model: nothing is lost, nothing comes early, and single requests take exactly what the roofline says."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.simulate.continuous_batching import ContinuousBatching, SimulatedOutcome, SimulatedRequest
from archwright.simulate.serving_simulation import ServingSpec, build_roofline
from archwright.sizing.hardware.roofline import EngineStep, count_token_pairs

arrival = st.builds(SimulatedRequest, st.floats(0, 30), st.integers(1, 500), st.integers(0, 30), st.integers(1, 150))
requests = st.lists(arrival, min_size=1, max_size=25)


def engine(desk: ServingSpec, slots: int = 4, batch_tokens: int = 64) -> ContinuousBatching:
    return ContinuousBatching(build_roofline(desk), slots, batch_tokens)


def first_s(outcome: SimulatedOutcome) -> float:
    assert outcome.first_s is not None
    return outcome.first_s


def test_a_single_request_takes_its_steps_and_nothing_else(desk: ServingSpec) -> None:
    roofline = build_roofline(desk)
    (found,) = engine(desk).run([SimulatedRequest(2.0, 100, 24, 11)])
    read = roofline.step_s(EngineStep(prompt_tokens=64, prompt_pairs=count_token_pairs(24, 64)))
    read += roofline.step_s(EngineStep(prompt_tokens=36, prompt_pairs=count_token_pairs(88, 36), prompts_done=1))
    write = sum(roofline.decode_s(1, 125 + token) for token in range(10))
    assert found.ttft_s == pytest.approx(read)
    assert found.last_s == pytest.approx(2.0 + read + write)
    assert found.tpot_s == pytest.approx(write / 10)
    assert found.finished


def test_a_single_token_has_no_time_between_tokens(desk: ServingSpec) -> None:
    (found,) = engine(desk).run([SimulatedRequest(0.0, 10, 0, 1)])
    assert (found.finished, found.tokens, found.tpot_s) == (True, 1, None)


def test_no_request_leaves_nothing(desk: ServingSpec) -> None:
    assert engine(desk).run([]) == []


@settings(max_examples=80, deadline=None)
@given(requests, st.integers(1, 6), st.sampled_from([1, 2, 16, 64, 2048]))
def test_every_arrival_finishes_with_all_its_tokens(
    desk: ServingSpec, arrivals: list[SimulatedRequest], slots: int, batch_tokens: int
) -> None:
    found = engine(desk, slots, batch_tokens).run(arrivals)
    assert sorted(one.request for one in found) == sorted(arrivals)
    for one in found:
        assert one.tokens == one.request.output_tokens
        assert one.first_s is not None and one.request.arrival_s < one.first_s <= one.last_s
    assert found == engine(desk, slots, batch_tokens).run(arrivals)


@settings(max_examples=50, deadline=None)
@given(requests, st.integers(1, 4))
def test_never_more_than_the_slots_answer_at_once(
    desk: ServingSpec, arrivals: list[SimulatedRequest], slots: int
) -> None:
    found = engine(desk, slots).run(arrivals)
    for one in found:
        at = first_s(one)
        assert sum(first_s(other) <= at < other.last_s for other in found) <= slots


@settings(max_examples=50, deadline=None)
@given(requests)
def test_one_slot_serves_in_order_of_arrival(desk: ServingSpec, arrivals: list[SimulatedRequest]) -> None:
    found = engine(desk, slots=1).run(arrivals)
    assert [one.request for one in found] == sorted(arrivals)
    for before, after in pairwise(found):
        assert before.last_s < first_s(after)


def test_the_middle_step_stands_for_a_run_of_steps(desk: ServingSpec) -> None:
    """Many steps taken at once end when the same steps taken one by one end (an arrival far off changes nothing)."""
    roofline = build_roofline(desk)
    found = engine(desk).run([SimulatedRequest(0.0, 4, 0, 200), SimulatedRequest(0.0, 4, 0, 200)])
    one_by_one = sum(roofline.step_s(EngineStep(answering=2, context_tokens=2.0 * (5 + token))) for token in range(199))
    assert found[0].last_s - first_s(found[0]) == pytest.approx(one_by_one, rel=1e-9)


def test_a_prompt_stalls_a_running_answer_by_one_chunk_at_a_time(desk: ServingSpec) -> None:
    alone = engine(desk).run([SimulatedRequest(0.0, 4, 0, 100)])[0]
    small, large = (
        engine(desk, batch_tokens=size).run([SimulatedRequest(0.0, 4, 0, 100), SimulatedRequest(0.2, 600, 0, 2)])
        for size in (32, 2048)
    )
    for found in (small, large):
        (stalled,) = (one.tpot_s for one in found if one.request.output_tokens == 100)
        assert stalled is not None and alone.tpot_s is not None and stalled > 1.5 * alone.tpot_s


def test_with_a_budget_full_of_answers_a_prompt_waits(desk: ServingSpec) -> None:
    arrivals = [*(SimulatedRequest(0.0, 1, 0, 50) for _ in range(2)), SimulatedRequest(0.1, 10, 0, 2)]
    found = engine(desk, slots=3, batch_tokens=2).run(arrivals)
    late = next(one for one in found if one.request.output_tokens == 2)
    early = [one for one in found if one.request.output_tokens == 50]
    assert first_s(late) > min(one.last_s for one in early)


def test_more_load_never_waits_less(desk: ServingSpec) -> None:
    chance = random.Random(4)
    base = [SimulatedRequest(chance.uniform(0, 60), 100, 0, 60) for _ in range(60)]
    waits = [sum(one.ttft_s or 0.0 for one in engine(desk).run(base[:count])) / count for count in (10, 20, 40, 60)]
    assert waits == sorted(waits)


def test_a_closed_loop_keeps_its_concurrency_and_is_cut(desk: ServingSpec) -> None:
    first = [SimulatedRequest(0.0, 50, 0, 20) for _ in range(6)]
    found = engine(desk).run(first, refill=lambda now: SimulatedRequest(now, 50, 0, 20), until=12.0)
    done, cut = [one for one in found if one.finished], [one for one in found if not one.finished]
    assert len(cut) == 6
    assert all(one.last_s <= 12.0 + 0.1 for one in found)
    assert len(done) > 10
    waiting = [one for one in cut if one.tokens == 0 and one.first_s is None]
    assert len(waiting) >= 2
    assert all(one.ttft_s is None and one.tpot_s is None for one in waiting)


def test_what_comes_after_the_end_is_not_begun(desk: ServingSpec) -> None:
    found = engine(desk).run([SimulatedRequest(0.0, 10, 0, 2), SimulatedRequest(50.0, 10, 0, 2)], until=20.0)
    assert found[0].finished
    assert found[1] == SimulatedOutcome(SimulatedRequest(50.0, 10, 0, 2), None, 50.0, 0)


def test_an_end_in_the_middle_of_a_long_answer(desk: ServingSpec) -> None:
    (found,) = engine(desk).run([SimulatedRequest(0.0, 10, 0, 5000)], until=3.0)
    assert not found.finished
    assert 100 < found.tokens < 400
    assert 2.9 < found.last_s <= 3.0


def test_only_who_finds_no_slot_waits_for_one(desk: ServingSpec) -> None:
    early = [SimulatedRequest(0.0, 10, 0, 20 + number) for number in range(desk.slots)]
    found = engine(desk).run([*early, *(SimulatedRequest(at_s, 10, 0, 5) for at_s in (0.1, 0.1, 60.0))])
    waits = {one.request.arrival_s: one.waited_s for one in found}
    first, second = sorted(one.last_s for one in found)[:2]
    assert waits[0.0] == waits[60.0] == 0.0
    late = sorted(one.waited_s for one in found if one.request.arrival_s == 0.1)
    assert late[0] == pytest.approx(first - 0.1) and first - 0.1 < late[1] <= second - 0.1 + 1e-9
    assert all(one.ttft_s is not None and one.waited_s < one.ttft_s for one in found)


def test_a_free_slot_is_given_soon_after_an_arrival(desk: ServingSpec) -> None:
    found = engine(desk).run([SimulatedRequest(0.0, 10, 0, 400), SimulatedRequest(1.0, 10, 0, 2)])
    short = next(one for one in found if one.request.output_tokens == 2)
    assert first_s(short) - 1.0 < 0.15


class Linear:
    """Iterations whose time grows with tokens and contexts."""

    def step_s(self, step: EngineStep) -> float:
        return 0.01 + 1e-4 * step.prompt_tokens + 1e-3 * step.answering + 1e-6 * step.context_tokens


def one_by_one(
    arrivals: list[SimulatedRequest], slots: int, batch_tokens: int
) -> dict[SimulatedRequest, tuple[float, float]]:
    """First and last token of each request, from an engine that counts every answer's tokens by itself."""
    now, waiting, active = 0.0, sorted(arrivals), list[list[int]]()
    found = dict[SimulatedRequest, tuple[float, float]]()
    order, first = list[SimulatedRequest](), dict[int, float]()
    while waiting or active:
        while waiting and waiting[0].arrival_s <= now and len(active) < slots:
            order.append(waiting.pop(0))
            active.append([len(order) - 1, 0, 0])
        if not active:
            now = waiting[0].arrival_s
            continue
        answering = [one for one in active if one[1] == order[one[0]].new_tokens]
        room, read, seen = max(0, batch_tokens - len(answering)), 0, 0.0
        contexts = sum(order[number].cached_tokens + done + tokens for number, done, tokens in answering)
        for one in [one for one in active if one not in answering]:
            count = min(order[one[0]].new_tokens - one[1], room)
            room, read, seen = room - count, read + count, seen + count
            one[1] += count
        now += Linear().step_s(EngineStep(prompt_tokens=read, answering=len(answering), context_tokens=float(contexts)))
        for one in active:
            if one[1] == order[one[0]].new_tokens:
                first.setdefault(one[0], now)
                one[2] += 1
                if one[2] == order[one[0]].output_tokens:
                    found[order[one[0]]] = (first[one[0]], now)
        active = [one for one in active if one[2] < order[one[0]].output_tokens]
    return found


@settings(max_examples=40, deadline=None)
@given(requests, st.integers(1, 6), st.sampled_from([8, 64, 2048]))
def test_the_books_of_many_iterations_are_those_of_each(
    arrivals: list[SimulatedRequest], slots: int, batch_tokens: int
) -> None:
    distinct = list(dict.fromkeys(arrivals))
    expected = one_by_one(distinct, slots, batch_tokens)
    for one in ContinuousBatching(Linear(), slots, batch_tokens).run(distinct):
        assert (one.first_s, one.last_s) == pytest.approx(expected[one.request], rel=1e-9)
