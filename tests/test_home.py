"""The home: private folders, paths in one module, files that are complete or absent."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from archwright import __version__
from archwright import home as home_module
from archwright.home import SCHEMA_VERSION, SOCKET_PATH_LIMIT, Home, locate_home, write_atomic
from archwright.settings import Settings

from .command_line import error_of


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert not home.root.exists()
    assert home.store_url == f"sqlite:///{tmp_path}/home/archwright.db"
    assert home.root.is_dir()


def test_every_folder_on_the_way_is_private(tmp_path: Path) -> None:
    home = Home(tmp_path / "a" / "home")
    before = os.umask(0o022)
    try:
        deep = home.folder("secrets", "deeper")
    finally:
        os.umask(before)
    assert [mode(path) for path in (home.root, deep.parent, deep)] == [0o700] * 3
    assert mode(tmp_path / "a") == 0o755, "what is above the home is not ours"
    assert home.folder("secrets", "deeper") == deep


def test_the_users_home_is_expanded_and_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Home("~/x").root == tmp_path / "x"
    assert Home("y").root == tmp_path / "y"
    assert "home of an unknown user" in error_of("AW-SET-04", Home, "~nobody-of-this-name/x").message


def test_each_thing_has_a_place_of_its_own(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    places = [home.pepper, home.model("f" * 64), home.machine_facts, home.catalog_overlay, home.plan]
    places += [home.state, home.lock, home.config("gateway"), home.log("gateway")]
    assert len(set(places)) == len(places)
    assert all(home.root in place.parents for place in places)
    made = {path.name for path in home.root.iterdir()}
    assert made == {"schema.json", "secrets", "models", "run", "logs"}, "reading the measured layer makes no folder"


def test_a_socket_lives_in_the_home_when_its_path_is_short_enough() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        assert Home(folder).socket("engine") == Path(folder) / "run" / "engine.sock"


def test_a_socket_of_a_deep_home_is_short_private_and_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = tmp_path / "t"
    short.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    monkeypatch.setattr(home_module, "SOCKET_PATH_LIMIT", len(str(short)) + 60)
    one, two = Home(tmp_path / ("x" * 120)), Home(tmp_path / ("y" * 120))
    assert len(os.fsencode(one.socket("engine"))) < SOCKET_PATH_LIMIT + 60
    assert one.socket("engine").parent.parent == short
    assert mode(one.socket("engine").parent) == 0o700
    assert one.socket("engine") != two.socket("engine")
    assert one.socket("engine") == Home(one.root).socket("engine")


def test_a_twin_folder_that_belongs_to_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home = Home(tmp_path / ("x" * 120))
    home.socket("engine")
    owner = os.getuid()
    twin = home.socket("engine").parent
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    twin.rename(tmp_path / twin.name.replace(f"-{owner}-", f"-{owner + 1}-"))
    with pytest.raises(PermissionError, match="another user"):
        home.socket("engine")


def test_a_written_file_is_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two", mode=0o644)
    assert path.read_bytes() == b"two"
    assert mode(path) == 0o644
    assert os.listdir(path.parent) == ["file"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(path, b"one")
    assert os.read(reader, 10) == b"one" and path.is_fifo()
    os.close(reader)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def read_schema(home: Home) -> dict[str, object]:
    return dict(json.loads((home.root / "schema.json").read_text()))


def locate(home: Home) -> Home:
    return locate_home(Settings(home=str(home.root)))


def test_a_new_home_carries_its_schema_version_and_each_older_version_has_a_migration(tmp_path: Path) -> None:
    assert len(home_module.MIGRATIONS) == SCHEMA_VERSION
    home = Home(tmp_path / "home")
    assert locate(home).root == home.root
    assert not home.root.exists()
    home.folder("run")
    assert read_schema(home) == {"version": SCHEMA_VERSION, "written_by": __version__}


def test_a_home_without_a_version_is_migrated_and_keeps_its_files(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.json").write_text("{}")
    locate(Home(tmp_path))
    assert read_schema(Home(tmp_path))["version"] == SCHEMA_VERSION
    assert (tmp_path / "run" / "state.json").read_text() == "{}"


def test_migrations_run_in_order_from_the_version_of_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    steps = tuple(lambda home, number=number: ran.append(number) for number in range(3))
    monkeypatch.setattr(home_module, "MIGRATIONS", steps)
    monkeypatch.setattr(home_module, "SCHEMA_VERSION", 3)
    write_atomic(tmp_path / "schema.json", b'{"version": 1, "written_by": "0.1.0"}')
    locate(Home(tmp_path))
    locate(Home(tmp_path))
    assert ran == [1, 2]
    assert read_schema(Home(tmp_path))["version"] == 3


def test_a_migration_that_fails_is_repeated_by_the_next_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_disk(home: Home) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(home_module, "MIGRATIONS", (fill_disk,))
    assert "No space left on device" in error_of("AW-SET-06", locate, Home(tmp_path)).message
    assert not (tmp_path / "schema.json").exists()
    monkeypatch.undo()
    locate(Home(tmp_path))
    assert read_schema(Home(tmp_path))["version"] == SCHEMA_VERSION


def test_formats_do_not_change_while_a_platform_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, ran = Home(tmp_path), list[str]()
    first = (lambda home: ran.append(str(home.root)),)
    monkeypatch.setattr(home_module, "MIGRATIONS", (*first, *home_module.MIGRATIONS[1:]))
    with home.lock.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "archwright down" in error_of("AW-SET-06", locate, home).hint
    locate(home)
    assert ran == [str(tmp_path)]


def test_a_newer_home_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    newer = b'{"version": 99, "written_by": "9.0.0"}'
    write_atomic(tmp_path / "schema.json", newer)
    error = error_of("AW-SET-05", locate, Home(tmp_path))
    assert "newer archwright wrote this home" in error.message and "backup" in error.hint
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [newer]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": "x"}', b'{"version": -1}', b"\xff"])
def test_an_unreadable_version_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "schema.json").write_bytes(content)
    assert error_of("AW-SET-06", locate, Home(tmp_path)).where.file == str(tmp_path / "schema.json")


def test_a_home_that_may_only_be_read_is_readable_when_no_format_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path, _value: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(home_module, "write_json", refuse)
    assert locate(Home(tmp_path)).root == tmp_path
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(home_module, "MIGRATIONS", (lambda home: None,))
    assert "Permission denied" in error_of("AW-SET-06", locate, Home(tmp_path)).message


def test_threads_that_migrate_at_once_run_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def step(home: Home) -> None:
        time.sleep(0.05)
        ran.append(str(home.root))

    monkeypatch.setattr(home_module, "MIGRATIONS", (step,))
    monkeypatch.setattr(home_module, "SCHEMA_VERSION", 1)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: locate(Home(tmp_path)), range(4)))
    assert ran == [str(tmp_path)]
