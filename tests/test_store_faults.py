"""The errors of a store that is full, read-only, foreign or absent; always in three lines."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from archwright.contract.record import Record
from archwright.errors import MissingError, StoreError
from archwright.store import RecordTable, Store


class Row(Record):
    text: str


class Grown(Row):
    added: int = 7


ROW = Row(text="one")
ROWS = RecordTable("rows", Row)
OTHERS = RecordTable("others", Row)


def three_lines(error: StoreError) -> None:
    lines = error.lines().splitlines()
    assert len(lines) == 3, lines
    assert lines[0].startswith(error.code)


def test_a_full_database_is_said_in_three_lines(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")

    def small(connection: object, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 20")  # type: ignore[attr-defined]

    sa.event.listen(store._engine, "connect", small)
    with pytest.raises(StoreError, match="full") as caught:
        for _ in range(1_000):
            store.append(ROWS, [Row(text="x" * 1_000)])
    assert (caught.value.code, caught.value.hint) == ("AW-STO-01", "free disk space")
    three_lines(caught.value)
    assert len(store.rows(ROWS)) > 10, "what was committed stays and can be read"
    store.close()


LIMITED = """
import resource, sys
from archwright.errors import StoreError
from archwright.store import Store, RecordTable
from archwright.contract.record import Record
class Row(Record):
    text: str
store = Store(sys.argv[1])
table = RecordTable("rows", Row)
store.append(table, [Row(text="first")])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    while True:
        store.append(table, [Row(text="x" * 10_000)])
except StoreError as error:
    print(error.lines())
print(len(store.rows(table)))
"""


@pytest.mark.process
def test_a_disk_that_takes_no_more_bytes(tmp_path: Path) -> None:
    """The kernel refuses to write: a limit on the size of files, like a quota."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    done = subprocess.run([sys.executable, "-c", LIMITED, url], capture_output=True, text=True, timeout=60, check=True)
    *lines, kept = done.stdout.splitlines()
    assert len(lines) == 3 and lines[0].startswith("AW-STO-01  the database refused")
    assert int(kept) > 1


def test_a_read_only_file(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    writable = Store(f"sqlite:///{file}")
    writable.append(ROWS, [ROW])
    writable.close()
    store = Store(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert store.rows(ROWS) == [ROW]
    with pytest.raises(StoreError, match="readonly") as caught:
        store.append(ROWS, [ROW])
    three_lines(caught.value)
    with pytest.raises(StoreError, match="readonly"):
        store.rows(OTHERS)  # its table cannot be made
    with pytest.raises(StoreError, match="readonly"):
        Store(store.url).rows(RecordTable("rows", Grown))  # nor its columns
    store.close()


@pytest.mark.parametrize("content", [b"this is no database, it is a text of some length" * 50])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "store.db"
    file.write_bytes(content)
    with pytest.raises(StoreError, match="not a database") as caught:
        Store(f"sqlite:///{file}").newest_seq(ROWS)
    three_lines(caught.value)
    assert file.read_bytes() == content


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unable to open") as caught:
        Store(f"sqlite:///{tmp_path}/no/such/store.db").rows(ROWS)
    three_lines(caught.value)


def test_a_table_that_another_program_made_otherwise(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    engine = sa.create_engine(store.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE VIEW rows AS SELECT 1 AS seq")
    engine.dispose()
    with pytest.raises(StoreError, match="refused"):
        store.rows(ROWS)
    store.close()


@pytest.mark.parametrize("url", ["", "no url", "nosuchdialect://x", "postgresql+psycopg://h:port/d"])
def test_what_is_no_database_url(url: str) -> None:
    with pytest.raises(StoreError, match="invalid database URL") as caught:
        Store(url)
    assert caught.value.code == "AW-STO-03"


def test_a_driver_that_is_not_installed_names_the_extra() -> None:
    with pytest.raises(MissingError, match="psycopg2") as caught:
        Store("postgresql+psycopg2://h/n")
    assert caught.value.hint == "pip install 'archwright[postgres]'"


def test_a_password_is_never_shown() -> None:
    store = Store("postgresql+psycopg://ann:s3cret@/x?host=/nowhere/at/all")
    with pytest.raises(StoreError) as caught:
        store.rows(ROWS)
    assert "s3cret" not in caught.value.lines()
    three_lines(caught.value)


@pytest.mark.enable_socket
def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = Store(f"postgresql+psycopg://ann@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=2")
        with pytest.raises(StoreError, match="timeout") as caught:
            store.rows(ROWS)
    three_lines(caught.value)
    store.close()


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    with pytest.raises(KeyError):
        store.rows(ROWS, {"colour": "red"})
    store.close()
