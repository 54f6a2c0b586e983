"""Backup, restoration and drill of a home whose database is of PostgreSQL, by a real server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest

from archwright.api import backup, restore
from archwright.backup import home_database
from archwright.backup.drill import read_drills
from archwright.backup.home_database import PostgresDatabase
from archwright.home import Home

from ..command_line import CommandLine, error_of

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def databases(postgres: str) -> Iterator[tuple[str, str]]:
    """The URLs of two empty databases."""
    folder = postgres.partition("?host=")[2]
    names = [f"home_{token_hex(4)}" for _ in range(2)]
    for name in names:
        subprocess.run(["createdb", "-h", folder, "-U", "test", name], check=True)
    first, second = (postgres.replace("/postgres?", f"/{name}?") for name in names)
    yield first, second
    for name in names:
        subprocess.run(["dropdb", "-h", folder, "-U", "test", "--force", name], check=True)


def test_a_database_of_postgresql_is_restored_to_an_empty_one(
    home: Home,
    cli: CommandLine,
    place: Path,
    databases: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", databases[0])
    cli.text("key create --tenant acme --name first")
    backup()
    other = tmp_path / "restored"
    error_of("AW-OPS-76", restore, into=str(tmp_path / "refused"))  # the tables are there
    monkeypatch.delenv("ARCHWRIGHT_DATABASE_URL")
    error_of("AW-USE-86", restore, into=str(other))
    monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", databases[1])
    restore(into=str(other))

    assert not list(other.glob("*.dump")) and not (other / "archwright.db").exists()
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(other))
    assert [row["name"] for row in cli.json("key list")] == ["first", "valid", "revoked"]
    assert cli.json("audit verify")["whole"]


@pytest.mark.nightly
def test_a_drill_makes_and_removes_a_scratch_database(
    home: Home, cli: CommandLine, place: Path, databases: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", databases[0])
    backup()
    backup(drill=True)
    assert [one.passed for one in read_drills(home)] == [True]
    folder = databases[0].partition("?host=")[2]
    listed = subprocess.run(["psql", "-h", folder, "-U", "test", "-lqtA", "postgres"], capture_output=True, check=True)
    assert b"backup_drill_" not in listed.stdout


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_database.subprocess, "run", raise_not_found)  # type: ignore[attr-defined]
    database = PostgresDatabase("postgresql+psycopg://me:hush%2Fhush@host:5433/name")
    error = error_of("AW-GET-15", database.copy_to, tmp_path / "dump")
    assert "pg_dump" in error.message and "hush" not in error.lines()
    assert error.where.file == "postgresql://me@host:5433/name"


def raise_not_found(*_arguments: object, **_options: object) -> None:
    raise FileNotFoundError
