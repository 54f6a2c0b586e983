"""The count of calls is the same whatever the machine does."""

from __future__ import annotations

from .work import counted_calls


def double(number: int) -> int:
    return 2 * number


def test_calls_are_counted_and_the_count_is_repeatable() -> None:
    counts = []
    for _ in range(2):
        with counted_calls() as work:
            for number in range(1_000):
                double(number)
        counts.append(work.calls)
    assert counts[0] == counts[1] and 1_000 <= counts[0] < 1_100
