"""The parent's side of a training process: start it, read its messages, stop it.

The process shares the run's lock with its parent and ends when the parent dies, so no run continues unobserved. Its
messages are JSON lines; output of libraries goes to the run's `log`.
"""

import signal
from collections.abc import Callable, Iterator
from subprocess import PIPE, Popen
from typing import IO, Any

import msgspec

from archwright import settings
from archwright.contract.record import Record
from archwright.errors import ERROR_CLASSES, ArchwrightError, ErrorLocation, InternalError, TrainError, from_os_error
from archwright.home import Home
from archwright.python_process import build_module_command
from archwright.settings import child_environment
from archwright.training import base_model, ray_collectives, training_runs
from archwright.training.training_loop import TrainingProgress

KILLED_CODE = "AW-TRN-24"


class SerialisedError(Record):
    """An ArchwrightError in a message between processes."""

    code: str
    message: str
    where: dict[str, Any]
    hint: str
    nearest: list[str]

    def to_exception(self) -> ArchwrightError:
        kind = ERROR_CLASSES.get(self.code.split("-")[1], InternalError)
        where, nearest = ErrorLocation(**self.where), tuple(self.nearest)
        return kind(self.code, self.message, where=where, hint=self.hint, nearest=nearest)


class ProcessMessage(Record):
    """A message of the training process; one of the fields is set."""

    progress: TrainingProgress | None = None
    failure: SerialisedError | None = None


class TrainingProcess:
    """A running training process. Iterate once, to its end."""

    def __init__(self, process: Popen[bytes], run: str, ended: Callable[[], bool]) -> None:
        """`ended` returns True if the run has an outcome."""
        self._process = process
        self._run = run
        self._ended = ended
        self.asked_to_stop = False

    def __iter__(self) -> Iterator[TrainingProgress]:
        """Yield progress until the process ends. Raises its error, or TrainError AW-TRN-24 if it was killed."""
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
        # A signal before the first step ends the process with status 0 and without an outcome.
        if (status != 0 or not self._ended()) and not self.asked_to_stop:
            by = f"signal {-status} ended it" if status < 0 else f"it ended with status {status}"
            memory = " (the system may have run out of memory)" if status == -signal.SIGKILL else ""
            message = f"the training process of {self._run} died: {by}{memory}"
            hint = f"continue from the newest checkpoint: archwright runs resume {self._run}"
            raise TrainError(KILLED_CODE, message, where=ErrorLocation(field=f"runs/{self._run}/log"), hint=hint)

    def stop(self) -> None:
        """Ask the process to save a checkpoint and end; a second call kills it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL if self.asked_to_stop else signal.SIGTERM)
        self.asked_to_stop = True

    def close(self) -> None:
        """Close the pipes, which ends a running process, and wait."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


def start_process(home: Home, run: str, lock: IO[bytes]) -> TrainingProcess:
    """Start the training process of a run whose `lock` the caller holds."""
    # With a spinning barrier two threads are slower than one thread if another program runs (measured).
    environment = {
        **base_model.OFFLINE_ENVIRONMENT,
        "OMP_NUM_THREADS": str(training_runs.load_job(home, run).threads),
        "GOMP_SPINCOUNT": "1000",
        "PYTHONUNBUFFERED": "1",
    }
    if training_runs.load_spec(home, run).workers > 1:
        environment |= ray_collectives.ray_environment(home, settings.load().ray_address)
    argv = build_module_command("archwright.training", str(home.root), run)
    env, fds = child_environment(environment), (lock.fileno(),)
    try:
        with open(home.run(run) / "log", "ab") as log:
            process = Popen(argv, stdin=PIPE, stdout=PIPE, stderr=log, env=env, pass_fds=fds, start_new_session=True)
    except OSError as error:
        raise from_os_error(error) from error
    return TrainingProcess(process, run, lambda: training_runs.load_outcome(home, run) is not None)
