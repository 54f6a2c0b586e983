"""Databases of a home that are whole, damaged, or those of another home."""

from __future__ import annotations

import secrets
import sqlite3
from contextlib import closing

import pytest

from archwright import api
from archwright.contract.diagnosis import DoctorCheck
from archwright.diagnosis.check_results import run_check
from archwright.diagnosis.databases import AUDIT, PEPPER, SECOND_PLACE, STORE, HomeDatabases
from archwright.diagnosis.served_gateways import SettingsInForce
from archwright.home import Home

OF_THE_HOME = SettingsInForce()


def check_files(home: Home) -> DoctorCheck:
    return run_check(STORE, HomeDatabases(home, SettingsInForce()).check_files)


def check_pepper(home: Home, in_force: SettingsInForce = OF_THE_HOME) -> DoctorCheck:
    return run_check(PEPPER, HomeDatabases(home, in_force).check_pepper)


def check_log(home: Home, in_force: SettingsInForce = OF_THE_HOME) -> dict[str, DoctorCheck]:
    return {check.name: check for check in HomeDatabases(home, in_force).check_audit_log()}


def test_a_new_home_has_nothing_to_check_and_gets_nothing(home: Home) -> None:
    home.folder()
    before = sorted(home.root.rglob("*"))
    assert {check_files(home).state, check_pepper(home).state} == {"ok"}
    assert sorted(home.root.rglob("*")) == before


def test_a_damaged_page_is_a_failure(home: Home) -> None:
    for _ in range(40):
        api.key.create()
    path = home.root / "archwright.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert check_files(home).state == "ok"
    data = bytearray(path.read_bytes())
    assert len(data) > 3 * 4096
    data[4096:8192] = bytes(range(256)) * 16
    path.write_bytes(data)
    found = check_files(home)
    assert found.state == "failure" and "archwright restore --into DIR" in found.hint


def test_the_pepper_of_another_home_is_a_failure(home: Home) -> None:
    api.key.create()
    assert check_pepper(home).detail == "it verifies 1 row(s) of keys"
    pepper = home.pepper.read_bytes()
    home.pepper.write_bytes(secrets.token_bytes(32))
    found = check_pepper(home)
    assert found.state == "failure" and "AW-ACC-02" in found.detail and "archwright key reset" in found.hint
    home.pepper.write_bytes(pepper)
    assert check_pepper(home).state == "ok"
    home.pepper.unlink()
    assert "AW-ACC-02" in check_pepper(home).detail
    assert not home.pepper.exists(), "a check makes no pepper"


def test_a_key_that_another_program_wrote_is_a_failure(home: Home) -> None:
    api.key.create()
    with closing(sqlite3.connect(home.root / "archwright.db")) as database, database:
        database.execute("UPDATE keys SET role = 'owner'")
    found = check_pepper(home)
    assert found.state == "failure" and "AW-STO-20" in found.detail


@pytest.mark.process
def test_the_audit_log_and_its_second_place(home: Home) -> None:
    api.key.create()
    found = check_log(home)
    assert found[AUDIT].state == "ok" and "1 record(s)" in found[AUDIT].detail
    assert found[SECOND_PLACE].state == "warning" and "audit_checkpoints" in found[SECOND_PLACE].hint


@pytest.mark.process
def test_the_second_place_of_the_gateway_counts_not_that_of_the_caller(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service has its settings from its unit, which the shell of `doctor` does not know."""
    place = f"file:{home.root.parent / 'second.jsonl'}"
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_CHECKPOINTS", place.removeprefix("file:"))
    api.key.create()
    monkeypatch.delenv("ARCHWRIGHT_AUDIT_CHECKPOINTS")
    assert check_log(home)[SECOND_PLACE].state == "warning"
    found = check_log(home, SettingsInForce(audit_checkpoints=place.removeprefix("file:")))
    assert found[SECOND_PLACE].state == "ok", found


@pytest.mark.process
def test_a_cut_audit_log_is_a_failure(home: Home) -> None:
    for _ in range(2):
        api.key.create()
    with closing(sqlite3.connect(home.root / "archwright.db")) as database, database:
        (table,) = [name for (name,) in database.execute("SELECT name FROM sqlite_master") if name == "audit_blocks"]
        database.execute(f"DELETE FROM {table} WHERE seq = (SELECT max(seq) FROM {table})")
    found = check_log(home)
    assert list(found) == [AUDIT]
    assert found[AUDIT].state == "failure" and "AW-STO-" in found[AUDIT].detail


def test_a_database_that_only_the_gateway_knows_is_unknown(home: Home) -> None:
    api.key.create()
    in_force = SettingsInForce(problem="the variable DATABASE is not set")
    assert check_pepper(home, in_force).state == "unknown"
    assert run_check(STORE, HomeDatabases(home, in_force).check_files).state == "unknown"
    assert {check.state for check in check_log(home, in_force).values()} == {"unknown"}
    assert HomeDatabases(home, in_force).find_newest_record_time() is None
    assert HomeDatabases(home, SettingsInForce()).find_newest_record_time() is not None


def test_a_database_of_postgresql_answers(home: Home, postgres: str) -> None:
    home.folder()
    in_force = SettingsInForce(database_url=postgres)
    assert "PostgreSQL" in HomeDatabases(home, in_force).check_files().detail
    away = SettingsInForce(database_url="postgresql://127.0.0.1:9/none")
    assert run_check(STORE, HomeDatabases(home, away).check_files).state == "failure"
