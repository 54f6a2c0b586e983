"""The errors of a store that is full, read-only, foreign or absent; always in three lines."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.tools.checks import WAIT_S

from archwright.contract.record import Record
from archwright.errors import StoreError
from archwright.store import RecordTable, Store

from .command_line import error_of


class Row(Record):
    text: str


class Grown(Row):
    added: int = 7


ROW = Row(text="one")
ROWS = RecordTable("rows", Row)
OTHERS = RecordTable("others", Row)


def refusal(says: str, call: Callable[..., object], *args: object) -> StoreError:
    """Return the error of the call; it has three lines."""
    with pytest.raises(StoreError, match=says) as caught:
        call(*args)
    lines = caught.value.lines().splitlines()
    assert len(lines) == 3 and lines[0].startswith(caught.value.code), lines
    return caught.value


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    yield store
    store.close()


def test_a_full_database_is_reported_in_three_lines(opened: Store) -> None:
    def small(connection: object, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 20")  # type: ignore[attr-defined]

    def fill() -> None:
        for _ in range(1_000):
            opened.append(ROWS, [Row(text="x" * 1_000)])

    sa.event.listen(opened._engine, "connect", small)
    error = refusal("full", fill)
    assert (error.code, error.hint) == ("AW-STO-01", "free disk space")
    assert len(opened.rows(ROWS)) > 10, "what was committed stays and can be read"


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
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, url], capture_output=True, text=True, timeout=WAIT_S, check=True
    )
    *lines, kept = done.stdout.splitlines()
    assert len(lines) == 3 and lines[0].startswith("AW-STO-01  the database refused")
    assert int(kept) > 1


def test_a_read_only_file(opened: Store, tmp_path: Path) -> None:
    opened.append(ROWS, [ROW])
    opened.close()
    store = Store(f"sqlite:///file:{tmp_path / 'store.db'}?mode=ro&uri=true")
    assert store.rows(ROWS) == [ROW]
    refusal("readonly", store.append, ROWS, [ROW])
    refusal("readonly", store.rows, OTHERS)  # its table cannot be made
    refusal("readonly", Store(store.url).rows, RecordTable("rows", Grown))  # nor its columns
    store.close()


def test_a_file_that_is_no_database(opened: Store, tmp_path: Path) -> None:
    content = b"this is no database, it is a text of some length" * 50
    (tmp_path / "store.db").write_bytes(content)
    refusal("not a database", opened.newest_seq, ROWS)
    assert (tmp_path / "store.db").read_bytes() == content


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    refusal("unable to open", Store(f"sqlite:///{tmp_path}/no/such/store.db").rows, ROWS)


def test_a_table_that_another_program_made_otherwise(opened: Store) -> None:
    engine = sa.create_engine(opened.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE VIEW rows AS SELECT 1 AS seq")
    engine.dispose()
    refusal("refused", opened.rows, ROWS)


@pytest.mark.parametrize("url", ["", "no url", "nosuchdialect://x", "postgresql+psycopg://h:port/d"])
def test_what_is_no_database_url(url: str) -> None:
    assert "invalid database URL" in error_of("AW-STO-03", Store, url).message


def test_a_driver_that_is_not_installed_names_the_extra() -> None:
    error = error_of("AW-GET-01", Store, "postgresql+psycopg2://h/n")
    assert "psycopg2" in error.message and error.hint == "pip install 'archwright[postgres]'"


def test_a_password_is_never_shown() -> None:
    store = Store("postgresql+psycopg://ann:s3cret@/x?host=/nowhere/at/all")
    assert "s3cret" not in refusal("refused", store.rows, ROWS).lines()


@pytest.mark.enable_socket
def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = Store(f"postgresql+psycopg://ann@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=2")
        refusal("timeout", store.rows, ROWS)
    store.close()


def test_other_errors_pass_unchanged(opened: Store) -> None:
    with pytest.raises(KeyError):
        opened.rows(ROWS, {"colour": "red"})


def test_a_broken_url_never_shows_its_password() -> None:
    """A URL that was put together in the wrong order has the password where the port should be."""
    assert "s3cret" not in error_of("AW-STO-03", Store, "postgresql+psycopg://db:s3cret/x").lines()
