"""The drill: it passes with a sound backup, and fails if one byte of it is another one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.lake.temporary_lake import Lake

from archwright.api import backup
from archwright.backup.drill import read_drills
from archwright.contract.backup import DrillRecord
from archwright.engines import model_store
from archwright.home import Home

from ..command_line import CommandLine, error_of

pytestmark = pytest.mark.enable_socket


def test_a_drill_answers_an_old_key_and_records_what_it_measured(
    home: Home, cli: CommandLine, lake: Lake, place: Path, processes: None
) -> None:
    lake.ingest_rows([{"n": 1}])
    made = cli.json("backup")
    passed = backup(drill=True)
    assert isinstance(passed, DrillRecord)
    assert passed.passed and passed.backup == made["id"]
    assert passed.rpo_s > 0 < passed.rto_s and passed.audit_records > 2 and passed.sampled == 1
    assert len(passed.manifest_sha256) == 64

    largest = max((place / "objects").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    error_of("AW-OPS-82", backup, drill=True)

    good, bad = read_drills(home)
    assert good == passed
    assert not bad.passed and bad.error.startswith("AW-OPS-82")
    assert not list(home.backups.glob("scratch-*"))


def test_a_drill_without_a_backup_fails(home: Home, place: Path) -> None:
    error_of("AW-OPS-83", backup, drill=True)
    assert [one.error[:9] for one in read_drills(home)] == ["AW-OPS-83"]


@pytest.mark.nightly
def test_a_stored_model_answers_in_a_drill(home: Home, model_home: Home, place: Path, processes: None) -> None:
    """The real small model: its file is in the backup, and llama.cpp reads it in the scratch home."""
    file = next(model_home.root.joinpath("models").glob("*.gguf"))
    stored = model_store.add_model(file, "small", "apache-2.0", home)
    backup()
    passed = backup(drill=True, model="small")
    assert isinstance(passed, DrillRecord)
    assert passed.passed and passed.engine == "small"
    assert passed.size_bytes > stored.size_bytes and passed.sampled >= 1
    error_of("AW-GET-02", backup, drill=True, model="another")
