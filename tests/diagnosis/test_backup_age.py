"""The age of the newest backup and drill."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pyrage
import pytest

from archwright import api
from archwright.backup.repository import make_backup_id, read_backup_time
from archwright.contract.backup import CreatedBackup
from archwright.diagnosis.backup_age import BACKUP, DAY_S, DRILL, check_backups
from archwright.home import Home


@pytest.fixture
def place(home: Home, tmp_path: Path) -> Path:
    """A place with one backup of the home."""
    key = tmp_path / "backup.key"
    key.write_text(str(pyrage.x25519.Identity.generate()))
    key.chmod(0o600)
    made = api.backup(to=str(tmp_path / "place"), key=f"file:{key}")
    assert isinstance(made, CreatedBackup)
    return tmp_path / "place"


def states_of(home: Home, place: str, now: float) -> dict[str, str]:
    return {check.name: check.state for check in check_backups(home, place, now)}


def test_the_time_of_a_backup_is_in_its_id() -> None:
    now = time.time()
    assert read_backup_time(make_backup_id(now)) == int(now)


def test_a_backup_is_late_then_lost(home: Home, place: Path) -> None:
    now = time.time()
    assert states_of(home, str(place), now) == {BACKUP: "ok", DRILL: "warning"}
    assert states_of(home, str(place), now + 2 * DAY_S)[BACKUP] == "warning"
    assert states_of(home, str(place), now + 8 * DAY_S)[BACKUP] == "failure"


def test_the_place_of_the_last_backup_is_known_without_a_setting(home: Home, place: Path) -> None:
    (checked, _drill) = check_backups(home, "", time.time())
    assert checked.state == "ok" and str(place) in checked.detail
    shutil.rmtree(place)
    (checked,) = check_backups(home, "", time.time())
    assert checked.state == "failure", "the disk with the backups is away"


def test_a_home_without_backups_is_a_warning(home: Home) -> None:
    (checked,) = check_backups(home, "", time.time())
    assert checked.state == "warning" and "backup_to" in checked.hint


def test_the_newest_drill_counts(home: Home, place: Path) -> None:
    records = home.backups / "drills.jsonl"
    now = time.time()
    passed = f'{{"backup":"a","at":{now},"passed":true,"rpo_s":5,"rto_s":7}}\n'
    failed = f'{{"backup":"a","at":{now},"passed":false,"rpo_s":5,"error":"AW-OPS-82  damaged"}}\n'
    records.write_text(passed)
    assert states_of(home, str(place), now)[DRILL] == "ok"
    assert states_of(home, str(place), now + 40 * DAY_S)[DRILL] == "warning"
    records.write_text(passed + failed)
    (_, drill) = check_backups(home, str(place), now)
    assert drill.state == "failure" and "AW-OPS-82" in drill.detail
