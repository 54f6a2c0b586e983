"""Shingles are runs of words as the regular expression \\w+ finds them, in any script and any batch."""

from __future__ import annotations

import itertools
import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.lake.steps import shingles


def hash_texts(*texts: str, width: int = 5) -> list[list[int]]:
    made: list[list[int]] = []
    for part in shingles.hash_shingles(pa.array(texts, pa.large_string()), width):
        assert part.first == len(made)
        made += [part.hashes[start:end].tolist() for start, end in itertools.pairwise(part.offsets)]
    return made


def find_runs(text: str, width: int) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", unicodedata.normalize("NFC", text).lower())
    return [tuple(words[at : at + width]) for at in range(max(1, len(words) - width + 1))] if words else []


TEXTS = st.text(alphabet=" \n.-aAbÉé\u0301Ωω_7-\u00a0ß\u0639\u0431", max_size=40)


@given(st.lists(TEXTS, min_size=1, max_size=6), st.integers(1, 4))
def test_equal_shingles_are_equal_runs_of_words(texts: list[str], width: int) -> None:
    hashes = [value for found in hash_texts(*texts, width=width) for value in found]
    runs = [run for text in texts for run in find_runs(text, width)]
    assert len(hashes) == len(runs)
    assert len(set(hashes)) == len(set(runs)) == len(set(zip(hashes, runs, strict=True)))


def test_hashes_do_not_depend_on_the_batch_or_the_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["", "one", "The quick brown fox jumps over the lazy dog. " * 5, "Žluťoučký kůň " * 9, "?!", "x y z w v u"]
    whole = hash_texts(*texts)
    assert [len(set(found)) for found in whole] == [0, 1, 9, 2, 0, 2]
    monkeypatch.setattr(shingles, "BATCH_BYTES", 1)
    assert hash_texts(*texts) == whole
    monkeypatch.setattr(shingles, "MAX_PIECE", 90)  # ends two sentences of 45 letters
    assert hash_texts(*texts[:3]) == whole[:3]
    assert len(set(hash_texts(texts[2][1:])[0])) > 9  # a piece ends within a word
    array = pa.array(["before", *texts, None], pa.large_string()).slice(1, len(texts))
    assert [len(part.offsets) for part in shingles.hash_shingles(array, 5)] == [2] * len(texts)


def test_case_and_forms_of_a_letter_do_not_count() -> None:
    first, same, other = hash_texts(
        "Straße Café one two three", "STRAßE CAFE\u0301 ＯＮＥ two　three!", "Strasse Café one two"
    )
    assert same == first != other


def test_texts_of_several_columns_are_lines() -> None:
    rows = pa.table({"a": ["x", None], "b": ["y", "z"], "c": pa.array(["1", "2"], pa.large_string())})
    assert shingles.join_texts(rows, ("a", "b", "c")).to_pylist() == ["x\ny\n1", "\nz\n2"]


def test_letters_of_scripts_without_spaces_are_words() -> None:
    [chinese, changed, mixed, english] = hash_texts(
        "敏捷的棕色狐狸跳过了懒狗",
        "敏捷的棕色狐狸跳过了懒猫",
        "an english text with one name 敏捷的棕色狐狸",
        "words with spaces 5 all",
    )
    assert (len(chinese), len(set(chinese) & set(changed))) == (8, 7)
    assert (len(mixed), len(english)) == (3, 1)


def test_a_word_of_many_letters_and_a_text_of_many_words() -> None:
    [long, many] = hash_texts("x" * 3_000_000, "word " * 300_000)
    assert len(long) == 1  # the words of three pieces
    assert 300_000 - 4 <= len(many) <= 300_000 and len(set(many)) <= 11  # a piece of 2^20 letters ends within a word


def test_hashes_spread_over_all_bits() -> None:
    hashes = np.array(hash_texts(" ".join(f"word{number}" for number in range(5000)))[0], np.uint64)
    for bit in range(64):
        share = np.count_nonzero(hashes & np.uint64(1 << bit)) / len(hashes)
        assert 0.46 < share < 0.54, bit
