"""Rows with equal values go, and the first by source file and row stays."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from archwright.errors import DataError
from archwright.lake.steps.exact_duplicates import DropDuplicates, DuplicatesWorker

from .surveyed_runner import find_duplicates, make_part

TEXT_ONLY = ("text",)


def test_the_first_by_file_and_row_stays_whatever_the_parts_are() -> None:
    parts = [make_part("z", ["a", "b", "a", None]), make_part("k", ["b", "c", None, ""])]
    drops = find_duplicates(DropDuplicates(columns=TEXT_ONLY), parts)
    assert {row: (drop.kept, drop.reason) for row, drop in drops.items()} == {
        "z:1": ("k:0", "the same text as another row"),
        "z:2": ("z:0", "the same text as another row"),
        "z:3": ("k:2", "the same text as another row"),
    }
    split = [part.slice(at, 1) for part in parts for at in range(4)]
    random.Random(1).shuffle(split)
    assert find_duplicates(DropDuplicates(), split) == {
        row: drop._replace(reason="the same content as another row") for row, drop in drops.items()
    }
    assert find_duplicates(DropDuplicates(), [pa.concat_tables(split)], 3).keys() == drops.keys()


@pytest.mark.parametrize(
    ("case", "space", "found"),
    [(False, False, set()), (True, False, {"a:1"}), (False, True, {"a:2"}), (True, True, {"a:1", "a:2", "a:3"})],
)
def test_case_and_white_space_may_be_ignored(case: bool, space: bool, found: set[str]) -> None:
    """The named fault: duplicates by case and white space were not found."""
    texts = [
        "Straße und ﬁnden",
        "STRASSE UND FINDEN",
        " Straße\n\tund\u00a0 finden ",
        "strasse  und finden",
        "strasseundfinden",
    ]
    drops = find_duplicates(DropDuplicates(ignore_case=case, ignore_space=space), [make_part("a", texts)])
    assert set(drops) == found
    reasons = {drop.reason.removeprefix("the same content as another row") for drop in drops.values()}
    names = [name for name, on in (("case", case), ("white space", space)) if on]
    assert reasons == ({f" but for {' and '.join(names)}"} if found else set())


def test_values_of_every_kind_are_compared() -> None:
    columns = {
        "text": pa.array(["1", "1", None, "x", "x:1", "1"], pa.large_string()),
        "number": pa.array([1.5, 1.5, None, float("nan"), 0.0, 1.25]),
        "integer": pa.array([1, 1, None, 2**60, 3, 1]),
        "flag": pa.array([True, True, None, False, True, True]),
        "time": pa.array([0, 0, None, 1, 2, 0], pa.timestamp("us", "UTC")),
        "date": pa.array([0, 0, None, 1, 2, 0], pa.date32()),
        "bytes": pa.array([b"\xff", b"\xff", None, b"", b"x", b"\xff"], pa.large_binary()),
        "parent": pa.array([b"p" * 16, b"p" * 16, None, b"q" * 16, b"r" * 16, b"p" * 16], pa.binary(16)),
        "vector": pa.array([[1.0, 2.0], [1.0, 2.0], None, [], [3.0], [1.0, 2.0]], pa.list_(pa.float32())),
    }
    part = make_part("a", columns["text"].to_pylist())
    for name, values in columns.items():
        part = part.append_column(name, values) if name != "text" else part
    worker = DuplicatesWorker(DropDuplicates(columns=tuple(columns)), "")
    [survey] = worker.survey_rows(0, iter(part.to_batches()), None).column("key").chunks
    keys = survey.to_pylist()
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5


def test_a_separator_in_a_value_does_not_join_columns() -> None:
    part = make_part("a", ["b:1:c", "b"]).append_column("more", pa.array(["d", "c:1:d"], pa.large_string()))
    worker = DuplicatesWorker(DropDuplicates(columns=("text", "more")), "")
    keys = worker.survey_rows(0, iter(part.to_batches()), None).column("key").to_pylist()
    assert keys[0] != keys[1]


def test_no_rows_and_many_equal_rows() -> None:
    assert find_duplicates(DropDuplicates(), [make_part("a", [])]) == {}
    assert len(find_duplicates(DropDuplicates(), [make_part("a", ["x"] * 10_000), make_part("b", [])])) == 9_999


def test_the_columns_must_exist() -> None:
    with pytest.raises(DataError, match="no column 'txt'"):
        DropDuplicates(columns=("txt",)).output_columns({"text": "text"})
