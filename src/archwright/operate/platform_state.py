"""The state file and the lock of the supervisor, read by `status`, `down` and `up`.

The lock shows that a supervisor or its standby is alive (the kernel releases it with both). Without a held lock the
state file is outdated.
"""

import fcntl
import os
from typing import BinaryIO, Literal

import msgspec

from archwright.contract.record import Record
from archwright.home import Home, open_private, write_json

ProcessPhase = Literal["serving", "starting", "leaving"]


class ProcessState(Record):
    """`serves` is an engine's model version; a leaving engine finishes its requests."""

    name: str
    pid: int
    ready: bool
    restarts: int
    serves: str = ""
    phase: ProcessPhase = "serving"


class LaunchedProcess(Record):
    """The identity of a process, by which the next supervisor adopts it.

    `start_time` is in clock ticks since the boot, `launch` the digest of command, environment and configuration.
    """

    name: str
    pid: int
    start_time: int
    launch: str


class EndpointState(Record):
    """`version` (empty: nothing) is served as of `promotion` (empty: none yet).

    `left_out` are pools of the plan that get no requests, since they cannot serve the version.
    """

    name: str
    kind: Literal["text", "predict"]
    version: str
    promotion: str
    left_out: tuple[str, ...] = ()


class StartupFailure(Record):
    code: str
    message: str
    hint: str
    file: str | None = None


class PlatformState(Record):
    """`ready_s`: seconds from `up` to ready, None while starting; `started_at`: seconds since the epoch.

    `seen` is the newest change of each endpoint that the supervisor read; `notes` name versions that are not served.
    `used_at`: when the engine of each loaded model was last seen with a request. `restarts`: supervisors that died.
    `standby_pid` takes the place of the supervisor, 0 before the platform is ready. `launched`: processes that outlive
    the supervisor. `managed`: a service manager starts the processes.
    """

    supervisor_pid: int
    url: str
    plan_digest: str
    started_at: float
    ready_s: float | None = None
    failure: StartupFailure | None = None
    processes: tuple[ProcessState, ...] = ()
    endpoints: tuple[EndpointState, ...] = ()
    seen: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    used_at: dict[str, float] = {}
    restarts: int = 0
    managed: bool = False
    standby_pid: int = 0
    launched: tuple[LaunchedProcess, ...] = ()


def write_state(home: Home, state: PlatformState) -> None:
    write_json(home.state, state)


def read_state(home: Home) -> PlatformState | None:
    """Return the last state; None if the file is absent or damaged by a crash of the machine."""
    try:
        return msgspec.json.decode(home.state.read_bytes(), type=PlatformState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def acquire_lock(home: Home) -> BinaryIO | None:
    """Take the home's lock, held while the file is open; None if another process holds it."""
    file = open_private(home.lock, "ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def is_serving(home: Home) -> bool:
    """True if a platform of this home runs."""
    lock = acquire_lock(home)
    if lock is None:
        return True
    lock.close()
    return False


def read_running_state(home: Home) -> PlatformState | None:
    if not is_serving(home):
        return None
    return read_state(home)


def is_process_alive(pid: int, module: str) -> bool:
    """True if `pid` is a process of this user running `module` (the number may have been reused)."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return module.encode() in file.read()
    except FileNotFoundError:
        return not os.path.isdir("/proc/self")
