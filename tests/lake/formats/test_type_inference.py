"""The kind of a column, and the values that fit it."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.lake.formats import type_inference
from archwright.lake.formats.column_kinds import (
    KINDS,
    arrow_type,
    find_widest_kind,
    iceberg_type,
    kind_of_arrow_type,
    kind_of_iceberg_type,
)

from ..temporary_lake import Lake


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


TEXTS = {
    "integer": ["1", "-0", " 12 ", "123456789012345678"],
    "number": ["1.5", ".5", "5.", "+5", "1e-3", "nan"],
    "boolean": ["true", "FALSE"],
    # \u0661 is a digit, not one of ours
    "text": [
        "1234567890123456789",
        "007",
        "00.5",
        "1_000",
        "1,5",
        "0x10",
        "yes",
        "2026-1-2",
        "\u0661",
        "x\ny",
        "12:30",
    ],
    "date": ["2026-01-02", " 1999-12-31 "],
    "timestamp": ["2026-01-02T03:04", "2026-01-02 03:04:05.123456"],
    "timestamp-utc": ["2026-01-02T03:04:05Z", "2026-01-02 03:04+02:00", "2026-01-02T03:04:05.5-0130"],
}


@pytest.mark.parametrize(("text", "kind"), [(text, kind) for kind, texts in TEXTS.items() for text in texts])
def test_the_kind_of_a_text(text: str, kind: str) -> None:
    texts = pa.array([text, ""], pa.large_string())
    assert type_inference.count_column(texts, untyped=True) == {kind: 1}
    array, bad = type_inference.convert_column(texts, kind, True)
    assert array.type == arrow_type(kind)
    assert array[1].as_py() is None
    assert (array[0].as_py() is None) == (text == "nan")
    assert bad == ({0: "number not finite"} if text == "nan" else {})


NUMBERLIKE = st.one_of(
    st.text("0123456789.eE+-", max_size=6),
    st.sampled_from(["1234567890123456789e-5", "nan", "00.5", "-007", "+1.", "0x10", "-0.5", "1" * 18, "1" * 19, " 5"]),
    st.dates().map(str),
    st.datetimes().map(str),
)
VALUES = st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=5), NUMBERLIKE)


@given(st.one_of(st.lists(VALUES, min_size=1), st.lists(NUMBERLIKE, min_size=1, max_size=3)))
def test_column_at_once_and_value_by_value_agree(values: list[object]) -> None:
    """The conversion of a CSV value does not depend on the values beside it."""
    texts = [str(value).strip() for value in values]
    for kind in ("text", "integer", "number", "boolean", "date", "timestamp", "timestamp-utc"):
        together, bad = type_inference.convert_column(texts, kind, True)
        for place, text in enumerate(texts):
            alone, wrong = type_inference.convert_column([text], kind, True)
            assert alone[0].as_py() == together[place].as_py()
            assert wrong == ({0: bad[place]} if place in bad else {})
            pattern = type_inference.UNTYPED_PATTERNS.get(kind)
            if pattern is not None and text:  # the pattern chooses the kind, so it must fit what the kind accepts
                fits = re.search(pattern, text) is not None and re.search(type_inference.NOT_FINITE, text) is None
                assert fits >= (not wrong) or kind == "timestamp"  # a date is a time at midnight, if times surround it


@given(st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_a_value_fits_its_stated_kind(value: object) -> None:
    kind = type_inference.choose_kind(type_inference._count_value_kinds([value]))
    array, bad = type_inference.convert_column([value], kind, False)
    assert (array[0].as_py(), bad) == (value, {})


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        *((value, "integer", "not an integer") for value in (2**63, "x", 1.0, True)),
        (1, "boolean", "not true or false"),
        ("x", "number", "not a number"),
        (b"x", "text", "bytes"),
        ("x", "bytes", "a str among bytes"),
        ("2026-02-30", "date", "not a date"),
        ("2026-01-02T03:04Z", "timestamp", "not a timestamp"),
        (7, "timestamp-utc", "not a timestamp"),
    ],
)
def test_values_that_do_not_fit(value: object, kind: str, reason: str) -> None:
    fitting: dict[str, list[object]] = {"integer": [7], "number": [0.5], "boolean": [True], "text": ["t"]}
    good = fitting.get(kind, [])
    array, bad = type_inference.convert_column([None, value, *good], kind, False)
    assert array.to_pylist() == [None, None, *good]
    assert bad == {1: reason}


def test_white_space_is_no_value_of_a_csv() -> None:
    for kind, reason in (("date", "not a date"), ("boolean", "not true or false")):
        assert type_inference.convert_column(["x", " "], kind, True)[1] == {0: reason}  # " " is no value


def test_values_as_deep_as_they_can_be_read(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.put("a.jsonl", '{"a": ' + "[" * 500 + "]" * 500 + "}\n")
    assert lake.values(lake.ingest().version, "a") == ["[" * 500 + "]" * 500]

    def deep(_value: object) -> bytes:
        raise RecursionError

    monkeypatch.setattr("archwright.lake.formats.type_inference.msgspec.json.encode", deep)
    assert type_inference.convert_column([[]], "text", False)[1] == {0: "nested too deep"}


@pytest.mark.parametrize(("beside", "found"), [(2**63, [str(2**53 + 1), str(2**63)]), (0.5, [float(2**53), 0.5])])
def test_large_integers_lose_digits_beside_fractions_only(lake: Lake, beside: float, found: list[object]) -> None:
    assert lake.values(lake.ingest_rows([{"n": 2**53 + 1}, {"n": beside}]).version, "n") == found


def test_every_kind_has_its_types() -> None:
    for kind in KINDS:
        assert kind_of_arrow_type(arrow_type(kind)) == (kind if kind != "id" else "bytes")  # of a source
        assert kind_of_iceberg_type(iceberg_type(kind)) == kind
    assert find_widest_kind(("integer", "number")) == "number"
