"""The breaker's rules for any history, and the retry budget in a total outage."""

from __future__ import annotations

from copy import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from archwright.policy.circuit_breaker import (
    FIRST_OPEN_S,
    LEAST_FAILURES,
    LONGEST_OPEN_S,
    PROBE_TIMEOUT_S,
    PROBES_TO_CLOSE,
    RETRY_RESERVE,
    RETRY_SHARE,
    TIMEOUTS_IN_A_ROW,
    WINDOW_S,
    AttemptOutcome,
    CircuitBreaker,
    RetryBudget,
)


def opened(now: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(LEAST_FAILURES):
        breaker.record_end("failed", now)
    assert breaker.state == "open"
    return breaker


FEW: tuple[int, AttemptOutcome, float] = (LEAST_FAILURES - 1, "failed", 0.0)
TIMEOUTS: list[tuple[int, AttemptOutcome, float]] = [
    *((50, "ok", 0.0), (TIMEOUTS_IN_A_ROW - 1, "timeout", 1.0), (1, "ok", 1.0), (TIMEOUTS_IN_A_ROW - 1, "timeout", 1.0))
]


@pytest.mark.parametrize(
    ("history", "state"),
    [
        ([FEW], "closed"),
        ([FEW, (20, "ok", 1.0), (10, "failed", 2.0)], "closed"),
        # A share counts over the edge of a window and is forgotten after two windows.
        ([FEW, (1, "failed", WINDOW_S + 1)], "open"),
        ([FEW, (1, "failed", 3 * WINDOW_S)], "closed"),
        (TIMEOUTS, "closed"),
        ([*TIMEOUTS, (1, "timeout", 1.0)], "open"),
    ],
)
def test_failures_by_number_share_and_row(history: list[tuple[int, AttemptOutcome, float]], state: str) -> None:
    breaker = CircuitBreaker()
    for count, outcome, now in history:
        for _ in range(count):
            breaker.record_end(outcome, now)
    assert breaker.state == state and breaker.allows(now) is (state == "closed")


def test_one_probe_at_a_time_and_success_closes() -> None:
    breaker = opened()
    assert not breaker.allows(FIRST_OPEN_S - 0.1)
    for _ in range(PROBES_TO_CLOSE):
        assert breaker.allows(FIRST_OPEN_S)
        breaker.record_start(FIRST_OPEN_S)
        assert not breaker.allows(FIRST_OPEN_S), "one at a time"
        breaker.record_end("ok", FIRST_OPEN_S)
    assert breaker.state == "closed"


def test_each_failed_probe_doubles_the_pause_up_to_a_limit() -> None:
    breaker, now, pause = opened(), 0.0, FIRST_OPEN_S
    for _ in range(10):
        now += pause
        assert not breaker.allows(now - 0.001) and breaker.allows(now)
        breaker.record_start(now)
        breaker.record_end("failed", now)
        pause = min(LONGEST_OPEN_S, 2 * pause)
    assert pause == LONGEST_OPEN_S


def test_a_probe_the_client_left_says_nothing_and_makes_room() -> None:
    breaker = opened()
    assert breaker.allows(FIRST_OPEN_S)
    breaker.record_start(FIRST_OPEN_S)
    breaker.record_end("neutral", FIRST_OPEN_S)
    assert breaker.state == "half-open" and breaker.allows(FIRST_OPEN_S)
    breaker.record_start(FIRST_OPEN_S)
    assert not breaker.allows(FIRST_OPEN_S + PROBE_TIMEOUT_S - 1) and breaker.allows(FIRST_OPEN_S + PROBE_TIMEOUT_S)


def test_what_was_under_way_before_it_opened_is_no_probe() -> None:
    breaker = opened()
    assert breaker.allows(FIRST_OPEN_S)
    breaker.record_start(FIRST_OPEN_S)
    for outcome in ("neutral", "ok", "ok", "ok", "timeout"):
        breaker.record_end(outcome, FIRST_OPEN_S + 1, 0.0)
        assert breaker.state == "half-open" and not breaker.allows(FIRST_OPEN_S + 1), "one at a time"
    breaker.record_end("failed", FIRST_OPEN_S + 1, FIRST_OPEN_S)
    assert breaker.state == "open"


class History(RuleBasedStateMachine):
    """Any order of attempts and pauses: never stuck, never two probes, never open without failures."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.now, self.running = CircuitBreaker(), 0.0, 0
        self.bad = 0

    @rule(pause_s=st.floats(0, 100))
    def waits(self, pause_s: float) -> None:
        self.now += pause_s

    @precondition(lambda self: self.breaker.allows(self.now))
    @rule()
    def begins(self) -> None:
        self.breaker.record_start(self.now)
        self.running += 1
        if self.breaker.state == "half-open":
            assert not self.breaker.allows(self.now)

    @precondition(lambda self: self.running)
    @rule(outcome=st.sampled_from(["ok", "failed", "timeout", "neutral"]))
    def ends(self, outcome: AttemptOutcome) -> None:
        before = self.breaker.state
        self.bad += outcome in ("failed", "timeout")
        self.breaker.record_end(outcome, self.now)
        self.running -= 1
        if outcome in ("ok", "neutral"):
            assert self.breaker.state == before or (before, self.breaker.state) == ("half-open", "closed")
        if self.breaker.state == "open":
            assert self.bad >= TIMEOUTS_IN_A_ROW

    @invariant()
    def comes_back(self) -> None:
        assert copy(self.breaker).allows(self.now + LONGEST_OPEN_S + PROBE_TIMEOUT_S)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.integers(0, 2000), st.integers(1, 5))
def test_in_a_total_outage_retries_are_a_share_of_requests(requests: int, wanted: int) -> None:
    budget, spent = RetryBudget(), 0
    for _ in range(requests):
        budget.record_request()
        spent += sum(budget.try_spend() for _ in range(wanted))
    assert spent <= RETRY_RESERVE + RETRY_SHARE * requests
    if requests >= RETRY_RESERVE:
        assert spent >= RETRY_SHARE * requests, "the share is available"
