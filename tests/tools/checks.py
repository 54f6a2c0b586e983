"""Short forms of what tests of several packages do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from archwright.errors import ERROR_CLASSES, ArchwrightError


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for a state of another thread or process."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


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
        thread.join(60)
