"""The structure of a body is counted exactly where it matters, and the memory of an accepted body has a bound."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.serving.http import body_structure
from archwright.serving.http.body_structure import check_large_body, check_small_body
from archwright.serving.http.errors import ApiError

MIB = 1 << 20
TEXT = st.text('ab"\\{}[],:\n\u1234', max_size=8)
VALUE = st.recursive(
    st.one_of(TEXT, st.integers(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=30,
)


def measure(value: Any) -> tuple[int, int, int]:
    """Depth, containers and strings of a decoded value."""
    if isinstance(value, str):
        return 0, 0, 1
    if not isinstance(value, list | dict):
        return 0, 0, 0
    inner = [measure(child) for child in (value.values() if isinstance(value, dict) else value)]
    strings = sum(part[2] for part in inner) + (len(value) if isinstance(value, dict) else 0)
    return 1 + max((part[0] for part in inner), default=0), 1 + sum(part[1] for part in inner), strings


def refusal(data: bytes) -> str:
    """The message of the refusal, empty if the body is accepted."""
    try:
        check_large_body(data)
    except ApiError as error:
        assert error.status == 400
        return error.message
    return ""


@given(VALUE, st.booleans())
def test_each_limit_is_exact_whatever_strings_hold(value: Any, ascii_only: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    depth, containers, strings = measure(value)
    limits = {"MAX_DEPTH": (depth, "nested"), "MAX_CONTAINERS": (containers, "objects and lists")}
    for name, (found, word) in limits.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(body_structure, "MAX_DEPTH", 1 << 30)
            patch.setattr(body_structure, name, found)
            body_structure._check_exactly(data)
            if found:
                patch.setattr(body_structure, name, found - 1)
                with pytest.raises(ApiError, match=word):
                    body_structure._check_exactly(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_structure, "MAX_STRINGS", strings)
        body_structure._check_exactly(data)


@pytest.mark.parametrize("unit", [b"{},", b"[],", b'{"a":1},', b"[", b'{"a":', b'"",', b'"ab",', b'"\\"",', b'["'])
def test_small_values_without_end_are_refused(unit: bytes) -> None:
    assert refusal(b'{"a":[' + unit * (4 * MIB // len(unit)))


def test_a_small_body_is_checked_for_its_depth() -> None:
    check_small_body(b"[" * 200 + b'"[' + b"]" * 200)
    with pytest.raises(ApiError, match="nested"):
        check_small_body(b"[" * 201)


@pytest.mark.parametrize("text", ["{},", "[" * 500, '"', "\\", '\\"{', "for (i) { a[0] = 1; }\n"])
def test_any_text_is_accepted(text: str) -> None:
    assert refusal(json.dumps({"a": text * (MIB // len(text))}).encode()) == ""


def test_a_million_token_ids_are_accepted() -> None:
    data = json.dumps({"input": [list(range(100, 999))] * 1_000}, separators=(",", ":")).encode()
    assert 3 * MIB < len(data) < 4 * MIB and refusal(data) == ""


NUMBERS, STRINGS = (b"1,", b"300,", b"0.1,"), (b'"ab",', b'"a",', b'"\xc3\xa4",', b'"\\u1234",')


@pytest.mark.parametrize("unit", [*NUMBERS, *STRINGS, b'{"a":1},', b"{},", b"[],", b"[1],"])
def test_the_estimate_of_memory_is_no_less_than_the_memory(unit: bytes) -> None:
    count = min(MIB // len(unit), 99_000)
    data = b'{"a":[' + unit * count + b"1]}"
    tracemalloc.start()
    try:
        decoded = msgspec.json.decode(data)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held + len(data) + len(msgspec.json.encode(decoded)) <= 1.05 * check_large_body(data)


def test_one_wide_character_makes_a_wide_string() -> None:
    text = "a" * MIB
    bodies = [json.dumps({"a": text + end}, ensure_ascii=False).encode() for end in ("", "€", "\\")]
    plain, wide, escaped = map(check_large_body, bodies)
    assert wide == pytest.approx(2 * plain, rel=0.01) and escaped < 1.01 * plain
    assert check_large_body(b'{"a":"\\u20ac' + b"a" * MIB + b'"}') == pytest.approx(wide, rel=0.01)
