"""Ends a child process when the process that started it ends."""

import os
import stat
import sys
import threading
from collections.abc import Callable
from functools import partial


def has_supervising_parent() -> bool:
    """True if standard input is a pipe or socket of a parent; a service manager or a container gives /dev/null."""
    if sys.stdin is None or sys.stdin.closed:
        return False
    mode = os.fstat(0).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def exit_with_parent(
    read: Callable[[], bytes] | None = None, leave: Callable[[int], None] = os._exit
) -> threading.Thread | None:
    """Watch standard input from a daemon thread; at its end (the parent died) leave at once with status 0.

    Nothing is watched if no parent supervises this process.
    """
    if read is None:
        if not has_supervising_parent():
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
