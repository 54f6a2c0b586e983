"""The rows that name a person: tokens of text, values of other columns, forms of one identifier."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.errors import DataError
from archwright.lake.governance.subject_search import SubjectMatcher, find_subject_rows
from archwright.lake.tables.version_index import list_newest_versions

from ..temporary_lake import Lake, code

EMAIL = "Anna.Meyer+x@example.org"


@pytest.mark.parametrize(
    ("identifier", "text", "found"),
    [
        (EMAIL, "write to anna.meyer+X@EXAMPLE.org.", True),
        (EMAIL, "<anna.meyer+x@example.org>", True),
        (EMAIL, "joanna.meyer+x@example.org", False),
        (EMAIL, "x.anna.meyer+x@example.org", False),
        (EMAIL, "anna.meyer+x@example.org.uk", False),
        (EMAIL, "annaXmeyer+x@example.org", False),
        ("+49 170 1234567", "call +49(170)123-45 67 now", True),
        ("+49 170 1234567", "491701234567", True),
        ("+49 170 1234567", "4917012345678", False),
        ("+49 170 1234567", "9491701234567", False),
        ("anna meyer", "Dr. ANNA\n MEYER, Bonn", True),
        ("anna meyer", "annameyer", False),
        ("Anna Meyer", "Susanna Meyer", False),
        ("Jörg Müller", "Jo\u0308rg MU\u0308LLER", True),
        ("P-4711", "P-4711;", True),
        ("P-4711", "P-47110", False),
        ("P-4711", "XP-4711", False),
        ("P-4711", "p-4711", False),
        ("a.b*c", "a.b*c", True),
        ("a.b*c", "axbbc", False),
    ],
)
def test_a_text_names_the_person_or_another(identifier: str, text: str, found: bool) -> None:
    matcher = SubjectMatcher([identifier])
    assert matcher.match_array(pa.array([text, None], pa.large_string())).to_pylist() == [found, False]
    assert matcher.match_array(pa.array([text], pa.string())).to_pylist() == [found]


def test_columns_of_other_kinds_match_by_their_whole_value() -> None:
    matcher = SubjectMatcher(["4711", "+49 170 1234567", "2001-02-03"])
    assert matcher.match_array(pa.array([4711, 47110, None, 491701234567])).to_pylist() == [True, False, False, True]
    assert matcher.match_array(pa.array([4711.0, 4711.5])).to_pylist() == [True, False]
    assert matcher.match_array(pa.array(["2001-02-03", None]).cast(pa.date32())).to_pylist() == [True, False]
    assert matcher.match_array(pa.array([b"\xff id 4711", b"x"], pa.large_binary())).to_pylist() == [True, False]
    assert matcher.match_array(pa.array([b"4711" * 4], pa.binary(16))).to_pylist() == [False]
    assert matcher.match_array(pa.array(["4711", "no"]).dictionary_encode()).to_pylist() == [True, False]


@settings(max_examples=50)
@given(st.text(min_size=3, max_size=12).filter(lambda text: len(text.strip()) >= 3), st.text(max_size=9))
def test_every_identifier_is_found_as_a_token(identifier: str, text: str) -> None:
    matcher = SubjectMatcher([identifier])
    values = [identifier, f"{text}, {identifier}, {text}"]
    assert matcher.match_array(pa.array(values, pa.large_string())).to_pylist() == [True, True]


@pytest.mark.parametrize("identifiers", [[], ["ab"], ["  ab "]])
def test_an_identifier_that_matches_too_much_is_refused(identifiers: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        SubjectMatcher(identifiers)
    assert code(caught.value) == "AW-DATA-55"


def test_rows_of_the_newest_versions_are_found_with_their_place(lake: Lake) -> None:
    lake.ingest_rows([{"who": EMAIL, "n": 1, "text": "gone"}])
    rows = [{"who": "x", "n": 1, "text": f"from {EMAIL}"}, {"who": "y", "n": 2, "text": "none"}]
    lake.ingest_rows([*rows, {"who": EMAIL, "n": 3, "text": EMAIL}])
    lake.refine("[{drop-short: {characters: 5, columns: [text]}}]")
    found = list(find_subject_rows(lake.home, [EMAIL], list_newest_versions(lake.store)))
    assert [(row.version, row.file, row.row, row.columns) for row in found] == [
        ("docs@v2", "a.jsonl", 1, ("text",)),
        ("docs@v2", "a.jsonl", 3, ("who", "text")),
        ("docs-clean@v1", "a.jsonl", 1, ("text",)),
        ("docs-clean@v1", "a.jsonl", 3, ("who", "text")),
    ]
    assert found[0].values == {"who": "x", "n": 1, "text": f"from {EMAIL}"}
    assert list(find_subject_rows(lake.home, ["nobody at all"], list_newest_versions(lake.store))) == []
