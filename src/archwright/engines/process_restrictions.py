"""Restrictions that a process sets on itself; its children inherit them."""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_NO_NEW_PRIVS = 38
COREDUMP_FILTER = Path("/proc/self/coredump_filter")


def disable_core_dumps() -> None:
    """Write no core dumps: they would hold keys and prompts.

    A handler in /proc/sys/kernel/core_pattern ignores the limit, so a dump for it holds no memory.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # not every kernel has it
        COREDUMP_FILTER.write_text("0", encoding="ascii")


def restrict_process() -> None:
    """Disable core dumps, and gain no privileges from a program with a set-user-id bit or capabilities.

    Call it before threads start: the kernel keeps the second restriction per thread. Raises OSError.
    """
    disable_core_dumps()
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs cannot be set")
