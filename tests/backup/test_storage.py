"""Places of backups: a folder, and S3. A folder stands in for the server of S3, and nightly moto over HTTP."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
from tests.lake.sources.test_s3_source import s3_server, set_access

from archwright.api import backup, restore
from archwright.backup.storage import BackupStorage, open_storage
from archwright.contract.backup import BackupList
from archwright.home import Home
from archwright.lake.sources import s3_source

from ..command_line import CommandLine, error_of

__all__ = ["s3_server"]
ADDRESS = "s3://bucket/backups"


class FolderBucket:
    """Answers like the client of S3 from a folder: names need no folders, and an absent object is no file."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files = pyarrow.fs.SubTreeFileSystem(str(root), pyarrow.fs.LocalFileSystem())

    def get_file_info(self, paths: Any) -> Any:
        return self._files.get_file_info(paths)

    def open_input_stream(self, path: str) -> Any:
        return self._files.open_input_stream(path)

    def open_output_stream(self, path: str) -> Any:
        (self._root / path).parent.mkdir(parents=True, exist_ok=True)
        return self._files.open_output_stream(path)

    def delete_file(self, path: str) -> None:
        self._files.delete_file(path)


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BackupStorage:
    if request.param == "folder":
        return open_storage(str(tmp_path / "place"))
    monkeypatch.setattr(s3_source, "open_bucket", lambda: FolderBucket(tmp_path))
    return open_storage(ADDRESS)


def test_a_place_stores_whole_objects(storage: BackupStorage) -> None:
    assert storage.read("objects/ab/abc") is None
    assert storage.list_names("objects") == []
    storage.write("objects/ab/abc", b"first")
    storage.write("objects/cd/cde", b"second")
    storage.write("head.json", b"{}")
    storage.write("objects/ab/abc", b"third")
    assert storage.read("objects/ab/abc") == b"third"
    assert storage.list_names("objects") == ["objects/ab/abc", "objects/cd/cde"]
    storage.remove("objects/ab/abc")
    assert storage.list_names("objects") == ["objects/cd/cde"]


def check_journey(home: Home, cli: CommandLine, tmp_path: Path) -> None:
    """A backup in S3, a second one that replaces it, and its restoration."""
    cli.text("key create --tenant acme")
    home.folder("models").joinpath("weights.gguf").write_bytes(b"w" * 9_000_000)
    backup(to=ADDRESS)
    last = backup(to=ADDRESS, keep=1)
    listed = backup(to=ADDRESS, list=True)
    assert isinstance(listed, BackupList)
    assert [one.id for one in listed.backups] == [last.id]  # type: ignore[union-attr]
    restored = restore(source=ADDRESS, into=str(tmp_path / "restored"))
    assert (Path(restored.home) / "models" / "weights.gguf").read_bytes() == b"w" * 9_000_000


def test_a_home_is_backed_up_to_a_bucket(
    home: Home, cli: CommandLine, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_source, "open_bucket", lambda: FolderBucket(tmp_path / "server"))
    (tmp_path / "server").mkdir()
    check_journey(home, cli, tmp_path)


@pytest.mark.enable_socket
def test_a_server_that_is_away_is_named_without_secrets(
    home: Home, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_access(monkeypatch, "http://127.0.0.1:1")
    error = error_of("AW-OPS-89", backup, to=ADDRESS)
    assert "hush" not in error.lines() and ADDRESS in error.lines()


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_moto_stores_the_backups_over_http(
    home: Home, cli: CommandLine, place: Path, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_access(monkeypatch, s3_server)
    error_of("AW-OPS-89", backup, to=ADDRESS)  # there is no bucket yet
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/bucket", method="PUT")).close()
    check_journey(home, cli, tmp_path)
