"""A store in a temporary home, and a clock that tests move."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from archwright.access.api_keys import KeyStore
from archwright.home import Home
from archwright.store import Store


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


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
