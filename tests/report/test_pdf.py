"""The PDF: made of text that is never markup, tagged, the same bytes twice.

The huge plan holds `#panic(...)`, which would end the compilation.
"""

from __future__ import annotations

import json

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.record import replace
from archwright.report.document import Document
from archwright.report.document_builder import build_document
from archwright.report.pdf import _make_breakable, _make_compiler, render_pdf

from .full_plan import BOARD


def test_every_plan_has_pages(any_document: Document) -> None:
    made = render_pdf(any_document)
    assert made.startswith(b"%PDF-1.7")
    assert made.rstrip().endswith(b"%%EOF")
    start = json.loads(_make_compiler(any_document).query("<engineers-start>", field="value", one=True))
    assert start == 3, "two pages for the board, whatever the plan holds"


def test_it_is_tagged_and_the_same_plan_gives_the_same_bytes(board: Document) -> None:
    made = render_pdf(board)
    assert b"pdfuaid:part" in made, "PDF/UA-1"
    assert b"dc:language" in made and render_pdf(board) == made


def test_a_script_no_face_can_draw_gives_a_document_all_the_same() -> None:
    made = render_pdf(build_document(replace(BOARD, organisation="\U00013080\U00013081"), load_catalog()))
    assert made.startswith(b"%PDF")


@pytest.mark.parametrize(
    ("created", "dated"),
    [
        (BOARD.created_at, b"2026-11-24T12:00:00"),
        ("2020-02-03T04:05:06", b"2020-02-03T04:05:06"),
        ("some day", b"1970-01-01T00:00:00"),
    ],
)
def test_its_date_is_the_plans(created: str, dated: bytes) -> None:
    assert dated in render_pdf(build_document(replace(BOARD, created_at=created), load_catalog()))


def test_long_words_may_break_anywhere() -> None:
    assert _make_breakable("short words stay") == "short words stay"
    text = "https://example.org/a/very/long/path-of-things" + "x" * 60
    pieces = _make_breakable(text).split("\u200b")
    assert max(map(len, pieces)) <= 24 and "".join(pieces) == text
