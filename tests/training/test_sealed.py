from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from archwright.errors import OperateError
from archwright.training import sealed

FILES = {"a.bin": b"a" * 1000, "b.json": b"{}"}


def test_what_was_written_is_whole_and_read_back(tmp_path: Path) -> None:
    target = tmp_path / "parent" / "folder"
    sealed.write_files(target, FILES)
    assert sealed.flaw(target) == ""
    assert sealed.read_files(target) == FILES
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


def test_folders_inside_are_sealed_too(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_bytes(b"x")

    sealed.write(tmp_path / "t", fill)
    assert sealed.flaw(tmp_path / "t") == ""
    (tmp_path / "t" / "inner" / "file").write_bytes(b"y")
    assert sealed.flaw(tmp_path / "t") == "inner/file is damaged"


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove", "no manifest", "half a manifest"])
def test_every_damage_is_found(tmp_path: Path, damage: str) -> None:
    target = tmp_path / "t"
    sealed.write_files(target, FILES)
    file, manifest = target / "a.bin", target / sealed.MANIFEST
    if damage == "flip":
        file.write_bytes(b"a" * 500 + b"b" + b"a" * 499)
    elif damage == "cut":
        file.write_bytes(b"a" * 999)
    elif damage == "grow":
        file.write_bytes(b"a" * 1001)
    elif damage == "remove":
        file.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_bytes(manifest.read_bytes()[:40])
    assert sealed.flaw(target) != ""
    with pytest.raises(ValueError, match=r"damaged|cannot be read"):
        sealed.read_files(target)


def test_a_folder_already_there_is_replaced(tmp_path: Path) -> None:
    sealed.write_files(tmp_path / "t", FILES)
    sealed.write_files(tmp_path / "t", {"c": b"c"})
    assert sealed.read_files(tmp_path / "t") == {"c": b"c"}
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    sealed.write_files(tmp_path / "t", FILES)

    def full(folder: Path) -> None:
        (folder / "a.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OperateError) as caught:
        sealed.write(tmp_path / "t", full)
    assert caught.value.code == "AW-OPS-01"
    assert sealed.read_files(tmp_path / "t") == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_what_a_killed_writer_left_is_swept_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / f"{sealed.LEFTOVER}x"
    left.mkdir()
    (left / "half").write_bytes(b"")
    sealed.write_files(tmp_path / "t", FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_folder_moved_aside_for_one_that_never_came_goes_back(tmp_path: Path) -> None:
    sealed.write_files(tmp_path / "t", FILES)
    os.rename(tmp_path / "t", tmp_path / f"{sealed.OLD}t")
    sealed.write_files(tmp_path / "u", FILES)
    assert sealed.read_files(tmp_path / "t") == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t", "u"]
