"""The kind of a column, and the values that fit it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.lake import type_inference
from archwright.lake.column_kinds import (
    KINDS,
    arrow_type,
    find_widest_kind,
    iceberg_type,
    kind_of_arrow_type,
    kind_of_iceberg_type,
)
from archwright.lake.row_chunks import RowChunk

from .temporary_lake import Lake


@pytest.mark.parametrize(
    ("counted", "kind"),
    [
        ({}, "text"),
        ({"integer": 5}, "integer"),
        ({"integer": 5, "number": 1}, "number"),
        ({"integer": 1, "number": 999, "text": 10}, "number"),
        ({"integer": 900, "text": 10}, "text"),
        ({"integer": 990, "text": 10}, "integer"),
        ({"boolean": 1, "integer": 1}, "text"),
        ({"boolean": 99, "text": 1}, "boolean"),
        ({"timestamp": 1}, "timestamp"),
        ({"bytes": 1, "text": 1}, "text"),
    ],
)
def test_a_few_strangers_do_not_change_a_column(counted: dict[str, int], kind: str) -> None:
    assert type_inference.choose_kind(counted) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1", "integer"),
        ("-0", "integer"),
        (" 12 ", "integer"),
        ("123456789012345678", "integer"),
        ("1234567890123456789", "text"),
        ("007", "text"),
        ("1.5", "number"),
        (".5", "number"),
        ("5.", "number"),
        ("+5", "number"),
        ("1e-3", "number"),
        ("00.5", "text"),
        ("1_000", "text"),
        ("1,5", "text"),
        ("0x10", "text"),
        ("nan", "number"),
        ("true", "boolean"),
        ("FALSE", "boolean"),
        ("yes", "text"),
        ("2026-01-02", "text"),
        ("\u0661", "text"),  # a digit, not one of ours
        ("x\ny", "text"),
    ],
)
def test_the_kind_of_a_text(text: str, kind: str) -> None:
    votes: type_inference.KindCounts = {}
    type_inference.count_kinds(RowChunk([1, 2], [b"", b""], {"a": [text, ""]}, untyped=True), votes)
    assert votes == {"a": {kind: 1}}
    array, bad = type_inference.convert_column([text, ""], kind, True)
    assert array.type == arrow_type(kind)
    assert array[1].as_py() is None
    assert (array[0].as_py() is None) == (text == "nan")
    assert bad == ({0: "number not finite"} if text == "nan" else {})


@given(st.lists(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=5)), min_size=1))
def test_column_at_once_and_value_by_value_agree(values: list[object]) -> None:
    """The conversion of a CSV value does not depend on the values beside it."""
    texts = [str(value).strip() for value in values]
    for kind in ("text", "integer", "number", "boolean"):
        together, bad = type_inference.convert_column(texts, kind, True)
        for place, text in enumerate(texts):
            alone, wrong = type_inference.convert_column([text], kind, True)
            assert alone[0].as_py() == together[place].as_py()
            assert wrong == ({0: bad[place]} if place in bad else {})


@given(st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_a_value_fits_the_kind_it_is_said_to_be_of(value: object) -> None:
    kind = type_inference.choose_kind(type_inference._count_value_kinds([value]))
    array, bad = type_inference.convert_column([value], kind, False)
    assert (array[0].as_py(), bad) == (value, {})


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        (2**63, "integer", "not an integer"),
        ("x", "integer", "not an integer"),
        (1.0, "integer", "not an integer"),
        (True, "integer", "not an integer"),
        (1, "boolean", "not true or false"),
        ("x", "number", "not a number"),
        (b"x", "text", "bytes"),
        ("x", "date", "a str among times, dates or bytes"),
    ],
)
def test_values_that_do_not_fit(value: object, kind: str, reason: str) -> None:
    fitting: dict[str, list[object]] = {"integer": [7], "number": [0.5], "boolean": [True], "text": ["t"]}
    good = fitting.get(kind, [])
    array, bad = type_inference.convert_column([None, value, *good], kind, False)
    assert array.to_pylist() == [None, None, *good]
    assert bad == {1: reason}


def test_nothing_fits_times_in_a_csv() -> None:
    assert type_inference.convert_column(["x", " "], "date", True)[1] == {
        0: "a str among times, dates or bytes"
    }  # " " is no value
    assert type_inference.convert_column(["x"], "boolean", True)[1] == {0: "not true or false"}


def test_values_as_deep_as_they_can_be_read(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.put("a.jsonl", '{"a": ' + "[" * 500 + "]" * 500 + "}\n")
    assert lake.values(lake.ingest().version, "a") == ["[" * 500 + "]" * 500]

    def deep(_value: object) -> bytes:
        raise RecursionError

    monkeypatch.setattr("archwright.lake.type_inference.msgspec.json.encode", deep)
    assert type_inference.convert_column([[]], "text", False)[1] == {0: "nested too deep"}


def test_large_integers_become_text_without_losing_a_digit(lake: Lake) -> None:
    lake.put("a.jsonl", f'{{"n": {2**63}}}\n{{"n": {2**53 + 1}}}\n')
    assert lake.values(lake.ingest().version, "n") == [str(2**63), str(2**53 + 1)]


def test_large_integers_beside_fractions(lake: Lake) -> None:
    lake.put("a.jsonl", f'{{"n": {2**53 + 1}}}\n{{"n": 0.5}}\n')
    assert lake.values(lake.ingest().version, "n") == [float(2**53), 0.5]


def test_every_kind_has_its_types() -> None:
    for kind in KINDS:
        assert kind_of_arrow_type(arrow_type(kind)) == kind
        assert kind_of_iceberg_type(iceberg_type(kind)) == kind
    assert find_widest_kind(("integer", "number")) == "number"
