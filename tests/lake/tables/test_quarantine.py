"""Rows that are broken stay behind, each with its reason; files that cannot be read refuse the whole ingest."""

from __future__ import annotations

import gzip
import io
import json
import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archwright.lake.formats.row_chunks import EXCERPT_CHARACTERS
from archwright.lake.tables import data_files, quarantine, version_index

from ...tools.checks import refuses
from ..temporary_lake import Lake

GOOD = b'{"n": 1}\n' * 300


JSON_LINES = {
    "not JSON": [b"nope", b'{"n": 1', b'{"n": NaN}', b'{"n": "\\ud800"}', b'{"n": 1}\0'],
    "not a JSON object": [b"[1]", b"1", b"null"],
    "number not finite": [b'{"n": 1e999}'],
    "not UTF-8": [b'{"n": "\xff"}'],
    "nested too deep": [b"[" * 5000],
    "no name for a column": [b'{"": 1}', b'{"a\\nb": 1}'],
    "not a number: column n": [b'{"n": "many"}', b'{"n": true}', b'{"n": {"deep": 1}}'],
    "number not finite: column n": [b'{"n": ' + b"9" * 400 + b"}"],
}
CSV_LINES = {
    "wrong number of columns": [b"1", b"1,2,3"],
    "not CSV": [b'1,"x"y', b'1,"never closed'],
    "not UTF-8": [b"1,\xff"],
    "NUL byte": [b"1,a\0b"],
    "not a number: column n": [b"many,x", b"007,x", str(10**30).encode() + b",x"],
    "number not finite: column n": [b"nan,x", b"-Infinity,x", b"1e999,x"],
}


@pytest.mark.parametrize(("line", "reason"), [(line, reason) for reason, lines in JSON_LINES.items() for line in lines])
def test_jsonl(lake: Lake, line: bytes, reason: str) -> None:
    lake.put("a.jsonl", b'{"n": 1.5}\n' + GOOD + line + b"\n" + b'{"n": 2}\n')
    version = lake.ingest().version
    assert version.drops == {f"quarantine: {reason}": 1}
    assert lake.quarantined(version) == [("a.jsonl", 302, reason)]
    assert [(file.rows, file.quarantined) for file in lake.files(version)] == [(version.rows, 1)] == [(302, 1)]
    assert lake.values(version, "source_row")[-1] == 303


@pytest.mark.parametrize(("line", "reason"), [(line, reason) for reason, lines in CSV_LINES.items() for line in lines])
def test_csv(lake: Lake, line: bytes, reason: str) -> None:
    lake.put("a.csv", b"n,text\n1.5,x\n" + b"1,x\n" * 300 + line + b"\n2,last\n")
    version = lake.ingest().version
    assert lake.quarantined(version) == [("a.csv", 303, reason)]
    assert lake.rows(version)[-1] == {"n": 2.0, "text": "last"}
    assert version.rows == 302


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        (math.nan, pa.float64(), "number not finite: column n"),
        (-math.inf, pa.float32(), "number not finite: column n"),
        (2**63, pa.uint64(), "number too large: column n"),
        (b"\xff", pa.string(), "not UTF-8: column n"),
    ],
)
def test_parquet(lake: Lake, value: object, kind: pa.DataType, reason: str) -> None:
    good = b"x" if kind == pa.string() else 1
    column = pa.array([good, value, None], pa.binary() if kind == pa.string() else kind)
    if kind == pa.string():
        column = pa.Array.from_buffers(kind, 3, column.buffers())  # what a careless writer does
    table = pa.table({"n": column, "m": [1, 2, 3]})
    pq.write_table(table, lake.put("a.parquet", b""))
    version = lake.ingest().version
    assert lake.quarantined(version) == [("a.parquet", 2, reason)]
    assert lake.rows(version, "m", "source_row") == [{"m": 1, "source_row": 1}, {"m": 3, "source_row": 3}]
    pq.write_table(table.slice(1, 1), lake.put("a.parquet", b""))  # no good row
    lake.put_rows("b.jsonl", [{"m": 1}])
    assert lake.ingest().version.rows == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b" \n\t", "empty"), (b"a\0b", "NUL byte"), (b"\xff\xfea\0", "NUL byte"), (b"\xe9", "not UTF-8")],
)
def test_text(lake: Lake, content: bytes, reason: str) -> None:
    lake.put("a.txt", content)
    lake.put("b.md", "fine")
    version = lake.ingest().version
    assert lake.quarantined(version) == [("a.txt", 1, reason)]


