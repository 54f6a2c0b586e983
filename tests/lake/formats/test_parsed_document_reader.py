"""Tests of documents and images as rows of a data set."""

from __future__ import annotations

import pytest
from tests.lake.documents import sample_documents as samples

from ..temporary_lake import Lake

pytestmark = pytest.mark.process


def test_a_folder_of_documents_has_a_row_per_page_and_a_reason_for_each_broken_one(lake: Lake) -> None:
    lake.put("a.html", samples.HTML)
    lake.put("b.pdf", samples.make_pdf(samples.write_text(b"Page one"), b""))
    lake.put("c.docx", samples.make_word()[:500])
    lake.put("d.png", samples.make_image("png"))
    lake.put("e.txt", "plain")
    version = lake.ingest().version
    rows = lake.rows(version, "source_file", "page", "title", "width", "format")
    assert [list(row.values()) for row in rows] == [
        ["a.html", 1, "Spindle & bearing", None, None],
        ["b.pdf", 1, None, None, None],
        ["d.png", None, None, 64, "png"],
        ["e.txt", None, None, None, None],
    ]
    assert lake.values(version, "text")[1:] == ["Page one", None, "plain"]
    assert lake.values(version, "content") == [None, None, read_source(lake, "d.png"), None]
    assert lake.quarantined(version) == [("b.pdf", 2, "no text on the page"), ("c.docx", 1, "damaged: BadZipFile")]
    assert not lake.ingest().new


def read_source(lake: Lake, name: str) -> bytes:
    return (lake.source / name).read_bytes()
