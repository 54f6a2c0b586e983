"""One line on a terminal: the current step of a long command and the time since its start."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from archwright.journal import listen_to_steps

# A command that ends sooner shows no line.
DELAY_S = 2.0
INTERVAL_S = 0.25
ERASE_LINE = "\r\x1b[K"


@contextmanager
def show_steps(out: TextIO, *, hidden: bool, delay_s: float = DELAY_S) -> Iterator[None]:
    """Show the steps that the work inside reports, from `delay_s` on; erase the line at the end.

    Shows nothing if `hidden`, if `out` is no terminal, or if the work reports no step.
    """
    if hidden or not out.isatty():
        yield
        return
    display = _StepDisplay(out, delay_s)
    try:
        with listen_to_steps(display.update):
            yield
    finally:
        display.close()


class _StepDisplay:
    """A thread that redraws the line.

    The work itself may compute for seconds without a report.
    """

    def __init__(self, out: TextIO, delay_s: float) -> None:
        self._out = out
        self._delay_s = delay_s
        self._began = time.monotonic()
        self._step = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._redraw, name="step display", daemon=True)

    def update(self, step: str) -> None:
        self._step = step
        if not self._thread.is_alive() and not self._ended.is_set():
            self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _redraw(self) -> None:
        remaining_s = self._began + self._delay_s - time.monotonic()
        if self._ended.wait(max(0.0, remaining_s)):
            return

        while not self._ended.is_set():
            elapsed_s = time.monotonic() - self._began
            line = f"{self._step} ... {elapsed_s:.0f} s"
            width = shutil.get_terminal_size().columns - 1
            self._out.write(ERASE_LINE + line[:width])
            self._out.flush()
            self._ended.wait(INTERVAL_S)
        self._out.write(ERASE_LINE)
        self._out.flush()
