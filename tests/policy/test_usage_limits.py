"""Integer rates and budgets: a burst of exactly N, then exactly N/60 per second, and never a nano-USD more."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.policy.usage_limits import (
    IMAGE_TOKENS,
    LARGEST_LEVEL,
    TEMPLATE_TOKENS,
    UNITS_PER_REQUEST,
    AccountCaps,
    AccountLevel,
    LimitShortfall,
    UsageLimits,
    WorstCaseAmount,
    find_limits_problem,
    nearest_nusd,
    reserve_request,
    settle_request,
    to_caps,
    worst_input_tokens,
    worst_nusd,
)

EMPTY: AccountLevel = (0, 0, 0, 0)


def admitted(
    limits: AccountCaps, level: AccountLevel, ask: WorstCaseAmount, now_us: int, tries: int
) -> tuple[int, AccountLevel]:
    """Return how many of `tries` simultaneous requests fit, and the level."""
    count = 0
    for _ in range(tries):
        found = reserve_request(limits, level, 0, ask, now_us)
        if not isinstance(found, LimitShortfall):
            count, level = count + 1, found
    return count, level


@given(st.integers(1, 700), st.integers(0, 10**15))
def test_a_burst_is_exactly_n_and_a_minute_refills_exactly_n(rpm: int, now_us: int) -> None:
    limits, ask = AccountCaps(rpm, -1, -1), (0, 0)
    count, level = admitted(limits, EMPTY, ask, now_us, rpm + 3)
    assert count == rpm
    count, level = admitted(limits, level, ask, now_us + 60_000_000, rpm + 3)
    assert count == rpm
    assert admitted(limits, level, ask, now_us + 120_000_000 - 1, rpm + 3)[0] == rpm - 1


@settings(max_examples=40)
@given(st.integers(1, 150), st.integers(1, 130))
def test_the_refill_is_n_sixtieths_a_second(rpm: int, seconds: int) -> None:
    limits, ask = AccountCaps(rpm, -1, -1), (0, 0)
    _, level = admitted(limits, EMPTY, ask, 0, rpm)
    count = 0
    for second in range(1, seconds + 1):
        more, level = admitted(limits, level, ask, second * 1_000_000, rpm + 1)
        count += more
    assert count == rpm * seconds // 60


@given(st.integers(1, 10**9), st.integers(1, 10**6))
def test_retry_after_is_enough_and_not_too_long(rpm: int, over: int) -> None:
    limits, ask = AccountCaps(-1, rpm, -1), (min(over, rpm), 0)
    level = (0, 0, rpm * UNITS_PER_REQUEST, 0)
    short = reserve_request(limits, level, 0, ask, 0)
    assert isinstance(short, LimitShortfall) and short.limit == "tokens" and short.retry_after_s is not None
    assert not isinstance(reserve_request(limits, level, 0, ask, short.retry_after_s * 1_000_000), LimitShortfall)
    if short.retry_after_s > 1:
        assert isinstance(reserve_request(limits, level, 0, ask, (short.retry_after_s - 1) * 1_000_000), LimitShortfall)


def test_more_tokens_than_a_minute_has_never_fit() -> None:
    short = reserve_request(AccountCaps(-1, 100, -1), EMPTY, 0, (101, 0), 10**12)
    assert short == LimitShortfall("tokens", None, held=True)
    assert reserve_request(AccountCaps(0, -1, -1), EMPTY, 0, (0, 0), 10**12) == LimitShortfall("requests", None)


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 10**8))
def test_tokens_not_used_are_free_again(reserved: int, used: int, later_us: int) -> None:
    """Reserving the worst case and returning the rest ends as a reservation of the real amount, or stricter."""
    limits = AccountCaps(-1, 2000, -1)
    taken = reserve_request(limits, EMPTY, 0, (reserved, 0), 0)
    known = reserve_request(limits, EMPTY, 0, (used, 0), 0)
    assert not isinstance(taken, LimitShortfall) and not isinstance(known, LimitShortfall)
    back = settle_request(limits, taken, reserved - used, 7, later_us)
    truth = max(0, known[2] - limits.tpm * later_us)
    assert back[3] == 7 and back[0] == later_us
    assert back[2] >= truth
    if reserved >= used and truth > 0:
        assert back[2] == truth


def test_a_clock_that_stands_or_steps_back_gives_nothing_away() -> None:
    limits = AccountCaps(60, 60, -1)
    taken = (1_000_000, UNITS_PER_REQUEST, UNITS_PER_REQUEST, 0)
    assert reserve_request(limits, (1_000_000, 0, 0, 0), 0, (1, 0), 500_000) == taken
    assert settle_request(limits, taken, 0, 0, 500_000) == taken


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**10), max_size=30))
def test_a_budget_admits_exactly_what_fits(budget: int, prices: list[int]) -> None:
    limits = AccountCaps(-1, -1, budget)
    held = 0
    for nusd in prices:
        fits = held + nusd <= budget
        found = reserve_request(limits, EMPTY, held, (10, nusd), 0)
        assert isinstance(found, LimitShortfall) is not fits
        held += nusd if fits else 0


def test_an_account_stays_within_what_is_kept_of_it() -> None:
    limits = to_caps(UsageLimits(tpm=60, budget_usd=1.0))
    level = EMPTY
    for _ in range(3):
        level = settle_request(limits, level, -(1 << 80), 1 << 80, 1)
    assert level == (1, 0, LARGEST_LEVEL, LARGEST_LEVEL)


def test_what_stops_a_budget() -> None:
    limits = AccountCaps(-1, -1, 100)
    assert reserve_request(limits, (0, 0, 0, 50), 50, (0, 1), 0) == LimitShortfall("budget", 1, held=True), (
        "running requests may release money"
    )
    assert reserve_request(limits, (0, 0, 0, 100), 0, (0, 1), 0) == LimitShortfall("budget", None)
    assert reserve_request(limits, (0, 0, 0, 100), 0, (0, 0), 0) == (0, 0, 0, 100), "a free request passes"
    assert reserve_request(limits, EMPTY, 0, (0, -1), 0) == LimitShortfall("unpriced")
    assert reserve_request(AccountCaps(5, 5, -1), EMPTY, 0, (0, -1), 0) == (0, UNITS_PER_REQUEST, 0, 0)


def test_money_is_whole() -> None:
    assert worst_nusd(0.003) == nearest_nusd(0.003) == 3_000_000
    assert worst_nusd(1e-9) == 1 and worst_nusd(1.2e-9) == 2 and nearest_nusd(1.2e-9) == 1
    assert worst_nusd(0.1 + 0.2) == 300_000_000
    assert to_caps(UsageLimits(rpm=5, budget_usd=0.3)) == AccountCaps(5, -1, 300_000_000)
    assert UsageLimits().is_unlimited and not UsageLimits(rpm=0).is_unlimited


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        (UsageLimits(rpm=-1), "rpm"),
        (UsageLimits(tpm=10**10), "tpm"),
        *((UsageLimits(budget_usd=usd), "budget_usd") for usd in (-0.01, math.nan, math.inf)),
        (UsageLimits(period="week"), "period"),  # type: ignore[arg-type]
        (UsageLimits(rpm=0, tpm=10**9, budget_usd=0.0, period="day"), ""),
    ],
)
def test_the_first_invalid_limit_is_named(limits: UsageLimits, word: str) -> None:
    assert find_limits_problem(limits).partition(" ")[0] == word


@given(st.text())
def test_json_is_never_shorter_than_utf_8(text: str) -> None:
    """This makes the length of a body a bound of its tokens."""
    text = text.encode("utf-8", "replace").decode()
    for ascii_only in (True, False):
        assert len(json.dumps(text, ensure_ascii=ascii_only).encode()) >= len(text.encode()) + 2


def test_the_bound_of_the_input() -> None:
    for images in (0, 3 * IMAGE_TOKENS):
        assert worst_input_tokens(100, 200_000, images) == 100 + TEMPLATE_TOKENS + images
        assert worst_input_tokens(100_000, 4096, images) == 4096
