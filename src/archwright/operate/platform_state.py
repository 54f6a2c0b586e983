"""What is running, as a file: written by the supervisor, read by `status`, `down` and `up`.

The lock says whether a supervisor lives (the kernel drops it with the process, also after kill -9); the state file
says what it runs. A state file without a held lock is history.
"""

from __future__ import annotations

import fcntl
import os
from typing import Literal, TextIO

import msgspec

from archwright.contract.record import Record
from archwright.home import Home, write_json

ProcessPhase = Literal["serving", "starting", "leaving"]


class ProcessState(Record):
    """`serves` is the model version of an engine. During a change of versions an engine may be starting beside the one
    that serves, or leaving: finishing what it began."""

    name: str
    pid: int
    ready: bool
    restarts: int
    serves: str = ""
    phase: ProcessPhase = "serving"


class EndpointState(Record):
    """What an endpoint serves: `version` (empty: nothing) as of `promotion` (empty: none yet). `left_out` are pools of
    the plan that get none of its requests while a version is served that they do not hold."""

    name: str
    kind: Literal["text", "predict"]
    version: str
    promotion: str
    left_out: tuple[str, ...] = ()


class StartupFailure(Record):
    """Why the platform did not come up, in the words of an ArchwrightError."""

    code: str
    message: str
    hint: str
    file: str | None = None


class PlatformState(Record):
    """`ready_s`: `up` called to everything ready, None while starting. Times are seconds since the epoch.

    `seen` is the newest promotion of each endpoint that was taken notice of; `notes` are what is in production and not
    served, with the reason.
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


def write_state(home: Home, state: PlatformState) -> None:
    write_json(home.state, state)


def read_state(home: Home) -> PlatformState | None:
    """The last state written; None when there is none or a crash of the machine left it unreadable."""
    try:
        return msgspec.json.decode(home.state.read_bytes(), type=PlatformState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def acquire_lock(home: Home) -> TextIO | None:
    """Take the home's lock for the life of the returned file; None when another supervisor holds it."""
    file = open(home.lock, "a", encoding="ascii")  # noqa: SIM115 - held until the process ends
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def read_running_state(home: Home) -> PlatformState | None:
    """The state of the living supervisor of this home, or None."""
    held = acquire_lock(home)
    if held is not None:
        held.close()
        return None
    return read_state(home)


def is_process_alive(pid: int, module: str) -> bool:
    """Whether `pid` is a process of ours running `module` (a number may have been given to a stranger since)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return module.encode() in file.read()
    except FileNotFoundError:
        return not os.path.isdir("/proc/self")
