"""Backups of a home in use: what they hold, what they add, and what is left when one is killed."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from tests.tools.checks import until

from archwright.api import backup, restore
from archwright.backup import creation, home_database
from archwright.backup.creation import lock_backups
from archwright.backup.repository import BackupRepository, open_repository
from archwright.backup.restoration import restore_backup
from archwright.backup.storage import FolderStorage
from archwright.contract.backup import BackupList, CreatedBackup
from archwright.home import Home
from archwright.monitor.metrics.observations import OBSERVATIONS
from archwright.monitor.wal.segments import DATA_START, WalSegment, encode_batch
from archwright.python_process import build_module_command
from archwright.settings import child_environment
from archwright.sqlite_files import copy_sqlite_file
from archwright.store import Store

from ..command_line import CommandLine, error_of

PIECES = 3  # of the model file below


def fill_home(home: Home, cli: CommandLine) -> Path:
    cli.text("key create --tenant acme --name first")
    model = home.folder("models") / "weights.gguf"
    model.write_bytes(b"".join(bytes([number]) * (4 << 20) for number in range(PIECES)))
    return model


def make_backup(**options: int) -> CreatedBackup:
    made = backup(**options)  # type: ignore[arg-type]
    assert isinstance(made, CreatedBackup)
    return made


def list_backups() -> BackupList:
    found = backup(list=True)
    assert isinstance(found, BackupList)
    return found


def test_a_second_backup_adds_only_what_changed(home: Home, cli: CommandLine, place: Path) -> None:
    model = fill_home(home, cli)
    first = make_backup()
    objects = set(FolderStorage(place).list_names("objects"))
    with model.open("r+b") as file:
        file.write(b"other")

    second = make_backup()

    added = set(FolderStorage(place).list_names("objects")) - objects
    assert first.added_bytes > PIECES * (4 << 20)
    assert sum((place / name).stat().st_size > 4 << 20 for name in added) == 1
    assert second.size_bytes >= PIECES * (4 << 20)
    assert [one.id for one in list_backups().backups] == [second.id, first.id]


def test_no_byte_of_the_home_is_readable_at_the_place(home: Home, cli: CommandLine, place: Path) -> None:
    fill_home(home, cli)
    # Long enough that encrypted bytes do not hold it by chance, as they once held a name of four letters.
    cli.text("tenant create a-tenant-with-a-long-name")
    make_backup()
    content = b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())
    assert home.pepper.read_bytes() not in content
    for name in (b"a-tenant-with-a-long-name", b"pepper", b"SQLite", str(home.root).encode()):
        assert name not in content
    assert place.stat().st_mode & 0o077 == 0


def test_only_the_newest_backups_are_kept_with_their_objects(home: Home, cli: CommandLine, place: Path) -> None:
    model = fill_home(home, cli)
    first = make_backup()
    model.write_bytes(b"x" * 1000)
    second = make_backup(keep=1)
    assert second.removed == (first.id,)
    assert [one.id for one in list_backups().backups] == [second.id]
    assert all((place / name).stat().st_size < 4 << 20 for name in FolderStorage(place).list_names("objects"))
    restore(into=str(home.root.with_name("restored")))
    assert error_of("AW-USE-85", backup, keep=0)
    assert error_of("AW-OPS-83", restore, first.id, into=str(home.root.with_name("other")))


def test_a_killed_backup_is_not_listed_and_the_next_one_goes_on(
    home: Home, cli: CommandLine, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_home(home, cli)
    with monkeypatch.context() as change:
        change.setattr(BackupRepository, "write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            make_backup()
    (home.backups / "snapshot-left").mkdir()
    assert list_backups().backups == ()

    made = make_backup()

    assert made.size_bytes > PIECES * (4 << 20) > made.added_bytes  # the model was there
    assert not list(home.backups.glob("snapshot-*"))


def killed(_repository: object, _manifest: object) -> None:
    raise KeyboardInterrupt


def test_one_backup_of_a_home_at_a_time(home: Home, cli: CommandLine, place: Path) -> None:
    with lock_backups(home):
        error_of("AW-OPS-86", backup)


def test_the_database_is_copied_while_another_process_writes(
    home: Home, cli: CommandLine, place: Path, tmp_path: Path
) -> None:
    """The copy has the committed rows, and none of the open transaction."""
    fill_home(home, cli)
    with closing(sqlite3.connect(home.root / "archwright.db")) as writer:
        writer.execute("CREATE TABLE probe (n INTEGER)")
        writer.execute("INSERT INTO probe VALUES (1)")
        writer.commit()
        with lock_backups(home):
            writer.execute("INSERT INTO probe VALUES (2)")
            copy_sqlite_file(home.root / "archwright.db", tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT n FROM probe").fetchall() == [(1,)]


def test_a_segment_is_copied_up_to_its_last_complete_write(
    home: Home, cli: CommandLine, place: Path, tmp_path: Path
) -> None:
    fill_home(home, cli)
    segment = WalSegment.create(home.write_ahead_log, ".writer", 4096)
    segment.write(encode_batch([], [b"{}"]))
    end = segment.written
    segment.write(encode_batch([], [b"{}"])[:-1])
    make_backup()
    segment.close()
    repository = open_repository(FolderStorage(place), (tmp_path / "backup.key").read_text())
    restore_backup(repository, repository.find_newest(), tmp_path / "restored")  # the verb would compact the segment
    assert (tmp_path / "restored" / "ledger" / ".writer.segment").stat().st_size == end > DATA_START


def test_a_file_that_disappears_makes_another_try(
    home: Home, cli: CommandLine, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retention may remove a file of the lake when the databases were copied: they name it, the copy lacks it."""
    fill_home(home, cli)
    old, copies = home.lake / "old.parquet", 0
    old.write_bytes(b"rows")
    copy = copy_sqlite_file

    def remove_and_copy(source: Path, target: Path) -> None:
        nonlocal copies
        copies += 1
        old.unlink(missing_ok=True)
        copy(source, target)

    monkeypatch.setattr(home_database, "copy_sqlite_file", remove_and_copy)
    make_backup()
    assert copies == 2

    def remove_always(source: Path, target: Path) -> None:
        (home.lake / f"{target.stat().st_size if target.exists() else 0}").unlink(missing_ok=True)
        next(home.lake.glob("v*")).unlink()
        copy(source, target)

    for number in range(creation.SNAPSHOT_TRIES):
        (home.lake / f"v{number}").write_bytes(b"rows")
    monkeypatch.setattr(home_database, "copy_sqlite_file", remove_always)
    error_of("AW-OPS-85", backup)


