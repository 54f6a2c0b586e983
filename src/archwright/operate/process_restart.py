"""A forked process that its parent restarts when it dies.

Design: the parent only waits, so little can end it. It imports nothing that the child needs. Its signals are blocked
and taken by `sigwait`: none arrives between a fork and the number of the child. The child learns of its parent's death
by the end of a pipe and then stops in order, so no process outlives the parent.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from archwright.errors import ArchwrightError, boundary
from archwright.journal import Journal

BACKOFF_S, BACKOFF_LIMIT_S, HEALTHY_S = 0.2, 2.0, 30.0
EXIT_FAILED = 70
READY_POLL_S = 0.1
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WAITED_FOR = (*PASSED_ON, signal.SIGCHLD, signal.SIGALRM)


class ForkedChild(NamedTuple):
    """A child as it sees itself: the pipe `life` ends with its parent; a byte into `ready` says that it works.

    `is_restart`: an earlier child died."""

    life: int
    ready: int
    is_restart: bool = False

    def report_ready(self) -> None:
        with suppress(OSError):
            os.write(self.ready, b"1")
        os.close(self.ready)


class RestartedProcess:
    """The child and its restarts. `run` runs in the child and returns its exit status or raises ArchwrightError.

    A child starts with PASSED_ON blocked: `run` unblocks them when it handles them. `reload` runs in the
    parent on SIGHUP; the child gets the signal only if it returns True.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[ForkedChild], int],
        journal: Journal,
        reload: Callable[[], bool] = lambda: True,
    ) -> None:
        self._name = name
        self._reload = reload
        self._run = run
        self._journal = journal
        self._life, self._life_end = os.pipe()
        self._pid = self._ready = 0
        self._failures = 0
        self._was_ready = self._is_restart = False
        self._started_at = 0.0

    def start(self) -> None:
        ready, ready_end = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
        self._started_at = time.monotonic()
        pid = os.fork()
        if pid == 0:
            status = EXIT_FAILED
            try:
                os.close(self._life_end)
                os.close(ready)
                with boundary(self._name):
                    status = self._run(ForkedChild(self._life, ready_end, self._is_restart))
            except ArchwrightError as error:
                print(error.lines(), file=sys.stderr, flush=True)
                status = error.exit_status
            finally:
                os._exit(status)
        os.close(ready_end)
        self._pid, self._ready, self._is_restart = pid, ready, True
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def wait_until_ready(self) -> int:
        """Return 0 when the child reported that it works, else its exit status."""
        # Workers of a child that died may hold the other end of the pipe, so its end does not tell.
        while not select.select([self._ready], [], [], READY_POLL_S)[0]:
            status = self._reap(os.WNOHANG)
            if status is not None:
                return status or EXIT_FAILED
        self._was_ready = bool(os.read(self._ready, 1))
        return 0 if self._was_ready else self._reap(0) or 0

    def wait(self) -> int:
        """Restart the child until it ends by SIGTERM, SIGINT or itself; return its exit status.

        A child that ends before it ever worked is not restarted.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
        stopping = False
        while True:
            status = self._reap(os.WNOHANG)
            if status is not None:
                if stopping or status == 0 or not self._was_ready:
                    return status
                self._restart_later(status)
            number = signal.sigwait(_WAITED_FOR)
            if number == signal.SIGALRM and not self._pid:
                self.start()
            elif number in PASSED_ON:
                stopping = stopping or number != signal.SIGHUP
                if number == signal.SIGHUP and not self._reload_unblocked():
                    continue
                if self._pid:
                    os.kill(self._pid, number)
                elif stopping:
                    return 0

    def _reload_unblocked(self) -> bool:
        """Run `reload`; a program that it starts waits for its own children, so it must get SIGCHLD."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD,))
        try:
            return self._reload()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))

    def stop(self) -> None:
        """End the child in order and wait for it."""
        if self._pid:
            os.kill(self._pid, signal.SIGTERM)
            self._reap(0)

    def _reap(self, options: int) -> int | None:
        """Return the exit status of the child (of a shell: 128 and the signal); None while it runs or is absent."""
        pid, status = os.waitpid(self._pid, options) if self._pid else (0, 0)
        if not pid:
            return None
        os.set_blocking(self._ready, False)
        with suppress(BlockingIOError):  # a process that the child left behind holds the pipe
            self._was_ready = bool(os.read(self._ready, 1)) or self._was_ready
        os.close(self._ready)
        self._pid = 0
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _restart_later(self, status: int) -> None:
        """Restart at once after a long life, else after BACKOFF_S, doubled by each failure to BACKOFF_LIMIT_S."""
        self._failures = 0 if time.monotonic() - self._started_at > HEALTHY_S else self._failures + 1
        wait_s = min(BACKOFF_LIMIT_S, BACKOFF_S * 2.0 ** (self._failures - 2)) if self._failures > 1 else 0.0
        self._journal.error("process.died", name=self._name, status=status, wait_s=wait_s)
        signal.setitimer(signal.ITIMER_REAL, wait_s or 1e-6)
