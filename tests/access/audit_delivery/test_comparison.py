"""What a comparison with a second place says about each kind of difference."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.access.audit_delivery import comparison as comparison_module
from archwright.access.audit_delivery.comparison import PlaceComparison, compare_with_place
from archwright.access.record_chain import ChainState, encode_record_lines, read_chained_blocks
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.wal.segment_owner import read_store_name
from archwright.store import Store

from .log_with_places import fill_store

COUNT = 20
RECORDS = [b'{"at":%d.0,"action":"act.%d","effect":"allow"}' % (10**9 + n, n) for n in range(1, COUNT + 1)]
NEW = b'{"at":5.0,"action":"other","effect":"deny"}'


def split_blocks(records: list[bytes], size: int = 3) -> list[list[bytes]]:
    return [records[start : start + size] for start in range(0, len(records), size)]


def make_lines(folder: Path, records: list[bytes], name: str = "") -> list[bytes]:
    """The lines of a place that got these records from a store of this name."""
    with closing(Store(f"sqlite:///{folder / 'place.db'}")) as store:
        fill_store(store, split_blocks(records))
        blocks = read_chained_blocks(store, ChainState())
        return [line for block in blocks for line in encode_record_lines(name, block)]


class Case:
    """A log, and a place that got RECORDS when the log had them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(Home(folder / "home").store_url)
        self.log = list(RECORDS)
        self.lines: list[bytes] = []

    def compare(self) -> PlaceComparison:
        fill_store(self.store, split_blocks(self.log))
        name = read_store_name(self.store)
        self.lines = make_lines(self.folder, RECORDS, name)
        return self.compare_again()

    def compare_again(self) -> PlaceComparison:
        return compare_with_place(self.store, lambda: self.lines, ChainState())


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def remove(log: list[bytes]) -> None:
    del log[6:9]


def cut_tail(log: list[bytes]) -> None:
    del log[15:]


def cut_and_continue(log: list[bytes]) -> None:
    log[15:] = [NEW, NEW.replace(b"other", b"third")]


def change(log: list[bytes]) -> None:
    log[4] = NEW


def insert(log: list[bytes]) -> None:
    log.insert(4, NEW)


def swap(log: list[bytes]) -> None:
    log[4], log[5] = log[5], log[4]


def remove_and_change(log: list[bytes]) -> None:
    log[18] = NEW
    del log[2]


def empty(log: list[bytes]) -> None:
    log.clear()


DIFFERENCES: dict[Callable[[list[bytes]], None], tuple[int, str]] = {
    remove: (6, "records 7 to 9 (from 2001-09-09T01:46:47Z act.7) are missing in the log"),
    cut_tail: (15, "records 16 to 20 (from 2001-09-09T01:46:56Z act.16) are missing in the log"),
    cut_and_continue: (
        15,
        "records 16 to 17 (from 2001-09-09T01:46:56Z act.16) were changed in the log; "
        "records 18 to 20 (from 2001-09-09T01:46:58Z act.18) are missing in the log",
    ),
    change: (4, "record 5 (from 2001-09-09T01:46:45Z act.5) was changed in the log"),
    insert: (4, "record 5 (from 1970-01-01T00:00:05Z other) is in the log only"),
    swap: (4, "records 5 to 6 (from 2001-09-09T01:46:45Z act.5) have other positions in the log"),
    empty: (0, "records 1 to 20 (from 2001-09-09T01:46:41Z act.1) are missing in the log"),
}


@pytest.mark.parametrize("attack", DIFFERENCES)
def test_a_difference_is_named_exactly(case: Case, attack: Callable[[list[bytes]], None]) -> None:
    attack(case.log)
    found = case.compare()
    assert (found.agreed, found.describe()) == DIFFERENCES[attack]
    with pytest.raises(StoreError) as error:
        found.check("file:/place")
    assert (error.value.code, error.value.where.file) == ("AW-STO-29", "file:/place")


def test_two_differences_are_both_named(case: Case) -> None:
    remove_and_change(case.log)
    texts = case.compare().describe()
    assert "record 3 " in texts and "record 19 " in texts


def test_an_equal_log_agrees_up_to_the_last_record_of_the_place(case: Case) -> None:
    case.log.append(NEW)
    found = case.compare()
    assert (found.agreed, found.differences, found.describe()) == (COUNT, (), "")
    found.check("file:/place")


def test_a_place_may_have_gaps_parts_of_lines_and_repeated_batches(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotation removed the first lines, a killed process left a part of a line, and a restart repeated batches."""
    monkeypatch.setattr(comparison_module, "RECENT_BLOCKS", 2)
    case.compare()
    whole = list(case.lines)
    case.lines = [*whole[5:9], whole[9][:50], *whole[3:15], b"another line", *whole[7:], *whole[:6]]
    assert case.compare_again() == PlaceComparison(agreed=COUNT)


def test_a_record_that_was_altered_in_the_place_is_told_apart(case: Case) -> None:
    case.compare()
    case.lines[6] = case.lines[6].replace(b"act.7", b"ACT.7")
    found = case.compare_again()
    assert found.describe() == "record 7 (from 2001-09-09T01:46:47Z ACT.7) was altered in the place"
    with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-30"):
        found.check("file:/place")


def test_an_altered_digest_is_found_where_no_record_before_it_is_in_the_place(case: Case) -> None:
    case.compare()
    line = case.lines[6]
    digest = line.split(b'"digest":"')[1][:64]
    case.lines = [line.replace(digest, b"0" * 64)]
    found = case.compare_again()
    assert [(one.kind, one.first, one.last) for one in found.differences] == [("altered", 7, 7)]


def test_a_log_that_was_rolled_back_and_went_on_has_two_versions_in_the_place(case: Case, tmp_path: Path) -> None:
    case.log[10:] = [NEW]
    case.compare()
    (tmp_path / "second").mkdir()
    case.lines += make_lines(tmp_path / "second", case.log, read_store_name(case.store))
    found = case.compare_again()
    kinds = {one.kind: (one.first, one.last) for one in found.differences}
    assert kinds["rewritten"] == (11, 11) and kinds["missing"] == (12, 20)


def test_records_of_other_stores_are_left_out(case: Case) -> None:
    case.compare()
    foreign = [line.replace(read_store_name(case.store).encode(), b"another") for line in case.lines]
    case.lines = foreign
    assert case.compare_again() == PlaceComparison(agreed=0)


def test_many_differences_are_counted(case: Case) -> None:
    for index in range(0, COUNT, 2):
        case.log[index] = NEW.replace(b"other", b"new.%d" % index)
    assert case.compare().describe().endswith("; and 5 more")


@given(removed=st.sets(st.integers(0, COUNT - 1)), changed=st.sets(st.integers(0, COUNT - 1)))
def test_every_removed_record_is_named(
    tmp_path_factory: pytest.TempPathFactory, removed: set[int], changed: set[int]
) -> None:
    case = Case(tmp_path_factory.mktemp("case"))
    with closing(case.store):
        log = [NEW.replace(b"other", b"new.%d" % n) if n in changed else RECORDS[n] for n in range(COUNT)]
        case.log = [record for n, record in enumerate(log) if n not in removed]
        found = case.compare()
        named: set[int] = set()
        for one in found.differences:
            if one.kind in ("missing", "changed"):
                named |= set(range(one.first, one.last + 1))
        assert named == {n + 1 for n in removed | changed}
        assert found.agreed == min(named, default=COUNT + 1) - 1
