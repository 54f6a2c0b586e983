"""Copies of weights on the machines' own disks: verified, a few machines at a time, in processes as in the pods."""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tools.checks import until

from archwright.engines.weight_cache import SLOT_FOLDER, copy_weights
from archwright.engines.weight_files import MARKER, check_weights, load_weights
from archwright.errors import MissingError
from archwright.journal import Journal
from archwright.settings import HubAccess

CONTENT = {"model/a.safetensors": b"a" * 3000, "model/b.safetensors": b"b" * 3000, "draft/c.safetensors": b"c"}
JOURNAL = Journal("weights")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A shared volume with the verified files of one revision, and their list beside it."""
    source = tmp_path / "volume" / "revision"
    entries = []
    for folder in ("model", "draft"):
        files = {name.partition("/")[2]: text for name, text in CONTENT.items() if name.startswith(folder)}
        (source / folder).mkdir(parents=True)
        for name, text in files.items():
            (source / folder / name).write_bytes(text)
        digests = {name: hashlib.sha256(text).hexdigest() for name, text in files.items()}
        entries.append({"folder": folder, "model": "m", "repository": "", "revision": "", "files": digests})
    (tmp_path / "weights.json").write_text(json.dumps(entries), encoding="utf-8")
    load_weights(read_list(tmp_path), source, HubAccess("http://127.0.0.1:9", token=""), JOURNAL)
    return source


def read_list(folder: Path) -> bytes:
    return (folder / "weights.json").read_bytes()


def start_copy(volume: Path, target: Path, slots: int) -> subprocess.Popen[str]:
    words = [str(volume.parents[1] / "weights.json"), str(volume), str(target), str(slots)]
    command = [sys.executable, "-P", "-m", "archwright.engines.weight_cache", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


@pytest.mark.process
def test_a_machine_waits_for_a_slot_and_then_has_verified_files(volume: Path, tmp_path: Path) -> None:
    slots, target = volume.parent / SLOT_FOLDER, tmp_path / "disk" / "revision"
    slots.mkdir()
    with (slots / "0").open("a") as first, (slots / "1").open("a") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        fcntl.flock(second, fcntl.LOCK_EX)
        with start_copy(volume, target, slots=2) as copy:
            assert copy.stderr is not None
            assert "waiting" in copy.stderr.readline()
            assert not target.exists()
            second.close()  # the other machine has read its weights, or is lost
            assert copy.wait() == 0
    check_weights(read_list(tmp_path), target)
    assert {name: (target / name).read_bytes() for name in CONTENT} == CONTENT
    assert (target / "model/a.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.process
def test_a_killed_copy_frees_its_slot_and_the_next_start_goes_on(volume: Path, tmp_path: Path) -> None:
    target = tmp_path / "disk" / "revision"
    (target / "model").mkdir(parents=True)
    (target / "model" / "b.safetensors.part").write_bytes(b"half")
    slots = volume.parent / SLOT_FOLDER
    slots.mkdir()
    holder = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holder, str(slots / "0")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as lost:
        assert lost.stdout is not None and lost.stdout.readline() == "\n"
        with start_copy(volume, target, slots=1) as copy:
            assert copy.stderr is not None and "waiting" in copy.stderr.readline()
            lost.kill()
            until(lambda: copy.poll() is not None)
    assert copy.returncode == 0
    check_weights(read_list(tmp_path), target)


def test_a_damaged_file_of_the_volume_never_reaches_an_engine(volume: Path, tmp_path: Path) -> None:
    (volume / "model" / "b.safetensors").write_bytes(b"x" * 3000)
    target = tmp_path / "disk"
    with pytest.raises(MissingError, match="the list says") as caught:
        copy_weights(read_list(tmp_path), volume, target, slots=1, journal=JOURNAL)
    assert caught.value.code == "AW-GET-04"
    assert not (target / MARKER).exists() and not (target / "model" / "b.safetensors").exists()


def test_files_that_nobody_verified_are_not_copied(volume: Path, tmp_path: Path) -> None:
    (volume / MARKER).unlink()
    with pytest.raises(MissingError, match="no verified files"):
        copy_weights(read_list(tmp_path), volume, tmp_path / "disk", slots=1, journal=JOURNAL)


def test_a_restarted_container_copies_nothing_again(volume: Path, tmp_path: Path) -> None:
    target = tmp_path / "disk"
    copy_weights(read_list(tmp_path), volume, target, slots=1, journal=JOURNAL)
    before = {name: (target / name).stat().st_ino for name in CONTENT}
    (volume.parent / SLOT_FOLDER / "0").unlink()
    copy_weights(read_list(tmp_path), volume, target, slots=1, journal=JOURNAL)
    assert {name: (target / name).stat().st_ino for name in CONTENT} == before
    assert not list((volume.parent / SLOT_FOLDER).iterdir())
