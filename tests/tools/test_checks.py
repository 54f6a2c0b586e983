"""A wait that fails names what it waited for and what it saw last."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from types import SimpleNamespace

import pytest

from ..async_tests import run_async
from .checks import Patience, until, until_async


def list_done() -> list[str]:
    return ["first"]


def is_larger(limit: int) -> bool:
    return len(list_done()) > limit


async def count_done() -> int:
    return 0


def test_a_wait_ends_when_its_condition_holds() -> None:
    answers = iter([False, False, True])
    until(lambda: next(answers))
    assert list(answers) == []


def test_a_wait_that_fails_shows_its_condition_and_what_its_calls_returned() -> None:
    with pytest.raises(AssertionError) as caught:
        until(lambda: list_done() == ["first", "second"], 0.0)
    said = str(caught.value)
    assert said.startswith('waited 0 s for list_done() == ["first", "second"]')
    assert said.endswith("list_done() = ['first']")


def test_a_wait_for_a_partial_shows_the_name_of_the_function() -> None:
    with pytest.raises(AssertionError, match=r"for is_larger; last seen: list_done\(\) = \['first'\]"):
        until(partial(is_larger, 2), 0.0)


def test_a_condition_that_fails_while_it_is_shown_hides_nothing() -> None:
    answers = iter([False])
    with pytest.raises(AssertionError, match=r"next\(answers\).*last seen: nothing"):
        until(lambda: next(answers), 0.0)


def test_a_machine_that_stands_still_ends_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 500.0, 1_000.0])
    monkeypatch.setattr("tests.tools.checks.time", SimpleNamespace(monotonic=lambda: next(times)))
    patience = Patience(1.5)
    assert [patience.is_over() for _ in range(2)] == [False, True]


@run_async
async def test_an_asynchronous_wait_takes_values_and_awaitables() -> None:
    answers = iter([False, True])
    await until_async(lambda: next(answers))

    def ask() -> Awaitable[int]:
        return count_done()

    with pytest.raises(AssertionError, match="waited 0 s for ask; last seen: 0"):
        await until_async(ask, 0.0)
