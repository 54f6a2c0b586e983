"""A backup of a home in use and its restoration to another path, by the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest
from tests.lake.temporary_lake import Lake

from archwright.home import Home

from ..command_line import CommandLine


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for backups, with its key."""
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
    yield made
    made.store.close()


def test_a_home_is_restored_to_another_path(
    home: Home, cli: CommandLine, lake: Lake, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.ingest_rows([{"n": 1}, {"n": 2}])
    lake.ingest_rows([{"n": 1}, {"n": 3}])
    cli.text("key create --tenant acme --name first")
    home.folder("models").joinpath("weights.gguf").write_bytes(b"w" * 9_000_000)

    made = cli.json("backup")
    other = tmp_path / "other" / "home"
    restored = cli.json(f"restore --into {other}")

    assert restored["id"] == made["id"]
    assert (other / "models" / "weights.gguf").read_bytes() == b"w" * 9_000_000
    assert (other / "secrets" / "pepper").read_bytes() == home.pepper.read_bytes()
    assert not any((other / name).exists() for name in ("run", "logs", "backups", ".restoring"))
    home.root.rename(home.root.with_name("lost"))  # no file of the old path may be needed
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(other))
    assert [row["name"] for row in cli.json("key list")] == ["first", "valid", "revoked"]
    assert cli.json("audit verify")["whole"]
    assert cli.json("data check")["problems"] == []
    moved = Lake(other.parent)
    assert moved.values("docs@v1", "n") == [1, 2]
    moved.ingest_rows([{"n": 4}])
    assert moved.values("docs@v3", "n") == [4]
    moved.store.close()
