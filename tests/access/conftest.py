"""A store in a temporary home, a clock that tests move, and threads that run at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from archwright.access.api_keys import KeyStore
from archwright.home import Home
from archwright.monitor.shared_table import SharedTable
from archwright.store import Store


class Clock:
    """Clock that only tests move."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now
        self.moved_s = 0.0

    def __call__(self) -> float:
        return self.now

    def us(self) -> int:
        """Monotonic time in microseconds: `set` does not move it."""
        return round((self.now - self.moved_s) * 1e6)

    def set(self, now: float) -> None:
        """Set the clock, by hand or by a time server; no time passes."""
        self.moved_s += now - self.now
        self.now = now


def open_keys(store: Store, clock: Clock, table: SharedTable | None = None) -> KeyStore:
    """Open the keys like another process: with its own connection and an empty cache."""
    return KeyStore(Store(store.url), b"p" * 32, clock=clock, monotonic=clock, table=table)


def run_threads(work: Callable[[], None], count: int = 4) -> None:
    """Run `work` in `count` threads and wait for them."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(Home(tmp_path / "home").store_url)) as opened:
        yield opened


@pytest.fixture
def keys(store: Store, clock: Clock) -> KeyStore:
    return KeyStore(store, b"p" * 32, clock=clock, monotonic=clock)
