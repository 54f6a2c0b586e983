"""The digest over values: the same for every batching, another one for every change."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.lake.tables.value_digest import ValueDigest, combine_digests

TYPES: dict[str, Any] = {
    "flag": pa.bool_(),
    "count": pa.int64(),
    "ratio": pa.float64(),
    "at": pa.timestamp("us", "UTC"),
    "day": pa.date32(),
    "raw": pa.large_binary(),
    "text": pa.large_string(),
    "vector": pa.list_(pa.float32()),
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "flag": st.booleans(),
    "count": st.integers(-(2**63), 2**63 - 1),
    "ratio": st.floats(allow_nan=False),
    "at": st.integers(0, 2**50),
    "day": st.integers(0, 30000),
    "raw": st.binary(max_size=6),
    "text": st.text(max_size=6),
    "vector": st.lists(st.floats(width=32, allow_nan=False), max_size=3),
}
ROWS = st.lists(st.fixed_dictionaries({name: st.none() | found for name, found in VALUES.items()}), min_size=1)
SCHEMA = pa.schema(list(TYPES.items()))


def batch_of(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def digest(*batches: Any) -> str:
    made = ValueDigest()
    for batch in batches:
        made.add(batch)
    return made.hexdigest()


def cut(batch: Any, places: list[int]) -> list[Any]:
    """The batch in slices, so offsets are not 0; some slices are empty."""
    ends = [0, *sorted(place % (batch.num_rows + 1) for place in places), batch.num_rows]
    return [batch.slice(start, end - start) for start, end in itertools.pairwise(ends)]


@settings(max_examples=60, deadline=None)
@given(ROWS, st.lists(st.integers(0, 1000), max_size=4))
def test_the_batching_does_not_count(rows: list[dict[str, Any]], places: list[int]) -> None:
    whole = batch_of(rows)
    pieces = [batch_of(piece.to_pylist()) for piece in cut(whole, places)]
    assert digest(whole) == digest(*cut(whole, places)) == digest(*pieces)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.data())
def test_any_changed_value_counts(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    name = data.draw(st.sampled_from(sorted(TYPES)))
    value = data.draw((st.none() | VALUES[name]).filter(lambda value: repr(value) != repr(rows[place][name])))
    changed = [*rows[:place], {**rows[place], name: value}, *rows[place + 1 :]]
    assert digest(batch_of(changed)) != digest(batch_of(rows))


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_the_order_and_the_number_of_rows_count(rows: list[dict[str, Any]]) -> None:
    assert digest(batch_of([*rows, rows[-1]])) != digest(batch_of(rows))
    if repr(rows) != repr(rows[::-1]):
        assert digest(batch_of(rows[::-1])) != digest(batch_of(rows))


def test_a_border_between_texts_counts_and_a_null_is_no_empty_text() -> None:
    columns = [["ab", "c"], ["a", "bc"], ["abc", ""], ["abc", None], [None, "abc"], ["", "abc"]]
    made = {digest(pa.record_batch({"t": pa.array(column, pa.large_string())})) for column in columns}
    assert len(made) == len(columns)


def test_the_value_below_a_null_does_not_count() -> None:
    valid = pa.py_buffer(b"\x01")
    made = [pa.Array.from_buffers(pa.int64(), 2, [valid, pa.array([7, hidden]).buffers()[1]]) for hidden in (0, 9)]
    assert made[0].to_pylist() == made[1].to_pylist() == [7, None]
    assert digest(pa.record_batch({"n": made[0]})) == digest(pa.record_batch({"n": made[1]}))


def test_all_nan_are_one_value_and_the_zeros_are_two() -> None:
    odd = pa.Array.from_buffers(pa.float64(), 1, [None, pa.py_buffer(b"\x01\0\0\0\0\0\xf8\xff")])
    assert math.isnan(odd[0].as_py())
    one, zero, below, none = (pa.array([value], pa.float64()) for value in (math.nan, 0.0, -0.0, None))
    made = [digest(pa.record_batch({"n": array})) for array in (odd, one, zero, below, none)]
    assert made[0] == made[1]
    assert len(set(made)) == 4


def test_a_new_column_without_values_and_the_places_of_rows_do_not_count() -> None:
    rows = pa.record_batch({"n": pa.array([1, 2])})
    wide = rows.append_column("empty", pa.nulls(2, pa.large_string()))
    wide = wide.append_column("source_row", pa.array([8, 9])).append_column("record_id", pa.array([b"x", b"y"]))
    assert digest(rows) == digest(wide)
    named = pa.record_batch({"m": pa.array([1, 2])})
    texts = pa.record_batch({"n": pa.array(["1", "2"], pa.large_string())})
    assert len({digest(found) for found in (rows, named, texts)}) == 3


def test_a_column_that_appears_later_and_one_that_ends() -> None:
    first, second = pa.record_batch({"a": pa.array([1])}), pa.record_batch({"b": pa.array(["x"], pa.large_string())})
    whole = {"a": pa.array([1, None]), "b": pa.array([None, "x"], pa.large_string())}
    assert digest(first, second) == digest(pa.record_batch(whole))


def test_the_width_of_a_type_does_not_count() -> None:
    wide = pa.record_batch({"n": pa.array([1, 2], pa.int64()), "t": pa.array(["x", "y"], pa.large_string())})
    slim = pa.record_batch({"n": pa.array([1, 2], pa.int8()), "t": pa.array(["x", "y"]).dictionary_encode()})
    assert digest(wide) == digest(slim)


def test_a_column_of_two_kinds_is_refused() -> None:
    made = ValueDigest()
    made.add(pa.record_batch({"n": pa.array([1])}))
    with pytest.raises(ValueError, match="integer and number"):
        made.add(pa.record_batch({"n": pa.array([1.5])}))


def test_a_version_is_the_set_of_its_units() -> None:
    units = [("a", "1"), ("b", "2")]
    assert combine_digests(units) == combine_digests(reversed(units))
    others = [[("a", "2"), ("b", "1")], [("a1", ""), ("b", "2")], units[:1], [*units, ("c", "")]]
    assert len({combine_digests(found) for found in (units, *others)}) == 5
