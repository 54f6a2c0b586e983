"""Restrictions that a process sets on itself; its children inherit them."""

import ctypes
import fcntl
import os
import resource
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
F_SETSIG = 10
COREDUMP_FILTER = Path("/proc/self/coredump_filter")
OOM_SCORE = Path("/proc/self/oom_score_adj")
# Added to the score of the parent: worth half of the memory of the machine.
ENGINE_OOM_SCORE, HIGHEST_OOM_SCORE = 500, 1000


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
    gain_no_privileges()


def gain_no_privileges() -> None:
    """Gain none from programs that this thread and its children start; filters need this. Raises OSError."""
    _control_process(PR_SET_NO_NEW_PRIVS, 1)


def offer_to_oom_killer() -> None:
    """Let the kernel end this process before the gateway and the supervisor if memory runs out."""
    with suppress(OSError):  # not every system has it
        score = int(OOM_SCORE.read_text(encoding="ascii")) + ENGINE_OOM_SCORE
        OOM_SCORE.write_text(str(min(score, HIGHEST_OOM_SCORE)), encoding="ascii")


def end_with_parent() -> None:
    """Let the kernel kill this process at the end of the thread that started it, even while native code holds the GIL.

    If standard input is a pipe that has ended, the parent ended before this call: leave at once. Raises OSError.
    """
    _control_process(PR_SET_PDEATHSIG, signal.SIGKILL)
    _leave_if_input_ended()


def end_with_input() -> None:
    """Let the kernel kill this process at the end of its standard input, even while native code holds the GIL.

    Standard input is a pipe that nobody writes to, opened for this process alone. Raises OSError.
    """
    if sys.platform == "linux":
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    _leave_if_input_ended()


def _leave_if_input_ended() -> None:
    ended = select.poll()
    ended.register(0, 0)
    if any(event & select.POLLHUP for _descriptor, event in ended.poll(0)):
        os._exit(0)


def _control_process(option: int, value: int) -> None:
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl option {option} cannot be set")
