"""Files become versions: every format, only what changed, and each version as it was for good."""

from __future__ import annotations

import datetime
import decimal
import gzip
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archwright.lake import ingestion, ray_cluster, source_writer
from archwright.lake.tables import data_files, iceberg_tables, version_index
from archwright.monitor import lineage

from ..tools.checks import refuses
from .temporary_lake import Lake


def parquet(lake: Lake, name: str, **columns: object) -> Path:
    path = lake.put(name, b"")
    pq.write_table(pa.table(columns), path)
    return path


def test_every_format_comes_into_one_table(lake: Lake) -> None:
    lake.put_rows("a.jsonl", [{"text": "one", "n": 1}])
    lake.put("b.csv", "text,n\r\ntwo,2\r\n")
    lake.put("c.csv.gz", gzip.compress(b"text;n\nthree;3\n"))
    lake.put("d.tsv", "text\tn\nfour\t4\n")
    parquet(lake, "e.parquet", text=["five"], n=pa.array([5], pa.int16()))
    lake.put("f.txt", "six\n\nstill six")
    lake.put("deep/er/g.md", "# Seven\n\ntext")
    lake.put("h.ndjson", '{"text": "eight", "n": 8}')  # no line end
    lake.put("i.jsonl.gz", gzip.compress(b'{"text": "nine", "n": 9}\n'))
    version = lake.ingest(licence="MIT").version
    assert lake.rows(version) == [
        {"text": "one", "n": 1},
        {"text": "two", "n": 2},
        {"text": "three", "n": 3},
        {"text": "four", "n": 4},
        {"text": "# Seven\n\ntext", "n": None},
        {"text": "five", "n": 5},
        {"text": "six\n\nstill six", "n": None},
        {"text": "eight", "n": 8},
        {"text": "nine", "n": 9},
    ]
    assert (version.id, version.rows, version.licence, version.at) == ("docs@v1", 9, "MIT", 1000.0)
    assert [file.path for file in lake.files(version)][4] == "deep/er/g.md"
    assert version.columns["n"] == "integer"
    assert version.size_bytes > 0
    ids = lake.values(version, "record_id")
    assert len(set(ids)) == 9
    assert all(len(record) == 16 for record in ids)


