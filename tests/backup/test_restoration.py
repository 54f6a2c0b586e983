"""Restoration of a backup: to another path, by a later program, after a kill; what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyrage
import pytest
from tests.lake.temporary_lake import Lake

from archwright import settings
from archwright.api import backup, restore
from archwright.backup import file_copy, restoration
from archwright.backup.backup_key import BackupKey
from archwright.backup.manifest import BackupFile
from archwright.backup.repository import BackupRepository
from archwright.backup.storage import FolderStorage
from archwright.contract.record import replace
from archwright.home import Home, locate_home

from ..command_line import CommandLine, error_of

STORED = Path(__file__).parent / "format_1"


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
    assert cli.json("audit list --limit 1")[0]["action"] in ("restore", "key.list")
    assert cli.json("data check")["problems"] == []
    assert not [path for path in (other / "lake" / "tables").rglob("*") if names_path(path, home.root)]
    moved = Lake(other.parent)
    assert moved.values("docs@v1", "n") == [1, 2]
    moved.ingest_rows([{"n": 4}])
    assert moved.values("docs@v3", "n") == [4]
    moved.store.close()


def names_path(path: Path, root: Path) -> bool:
    return path.is_file() and str(root).encode() in path.read_bytes()


def test_a_home_with_files_is_refused(home: Home, cli: CommandLine, place: Path) -> None:
    cli.text("key create --tenant acme")
    cli.text("backup")
    before = home.pepper.read_bytes()
    error = error_of("AW-OPS-84", restore)
    assert "--into" in error.hint and home.pepper.read_bytes() == before


def test_a_killed_restoration_is_refused_as_a_home_and_goes_on(
    home: Home, cli: CommandLine, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.text("key create --tenant acme --name first")
    backup()
    other = tmp_path / "restored"
    written: list[str] = []
    write = file_copy.restore_file

    def write_two(repository: BackupRepository, file: BackupFile, target: Path) -> None:
        if len(written) == 2:
            target.write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(file.path)
        write(repository, file, target)

    with monkeypatch.context() as change:
        change.setattr(restoration, "restore_file", write_two)
        with pytest.raises(KeyboardInterrupt):
            restore(into=str(other))
    error_of("AW-SET-10", locate_home, settings.load({"home": str(other)}))

    def write_missing(repository: BackupRepository, file: BackupFile, target: Path) -> None:
        assert file.path not in written
        write(repository, file, target)

    monkeypatch.setattr(restoration, "restore_file", write_missing)
    restore(into=str(other))
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(other))
    assert [row["name"] for row in cli.json("key list")] == ["first", "valid", "revoked"]


@pytest.mark.parametrize("part", ["objects", "backups", "repository.json"])
def test_one_flipped_byte_is_found(home: Home, cli: CommandLine, place: Path, tmp_path: Path, part: str) -> None:
    cli.text("key create --tenant acme")
    backup()
    found = [path for path in (place, *place.rglob("*")) if path.is_file() and part in path.as_posix()]
    assert found
    for number, path in enumerate(found):
        data = bytearray(path.read_bytes())
        middle = data.index(b"age1") + 10 if part == "repository.json" else len(data) // 2
        data[middle] ^= 1
        original = path.read_bytes()
        path.write_bytes(data)
        code = "AW-OPS-81" if part == "repository.json" else "AW-OPS-82"
        error_of(code, restore, into=str(tmp_path / f"restored{number}"))
        path.write_bytes(original)


def test_an_object_in_the_place_of_another_is_found(home: Home, cli: CommandLine, place: Path, tmp_path: Path) -> None:
    cli.text("key create --tenant acme")
    backup()
    first, second = [path for path in (place / "objects").rglob("*") if path.is_file()][:2]
    first.write_bytes(second.read_bytes())
    error_of("AW-OPS-82", restore, into=str(tmp_path / "restored"))
    first.unlink()
    error_of("AW-OPS-82", restore, into=str(tmp_path / "again"))


def test_another_key_opens_nothing(
    home: Home, cli: CommandLine, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.text("key create --tenant acme")
    backup()
    monkeypatch.setenv("OTHER", str(pyrage.x25519.Identity.generate()))
    monkeypatch.setenv("WRONG", "AGE-SECRET-KEY-1WRONG")
    for name in ("OTHER", "WRONG"):
        error_of("AW-OPS-81", restore, into=str(tmp_path / "restored"), key=f"env:{name}")
    assert not (tmp_path / "restored").exists()


@pytest.mark.nightly  # scrypt takes seconds by design
def test_a_passphrase_opens_its_backups(
    home: Home, cli: CommandLine, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHRASE", "correct horse battery")
    monkeypatch.setenv("OTHER", "another passphrase")
    backup(key="env:PHRASE")
    wrong = error_of("AW-OPS-81", restore, into=str(tmp_path / "restored"), key="env:OTHER")
    assert "does not open" in wrong.message
    restore(into=str(tmp_path / "restored"), key="env:PHRASE")

    head = json.loads((place / "repository.json").read_bytes())
    sealed = bytes.fromhex(head["sealed_key"])
    years = re.sub(rb"(-> scrypt \S+) \d+", rb"\1 40", sealed)
    (place / "repository.json").write_text(json.dumps({**head, "sealed_key": years.hex()}))
    slow = error_of("AW-OPS-81", restore, into=str(tmp_path / "other"), key="env:PHRASE")
    assert "too slow" in slow.message


def test_a_command_may_print_the_key(home: Home, place: Path, tmp_path: Path, processes: None) -> None:
    backup(key=f'command:["cat", "{tmp_path / "backup.key"}"]')
    restore(into=str(tmp_path / "restored"))


def test_a_newer_format_is_refused(home: Home, cli: CommandLine, place: Path, tmp_path: Path) -> None:
    backup()
    head = json.loads((place / "repository.json").read_bytes())
    (place / "repository.json").write_text(json.dumps({**head, "format": 99, "more": 1}))
    error_of("AW-OPS-88", restore, into=str(tmp_path / "restored"))


def test_a_backup_of_format_1_is_restored(tmp_path: Path, home: Home, cli: CommandLine) -> None:
    """The stored backup is from the first program with this format. It is never made again."""
    shutil.copytree(STORED / "place", tmp_path / "place")
    key = tmp_path / "key"
    key.write_text((STORED / "identity.txt").read_text())
    key.chmod(0o600)
    restored = restore(source=str(tmp_path / "place"), key=f"file:{key}")
    assert Path(restored.home) == home.root
    assert [row["name"] for row in cli.json("key list")] == ["first", "valid", "revoked"]
    assert (home.root / "models" / "notes.txt").read_text() == "a file of format 1\n"


def test_a_path_outside_the_home_is_refused(home: Home, cli: CommandLine, place: Path, tmp_path: Path) -> None:
    """Only the holder of the key can write such a manifest; a restoration writes no file outside the home anyway."""
    backup()
    identity = pyrage.x25519.Identity.from_str((tmp_path / "backup.key").read_text())
    repository = BackupRepository(FolderStorage(place), BackupKey(identity))
    manifest = repository.find_newest()
    outside = BackupFile(path="../outside", size_bytes=0, sha256="", pieces=())
    changed = replace(manifest, files=(outside,))
    error_of("AW-OPS-82", restoration.restore_backup, repository, changed, tmp_path / "restored")
    assert not (tmp_path / "outside").exists()