def test_a_signing_key_that_is_newer_than_the_copy_of_the_database_is_left_out(
    home: Home, cli: CommandLine, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its checkpoints are left out, too, and a key without checkpoints looks like their loss."""
    with closing(Store(home.store_url)) as store:
        store.append(OBSERVATIONS, [])
    assert not home.audit_signing_key.exists()
    copy = copy_sqlite_file

    def copy_and_write_records(source: Path, target: Path) -> None:
        copy(source, target)
        cli.text("key create --tenant acme --name first")

    monkeypatch.setattr(home_database, "copy_sqlite_file", copy_and_write_records)
    made = make_backup()
    assert home.audit_signing_key.exists() and home.audit_checkpoints.stat().st_size
    restored = Home(tmp_path / "restored")
    restore(made.id, into=str(restored.root))
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(restored.root))
    assert cli.json("audit verify")["whole"]
    cli.text("key create --tenant acme --name second")
    assert cli.json("audit verify")["checkpoints"] >= 1


def test_place_and_key_must_be_stated(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert error_of("AW-USE-85", backup).where.field == "backup_to"
    assert error_of("AW-USE-85", backup, to=str(tmp_path / "place")).where.field == "backup_key"
    (home.folder() / "key").write_text("a long passphrase of the home")
    (home.root / "key").chmod(0o600)
    assert error_of("AW-USE-85", backup, to=str(home.root / "place"), key="env:HOME").where.field == "backup_to"
    inside = {"to": str(tmp_path / "place"), "key": f"file:{home.root / 'key'}"}
    assert error_of("AW-USE-85", backup, **inside).where.field == "backup_key"
    monkeypatch.setenv("SHORT", "too short")
    error_of("AW-OPS-81", backup, to=str(tmp_path / "place"), key="env:SHORT")


@pytest.mark.enable_socket
def test_every_listed_backup_is_whole_after_kills(
    home: Home, cli: CommandLine, place: Path, tmp_path: Path, processes: None
) -> None:
    """SIGKILL of the process, when the first, and when the third object of the model is stored."""
    fill_home(home, cli)
    for count in (1, 3):
        backing = subprocess.Popen(build_module_command("archwright", "backup"), env=child_environment())
        until(partial(has_objects, place, count))
        backing.kill()
        backing.wait()
    assert len(list_objects(place)) >= 3
    make_backup()
    for number, stored in enumerate(list_backups().backups):  # a process may have ended before it was killed
        restore(stored.id, into=str(tmp_path / f"restored{number}"))


def has_objects(place: Path, count: int) -> bool:
    return len(list_objects(place)) >= count


def list_objects(place: Path) -> list[str]:
    return FolderStorage(place).list_names("objects")
