"""Rotation of the logs of running processes: NAME.log, then NAME.log.1 to NAME.log.3, each of at most LOG_LIMIT_BYTES.

Design: copy and truncate. The processes write to inherited descriptors (engines also from native code), so a renamed
file would keep their lines, and a pipe would block them when its reader stops. A line that is written in the
microseconds between the end of the copy and the truncation is lost. A log exceeds its limit by what its process writes
in ROTATE_EVERY_S.
"""

import os
import threading
import time
from pathlib import Path

from archwright import home
from archwright.errors import ArchwrightError, boundary
from archwright.journal import Journal

LOG_LIMIT_BYTES, OLD_LOGS = 16 << 20, 3
ROTATE_EVERY_S = 0.5
COPY_BYTES = 1 << 20


def rotate_in_background(folder: Path, journal: Journal) -> None:
    """Rotate the logs of a folder until the process ends, in a thread: the supervisor may wait for a process."""

    def rotate() -> None:
        reported = ""
        while True:
            try:
                with boundary("logs"):
                    rotate_logs(folder)
            except ArchwrightError as error:
                if error.message != reported:
                    journal.error("log rotation failed", **error.as_dict())
                reported = error.message
            time.sleep(ROTATE_EVERY_S)

    threading.Thread(target=rotate, name="log-rotation", daemon=True).start()


def rotate_logs(folder: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
    """Rotate each log above the limit. Raises OSError; then the log and all old logs but the oldest are unchanged."""
    for log in folder.glob("*.log"):
        if log.stat().st_size < limit_bytes:
            continue
        *old, oldest = (log.with_suffix(f".log.{number}") for number in range(1, OLD_LOGS + 1))
        oldest.unlink(missing_ok=True)  # first, which makes space on a full disk
        copy = log.with_suffix(".log.copy")
        try:
            _move_lines(log, copy)
            for older, newer in zip((oldest, *reversed(old)), (*reversed(old), copy), strict=True):
                if newer.exists():
                    newer.replace(older)
        finally:
            copy.unlink(missing_ok=True)


def _move_lines(log: Path, copy: Path) -> None:
    """Copy the whole lines of a log, then truncate it to nothing."""
    with open(log, "r+b", buffering=0) as source, home.open_private(copy, "w+b") as target:
        while os.sendfile(target.fileno(), source.fileno(), None, COPY_BYTES):
            pass
        os.ftruncate(source.fileno(), 0)
        end = target.seek(0, os.SEEK_END)
        target.seek(max(0, end - COPY_BYTES))
        tail = target.read()
        target.truncate(end - len(tail) + tail.rfind(b"\n") + 1 if b"\n" in tail else end)
