"""Clients that ask all the time, each in a thread."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self


class ClientThreads(ABC):
    """Clients that ask while the `with` block runs; it may be entered again. `failed`: what went wrong."""

    def __init__(self, count: int) -> None:
        self.failed: list[str] = []
        self._count = count
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._stop.clear()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self._count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @abstractmethod
    def _ask(self, number: int) -> None:
        """Ask as client `number` until `_stop` is set."""
