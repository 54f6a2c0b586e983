"""Processes of a platform that outlived their supervisor: found, adopted or ended by the next one.

The standard input of each is the platform's life line: a pipe whose other end only the supervisor and its standby
hold. The kernel ends all of them with the last holder, so none is left for ever.

Design: a process is adopted if its number, its start time and its launch are those that the last supervisor recorded.
The handle (pidfd) is opened before the comparison, so a reused number is never taken for ours. Without Linux nothing
is adopted: recorded processes are killed and started again.
"""

import os
import select
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired

from archwright.operate.platform_state import LaunchedProcess, PlatformState, is_process_alive

UNKNOWN_STATUS = 255  # only a parent learns the exit status
KILL_TIMEOUT_S, TICK_S = 5.0, 0.05
PROC = Path("/proc")
# Fields of /proc/PID/stat behind the name, which may contain spaces.
PARENT_FIELD, START_TIME_FIELD = 1, 19


def read_start_time(pid: int) -> int:
    """Return the start of a process in clock ticks since the boot; 0 if it is unknown."""
    return _read_field(pid, START_TIME_FIELD)


def read_parent(pid: int) -> int:
    """Return the number of the process that started `pid`; 0 if it is unknown."""
    return _read_field(pid, PARENT_FIELD)


def _read_field(pid: int, field: int) -> int:
    with suppress(OSError):
        fields = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[field])
    return 0


class AdoptedProcess:
    """A process that is no child of ours, with the part of Popen's interface that supervision needs."""

    def __init__(self, launched: LaunchedProcess, handle: int) -> None:
        self.launched = launched
        self.pid = launched.pid
        self._handle = handle

    def poll(self) -> int | None:
        return UNKNOWN_STATUS if self._has_ended(0.0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Raises TimeoutExpired."""
        if not self._has_ended(timeout):
            assert timeout is not None, "without a limit it has ended"
            raise TimeoutExpired(str(self.pid), timeout)
        return UNKNOWN_STATUS

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def end(self) -> None:
        """Kill the process and wait until it is gone. Raises TimeoutExpired."""
        self.kill()
        self.wait(KILL_TIMEOUT_S)

    def _has_ended(self, timeout_s: float | None) -> bool:
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def __del__(self) -> None:
        os.close(self._handle)


def find_survivors(before: PlatformState, life: int) -> dict[str, AdoptedProcess]:
    """Return the recorded processes that still run, by name; kill those that the last supervisor did not record yet."""
    survivors: dict[str, AdoptedProcess] = {}
    for launched in before.launched:
        survivor = _adopt(launched)
        if survivor is not None:
            survivors[launched.name] = survivor
    _kill_unrecorded(life, {survivor.pid for survivor in survivors.values()})
    return survivors


def _adopt(launched: LaunchedProcess) -> AdoptedProcess | None:
    try:
        survivor = AdoptedProcess(launched, os.pidfd_open(launched.pid))
    except (OSError, AttributeError):  # it has ended, or the system has no handles of processes
        may_be_it = launched.start_time in (0, read_start_time(launched.pid))
        if may_be_it and is_process_alive(launched.pid, "archwright."):
            os.kill(launched.pid, signal.SIGKILL)
        return None
    is_same = launched.start_time and launched.start_time == read_start_time(launched.pid)
    return survivor if is_same else None


def _kill_unrecorded(life: int, recorded: Collection[int]) -> None:
    """Workers of the gateway are no leaders of a session: they end when the next gateway serves."""
    for pid in list_holders(life):
        with suppress(OSError, TimeoutExpired):
            if pid not in recorded and os.getsid(pid) == pid:
                _kill_holder(pid, life)


def _kill_holder(pid: int, life: int) -> None:
    stranger = AdoptedProcess(LaunchedProcess(name="", pid=pid, start_time=0, launch=""), os.pidfd_open(pid))
    if pid in list_holders(life):  # now that its number cannot be reused
        stranger.end()


def end_holders(life: int, grace_s: float, spared: Collection[int]) -> None:
    """Ask the processes at the pipe `life` to end, except those in `spared`; kill those that are late."""
    deadline = time.monotonic() + grace_s
    number = signal.SIGTERM
    while holders := {*list_holders(life)} - {*spared}:
        if time.monotonic() > deadline:
            number = signal.SIGKILL
        for pid in holders:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(TICK_S)


def list_holders(life: int) -> list[int]:
    """Return the processes whose standard input is the pipe `life`; only those whose files this user may list."""
    pipe = f"pipe:[{os.fstat(life).st_ino}]"
    holders = []
    for place in PROC.glob("[0-9]*/fd/0"):
        with suppress(OSError):
            if os.readlink(place) == pipe:
                holders.append(int(place.parts[2]))
    return holders
