"""The standby: a small process that takes the place of its supervisor when that one dies.

Design: supervisor and standby are equal. Each starts the other when it is gone: the standby becomes the supervisor and
starts a standby, before it imports anything; a supervisor whose standby is gone starts another one. So a platform ends
by itself only if both die within the same moment. Both hold the home's lock, the life line of all processes, and the
listening sockets of the gateway.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from subprocess import Popen
from typing import NamedTuple

import msgspec

from archwright.python_process import build_module_command

STANDBY = "--standby"
MODULE = "archwright.operate"
BACKOFF_S, BACKOFF_LIMIT_S, HEALTHY_S = 0.2, 2.0, 30.0


class PlatformHandles(NamedTuple):
    """File descriptors that supervisor and standby share.

    `life` and `life_end`: the pipe on whose end the processes of the platform wait. `ports`: listening sockets.
    """

    lock: int
    life: int
    life_end: int
    ports: tuple[int, ...]


class Standby:
    """The standby of this process. `failures`: supervisors that died one after the other, each after a short life."""

    def __init__(self, root: str, handles: PlatformHandles, failures: int = 0) -> None:
        self._root = root
        self._handles = handles
        self._failures = failures
        self._process: Popen[bytes] | None = None
        # The standby waits for the end of this pipe, whose other end only this process has.
        self._watched, self._watched_end = os.pipe()

    @property
    def pid(self) -> int:
        """0 if none was started yet."""
        return 0 if self._process is None else self._process.pid

    def keep(self) -> bool:
        """Start the standby if none runs; return True if it was started. Raises OSError: call again later."""
        if self._process is not None and self._process.poll() is None:
            return False
        stated = msgspec.json.encode(self._handles).decode()
        words = [self._root, STANDBY, stated, str(self._watched), str(self._failures)]
        handles = self._handles
        passed = (handles.lock, handles.life, handles.life_end, *handles.ports, self._watched)
        self._process = Popen(build_module_command(MODULE, *words), pass_fds=passed)
        return True

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        os.close(self._watched)
        os.close(self._watched_end)


def await_takeover(words: Sequence[str]) -> tuple[PlatformHandles, Standby]:
    """Wait in the standby until the supervisor is gone; then start the next standby and return.

    Supervisors that die soon after their start follow each other after BACKOFF_S, doubled up to BACKOFF_LIMIT_S.
    """
    root, _, stated, watched, failures = words
    handles = msgspec.json.decode(stated, type=PlatformHandles)
    began = time.monotonic()
    while os.read(int(watched), 1):
        pass
    os.close(int(watched))
    repeated = 0 if time.monotonic() - began > HEALTHY_S else int(failures) + 1
    standby = Standby(root, handles, repeated)
    with suppress(OSError):  # no process number is free: the supervisor tries again
        standby.keep()
    if repeated > 1:
        time.sleep(min(BACKOFF_LIMIT_S, BACKOFF_S * 2.0 ** (repeated - 2)))
    return handles, standby
