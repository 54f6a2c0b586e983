"""Numbers that JSON has not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.http_client.json_constants import replace_constants

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(("NaN", 'a"NaN', "\\", '\\"Infinity')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": NaN, "b": [Infinity, -Infinity]}', {"a": None, "b": [None, -9999.0]}),
        (b'{"NaN": "-Infinity \\" NaN", "c": NaN}', {"NaN": '-Infinity " NaN', "c": None}),
    ],
)
def test_constants_are_replaced_outside_of_strings(data: bytes, expected: object) -> None:
    assert json.loads(replace_constants(data)) == expected


@given(VALUES)
def test_valid_json_stays(value: Any) -> None:
    data = json.dumps(value).encode()
    assert replace_constants(data) == data


@given(st.binary())
def test_nothing_fails(data: bytes) -> None:
    replace_constants(data)
