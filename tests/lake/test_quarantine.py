"""Rows that are broken stay behind, each with its reason; files that cannot be read refuse the whole ingest."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archwright.lake import iceberg_tables, quarantine, version_index
from archwright.lake.row_chunks import EXCERPT_CHARACTERS

from ..tools.checks import refuses
from .temporary_lake import Lake

GOOD = b'{"n": 1}\n' * 300
BIG = str(10**30).encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nope", "not JSON"),
        (b'{"n": 1', "not JSON"),
        (b'{"n": NaN}', "not JSON"),
        (b'{"n": "\\ud800"}', "not JSON"),
        (b'{"n": 1}\0', "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"1", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"n": 1e999}', "number not finite"),
        (b'{"n": "\xff"}', "not UTF-8"),
        (b"[" * 5000, "nested too deep"),
        (b'{"": 1}', "no name for a column"),
        (b'{"a\\nb": 1}', "no name for a column"),
        (b'{"n": "many"}', "not a number: column n"),
        (b'{"n": true}', "not a number: column n"),
        (b'{"n": {"deep": 1}}', "not a number: column n"),
        (b'{"n": ' + b"9" * 400 + b"}", "number not finite: column n"),
    ],
)
def test_jsonl(lake: Lake, line: bytes, reason: str) -> None:
    lake.put("a.jsonl", b'{"n": 1.5}\n' + GOOD + line + b"\n" + b'{"n": 2}\n')
    version = lake.ingest().version
    assert version.drops == {f"quarantine: {reason}": 1}
    assert lake.quarantined(version) == [("a.jsonl", 302, reason)]
    assert (version.rows, version.files[0].rows, version.files[0].quarantined) == (302, 302, 1)
    assert lake.values(version, "source_row")[-1] == 303


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1", "wrong number of columns"),
        (b"1,2,3", "wrong number of columns"),
        (b'1,"x"y', "not CSV"),
        (b'1,"never closed', "not CSV"),
        (b"1,\xff", "not UTF-8"),
        (b"1,a\0b", "NUL byte"),
        (b"many,x", "not a number: column n"),
        (b"nan,x", "number not finite: column n"),
        (b"-Infinity,x", "number not finite: column n"),
        (b"1e999,x", "number not finite: column n"),
        (b"007,x", "not a number: column n"),
        (BIG + b",x", "not a number: column n"),
    ],
)
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
    monkeypatch.setattr(f"archwright.lake.{module}.ROW_BYTES", 50)
    if module == "document_reader":
        lake.put("a.txt", "x" * 51)
    else:
        monkeypatch.setattr("archwright.lake.text_lines.ROW_BYTES", 50)
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
    assert [file.quarantined for file in version.files] == [1, 1]
    lake.put("b.jsonl", b"bad again\n")
    emptied = lake.ingest().version
    assert lake.values(emptied, "n") == [1]
    lake.put("b.jsonl", b'{"n": 4}\n')  # replaces a file that has no rows
    assert lake.values(lake.ingest().version, "n") == [1, 4]


def whole(path: Path) -> bytes:
    pq.write_table(pa.table({"n": list(range(1000))}), path)
    return path.read_bytes()


def cut_parquet(lake: Lake) -> None:
    lake.put("b.parquet", whole(lake.root / "x.parquet")[:-20])


def scratched_parquet(lake: Lake) -> None:
    """Its end, where the columns are named, is fine; its pages are not."""
    content = bytearray(whole(lake.root / "x.parquet"))
    content[4:500] = bytes(496)
    lake.put("b.parquet", bytes(content))


def twice_parquet(lake: Lake) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"])
    pq.write_table(table, lake.put("b.parquet", b""))


def cut_gzip(lake: Lake) -> None:
    lake.put("b.jsonl.gz", gzip.compress(b'{"n": 1}\n' * 1000)[:-12])


def scratched_gzip(lake: Lake) -> None:
    content = bytearray(gzip.compress(bytes(range(256)) * 100))
    content[20:60] = bytes(40)
    lake.put("b.csv.gz", bytes(content))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (cut_parquet, "AW-DATA-17"),
        (scratched_parquet, "AW-DATA-17"),
        (twice_parquet, "AW-DATA-18"),
        (cut_gzip, "AW-DATA-07"),
        (scratched_gzip, "AW-DATA-07"),
        (lambda lake: lake.put("b.csv.gz", b"n\n1\n"), "AW-DATA-07"),
        (lambda lake: lake.put("b.pkl", b"\x80\x04."), "AW-DATA-04"),
        (lambda lake: lake.put("b.pt", b"PK"), "AW-DATA-04"),
        (lambda lake: lake.put("b.npy", b"\x93NUMPY"), "AW-DATA-04"),
        (lambda lake: lake.put("b.xlsx", b"PK"), "AW-DATA-03"),
        (lambda lake: lake.put("b.json", b"[]"), "AW-DATA-03"),
        (lambda lake: lake.put("b.parquet.gz", b""), "AW-DATA-03"),
        (lambda lake: lake.put("README", b""), "AW-DATA-03"),
        (lambda lake: lake.put("b.csv", b"1,2\n3,4\n"), "AW-DATA-16"),
        (lambda lake: lake.put("b.csv", b"n,n\n3,4\n"), "AW-DATA-16"),
        (lambda lake: lake.put("b.csv", b"n,\xff\n3,4\n"), "AW-DATA-16"),
        (lambda lake: lake.put("b.csv", b'n,"m\n3,4\n'), "AW-DATA-16"),
        (lambda lake: lake.put("b.csv", b"n,\n3,4\n"), "AW-DATA-15"),
        (lambda lake: lake.put("b.csv", b"n,source_row\n3,4\n"), "AW-DATA-14"),
        (lambda lake: lake.put("b.csv", b"n,archwright:step\n3,4\n"), "AW-DATA-14"),
        (lambda lake: lake.put_rows("b.jsonl", [{"record_id": 1}]), "AW-DATA-14"),
        (lambda lake: pq.write_table(pa.table({"source_file": ["x"]}), lake.put("b.parquet", b"")), "AW-DATA-14"),
        (lambda lake: lake.put_rows("b.jsonl", [{f"c{n}": n for n in range(10_000)}]), "AW-DATA-13"),
        (lambda lake: lake.put_rows("b.jsonl", [{f"c{n}": n} for n in range(10_000)]), "AW-DATA-13"),
        (lambda lake: lake.put("b.csv", ",".join(f"c{n}" for n in range(10_000)) + "\n"), "AW-DATA-13"),
    ],
)
def test_a_file_that_cannot_be_read_refuses_before_anything_changes(
    lake: Lake, make: object, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iceberg_tables, "FILE_BYTES", 1)  # every batch is on the disk at once
    first = lake.ingest_rows([{"n": 1}]).version
    lake.put_rows("a.jsonl", [{"n": 2}])
    files = lake.data_files()
    make(lake)  # type: ignore[operator]
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
    assert {file.path: file.quarantined for file in second.files} == {"a.jsonl": 1, "b.jsonl": 2}


@pytest.mark.parametrize("name", ["v9.json", "v2.json", "vx.json"])
def test_half_a_note_of_a_version_is_passed_over(lake: Lake, name: str) -> None:
    lake.put("a.jsonl", GOOD)
    lake.ingest()
    (lake.home.folder("lake", "versions", "docs") / name).write_text("{")
    lake.put("b.jsonl", b'{"n": 2}\n')
    assert lake.ingest().version.id == "docs@v2"
