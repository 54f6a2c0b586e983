"""Which texts name a person, and which name another one."""

from __future__ import annotations

import base64
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.lake.erasure.subject import LEAST_CHARACTERS, MOST_CHARACTERS, Subject

from ...tools.checks import refuses

PERSON = Subject(["Zoë Übel", "zoe.uebel@example.org", "C-48151"])


@pytest.mark.parametrize(
    "text",
    [
        "Zoë Übel",
        "ZOË ÜBEL",
        "zoë\tübel's",
        unicodedata.normalize("NFD", "from Zoë Übel."),
        "zo\\u00eb \\u00fcbel",
        "<zoe.uebel@example.org>",
        "mailto:Zoe.Uebel@Example.ORG.",
        "/u/zoe.uebel%40example.org/edit",
        '{"mail": "zoe.uebel\\u0040example.org"}',
        "order of C-48151, paid",
        "c-48151",
    ],
)
def test_spellings_of_a_person_match(text: str) -> None:
    assert PERSON.match_text(text)
    assert PERSON.match_values(pa.array([None, text, "x"])).to_pylist() == [False, True, False]


@pytest.mark.parametrize(
    "text",
    ["Zoë Übelmann", "xzoe.uebel@example.org", "a.zoe.uebel@example.org", "zoe.uebel@example.org.uk", "C-481512", ""],
)
def test_longer_words_and_addresses_name_somebody_else(text: str) -> None:
    assert not PERSON.match_text(text)
    assert not PERSON.find_raw(text.encode(), decoded=False)


def test_pattern_characters_of_an_identifier_mean_themselves() -> None:
    hostile = Subject([".*(abc+)+$[^x]\\d{5}|?"])
    assert hostile.match_text("see .*(abc+)+$[^x]\\d{5}|? there")
    assert not hostile.match_text("anything (aaaa) 12345")


@pytest.mark.parametrize("text", ["", " \n", "ann", "a" * 1_000_000, "-----", "\udc80abcdef", "a\0bcdef"])
def test_identifiers_that_say_nothing_or_too_much_are_refused(text: str) -> None:
    with refuses("AW-DATA-56"):
        Subject(["ann@example.org", text])


def test_no_identifier_is_refused() -> None:
    with refuses("AW-DATA-56"):
        Subject([])


def test_columns_of_every_type_are_searched() -> None:
    person = Subject(["4711008", "ann@example.org"])
    numbers = pa.array([4711008, 47110081, None])
    raw = pa.array([b"\xff ann@example.org", b"ann", None])
    words = pa.array(["x", "ann@example.org", None]).dictionary_encode()
    for values, expected in ((numbers, 0), (raw, 0), (words, 1)):
        assert person.match_values(values).to_pylist() == [place == expected for place in range(3)], values.type
    batch = pa.RecordBatch.from_arrays([words, numbers], names=["a", "b"])
    assert person.match_rows(batch).to_pylist() == [True, True, False]


@given(
    st.binary(max_size=20), st.binary(max_size=20), st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "hex", "b64"])
)
def test_raw_bytes_are_searched_in_every_encoding(before: bytes, after: bytes, code: str) -> None:
    text = "Zoë Übel"
    data = text.encode() if code in ("hex", "b64") else text.encode(code)
    if code == "utf-8":
        data = b" " + data + b" "  # a letter beside it would make another word
    if code == "hex":
        data = (before + data + after).hex().encode()
    elif code == "b64":
        data = base64.b64encode(before + data + after)
    assert PERSON.find_raw(before + data + after, decoded=True)


def test_numbers_in_the_structure_of_a_decoded_file_name_nobody() -> None:
    person = Subject(["48151623"])
    assert person.find_raw(b'{"size": 48151623}', decoded=False) == 1
    assert person.find_raw(b'{"size": 48151623}', decoded=True) == 0


def test_a_shortened_text_may_end_within_an_identifier() -> None:
    assert PERSON.match_cut("he wrote to zoe.ueb")
    assert not PERSON.match_cut("he wrote to zo")
    assert not PERSON.match_cut("he wrote to kazoe.u")
    assert PERSON.match_bound("zoe.uebel@examplf")  # the last character of an upper bound is raised
    assert not PERSON.match_bound("zoe.u")


def test_the_digest_knows_the_person_by_its_key_alone() -> None:
    other = Subject(["ZOE.UEBEL@example.org", "c-48151", unicodedata.normalize("NFD", "Zoë  Übel")])
    assert other.digest(b"key") == PERSON.digest(b"key") != PERSON.digest(b"other key")


def test_paths_name_places_without_the_person() -> None:
    assert PERSON.mask_path("lake/drops/zoe.uebel@example.org/v1.jsonl") == "lake/drops/<subject>/v1.jsonl"
    assert PERSON.mask_path("lake/drops/v1.jsonl") == "lake/drops/v1.jsonl"


def test_outlines_miss_no_spelling() -> None:
    person = Subject(["Straße 山田", "山田太郎左衛門", "+49 30 1234567"])
    spellings = [
        "STRASSE 山田",
        "straße\n   山田",
        "山田太郎左衛門様",
        "tel. 030/+4930123-45-67 ok",
        "+49 (30) 1234567",
    ]
    assert [person.match_text(f" {text} ") for text in spellings] == [True, True, False, True, True]
    assert person.match_text("「山田太郎左衛門」")


def test_the_limits_of_identifiers() -> None:
    Subject(["a" * MOST_CHARACTERS, "b" * LEAST_CHARACTERS])
    with refuses("AW-DATA-56"):
        Subject(["a" * (MOST_CHARACTERS + 1)])
