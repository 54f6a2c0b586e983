"""Ends a child process when the process that started it ends."""

import os
import sys
import threading
from collections.abc import Callable
from functools import partial


def exit_with_parent(
    read: Callable[[], bytes] | None = None, leave: Callable[[int], None] = os._exit
) -> threading.Thread | None:
    """Watch standard input from a daemon thread; at its end (the parent died) leave at once with status 0.

    A terminal or no standard input means that no parent supervises this process: nothing is watched.
    """
    if read is None:
        if sys.stdin is None or sys.stdin.closed or os.isatty(0):
            return None
        read = partial(os.read, 0, 4096)

    def watch_input() -> None:
        while read():
            pass
        # Not sys.exit: this is not the main thread, and the engine's threads may be in native code.
        leave(0)

    thread = threading.Thread(target=watch_input, name="exit-with-parent", daemon=True)
    thread.start()
    return thread
