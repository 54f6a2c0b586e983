"""Tests of tables and queries of databases as sources of a data set."""

from __future__ import annotations

import datetime
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from archwright.errors import DataError
from archwright.lake.sources import sql_source
from archwright.lake.sources.sql_source import parse_sql_source

from ..temporary_lake import Lake, code

TABLE = """
create table orders (id integer primary key, part text, price decimal(8,2), at datetime, day date, paid boolean,
  pic blob, mixed, gone text)
"""
ROWS = [
    (2, "nut", 2.5, "2026-01-02 03:04:05.000006", "2026-01-02", 1, b"\0\1", 7, None),
    (1, "bolt", 3, None, None, 0, None, "seven", None),
]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop 100%.db"
    execute(path, TABLE)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("insert into orders values (?,?,?,?,?,?,?,?,?)", ROWS)
    return path


def execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_columns_have_the_kinds_of_the_table(lake: Lake, database: Path) -> None:
    version = lake.ingest(path=f"sqlite:///{database}?table=orders").version
    kinds = {
        name: kind for name, kind in version.columns.items() if name not in ("record_id", "source_file", "source_row")
    }
    assert kinds == {
        **{"id": "integer", "part": "text", "price": "text", "at": "timestamp", "day": "date", "paid": "boolean"},
        **{"pic": "bytes", "mixed": "text", "gone": "text"},
    }
    rows = lake.rows(version)
    assert [row["id"] for row in rows] == [1, 2]  # by primary key
    assert rows[1]["at"] == datetime.datetime(2026, 1, 2, 3, 4, 5, 6)
    assert (rows[1]["price"], rows[1]["pic"], rows[1]["mixed"], rows[0]["mixed"]) == ("2.50", b"\0\1", "7", "seven")
    assert lake.values(version, "source_file")[0] == f"sqlite:///{database}?table=orders"


def test_a_second_ingest_replaces_the_rows_if_they_changed(lake: Lake, database: Path) -> None:
    address = f"sqlite:///{database}?table=orders"
    lake.ingest(path=address)
    assert not lake.ingest(path=address).new
    execute(database, "update orders set part = 'screw' where id = 2")
    again = lake.ingest(path=address)
    assert again.new and lake.values(again.version, "part") == ["bolt", "screw"]
    assert len(again.replaced) == 1


def test_dates_that_are_none_are_read_as_text(lake: Lake, database: Path) -> None:
    execute(database, "update orders set at = 'yesterday' where id = 1")
    version = lake.ingest(path=f"sqlite:///{database}?table=orders").version
    assert lake.values(version, "at") == ["yesterday", "2026-01-02 03:04:05.000006"]


def test_the_database_is_only_read(lake: Lake, database: Path) -> None:
    for statement in ("delete from orders", "drop table orders", "select 1; delete from orders", "nonsense"):
        with pytest.raises(DataError) as refused:
            lake.ingest(path=f"sqlite:///{database}", query=statement)
        assert code(refused.value) == "AW-DATA-37"
    version = lake.ingest(path=f"sqlite:///{database}", query="select count(*) as n from orders").version
    assert lake.values(version, "n") == [2]
    with pytest.raises(DataError) as refused:
        lake.ingest(path=f"sqlite:///{database}.gone?table=orders")
    assert code(refused.value) == "AW-DATA-37"
    assert not Path(f"{database}.gone").exists()


def test_an_unknown_table_names_the_tables(lake: Lake, database: Path) -> None:
    with pytest.raises(DataError) as refused:
        lake.ingest(path=f"sqlite:///{database}?table=order")
    assert (code(refused.value), refused.value.nearest) == ("AW-DATA-41", ("orders",))


@pytest.mark.parametrize(
    ("address", "table", "query", "expected"),
    [
        ("sqlite:///a.db", "", "", "AW-DATA-36"),
        ("sqlite:///a.db?table=t", "", "select 1", "AW-DATA-36"),
        ("postgresql://h:port/d?table=t", "", "", "AW-DATA-35"),
        ("postgresql://u:env:NO_SUCH_VARIABLE@h/d?table=t", "", "", "AW-DATA-38"),
    ],
)
def test_a_wrong_address_is_refused(address: str, table: str, query: str, expected: str) -> None:
    with pytest.raises(DataError) as refused:
        parse_sql_source(address, table, query)
    assert code(refused.value) == expected


def test_the_name_of_a_source_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "hush-hush")
    for password in ("hush-hush", "env:SHOP_PASSWORD"):
        source = parse_sql_source(f"postgresql://me:{password}@db/shop?sslpassword=hush-hush", query="select  1")
        assert source.name == "postgresql://db/shop?query=select 1"
        assert source.url.password == "hush-hush"


@pytest.mark.enable_socket
def test_an_error_of_the_server_shows_no_secret(lake: Lake) -> None:
    with pytest.raises(DataError) as refused:
        lake.ingest(path="postgresql://me:hush-hush@127.0.0.1:1/shop?table=t")
    assert code(refused.value) == "AW-DATA-37"
    assert "hush" not in refused.value.lines()
    assert refused.value.__cause__ is None


def test_a_secret_in_a_message_of_the_driver_is_masked(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise sa.exc.OperationalError("", None, Exception("cannot use the password hush-hush"))

    monkeypatch.setattr(sa, "create_engine", fail)
    with pytest.raises(DataError) as refused:
        lake.ingest(path="postgresql://me:hush-hush@db/shop?table=t")
    assert refused.value.message == "the database refused: cannot use the password ***"


def test_both_passes_see_one_snapshot(lake: Lake, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(database, "pragma journal_mode = wal")
    find_kinds = sql_source._find_kinds

    def find_and_insert(result: sa.CursorResult[Any]) -> list[tuple[str, str]]:
        found = find_kinds(result)
        execute(database, "insert into orders (id, part) values (3, 'late')")
        return found

    monkeypatch.setattr(sql_source, "_find_kinds", find_and_insert)
    assert lake.ingest(path=f"sqlite:///{database}?table=orders").version.rows == 2


@pytest.mark.nightly
def test_postgresql_is_read_by_a_cursor_in_one_snapshot(lake: Lake, postgres: str) -> None:
    engine = sa.create_engine(postgres)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "create table parts "
            "(id bigint primary key, at timestamptz, price numeric, tags jsonb, ok boolean, raw bytea)"
        )
        connection.exec_driver_sql(
            "insert into parts select n, '2026-01-02 03:04:05+02', n / 4.0, '{\"a\": [1]}', true, '\\x00ff' "
            "from generate_series(1, 20000) n"
        )
    engine.dispose()
    address = postgres.replace("+psycopg", "")
    version = lake.ingest(path=address, table="parts").version
    assert version.rows == 20_000
    first = lake.rows(version)[0]
    assert first["at"] == datetime.datetime(2026, 1, 2, 1, 4, 5, tzinfo=datetime.UTC)
    assert (first["price"], first["tags"], first["raw"]) == ("0.25000000000000000000", '{"a":[1]}', b"\0\xff")
    assert not lake.ingest(path=address, table="parts").new
    with pytest.raises(DataError) as refused:
        lake.ingest(path=address, query="delete from parts returning id")
    assert code(refused.value) == "AW-DATA-37"
