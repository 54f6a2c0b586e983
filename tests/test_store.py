"""The store on SQLite at each commit and on PostgreSQL nightly, with the same cases."""

from __future__ import annotations

import math
import multiprocessing
import os
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archwright.contract.record import Record, replace
from archwright.errors import StoreError
from archwright.store import ColumnRange, ConflictError, RecordTable, Store

from .command_line import error_of
from .test_home_modes import show_as_foreign


class Inner(Record):
    a: int
    b: tuple[str, ...] = ()


class Thing(Record):
    name: str
    at: float = 0.0
    count: int = 0
    yes: bool = False
    blob: bytes = b""
    kind: Literal["one", "two"] = "one"
    maybe: str | None = None
    maybe_number: float | None = None
    labels: dict[str, str] = {}
    pair: tuple[int, str] = (0, "")
    inner: Inner = Inner(a=1)
    inners: tuple[Inner, ...] = ()
    maybe_inner: Inner | None = None
    either: int | str = 0


THINGS = RecordTable("things", Thing, unique=("name",), index=("at",))
FREE = RecordTable("free", Thing, index=("at",))


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def read_modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


@pytest.mark.parametrize("form", ["sqlite:///{path}", "sqlite:///file:{path}?uri=true&mode=rwc"])
def test_the_files_of_a_database_are_private_wherever_they_are(
    form: str, tmp_path: Path, open_umask: None, capsys: pytest.CaptureFixture[str]
) -> None:
    files, url = dict.fromkeys(("a b.db", "a b.db-wal", "a b.db-shm"), 0o600), form.format(path=tmp_path / "a b.db")
    first = Store(url)
    first.append(FREE, [Thing(name="a")])
    assert read_modes(tmp_path) == files and capsys.readouterr().err == ""
    for path in tmp_path.iterdir():
        path.chmod(0o666)
    second = Store(url)
    assert [row.name for row in second.rows(FREE)] == ["a"]
    assert read_modes(tmp_path) == files
    assert "open to other users. The modes of 3 files" in capsys.readouterr().err
    for store in (first, second):
        store.close()


def test_a_database_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.db"
    path.touch(0o644)
    show_as_foreign(monkeypatch, path)
    error = error_of("AW-STO-24", Store, f"sqlite:///{path}")
    assert "12345 owns the database" in error.message and "chown" in error.hint


def test_a_database_without_a_file_or_folder_creates_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///none/x.db"):
        Store(url).close()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.nightly)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    address: str = request.getfixturevalue("postgres")
    yield address
    engine = sa.create_engine(address)
    with engine.begin() as connection:
        for name in sa.inspect(connection).get_table_names():
            connection.exec_driver_sql(f'DROP TABLE "{name}"')
    engine.dispose()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url)
    yield opened
    opened.close()


FULL = Thing(
    name="full",
    at=1_700_000_000.123456,
    count=-(2**63),
    yes=True,
    blob=b"\x00\xff",
    kind="two",
    maybe="x",
    maybe_number=0.1,
    labels={"a": "ü", "b": ""},
    pair=(7, "seven"),
    inner=Inner(a=2, b=("x", "y")),
    inners=(Inner(a=3), Inner(a=4, b=("z",))),
    maybe_inner=Inner(a=5),
    either="text",
)


def test_every_type_comes_back(store: Store) -> None:
    rows = [FULL, Thing(name="plain"), Thing(name="", maybe="", either=5), Thing(name="中\n\"';--")]
    store.append(FREE, rows)
    assert store.rows(FREE) == rows
    assert [type(value) for value in (store.rows(FREE)[0].yes, store.rows(FREE)[0].at)] == [bool, float]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
THING = st.builds(
    Thing,
    name=TEXTS,
    at=st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
    count=st.integers(-(2**63), 2**63 - 1),
    yes=st.booleans(),
    blob=st.binary(),
    maybe=st.none() | TEXTS,
    maybe_number=st.none() | st.floats(-1e300, 1e300, allow_subnormal=False),
    labels=st.dictionaries(TEXTS, TEXTS, max_size=3),
    maybe_inner=st.none() | st.builds(Inner, a=st.integers(-5, 5), b=st.tuples(TEXTS)),
    either=st.integers(-5, 5) | TEXTS,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(THING, min_size=1, max_size=4))
def test_any_record_comes_back(store: Store, rows: list[Thing]) -> None:
    before = store.newest_seq(FREE)[0]
    store.append(FREE, rows)
    assert [row for _, row in store.numbered_rows(FREE, before)] == rows


