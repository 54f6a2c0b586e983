"""A store in a temporary home, a clock that tests move, and threads that run at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from archwright.access.api_keys import KeyStore
from archwright.home import Home
from archwright.store import Store


class Clock:
    """Clock that only tests move."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


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
    opened = Store(Home(tmp_path / "home").store_url)
    yield opened
    opened.close()


@pytest.fixture
def keys(store: Store, clock: Clock) -> KeyStore:
    return KeyStore(store, b"p" * 32, clock=clock, monotonic=clock)
