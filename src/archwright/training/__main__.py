"""`python -P -m archwright.training HOME RUN`: the training process, until the last step or SIGTERM."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TextIO

import msgspec

from archwright.engines.parent_watch import exit_with_parent
from archwright.errors import ArchwrightError, boundary, missing_extra
from archwright.home import Home
from archwright.python_process import run_entry_point
from archwright.training import run_execution, training_runs
from archwright.training.training_loop import LoopHooks, TrainingProgress
from archwright.training.training_process import ProcessMessage, SerialisedError

Driver = Callable[[Home, str, LoopHooks], None]
RAY_DRIVER_MODULE = "archwright.training.ray_driver"


class StopSignal:
    """SIGTERM and Ctrl-C end a loop after its step and checkpoint, or the process if no loop runs."""

    def __init__(self) -> None:
        self._looping = False
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request_stop)

    def __call__(self) -> bool:
        self._looping = True
        return self._asked

    def _request_stop(self, _number: int, _frame: object) -> None:
        self._asked = True
        if not self._looping:
            raise KeyboardInterrupt


class ProgressReporter:
    """Sends progress to the parent process and appends it to the run's folder."""

    def __init__(self, stream: TextIO, home: Home, run: str) -> None:
        self._stream = stream
        self._path = home.run(run) / "progress.jsonl"

    def report_progress(self, progress: TrainingProgress) -> None:
        self.write_message(ProcessMessage(progress=progress))
        try:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode({"at": round(time.time(), 3), **msgspec.to_builtins(progress)}) + b"\n")
        except OSError as error:
            # A full disk ends the run at the next checkpoint.
            print(f"progress cannot be written: {error}", file=sys.stderr)

    def write_message(self, line: ProcessMessage) -> None:
        self._stream.write(msgspec.json.encode(line).decode() + "\n")
        self._stream.flush()


def choose_driver(workers: int) -> Driver:
    """The driver for this process or for Ray workers. Raises MissingError AW-GET-01 without Ray."""
    if workers == 1:
        return run_execution.drive_run
    if find_spec("ray") is None or find_spec(RAY_DRIVER_MODULE) is None:
        raise missing_extra("ray", "ray", "training with several workers")
    driver: Driver = import_module(RAY_DRIVER_MODULE).drive_run
    return driver


def main(arguments: Sequence[str]) -> int:
    stop = StopSignal()
    exit_with_parent()
    # Libraries print to stdout, so messages go to a copy of stdout, and stdout becomes stderr.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        home, run = Home(arguments[0]), arguments[1]
        reporter = ProgressReporter(stream, home, run)
        with boundary("training"):
            drive_run = choose_driver(training_runs.load_spec(home, run).workers)
            drive_run(home, run, LoopHooks(reporter.report_progress, stop))
    except ArchwrightError as error:
        reporter.write_message(ProcessMessage(failure=msgspec.convert(error.as_dict(), SerialisedError)))
        print(error.lines(), file=sys.stderr, flush=True)
        return error.exit_status
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    run_entry_point(main)