def test_order_filter_span_limit(store: Store) -> None:
    store.append(
        FREE, [Thing(name=f"n{number}", at=float(number), kind="two" if number % 2 else "one") for number in range(6)]
    )

    def names(rows: list[Thing]) -> str:
        return " ".join(row.name for row in rows)

    assert names(store.rows(FREE)) == "n0 n1 n2 n3 n4 n5"
    assert names(store.rows(FREE, newest_first=True, limit=2)) == "n5 n4"
    assert names(store.rows(FREE, {"kind": "two"})) == "n1 n3 n5"
    assert names(store.rows(FREE, {"kind": "two", "name": "n3"})) == "n3"
    assert names(store.rows(FREE, span=ColumnRange("at", 2.0, 4.0))) == "n2 n3 n4"
    assert names(store.rows(FREE, span=ColumnRange("at", until=1.0))) == "n0 n1"
    assert names(store.rows(FREE, {"kind": "two"}, ColumnRange("at", since=2.0), newest_first=True)) == "n5 n3"
    assert store.rows(FREE, {"name": "n9"}) == []


def test_a_reader_keeps_up_by_numbers(store: Store) -> None:
    store.append(FREE, [])
    assert store.newest_seq(FREE)[0] == 0 and store.numbered_rows(FREE) == []
    store.append(FREE, [Thing(name="a"), Thing(name="b")])
    (one, _), (two, second) = store.numbered_rows(FREE)
    assert (one < two, second.name) == (True, "b")
    store.append(FREE, [Thing(name="c"), Thing(name="d")])
    assert [row.name for _, row in store.numbered_rows(FREE, two)] == ["c", "d"]
    assert [row.name for _, row in store.numbered_rows(FREE, two, limit=1)] == ["c"]
    assert store.numbered_rows(FREE, store.newest_seq(FREE)[0]) == []


def test_columns_as_stored(store: Store) -> None:
    store.append(FREE, [Thing(name="a", at=1.0, labels={"k": "v"}), Thing(name="b", at=2.0)])
    assert [tuple(row) for row in store.columns(FREE, ("name", "labels"))] == [("a", '{"k":"v"}'), ("b", "{}")]
    assert [row[0] for row in store.columns(FREE, ("name",), {"name": "b"}, ColumnRange("at", 0.0, 9.0))] == ["b"]


def test_a_conflict_writes_nothing_of_its_transaction(store: Store) -> None:
    store.append(THINGS, [Thing(name="a")])
    error = error_of("AW-STO-02", store.append, THINGS, [Thing(name="b"), Thing(name="a")])
    assert isinstance(error, ConflictError) and "exists already" in error.message
    assert [row.name for row in store.rows(THINGS)] == ["a"]


def test_pruned_numbers_are_never_given_again(store: Store) -> None:
    store.append(FREE, [Thing(name=f"n{number}", at=float(number)) for number in range(4)])
    last = store.newest_seq(FREE)[0]
    assert store.prune(FREE, ColumnRange("at", until=1.0)) == 2
    assert [row.name for row in store.rows(FREE)] == ["n2", "n3"]
    assert store.prune(FREE, ColumnRange("at")) == 2
    assert store.newest_seq(FREE)[0] == 0
    store.append(FREE, [Thing(name="new")])
    assert store.newest_seq(FREE)[0] > last


@pytest.mark.parametrize(
    "thing",
    [
        Thing(name="x", at=math.nan),
        Thing(name="x", at=math.inf),
        Thing(name="x", maybe_number=-math.inf),
        Thing(name="\ud800"),
        Thing(name="x", labels={"a": "\ud800"}),
        Thing(name="x", count=2**63),
    ],
)
def test_what_cannot_be_stored_is_refused_and_not_changed(store: Store, thing: Thing) -> None:
    with pytest.raises(StoreError) as caught:
        store.append(FREE, [Thing(name="before"), thing])
    assert caught.value.code in ("AW-STO-07", "AW-STO-01")
    assert caught.value.hint and str(caught.value.where)
    assert store.rows(FREE) == []


class Grown(Thing):
    added: int = 7
    added_list: tuple[str, ...] = ()
    added_maybe: str | None = "given"


def test_a_record_may_gain_fields_with_defaults(store: Store, url: str) -> None:
    store.append(FREE, [FULL])
    table = RecordTable("free", Grown, index=("at",))
    newer = Store(url)
    (old,) = newer.rows(table)
    assert (old.name, old.added, old.added_list, old.added_maybe) == ("full", 7, (), None)
    newer.append(table, [Grown(name="new", added=8, added_list=("x",))])
    assert [row.added for row in newer.rows(table)] == [7, 8]
    newer.close()
    assert [row.name for row in store.rows(FREE)] == ["full", "new"], "an older process goes on"
    store.append(FREE, [Thing(name="from the older")])


def test_two_that_add_the_columns_at_once_are_both_content(url: str) -> None:
    first = Store(url)
    first.append(FREE, [FULL])
    first.close()
    table = RecordTable("free", Grown)
    opened = [Store(url) for _ in range(4)]
    gate = threading.Barrier(len(opened))

    def work(own: Store) -> int:
        gate.wait()
        return len(own.rows(table))

    with ThreadPoolExecutor(len(opened)) as pool:
        assert list(pool.map(work, opened)) == [1] * 4
    for own in opened:
        own.close()


