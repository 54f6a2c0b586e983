"""The structured log: one JSON object a line, written to a stream the process was given.

Never holds prompt content, keys or other secrets: callers pass ids and counts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TextIO

LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3}


class Journal:
    """`process` names the writer; entries below `level` are dropped. One write call an entry, so lines stay whole.

    A full disk or a closed stream costs the entry, never the work it tells about; `lost` counts them.
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
