"""A running gateway replaces its own program: the master executes the new code with the same process number.

Design: a service manager sees no restart, and no connection is lost. The ports and the pipes of the workers stay open
over the exec. The old workers serve until new workers take requests, as in a reload. A trial process shows first that
the new code starts and can read the configuration; else the old code stays.
"""

import os
import sys
from pathlib import Path
from subprocess import DEVNULL, Popen

import msgspec

from archwright.contract.record import Record
from archwright.home import Home
from archwright.serving.process.config_reload import ServedRevision

MODULE = "archwright.serving"
TRIAL = "--trial"


class InheritedWorker(Record):
    """A worker of the old code; `reports` is the pipe of its reports, `note` its last one."""

    pid: int
    reports: int
    note: ServedRevision | None
    leaving: bool


class InheritedParts(Record):
    """The file descriptors and workers that the old code of a master passes to the new code.

    `life` and `life_end`: the pipe that tells workers of the master's end. `parent`: the pipe of the master's parent.
    """

    main: int
    admin: int | None
    life: int
    life_end: int
    parent: int | None
    since: float
    workers: tuple[InheritedWorker, ...]

    @property
    def descriptors(self) -> list[int]:
        pipes = [self.main, self.life, self.life_end, *(worker.reports for worker in self.workers)]
        return pipes + [one for one in (self.admin, self.parent) if one is not None]

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()


def start_trial(home: Home, file: Path, parts: InheritedParts) -> Popen[bytes]:
    """Start the new code to read the configuration and the parts, and to end. Its errors go to our standard error."""
    command = [sys.executable, "-m", MODULE, str(home.root), str(file), parts.encode(), TRIAL]
    return Popen(command, stdin=DEVNULL, stdout=DEVNULL)


def execute_new_code(home: Home, file: Path, parts: InheritedParts) -> None:
    """Replace the program of this process. Raises OSError if the program cannot be executed; then nothing changed."""
    known = {one: os.get_inheritable(one) for one in parts.descriptors}
    for one in known:
        os.set_inheritable(one, True)
    try:
        os.execv(sys.executable, [sys.executable, "-m", MODULE, str(home.root), str(file), parts.encode()])
    finally:
        for one, inheritable in known.items():
            os.set_inheritable(one, inheritable)


def keep_private(parts: InheritedParts) -> None:
    """Let no later program inherit the parts by accident; standard input stays as it was."""
    for one in parts.descriptors:
        os.set_inheritable(one, one == 0)