def test_threads_share_a_store(store: Store) -> None:
    def work(name: str) -> None:
        for number in range(50):
            store.append(FREE, [Thing(name=f"{name}{number}")])
            store.newest_seq(FREE)[0]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    assert len(store.rows(FREE)) == 200


def _append_many(url: str, name: str, count: int) -> None:
    own = Store(url)
    for number in range(0, count, 10):
        own.append(FREE, [Thing(name=f"{name}-{each}") for each in range(number, number + 10)])
    own.close()


@pytest.mark.process
def test_processes_append_at_once_and_a_reader_misses_nothing(store: Store, url: str) -> None:
    """Each process also creates the table; the race does no harm."""
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=_append_many, args=(url, name, 500)) for name in "abcd"]
    for process in started:
        process.start()
    seen: list[str] = []
    seq = 0
    while any(process.is_alive() for process in started) or store.newest_seq(FREE)[0] > seq:
        page = store.numbered_rows(FREE, seq)
        seen += [row.name for _, row in page]
        seq = page[-1][0] if page else seq
        time.sleep(0.005)
    assert [process.exitcode for process in started] == [0] * 4
    assert len(seen) == len(set(seen)) == 2_000
    assert set(seen) == {row.name for row in store.rows(FREE)}
    for name in "abcd":
        assert [each for each in seen if each.startswith(name)] == [f"{name}-{number}" for number in range(500)]


def test_a_thousand_rows_go_in_with_few_statements(store: Store) -> None:
    rows = [replace(FULL, name=f"n{number}") for number in range(1_000)]
    store.append(FREE, [FULL])
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        store.append(FREE, rows)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert len(store.rows(FREE)) == 1_001
    assert 1 <= len(statements) <= 5, statements


def test_several_tables_in_one_transaction_all_or_none(store: Store) -> None:
    store.append_together([(THINGS, [Thing(name="a")]), (FREE, [Thing(name="b")]), (FREE, [])], synced=True)
    with pytest.raises(ConflictError):
        store.append_together([(FREE, [Thing(name="c")]), (THINGS, [Thing(name="a")])])
    assert [row.name for row in store.rows(FREE)] == ["b"]
    if store.url.startswith("sqlite"):
        with store._engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


class Count(Record):
    name: str
    shadow: bool
    number: int
    other: int


COUNTS = RecordTable("counts", Count)


def test_counts_are_merged_while_others_append_merge_and_read(store: Store, url: str) -> None:
    """The sums never decrease, count nothing twice, and end at the right value."""
    appended = 40

    def write() -> None:
        mine = Store(url)
        for number in range(appended):
            rows = [Count(name=name, shadow=False, number=1, other=number) for name in ("a", "b")]
            mine.append(COUNTS, rows)
        mine.close()

    def merge() -> None:
        mine = Store(url)
        for _ in range(25):
            mine.merge(COUNTS, ("name", "shadow"), ("number", "other"))
        mine.close()

    store.append(COUNTS, [Count(name="a", shadow=True, number=2**62, other=0)])
    before = 0
    with ThreadPoolExecutor(4) as pool:
        works = [pool.submit(work) for work in (write, write, merge, merge)]
        while not all(work.done() for work in works):
            with store.snapshot():
                found = {row[:2]: row[2:] for row in store.sums(COUNTS, ("name", "shadow"), ("number", "other"))}
                after = found.get(("b", False), (0, 0))[0]
                assert sum(row.number for row in store.rows(COUNTS, {"name": "b"})) == after >= before
            assert found["a", True] == (2**62, 0)
            before = after
    assert [work.exception() for work in works] == [None] * 4
    assert store.merge(COUNTS, ("name", "shadow"), ("number", "other")) == 3
    whole = sorted(store.sums(COUNTS, ("name", "shadow"), ("number", "other")))
    once = sum(range(appended))
    assert whole == [("a", False, 2 * appended, 2 * once), ("a", True, 2**62, 0), ("b", False, 2 * appended, 2 * once)]
    assert len(store.rows(COUNTS)) == 3


def test_numbered_rows_from_either_end_and_in_a_span(store: Store) -> None:
    store.append(FREE, [Thing(name=str(number), at=float(number)) for number in range(10)])
    spans = (ColumnRange("at", 2.0), ColumnRange("count", None, 0))
    assert [row.name for _, row in store.numbered_rows(FREE, 4, 2, spans)] == ["4", "5"]
    assert [row.name for _, row in store.numbered_rows(FREE, 0, 2, spans, newest_first=True)] == ["9", "8"]
    assert [seq for seq, _ in store.numbered_rows(FREE, 5, None, spans, newest_first=True)] == [4, 3]
