from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from archwright.training import atomic_directory

from ..tools.checks import refuses

FILES = {"a.bin": b"a" * 1000, "b.json": b"{}"}


def test_what_was_written_is_whole_and_read_back(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_bytes(b"x")

    target = tmp_path / "parent" / "folder"
    atomic_directory.write_files(target, FILES)
    assert (atomic_directory.find_damage(target), atomic_directory.read_files(target)) == ("", FILES)
    assert [path.name for path in target.parent.iterdir()] == ["folder"]
    atomic_directory.write_directory(tmp_path / "t", fill)
    assert atomic_directory.find_damage(tmp_path / "t") == ""
    (tmp_path / "t" / "inner" / "file").write_bytes(b"y")
    assert atomic_directory.find_damage(tmp_path / "t") == "inner/file is damaged"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("a.bin", wrong) for wrong in (b"a" * 500 + b"b" + b"a" * 499, b"a" * 999, b"a" * 1001, None)),
        *((atomic_directory.MANIFEST, wrong) for wrong in (b'{\n "files": {\n  "a.bin": {', None)),
    ],
    ids=["flip", "cut", "grow", "remove", "half a manifest", "no manifest"],
)
def test_every_damage_is_found(tmp_path: Path, name: str, content: bytes | None) -> None:
    target = tmp_path / "t"
    atomic_directory.write_files(target, FILES)
    (target / name).unlink()
    if content is not None:
        (target / name).write_bytes(content)
    assert atomic_directory.find_damage(target) != ""
    with pytest.raises(ValueError, match=r"damaged|cannot be read"):
        atomic_directory.read_files(target)


def test_a_folder_already_there_is_replaced_and_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    atomic_directory.write_files(tmp_path / "t", {"c": b"c"})
    atomic_directory.write_files(tmp_path / "t", FILES)

    def full(folder: Path) -> None:
        (folder / "a.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with refuses("AW-OPS-01"):
        atomic_directory.write_directory(tmp_path / "t", full)
    assert atomic_directory.read_files(tmp_path / "t") == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_what_a_killed_writer_left_is_removed_or_restored_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / f"{atomic_directory.LEFTOVER_PREFIX}x"
    left.mkdir()
    (left / "half").write_bytes(b"")
    atomic_directory.write_files(tmp_path / "t", FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    os.rename(tmp_path / "t", tmp_path / f"{atomic_directory.OLD_PREFIX}t")  # for a folder that never came
    atomic_directory.write_files(tmp_path / "u", FILES)
    assert atomic_directory.read_files(tmp_path / "t") == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t", "u"]
