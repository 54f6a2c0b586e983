"""A home that other users could read or replace is closed to them or refused."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from archwright import api
from archwright.contract.plan import Plan
from archwright.home import Home, locate_home
from archwright.plan.plan_file import write_plan
from archwright.settings import Settings, child_environment

from .command_line import error_of


def locate(root: Path) -> Home:
    return locate_home(Settings(home=str(root)))


def open_paths(root: Path) -> list[str]:
    """The paths of a home that have mode bits for group or others."""
    found = [root, *root.rglob("*")]
    return [str(path.relative_to(root)) for path in found if stat.S_IMODE(path.lstat().st_mode) & 0o077]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    home = Home(tmp_path / "parent" / "home")
    home.pepper.write_bytes(b"p" * 32)
    home.config("gateway").write_bytes(b"{}")
    home.log("gateway").write_bytes(b"")
    (home.root / "archwright.db").touch()
    return home.root


def test_a_loose_home_is_closed_to_other_users_with_one_note(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (root, *root.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    locate(root)
    assert open_paths(root) == []
    note, _hint = capsys.readouterr().err.split("\n      ")
    assert str(root) in note and "open to other users" in note
    locate(root)
    assert capsys.readouterr().err == ""


def test_links_in_a_loose_home_are_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch(0o644)
    outside.chmod(0o644)
    (root / "run" / "link").symlink_to(outside)
    root.chmod(0o755)
    locate(root)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


def test_a_home_of_another_user_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    error = error_of("AW-SET-07", locate, root)
    assert "another user" in error.message and "sudo -u" in error.hint and "chown" in error.hint


def test_secrets_elsewhere_are_refused(root: Path, tmp_path: Path) -> None:
    (root / "secrets").rename(tmp_path / "moved")
    (root / "secrets").symlink_to(tmp_path / "moved")
    error = error_of("AW-SET-07", locate, root)
    assert "link" in error.message and error.where.file == str(root / "secrets")


def test_a_parent_in_which_others_could_replace_the_home_is_refused(root: Path) -> None:
    root.parent.chmod(0o777)
    assert "chmod +t" in error_of("AW-SET-07", locate, root).hint
    root.parent.chmod(0o1777)
    assert locate(root).root == root


def show_as_foreign(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Show `path` as a path of another user: only root could change its owner."""
    real = Path.stat  # Path.lstat calls it too

    def show(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = real(self, follow_symlinks=follow_symlinks)
        return os.stat_result((*found[:4], 12345, *found[5:10])) if self == path else found

    monkeypatch.setattr(Path, "stat", show)


def test_a_mounted_home_may_have_an_open_or_foreign_parent(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can rename a mount point; a folder above its parent can be renamed with it."""
    monkeypatch.setattr(os.path, "ismount", lambda path: path == root)
    root.parent.chmod(0o777)
    show_as_foreign(monkeypatch, root.parent)
    assert locate(root).root == root
    root.parent.parent.chmod(0o777)
    assert error_of("AW-SET-07", locate, root).where.file == str(root.parent.parent)


def test_a_parent_of_another_user_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with the sticky bit: the owner of a folder can rename what is in it. A group that may write is trusted."""
    root.parent.chmod(0o775)
    assert locate(root).root == root
    root.parent.chmod(0o1777)
    show_as_foreign(monkeypatch, root.parent)
    monkeypatch.setattr(os, "getuid", lambda: 1)  # root trusts the owner of a folder that a container mounts
    error = error_of("AW-SET-07", locate, root)
    assert "12345 can replace" in error.message and "ARCHWRIGHT_HOME" in error.hint and "chmod" not in error.hint


def test_the_lost_and_found_of_a_file_system_is_accepted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "lost+found").mkdir()
    show_as_foreign(monkeypatch, root / "lost+found")
    assert locate(root).root == root


def test_a_file_system_that_ignores_modes_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.chmod(0o755)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    assert "ignores chmod" in error_of("AW-SET-07", locate, root).message


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_whatever_the_umask_all_files_are_private(home: Home, null_plan: Plan) -> None:
    """By the command line, by the platform with its engines, and by `serve`."""
    environment = child_environment({"ARCHWRIGHT_HOME": str(home.root)})
    plan_path = home.root.parent / "plan.json"
    write_plan(null_plan, plan_path)
    archwright, found = [sys.executable, "-P", "-m", "archwright"], list[str]()
    for words in (["key", "create"], ["up", str(plan_path), "--port", "0", "--detach"], ["ask", "Hello?"]):
        subprocess.run([*archwright, *words], env=environment, umask=0, check=True, capture_output=True)
        found += open_paths(home.root)
    api.down()
    upstream = ["--upstream", "m=http://127.0.0.1:9/v1"]
    with subprocess.Popen(
        [*archwright, "serve", *upstream, "--port", "0", "--json"], env=environment, umask=0, stdout=subprocess.PIPE
    ) as serving:
        assert serving.stdout is not None and serving.stdout.readline()
        found += open_paths(home.root)
        serving.terminate()
    assert found == []
