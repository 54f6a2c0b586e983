"""The space of a home by kind, and the commands that remove what may be removed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest
from tests.lake.temporary_lake import Lake

from archwright import api
from archwright.contract.diagnosis import HomeReport
from archwright.diagnosis.home_size import find_kind, read_kinds
from archwright.home import Home

from ..command_line import CommandLine

MEBIBYTE = 1 << 20


@pytest.fixture
def full_home(home: Home, tmp_path: Path) -> Iterator[Home]:
    """A home with keys, a data set, a model, a run with checkpoints, a batch, caches and the record of a backup."""
    lake = Lake(tmp_path)
    lake.ingest_rows([{"n": number, "text": "words " * 20} for number in range(200)])
    lake.store.close()
    api.key.create()
    key = tmp_path / "backup.key"
    key.write_text(str(pyrage.x25519.Identity.generate()))
    key.chmod(0o600)
    api.backup(to=str(tmp_path / "place"), key=f"file:{key}")
    checkpoints = home.folder("runs", "digits-1", "checkpoints", "step-8")
    result = home.folder("runs", "digits-1", "result")
    caches = [home.folder("lake", name) for name in ("embeddings", "work")] + [home.folder("models", "bases")]
    written = {
        home.model("ef" * 32): 4,
        checkpoints / "weights": 3,
        result / "weights": 1,
        **{folder / "part": 2 for folder in caches},
        home.folder("batches", "default") / "input.jsonl": 1,
    }
    for path, size in written.items():
        path.write_bytes(os.urandom(size * MEBIBYTE))
    yield home


def test_every_file_belongs_to_a_kind_and_the_sum_is_that_of_the_disk(full_home: Home) -> None:
    report = api.home(size=True)
    kinds = {part.content: part for part in report.parts}
    assert "files of other programs" not in kinds
    assert kinds["model files"].size_bytes >= 4 * MEBIBYTE and kinds["model files"].files == 1
    assert kinds["checkpoints of training runs"].files == 1
    assert kinds["rows of data sets"].files > 1
    assert [part.size_bytes for part in report.parts] == sorted(
        (part.size_bytes for part in report.parts), reverse=True
    )
    files = [path for path in full_home.root.rglob("*") if path.is_file()]
    assert report.size_bytes == sum(path.stat().st_blocks * 512 for path in files)
    assert sum(part.files for part in report.parts) == len(files)
    disk = shutil.disk_usage(full_home.root)
    assert 0 < report.free_bytes <= disk.total


def test_a_file_with_two_names_takes_its_space_once(full_home: Home) -> None:
    before = api.home(size=True).size_bytes
    model = full_home.model("ef" * 32)
    os.link(model, model.with_suffix(".again"))
    assert api.home(size=True).size_bytes == before


@pytest.mark.process
def test_the_home_is_whole_after_every_command_that_removes_files(full_home: Home, cli: CommandLine) -> None:
    removals = [part.removal for part in api.home(size=True).parts if part.removal.startswith("rm ")]
    assert len(removals) == 4
    for removal in removals:
        command = shlex.split(removal.replace("RUN", "digits-1"))
        subprocess.run(command, check=True)
    left = api.home(size=True)
    assert [part.removal for part in left.parts if part.removal.startswith("rm ")] == []
    assert (full_home.root / "runs/digits-1/result/weights").exists()
    cli.text("data check")
    cli.text("audit verify", 10)  # no second place
    assert cli.json("key list")
    assert api.data.list()


def test_a_command_of_archwright_exists_for_each_kind_that_it_removes() -> None:
    verbs = {kind.removal for kind in read_kinds() if kind.removal.startswith("archwright ")}
    assert verbs == {"archwright models remove NAME", "archwright data retain", "archwright batches delete ID"}
    assert callable(api.models.remove) and callable(api.data.retain) and callable(api.batches.delete)


def test_a_cache_is_not_the_data_beside_it() -> None:
    assert find_kind("models/bases/ab/model.bin").content != find_kind("models/ab.gguf").content
    assert find_kind("runs/a/checkpoints/1/w").removal and not find_kind("runs/a/result/w").removal
    assert find_kind("what/ever").content == "files of other programs"


def test_the_verb_shows_sizes_only_when_asked(full_home: Home, cli: CommandLine) -> None:
    short = api.home()
    assert isinstance(short, HomeReport)
    assert short.parts == () and short.size_bytes is None and short.schema_version == 4
    assert "cache of vectors" in cli.text("home --size")
    assert "cache of vectors" not in cli.text("home")
    removals = {part["removal"] for part in cli.json("home --size")["parts"]}
    assert f"rm -r {full_home.root}/lake/embeddings" in removals
