"""Short forms of what tests of several packages do."""

from __future__ import annotations

import asyncio
import inspect
import linecache
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import CodeType, FrameType

import pytest

from archwright.errors import ERROR_CLASSES, ArchwrightError

# The limit of every wait of a test. It must be enough on a slow machine with other work; a wait ends when its condition
# holds, so the limit costs nothing in a test that passes.
WAIT_S = 180.0
POLL_S = 0.02
# Between two looks at a condition at most so much time counts: a machine that stands still is no slow program.
STALL_S = 1.0


class Patience:
    """The time that a wait has left."""

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds
        self._looked_at = time.monotonic()

    def is_over(self) -> bool:
        """Return whether the time is over; called after each look at the condition."""
        now = time.monotonic()
        self._left_s -= min(now - self._looked_at, STALL_S)
        self._looked_at = now
        return self._left_s < 0.0


def until(true: Callable[[], object], seconds: float = WAIT_S) -> None:
    """Wait for a state of another thread or process. A failure names the condition and what it saw last."""
    patience = Patience(seconds)
    while not true():
        if patience.is_over():
            seen = ", ".join(observe_calls(true))
            raise AssertionError(f"waited {seconds:g} s for {read_source(true)}; last seen: {seen or 'nothing'}")
        time.sleep(POLL_S)


async def until_async(true: Callable[[], object], seconds: float = WAIT_S, every_s: float = POLL_S) -> None:
    """Wait for a state of this event loop or of a process. The condition may return an awaitable."""
    patience = Patience(seconds)
    while True:
        value = true()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return
        if patience.is_over():
            raise AssertionError(f"waited {seconds:g} s for {read_source(true)}; last seen: {value!r:.500}")
        await asyncio.sleep(every_s)


def observe_calls(condition: Callable[[], object]) -> list[str]:
    """Evaluate a condition, and return what the functions that it calls return."""
    code = _find_code(condition)
    returned: list[str] = []

    def note_return(frame: FrameType, event: str, value: object) -> None:
        caller = frame.f_back
        if event == "return" and caller is not None and caller.f_code is code:
            returned.append(f"{frame.f_code.co_name}() = {value!r:.500}")

    before = sys.getprofile()
    sys.setprofile(note_return)
    try:
        # The condition may fail now, for example because a process has ended.
        with suppress(Exception):
            condition()
    finally:
        sys.setprofile(before)
    return returned


def read_source(condition: Callable[[], object]) -> str:
    """Return the text of a lambda's expression, or the name of a function."""
    code = _find_code(condition)
    if code is None:
        return repr(condition)
    if code.co_name != "<lambda>":
        return code.co_name
    last_line = max(line or 0 for _, _, line in code.co_lines())
    numbers = range(code.co_firstlineno, last_line + 1)
    lines = [linecache.getline(code.co_filename, number).strip() for number in numbers]
    call = " ".join(lines).partition("lambda")[2]
    expression = call.partition(":")[2].strip()
    while expression.count(")") > expression.count("("):
        expression = expression[: expression.rindex(")")]
    return expression


def _find_code(condition: Callable[[], object]) -> CodeType | None:
    function = getattr(condition, "func", condition)  # of a partial
    code: CodeType | None = getattr(function, "__code__", None)
    return code


@contextmanager
def refuses(code: str, match: str = "", hint: str = "") -> Iterator[pytest.ExceptionInfo[ArchwrightError]]:
    """The block raises the error with this code, and the error says what to do: `hint`, if given."""
    with pytest.raises(ERROR_CLASSES[code.split("-")[1]], match=match or None) as caught:
        yield caught
    assert caught.value.code == code and caught.value.hint and hint in ("", caught.value.hint)


def run_together(calls: list[Callable[[], object]]) -> None:
    """Run each call in a thread of its own, until all have ended."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)


def join(thread: threading.Thread) -> None:
    """Wait for the end of a thread."""
    thread.join(WAIT_S)
    assert not thread.is_alive(), f"after {WAIT_S:g} s the thread {thread.name} has not ended"
