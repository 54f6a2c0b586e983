"""An engine process lives no longer than the supervisor that started it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import partial


def exit_with_parent(
    read: Callable[[], bytes] | None = None, leave: Callable[[int], None] = os._exit
) -> threading.Thread | None:
    """Watch standard input from a daemon thread; at its end (the supervisor died) leave at once with status 0. A
    terminal or no standard input means nobody supervises: nothing is watched."""
    if read is None:
        if sys.stdin is None or sys.stdin.closed or os.isatty(0):
            return None
        read = partial(os.read, 0, 4096)
    thread = threading.Thread(target=_watch_input, args=(read, leave), name="exit-with-parent", daemon=True)
    thread.start()
    return thread


def _watch_input(read: Callable[[], bytes], leave: Callable[[int], None]) -> None:
    while read():
        pass
    # Not sys.exit: this is not the main thread, and the engine's own threads may be deep in native code.
    leave(0)
