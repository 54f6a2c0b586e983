"""A run's training process, seen from outside: start it, hear what it says, ask it to stop.

The process holds the run's lock together with whoever started it and leaves when that one dies, so a run never goes
on unseen. It says what happens in JSON lines; what libraries print goes to the run's `log`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

import msgspec

from archwright import settings
from archwright.contract.record import Record
from archwright.errors import ERROR_CLASSES, ArchwrightError, ErrorLocation, InternalError, TrainError, from_os_error
from archwright.home import Home
from archwright.settings import child_environment
from archwright.training import base_model, ray_collectives, training_runs
from archwright.training.training_loop import TrainingProgress

KILLED_CODE = "AW-TRN-24"


class SerialisedError(Record):
    """An error of ours as it crosses from one process to another."""

    code: str
    message: str
    where: dict[str, Any]
    hint: str
    nearest: list[str]

    def to_exception(self) -> ArchwrightError:
        kind = ERROR_CLASSES.get(self.code.split("-")[1], InternalError)
        return kind(
            self.code, self.message, where=ErrorLocation(**self.where), hint=self.hint, nearest=tuple(self.nearest)
        )


class ProcessMessage(Record):
    """What the training process says: one of both."""

    progress: TrainingProgress | None = None
    failure: SerialisedError | None = None


class TrainingProcess:
    """A training process at work. Iterate it to its end; once."""

    def __init__(self, process: subprocess.Popen[bytes], run: str, ended: Callable[[], bool]) -> None:
        """`ended` tells whether all steps are made."""
        self._process = process
        self._run = run
        self._ended = ended
        self.asked_to_stop = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def __iter__(self) -> Iterator[TrainingProgress]:
        """Ends when the process did: it made all steps, or was asked to stop. Raises the error it ended with, or
        TrainError AW-TRN-24 when something killed it."""
        failure: SerialisedError | None = None
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = msgspec.json.decode(raw, type=ProcessMessage)
            failure = line.failure or failure
            if line.progress:
                yield line.progress
        status = self._process.wait()
        self.close()
        if failure is not None:
            raise failure.to_exception()
        # A signal that comes before the first step ends it with status 0, and no step made.
        if (status != 0 or not self._ended()) and not self.asked_to_stop:
            raise self._killed_error(status)

    def stop(self) -> None:
        """Ask for a checkpoint and an end; asked a second time, it is killed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL if self.asked_to_stop else signal.SIGTERM)
        self.asked_to_stop = True

    def close(self) -> None:
        """Let go of it; the process leaves when it has not yet."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def _killed_error(self, status: int) -> TrainError:
        by = f"signal {-status} ended it" if status < 0 else f"it ended with status {status}"
        memory = " (the system may have run out of memory)" if status == -signal.SIGKILL else ""
        return TrainError(
            KILLED_CODE,
            f"the training process of {self._run} is gone: {by}{memory}",
            where=ErrorLocation(field=f"runs/{self._run}/log"),
            hint=f"archwright runs resume {self._run}",
        )


def start_process(home: Home, run: str, lock: IO[bytes]) -> TrainingProcess:
    """Start the training process of a run whose `lock` the caller holds."""
    threads = str(training_runs.load_job(home, run).threads)
    # A spinning barrier makes two threads slower than one as soon as anything else runs (measured).
    environment = {
        **base_model.OFFLINE_ENVIRONMENT,
        "OMP_NUM_THREADS": threads,
        "GOMP_SPINCOUNT": "1000",
        "PYTHONUNBUFFERED": "1",
    }
    if training_runs.load_spec(home, run).workers > 1:
        environment |= ray_collectives.ray_environment(home, settings.load().ray_address)
    try:
        with open(home.run(run) / "log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "archwright.training", str(home.root), run],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=child_environment(environment),
                pass_fds=(lock.fileno(),),
                start_new_session=True,
            )
    except OSError as error:
        raise from_os_error(error) from error
    return TrainingProcess(process, run, lambda: training_runs.load_outcome(home, run) is not None)
