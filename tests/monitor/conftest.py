"""A store in a temporary home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from archwright.home import Home
from archwright.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(Home(tmp_path / "home").store_url)
    yield opened
    opened.close()
