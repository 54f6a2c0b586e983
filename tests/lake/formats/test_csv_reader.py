"""CSV as it is found: quotes, line ends within fields, delimiters, forgotten quotes."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.lake.formats import csv_reader
from archwright.lake.formats.text_lines import TextLine

from ..temporary_lake import Lake


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_the_header_has_most_of(lake: Lake, delimiter: str) -> None:
    lake.put("a.csv", f"a{delimiter}b{delimiter}c d\n1{delimiter}x,y;z{delimiter}2\n".replace("x,y;z", '"x,y;z"'))
    assert lake.rows(lake.ingest().version) == [{"a": 1, "b": "x,y;z", "c d": 2}]


def test_one_column_bom_crlf_blank_lines_and_lines_within_fields(lake: Lake) -> None:
    lake.put("one.csv", "text\nhello\n\nworld\n")
    assert lake.values(lake.ingest().version, "text") == ["hello", "world"]
    path = lake.put("a.csv", '\ufeff\r\na,b\r\n\r\n1,"two\r\nlines, ""quoted"""\r\n2,\r\n')
    version = lake.ingest("other", path=path).version
    assert lake.rows(version, "a", "b", "source_row") == [
        {"a": 1, "b": 'two\nlines, "quoted"', "source_row": 4},
        {"a": 2, "b": None, "source_row": 6},
    ]


def test_a_forgotten_quote_costs_its_row_only(lake: Lake) -> None:
    rows = "".join(f"{n},fine\n" for n in range(600))
    lake.put("a.csv", 'n,text\n-2,"forgotten\n-1,fine\n' + rows + '600,5" pipe\n601,"closed"\n')
    version = lake.ingest().version
    assert lake.values(version, "n") == [-1, *range(602)]
    assert lake.quarantined(version) == [("a.csv", 2, "not CSV")]
    assert lake.values(version, "text")[-2:] == ['5" pipe', "closed"]


@given(st.lists(st.lists(st.text(st.characters(exclude_characters="\0\r", codec="utf-8")), min_size=2, max_size=2)))
def test_what_the_standard_writer_writes_is_read_back(rows: list[list[str]]) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    lines = out.getvalue().encode().split(b"\n")
    stream = (TextLine(number, text, False) for number, text in enumerate(lines[:-1], 1))
    assert [row.fields for row in csv_reader._parse_rows(stream, ",")] == rows
