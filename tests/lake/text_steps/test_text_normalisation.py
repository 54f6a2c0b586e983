"""Texts that look alike become equal, and the changes are counted."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.lake.text_steps.text_normalisation import NormaliseText

from ..steps.step_runner import run_step


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301", "café"),
        ("a\u00a0\u2003b \t c ", "a b c"),
        ("\r\na\r\nb\rc\u2028d \n\n \n\n e", "a\nb\nc\nd\n\ne"),
        ("\ufeffa\x00b\u200bc\u00adsoft\x1b[1m", "abcsoft[1m"),
        ("tab\there", "tab here"),
        ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),  # a joiner inside an emoji stays
        ("ﬁ", "ﬁ"),
    ],
)
def test_texts_are_unified(text: str, expected: str) -> None:
    assert run_step(NormaliseText(), a=[text, None])["a"] == [expected, None]


def test_options_choose_the_changes() -> None:
    step = NormaliseText(unicode="NFKC", whitespace=False, control_characters="keep")
    run = run_step(step, a=["ﬁ  \x00"], b=["plain"])
    assert run["a"] == ["fi  \x00"]
    assert run.changes == {"unicode form": 1}
    assert run_step(NormaliseText(unicode="keep", columns=("b",)), a=["x  y"], b=["e\u0301"])["a"] == ["x  y"]


def test_changes_are_counted_by_value() -> None:
    run = run_step(NormaliseText(), a=["e\u0301 \x00", "plain", None, "a  b  c"])
    assert run.changes == {"control characters": 1, "unicode form": 1, "white space": 2}


@settings(max_examples=30)
@given(st.text(max_size=60))
def test_normalising_again_changes_nothing(text: str) -> None:
    once = run_step(NormaliseText(), a=[text])["a"][0]
    again = run_step(NormaliseText(), a=[once])
    assert again["a"] == [once]
    assert again.changes == {}
    assert unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize("unit", ["\u0301\u0323", " ", "\n ", "\x00", "\u00a0\n"])
def test_hostile_texts_take_no_longer_than_their_length(unit: str) -> None:
    """A million marks on one letter would be ordered in quadratic time."""
    assert len(run_step(NormaliseText(), a=["a" + unit * 300_000])["a"][0]) <= 31
