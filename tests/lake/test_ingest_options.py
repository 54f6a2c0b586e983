"""Choosing and reading files: patterns, other formats, damaged files, encodings, files that unpack to too much."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archwright.journal import listen_to_steps
from archwright.lake import ingestion
from archwright.lake.formats import source_files
from archwright.lake.formats.source_files import ReadOptions

from ..tools.checks import refuses
from .temporary_lake import Lake


def ingest(lake: Lake, options: ReadOptions) -> ingestion.IngestResult:
    return ingestion.ingest_files(lake.home, lake.store, ingestion.IngestRequest(lake.source, "docs", reading=options))


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        (("*.txt",), (), ["a.txt", "deep/b.txt"]),
        (("deep/*", "c.*"), (), ["c.md", "deep/b.txt"]),
        ((), ("*.txt",), ["c.md"]),
        (("*.txt",), ("deep/*",), ["a.txt"]),
    ],
)
def test_patterns_choose_files(
    lake: Lake, include: tuple[str, ...], exclude: tuple[str, ...], names: list[str]
) -> None:
    for name in ("a.txt", "deep/b.txt", "c.md"):
        lake.put(name, "text")
    version = ingest(lake, ReadOptions(include, exclude)).version
    assert [file.path for file in lake.files(version)] == names


def test_other_formats_and_damaged_files_are_skipped_and_counted(lake: Lake) -> None:
    lake.put_rows("a.jsonl", [{"n": 1}])
    lake.put("z.csv.gz", gzip.compress(b"n,m\n" + b"2,3\n" * 100_000)[:-9])
    for name in ("x.zip", "y.ZIP", "model.pkl", "README"):
        lake.put(name, "?")
    lake.put("b.parquet", "?")
    with refuses("AW-DATA-03"):
        lake.ingest()
    made = ingest(lake, ReadOptions(skip_unreadable=True))
    assert made.skipped == {".zip": 2, ".pkl": 1, "no suffix": 1}
    assert [line.partition(":")[0] for line in made.passed_over] == ["b.parquet", "z.csv.gz"]
    assert lake.values(made.version, "n") == [1]
    assert [file.path for file in lake.files(made.version)] == ["a.jsonl"]


def test_an_unreadable_file_makes_no_new_version(lake: Lake) -> None:
    skip = ReadOptions(skip_unreadable=True)
    lake.put("b.parquet", "?")
    with refuses("AW-DATA-09", r"b\.parquet: .*Parquet"):
        ingest(lake, skip)
    lake.put("a.jsonl", '{"n": 1}\n')
    lake.put("c.csv.gz", gzip.compress(b"n\n2\n"))
    first = ingest(lake, skip).version
    again = ingest(lake, skip)
    assert (again.new, again.version) == (False, first)
    assert [line.partition(":")[0] for line in again.passed_over] == ["b.parquet"]
    lake.put("a.jsonl", '{"n": 3}\n')
    lake.put("c.csv.gz", "damaged since, so its old rows stay")
    made = ingest(lake, skip)
    assert [file.path for file in made.replaced] == ["a.jsonl"]
    assert lake.values(made.version, "n") == [3, 2]


def test_a_file_that_cannot_be_opened_is_left_out(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_file(path: Path) -> tuple[str, int]:
        if path.name == "locked.txt":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return digest(path)

    digest = source_files.compute_file_digest
    monkeypatch.setattr(source_files, "compute_file_digest", open_file)
    for name in ("locked.txt", "fine.txt", os.fsdecode(b"\xff.txt"), os.fsdecode(b".\xff")):
        lake.put(name, "text")
    with refuses("AW-OPS-02"):
        ingest(lake, ReadOptions(("locked.txt",)))
    made = ingest(lake, ReadOptions(skip_unreadable=True))
    assert [file.path for file in lake.files(made.version)] == ["fine.txt"]
    assert [line.partition(":")[0] for line in made.passed_over] == [".\\udcff", "locked.txt", "\\udcff.txt"]
    with refuses("AW-DATA-02") as unmatched:
        ingest(lake, ReadOptions(("*.nothing",)))
    assert unmatched.value.hint.startswith("check the patterns of --include")


def test_encodings(lake: Lake) -> None:
    lake.put("a.csv", "name,n\nJürgen,1\n".encode("cp1252") + b"x\x81,2\n")
    lake.put("b.txt", "schön".encode("cp1252"))
    first = lake.ingest(path=lake.put("c.jsonl", '{"n": 9}\n')).version
    assert first.rows == 1
    made = ingest(lake, ReadOptions(encoding="cp1252")).version
    assert lake.rows(made, "name", "text") == [
        {"name": "Jürgen", "text": None},
        {"name": None, "text": "schön"},
        {"name": None, "text": None},
    ]
    assert lake.quarantined(made) == [("a.csv", 3, "not CP1252")]
    assert not lake.ingest().new  # in the encoding of the last ingest
    again = ingest(lake, ReadOptions(encoding="utf-8")).version
    assert {reason for _, _, reason in lake.quarantined(again)} == {"not UTF-8"}
    lake.put("d.csv", "name\n漢字\n".encode("utf-16"))
    sixteen = ingest(lake, ReadOptions(("d.csv",), encoding="utf-16")).version
    assert lake.values(sixteen, "name")[-1] == "漢字"
    with refuses("AW-DATA-30"):
        ingest(lake, ReadOptions(encoding="klingon"))


def test_files_that_unpack_to_too_much_are_refused(lake: Lake) -> None:
    """A megabyte repeats 100,000 times in a small Parquet file; its footer does not tell."""
    table = pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), ["x" * 1_000_000])})
    pq.write_table(table, lake.put("bomb.parquet", b""))
    lake.put_rows("a.jsonl", [{"text": "fine"}])
    with refuses("AW-DATA-28", "unpacks to more than 0.1 GiB"):
        ingest(lake, ReadOptions(max_unpacked_gib=0.1))
    assert not lake.data_files()
    made = ingest(lake, ReadOptions(skip_unreadable=True, max_unpacked_gib=0.1))
    assert lake.values(made.version, "text") == ["fine"]
    (lake.source / "bomb.parquet").unlink()
    lake.put("bomb.csv.gz", gzip.compress(b"n\n" + b"1\n" * 2_000_000))
    with refuses("AW-DATA-28"):
        ingest(lake, ReadOptions(max_unpacked_gib=0.001))
    pq.write_table(
        pa.table({"n": pa.array([1] * 20_000_000, pa.int64())}), lake.put("bomb.csv.gz", b"").with_name("b.parquet")
    )
    (lake.source / "bomb.csv.gz").unlink()
    with refuses("AW-DATA-28"):
        ingest(lake, ReadOptions(max_unpacked_gib=0.1))


def test_progress_has_a_rate_and_the_time_left(lake: Lake) -> None:
    lake.put("a.csv", "n\n" + "1\n" * 10_000)
    steps: list[str] = []
    with listen_to_steps(steps.append):
        lake.ingest()
    assert any(step.startswith("ingesting a.csv: 100% of 0 MB, ") and step.endswith("s left") for step in steps), steps


def test_a_wrong_estimate_of_kinds_costs_a_second_pass_only(lake: Lake) -> None:
    """The first rows show integers; later rows have texts and another column."""
    rows = [{"n": n} for n in range(100_000)] + [{"n": f"text {n}", "late": True} for n in range(3000)]
    lake.put_rows("a.jsonl", rows)
    version = lake.ingest().version
    assert (version.columns["n"], version.columns["late"], version.rows) == ("text", "boolean", 103_000)
    assert lake.values(version, "n")[-1] == "text 2999"
