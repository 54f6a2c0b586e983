"""CSV as it is found: quotes, line ends within fields, delimiters, forgotten quotes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archwright.lake.formats import csv_reader, source_files
from archwright.lake.formats.row_chunks import BrokenRow
from archwright.lake.formats.text_lines import LineReader

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


CELLS = st.text(st.sampled_from('a,"\n ;\t\r\0\x0b\u00e9\u2028\u3000' + "01.-"), max_size=6)
LINES = st.lists(st.one_of(CELLS, st.lists(CELLS, min_size=1, max_size=4).map(",".join)), max_size=40)
BROKEN = st.sampled_from([b"", b"\xff", b'"', b"\xef\xbb\xbf", b"\r", b'5" pipe,x\n', b'"a""b",c\n', b'"a" b,c\n'])


def read(source: source_files.ScannedFile) -> list[object]:
    """Rows and broken rows, in order."""
    found: list[object] = []
    for chunk in csv_reader.read_chunks(source, found.append):
        values = [column.to_pylist() for column in chunk.columns.values()]
        rows = [int(row) for row in chunk.rows]
        contents = [chunk.contents[place] for place in range(len(rows))]
        found += zip(rows, contents, *values, strict=True)
    return sorted(found, key=lambda row: row.row if isinstance(row, BrokenRow) else row[0])  # type: ignore[index]


@pytest.mark.parametrize("columns", [1, 2, 3])
@given(lines=LINES, broken=st.lists(BROKEN, max_size=3), proper=st.booleans(), end=st.sampled_from(["\n", "\r\n"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_blocks_and_single_rows_are_read_alike(
    tmp_path: Path, columns: int, lines: list[str], broken: list[bytes], proper: bool, end: str
) -> None:
    out = io.StringIO()
    if proper:
        csv.writer(out, lineterminator=end).writerows([[line, "x", "1"][:columns] for line in lines])
    else:
        out.write(end.join(lines))
    body = out.getvalue().encode()
    middle = len(body) // 2
    path = tmp_path / "a.csv"
    path.write_bytes(",".join("nml"[:columns]).encode() + b"\n" + body[:middle] + b"".join(broken) + body[middle:] * 3)
    source = source_files.scan_sources(path).sources[0]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(csv_reader, "MIN_BLOCK_BYTES", 64)
        blocks = read(source)
        patched.setattr(csv_reader, "_find_regular_rows", lambda *_: csv_reader._RegularRows(0, (), clean=False))
        singles = read(source)
    assert blocks == singles


@given(st.lists(st.lists(st.text(st.characters(exclude_characters="\0\r", codec="utf-8")), min_size=2, max_size=2)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_the_standard_writer_writes_is_read_back(tmp_path: Path, rows: list[list[str]]) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["a", "b"], *rows])
    found = read(source_files.scan_sources(path).sources[0])
    assert [list(row[2:]) for row in found if isinstance(row, tuple)] == rows


def test_regular_rows_are_read_in_blocks(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20,000 rows with quotes, blank lines and one broken row, nearly none is parsed singly."""
    rows = "".join(f'{n},"text, of ""{n}""\nsecond line"\n' + "\n" * (n % 7 == 0) for n in range(10_000))
    lake.put("a.csv", "n,text\n" + rows + "1,2,3\n" + rows)
    singly: list[object] = []
    parse = csv_reader._parse_next_row

    def noted(stream: LineReader, delimiter: str) -> object:
        singly.append(stream.number)
        return parse(stream, delimiter)

    monkeypatch.setattr(csv_reader, "_parse_next_row", noted)
    version = lake.ingest().version
    assert lake.values(version, "n") == [*range(10_000)] * 2
    assert lake.quarantined(version) == [("a.csv", 21_431, "wrong number of columns")]
    assert len(singly) < 20