def test_what_has_not_changed_is_not_read_again(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    first = lake.ingest_rows([{"n": 1}])
    monkeypatch.setattr(ingestion, "_write_version", None)  # would fail if it were called
    again = lake.ingest()
    assert (again.version, again.new, first.new) == (first.version, False, True)


def test_a_changed_file_replaces_its_rows_and_the_old_version_stays(lake: Lake) -> None:
    lake.put_rows("a.jsonl", [{"n": 1}, {"n": 2}])
    lake.put_rows("b.jsonl", [{"n": 3}])
    made = lake.ingest()
    lake.put_rows("a.jsonl", [{"n": 1}, {"n": 20}])
    lake.put_rows("c.jsonl", [{"n": 4}])
    again = lake.ingest()
    assert [[(file.path, file.rows) for file in one.replaced] for one in (made, again)] == [[], [("a.jsonl", 2)]]
    first, second = made.version, again.version
    assert (second.id, second.parent, second.rows) == ("docs@v2", "docs@v1", 4)
    assert lake.values(first, "n") == [1, 2, 3]
    assert lake.values(second, "n") == [1, 20, 3, 4]
    before, after = lake.values(first, "record_id"), lake.values(second, "record_id")
    assert before[2] == after[2]  # a row of an unchanged file keeps its id
    assert not set(before[:2]) & set(after)


def test_another_licence_is_a_new_version_and_a_file_that_is_gone_keeps_its_rows(lake: Lake) -> None:
    gone = lake.put_rows("a.jsonl", [{"n": 1}])
    first = lake.ingest(licence="MIT").version
    assert not lake.ingest().new
    second = lake.ingest(licence="CC0-1.0").version
    assert (first.licence, second.licence, second.content_sha256) == ("MIT", "CC0-1.0", first.content_sha256)
    assert lake.values(second, "n") == [1]
    gone.unlink()
    lake.put_rows("b.jsonl", [{"n": 2}])
    assert lake.values(lake.ingest().version, "n") == [1, 2]


def test_the_content_digest_knows_nothing_of_how_rows_came(lake: Lake, tmp_path: Path) -> None:
    lake.ingest_rows([{"n": 1}, {"n": 2}])
    lake.put_rows("b.jsonl", [{"n": 1.5, "more": True}])
    in_two = lake.ingest().version
    (tmp_path / "other").mkdir()
    other = Lake(tmp_path / "other")
    at_once = other.ingest(path=lake.source).version
    other.store.close()
    assert in_two.content_sha256 == at_once.content_sha256
    assert in_two.columns == at_once.columns


def test_columns_are_added_and_become_wider_while_old_versions_stay(lake: Lake) -> None:
    first = lake.ingest_rows([{"n": 1}, {"n": 2}]).version
    lake.put_rows("b.jsonl", [{"n": 1.5, "a.b": "new"}])
    second = lake.ingest().version
    lake.put_rows("c.jsonl", [{"n": "many"}, {"n": True}])
    third = lake.ingest().version
    assert [version.columns["n"] for version in (first, second, third)] == ["integer", "number", "text"]
    assert lake.values(first, "n") == [1, 2]
    assert lake.rows(second) == [{"n": 1.0, "a.b": None}, {"n": 2.0, "a.b": None}, {"n": 1.5, "a.b": "new"}]
    assert lake.values(third, "n") == ["1", "2", "1.5", "many", "true"]
    assert lake.values(first, "record_id") == lake.values(third, "record_id")[:2]


def test_parquet_keeps_kinds_and_writes_out_what_has_none(lake: Lake) -> None:
    noon = datetime.datetime(2026, 1, 2, 12)
    parquet(
        lake,
        "a.parquet",
        flag=[True, None],
        small=pa.array([1, 2], pa.uint64()),
        half=pa.array([0.5, None], pa.float32()),
        word=pa.array(["x", "y"]).dictionary_encode(),
        at=[noon, None],
        at_utc=pa.array([noon, None], pa.timestamp("ms", "UTC")),
        day=[noon.date(), None],
        raw=[b"\xff\x00", None],
        exact=[decimal.Decimal("1.10"), None],
        nested=[{"a": [1, 2]}, None],
        time=pa.array([datetime.time(1, 2), None]),
    )
    version = lake.ingest().version
    kinds = list(version.columns.values())[3:]
    assert kinds == [
        *("boolean", "integer", "number", "text", "timestamp", "timestamp-utc", "date", "bytes", "text", "text", "text")
    ]
    first, second = lake.rows(version)
    assert first == {
        "flag": True,
        "small": 1,
        "half": 0.5,
        "word": "x",
        "at": noon,
        "at_utc": noon.replace(tzinfo=datetime.UTC),
        "day": noon.date(),
        "raw": b"\xff\x00",
        "exact": "1.10",
        "nested": '{"a":[1,2]}',
        "time": "01:02:00",
    }
    assert [name for name, value in second.items() if value is not None] == ["small", "word"]


def test_a_table_in_many_chunks_and_files_is_whole(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("row_chunks", "parquet_reader"):
        monkeypatch.setattr(f"archwright.lake.formats.{module}.CHUNK_ROWS", 7)
    monkeypatch.setattr(data_files, "FILE_BYTES", 1000)
    lake.put_rows("a.jsonl", [{"n": n} for n in range(50)])
    lake.put("b.csv", "n\n" + "".join(f"{n}\n" for n in range(50, 100)))
    parquet(lake, "c.parquet", n=list(range(100, 150)))
    version = lake.ingest().version
    assert lake.values(version, "n") == list(range(150))
    assert len(lake.data_files()) > 3
    read = [batch["n"].to_pylist() for batch in iceberg_tables.read_batches(lake.home, version, ["n"])]
    assert [n for batch in read for n in batch] == list(range(150))  # as they were written
    lake.put_rows("a.jsonl", [{"n": -1}])
    assert lake.values(lake.ingest().version, "n") == [-1, *range(50, 150)]


def test_one_file_goes_by_its_name_and_edges_lead_to_every_file(lake: Lake) -> None:
    path = lake.put_rows("a.jsonl", [{"n": 1}])
    (file,) = lake.files(lake.ingest(path=path).version)
    assert file.path == "a.jsonl"
    lake.put_rows("same.jsonl", [{"n": 1}])
    lake.ingest()
    first, second = lineage.read_parents(lake.store, "dataset:docs@v2")
    assert (first.parent, first.relation) == ("dataset:docs@v1", "extended")
    assert (second.parent, second.relation, second.at) == (f"file:{file.sha256}", "ingested", 1000.0)


@pytest.mark.parametrize("name", ["", "Docs", "-a", "a b", "a@v1", "a/b", "a" * 65, "ü", "a\n"])
def test_names_of_data_sets(lake: Lake, name: str) -> None:
    with refuses("AW-DATA-01"):
        lake.ingest(name)


def test_no_row_at_all_is_refused_and_leaves_nothing(lake: Lake) -> None:
    lake.put("a.jsonl", "no\nnope\n")
    with refuses("AW-DATA-09", "2 quarantine: not JSON"):
        lake.ingest()
    lake.put("a.jsonl", "")
    lake.put("b.csv", "n\n")
    lake.put("c.csv", "")
    with refuses("AW-DATA-09", "the files are empty"):
        lake.ingest()
    assert version_index.list_versions(lake.store) == []
    assert not lake.data_files()
    lake.put_rows("a.jsonl", [{"n": 1.5}])
    assert lake.values(lake.ingest().version, "n") == [1.5]


def test_a_file_that_changes_while_it_is_read(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lake.put_rows("a.jsonl", [{"n": 1}])
    taken = source_writer.build_record_batch

    def appended(*words: object) -> object:
        path.write_text('{"n": 2}\n', encoding="utf-8")
        return taken(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(source_writer, "build_record_batch", appended)
    with refuses("AW-DATA-08"):
        lake.ingest()
    assert not lake.data_files()


def test_a_full_disk_loses_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.ingest_rows([{"n": 1}])
    lake.put_rows("b.jsonl", [{"n": 2}])

    def full(*_words: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        with pytest.raises(OSError, match="No space left"):
            lake.ingest()
    assert [version.id for version in version_index.list_versions(lake.store)] == ["docs@v1"]
    assert lake.values(lake.ingest().version, "n") == [1, 2]


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("pyiceberg.catalog.sql", "lake", lambda lake: lake.ingest_rows([{"n": 1}])),
        ("ray", "ray", lambda _lake: ray_cluster.import_ray("work on a cluster")),
    ],
)
def test_a_missing_package_says_what_to_install(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, use: Callable[[Lake], object]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = "work on a cluster needs the package ray" if extra == "ray" else package.partition(".")[0]
    with refuses("AW-GET-01", said, hint=f"pip install 'archwright[{extra}]'"):
        use(lake)


def test_what_the_system_refuses(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.put_rows("a.jsonl", [{"n": 1}])

    def denied(*_words: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied", "a.jsonl")

    lake.put("b.txt", "text")
    for place in ("source_files.compute_file_digest", "text_lines.open"):
        with monkeypatch.context() as patched:
            patched.setattr(f"archwright.lake.formats.{place}", denied, raising=False)
            with refuses("AW-OPS-02"):
                lake.ingest()


def test_times_become_text_beside_text_and_bytes_beside_nothing(lake: Lake) -> None:
    both = parquet(lake, "bytes.parquet", raw=[b"x"]), parquet(lake, "text.parquet", raw=["x"])
    with refuses("AW-DATA-19"):
        lake.ingest()
    for path in both:
        path.unlink()
    parquet(lake, "a.parquet", when=[datetime.date(2026, 1, 2)])
    assert lake.ingest().version.columns["when"] == "date"
    lake.put_rows("b.jsonl", [{"when": "soon"}])
    assert lake.values(lake.ingest().version, "when") == ["2026-01-02", "soon"]
    parquet(lake, "c.parquet", raw=[b"x"])
    lake.ingest()
    lake.put_rows("d.jsonl", [{"raw": "x"}])
    with refuses("AW-DATA-19"):
        lake.ingest()


def test_kinds_that_meet_in_one_ingest(lake: Lake) -> None:
    parquet(lake, "a.parquet", n=[1, 2], flag=[True, None], word=["x", "y"])
    lake.put("b.csv", "n,flag,word\n0.5,FALSE,3\n")
    version = lake.ingest().version
    assert lake.rows(version) == [
        {"n": 1.0, "flag": True, "word": "x"},
        {"n": 2.0, "flag": None, "word": "y"},
        {"n": 0.5, "flag": False, "word": "3"},
    ]
