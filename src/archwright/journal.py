"""The structured log: one JSON object per line, written to a stream; and the steps of long commands.

The log holds no prompts, keys or other secrets: callers pass ids and counts.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

StepListener = Callable[[str], None]
_step_listener: ContextVar[StepListener | None] = ContextVar("step listener", default=None)
LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3}


class Journal:
    """A log of one process; entries below `level` are dropped. An entry is one write call, so lines stay whole.

    A full disk or a closed stream loses the entry and never fails the caller; `lost` counts such entries.
    """

    def __init__(
        self,
        process: str,
        stream: TextIO | None = None,
        level: str = "info",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._process = process
        self._stream = stream
        self._level = LEVELS.get(level, 1)
        self._clock = clock
        self.lost = 0

    def write(self, level: str, event: str, **fields: object) -> None:
        if LEVELS.get(level, 1) < self._level:
            return
        entry = {"at": round(self._clock(), 3), "level": level, "process": self._process, "event": event, **fields}
        stream = self._stream or sys.stderr
        try:
            stream.write(json.dumps(entry, default=str) + "\n")
            stream.flush()
        except (OSError, ValueError):
            self.lost += 1

    def info(self, event: str, **fields: object) -> None:
        self.write("info", event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        self.write("warning", event, **fields)

    def error(self, event: str, **fields: object) -> None:
        self.write("error", event, **fields)


@contextmanager
def listen_to_steps(listener: StepListener) -> Iterator[None]:
    """Pass the steps that the work inside reports to `listener`."""
    token = _step_listener.set(listener)
    try:
        yield
    finally:
        _step_listener.reset(token)


def report_step(name: str) -> None:
    """Report that a step of a long command begins. Does nothing without a listener.

    Design: a context variable, so that the planner needs no parameter for it.
    """
    if (listener := _step_listener.get()) is not None:
        listener(name)
