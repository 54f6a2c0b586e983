"""A place for backups with its key, and a lake in the home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest
from tests.lake.temporary_lake import Lake

from archwright.home import Home


@pytest.fixture
def place(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the settings name as the place of backups."""
    key = tmp_path / "backup.key"
    key.write_text(str(pyrage.x25519.Identity.generate()))
    key.chmod(0o600)
    monkeypatch.setenv("ARCHWRIGHT_BACKUP_KEY", f"file:{key}")
    monkeypatch.setenv("ARCHWRIGHT_BACKUP_TO", str(tmp_path / "place"))
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_SECOND_PLACE", "none")
    return tmp_path / "place"


@pytest.fixture
def lake(home: Home, tmp_path: Path) -> Iterator[Lake]:
    made = Lake(tmp_path)
    assert made.home.root == home.root
    yield made
    made.store.close()
