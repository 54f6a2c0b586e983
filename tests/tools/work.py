"""How much work a call does, by a count that is the same on every machine."""

from __future__ import annotations

import cProfile
from collections.abc import Iterator
from contextlib import contextmanager


class CallCount:
    """The number of calls of functions, of Python and of C, in this thread."""

    def __init__(self) -> None:
        self.calls = 0


@contextmanager
def counted_calls() -> Iterator[CallCount]:
    """Count the calls of the block; the count is known after its end."""
    count = CallCount()
    profile = cProfile.Profile()
    profile.enable()
    try:
        yield count
    finally:
        profile.disable()
        count.calls = sum(entry.callcount for entry in profile.getstats())