@pytest.mark.parametrize("module", ["text_lines", "document_reader", "csv_reader"])
def test_rows_longer_than_the_limit(lake: Lake, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setattr(f"archwright.lake.formats.{module}.ROW_BYTES", 50)
    if module == "document_reader":
        lake.put("a.txt", "x" * 51)
    else:
        monkeypatch.setattr("archwright.lake.formats.text_lines.ROW_BYTES", 50)
        lake.put("a.csv", "n\n" + "1" * 1000 + "\n2\n")
        lake.put("a.jsonl", '{"n": "' + "x" * 120 + '"}\n{"n": 2}\n' + "9" * 200)
    lake.put("b.md", "fine")
    version = lake.ingest().version
    assert {reason for _file, _row, reason in lake.quarantined(version)} == {"row too long"}
    assert version.rows == (1 if module == "document_reader" else 3)


def test_the_quarantine_keeps_a_bounded_excerpt(lake: Lake) -> None:
    lake.put("a.jsonl", b'{"n": 1}\n' + b"\0\xff" + b"x" * 5000)
    version = lake.ingest().version
    path = quarantine.quarantine_path(lake.home, "docs", 1)
    row = json.loads(path.read_text(encoding="utf-8"))
    assert row["excerpt"].startswith("\N{SYMBOL FOR NULL}\N{REPLACEMENT CHARACTER}xxx")
    assert len(row["excerpt"]) == EXCERPT_CHARACTERS + 3
    assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0  # it may hold anything
    assert version.rows == 1


def test_the_quarantine_of_files_that_stay_is_kept(lake: Lake) -> None:
    lake.put("a.jsonl", b'{"n": 1}\nbad a\n')
    lake.put("b.jsonl", b'{"n": 2}\nbad b\nworse b\n')
    lake.ingest()
    lake.put("b.jsonl", b'{"n": 3}\n[]\n')
    version = lake.ingest().version
    assert lake.quarantined(version) == [("a.jsonl", 2, "not JSON"), ("b.jsonl", 2, "not a JSON object")]
    assert version.drops == {"quarantine: not JSON": 1, "quarantine: not a JSON object": 1}
    assert [file.quarantined for file in lake.files(version)] == [1, 1]
    lake.put("b.jsonl", b"bad again\n")
    emptied = lake.ingest().version
    assert lake.values(emptied, "n") == [1]
    lake.put("b.jsonl", b'{"n": 4}\n')  # replaces a file that has no rows
    assert lake.values(lake.ingest().version, "n") == [1, 4]


def parquet(columns: list[Any], names: list[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], names=names), sink)
    return sink.getvalue()


def scratched(content: bytes, start: int, end: int) -> bytes:
    return content[:start] + bytes(end - start) + content[end:]


NUMBERS = parquet([list(range(1000))], ["n"])
MANY = [f"c{n}" for n in range(10_000)]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("b.parquet", NUMBERS[:-20], "AW-DATA-17"),
        ("b.parquet", scratched(NUMBERS, 4, 500), "AW-DATA-17"),  # its pages, not its end that names the columns
        ("b.parquet", parquet([[1], [2]], ["n", "n"]), "AW-DATA-18"),
        ("b.jsonl.gz", gzip.compress(b'{"n": 1}\n' * 1000, mtime=0)[:-12], "AW-DATA-07"),
        ("b.csv.gz", scratched(gzip.compress(bytes(range(256)) * 100, mtime=0), 20, 60), "AW-DATA-07"),
        ("b.csv.gz", b"n\n1\n", "AW-DATA-07"),
        *((name, b"PK", "AW-DATA-04") for name in ("b.pkl", "b.pt", "b.npy")),
        *((name, b"", "AW-DATA-03") for name in ("b.zip", "b.parquet.gz", "README")),
        *(("b.csv", head + b"\n3,4\n", "AW-DATA-16") for head in (b"1,2", b"n,n", b"n,\xff", b'n,"m')),
        ("b.csv", b"n,\n3,4\n", "AW-DATA-15"),
        *(("b.csv", head + b"\n3,4\n", "AW-DATA-14") for head in (b"n,source_row", b"n,archwright:step")),
        ("b.jsonl", b'{"record_id": 1}\n', "AW-DATA-14"),
        ("b.parquet", parquet([["x"]], ["source_file"]), "AW-DATA-14"),
        ("b.jsonl", json.dumps(dict.fromkeys(MANY, 1)), "AW-DATA-13"),
        ("b.jsonl", "".join(json.dumps({name: 1}) + "\n" for name in MANY), "AW-DATA-13"),
        ("b.csv", ",".join(MANY) + "\n", "AW-DATA-13"),
    ],
)
def test_a_file_that_cannot_be_read_refuses_before_anything_changes(
    lake: Lake, name: str, content: str | bytes, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "FILE_BYTES", 1)  # every batch is on the disk at once
    first = lake.ingest_rows([{"n": 1}]).version
    lake.put_rows("a.jsonl", [{"n": 2}])
    files = lake.data_files()
    lake.put(name, content)
    with refuses(expected):
        lake.ingest()
    assert version_index.list_versions(lake.store) == [first]
    assert lake.data_files() == files
    assert lake.values(first, "n") == [1]


def test_a_deleted_quarantine_leaves_its_counts(lake: Lake) -> None:
    """Its excerpts may be what somebody wanted gone: the data set goes on."""
    lake.put("a.jsonl", GOOD + b"nope\n")
    first = lake.ingest().version
    quarantine.quarantine_path(lake.home, "docs", 1).unlink()
    lake.put("b.jsonl", b'{"n": 2}\nnope\nnope\n')
    second = lake.ingest().version
    assert first.drops == {"quarantine: not JSON": 1}
    assert second.drops == {"quarantine: not JSON": 2, f"quarantine: {quarantine.DELETED}": 1}
    assert {file.path: file.quarantined for file in lake.files(second)} == {"a.jsonl": 1, "b.jsonl": 2}


@pytest.mark.parametrize("name", ["v9.json", "v2.json", "vx.json"])
def test_half_a_note_of_a_version_is_passed_over(lake: Lake, name: str) -> None:
    lake.put("a.jsonl", GOOD)
    lake.ingest()
    (lake.home.folder("lake", "versions", "docs") / name).write_text("{")
    lake.put("b.jsonl", b'{"n": 2}\n')
    assert lake.ingest().version.id == "docs@v2"
