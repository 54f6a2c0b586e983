from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from archwright.lake.retrieval import index_builder
from archwright.lake.retrieval.index_builder import remove_records
from archwright.lake.retrieval.index_record import list_index_folders, list_indexed_versions, read_record
from archwright.lake.retrieval.index_search import IndexLibrary

from ..temporary_lake import Lake
from .indexed_lake import ROWS, add_embedder, index, search


def ids_of(lake: Lake, text: str) -> list[bytes]:
    return [row["record_id"] for row in lake.rows("docs", "record_id", "text") if text in row["text"]]


def folder_bytes(lake: Lake) -> bytes:
    return b"".join(path.read_bytes() for path in (lake.home.lake / "indexes").rglob("*") if path.is_file())


@pytest.fixture
def indexed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setattr(index_builder, "SEGMENT_ROWS", 2)
    add_embedder(lake)
    lake.ingest_rows(ROWS)
    index(lake)
    return lake


def test_a_removed_record_leaves_every_file_and_every_open_reader(indexed: Lake) -> None:
    library = IndexLibrary(indexed.home)
    assert search(indexed, "ship harbour", library=library)[0].page == 1
    vectors = library.get("docs@v1").segments[0].read_vectors()
    assert vectors is not None
    vector = vectors[0]
    before = folder_bytes(indexed)
    assert b"leaves the harbour" in before and vector.tobytes() in before and b"harbour" in before  # the scan works
    segments = [segment.name for segment in library.get("docs@v1").record.segments]
    assert remove_records(indexed.home, "docs@v1", ids_of(indexed, "harbour")) == 1
    after = folder_bytes(indexed)
    assert b"harbour" not in after and vector.tobytes() not in after
    for mode in ("hybrid", "vector", "keyword"):
        assert all(one.page != 1 for one in search(indexed, "ship harbour", library=library, mode=mode))
    assert search(indexed, "tax form", library=library)[0].page == 2
    record = read_record(indexed.home, "docs@v1")
    assert record is not None and record.passages == 3
    assert [segment.name == before for segment, before in zip(record.segments, segments, strict=True)] == [False, True]
    assert remove_records(indexed.home, "docs@v1", ids_of(indexed, "harbour")) == 0


def test_removing_all_records_leaves_an_empty_index(indexed: Lake) -> None:
    assert remove_records(indexed.home, "docs@v1", ids_of(indexed, "")) == len(ROWS)
    assert search(indexed, "tax") == ()
    assert remove_records(indexed.home, "absent@v1", [b"x" * 16]) == 0


KILLED = """
import os, signal, sys
from archwright.contract.lineage import DatasetVersion
from archwright.home import Home
from archwright.lake.retrieval import index_builder, segment
from archwright.lake.tables.version_index import find_version
from archwright.store import Store
home = Home(sys.argv[1])
index_builder.SEGMENT_ROWS = 2
if sys.argv[2] == "segment":
    segment.describe_files = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
else:
    index_builder.commit_record = lambda home, record: os.kill(os.getpid(), signal.SIGKILL)
version = find_version(Store(home.store_url), "docs")
index_builder.build_index(home, index_builder.IndexRequest(version, column="title"))
"""


@pytest.mark.process
@pytest.mark.parametrize("place", ["segment", "record"])
def test_a_killed_build_leaves_the_old_index_and_the_next_build_cleans_up(indexed: Lake, place: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(indexed.home.root), place], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert search(indexed, "ship harbour")[0].page == 1
    folder = indexed.home.lake / "indexes" / "docs@v1"
    assert len(list(folder.iterdir())) > 3  # two segments, the record, and the rest of the killed build
    assert not index(indexed, column="text").new
    made = index(indexed, column="title")
    assert made.new and {path.name for path in folder.iterdir()} == {
        "index.json",
        *(segment.name for segment in made.record.segments),
    }


def test_a_killed_first_build_is_no_index(lake: Lake) -> None:
    lake.ingest_rows(ROWS)
    Path(lake.home.folder("lake", "indexes", "docs@v1", "half")).joinpath("passages.arrow").write_bytes(b"")
    assert list_indexed_versions(lake.home) == []
    assert list_index_folders(lake.home) == ["docs@v1"]
    assert remove_records(lake.home, "docs@v1", [b"x" * 16]) == 0
    assert not list((lake.home.lake / "indexes" / "docs@v1").iterdir())
    index(lake)
    assert list_indexed_versions(lake.home) == ["docs@v1"]
    assert search(lake, "tax")[0].page == 2
