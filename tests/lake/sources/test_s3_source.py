"""Tests of objects of S3 as files of a data set; a folder stands in for the server, and nightly moto over HTTP."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
from tests.deploy import tools
from tests.tools.checks import until

from archwright.errors import DataError
from archwright.lake.formats.source_files import ReadOptions
from archwright.lake.sources import s3_source
from archwright.lake.sources.s3_source import open_bucket

from ..temporary_lake import Lake, code

ADDRESS = "s3://bucket/data"


class FolderBucket:
    """Answers like the client of S3 from a folder, and counts the copies of each object."""

    def __init__(self, root: Path) -> None:
        self._files = pyarrow.fs.SubTreeFileSystem(str(root), pyarrow.fs.LocalFileSystem())
        self.copies: Counter[str] = Counter()

    def get_file_info(self, paths: Any) -> Any:
        return self._files.get_file_info(paths)

    def open_input_stream(self, path: str) -> Any:
        self.copies[path] += 1
        return self._files.open_input_stream(path)


@pytest.fixture
def bucket(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> FolderBucket:
    made = FolderBucket(lake.source)
    monkeypatch.setattr(s3_source, "open_bucket", lambda: made)
    put(lake, "a.jsonl", '{"n": 1}\n')
    put(lake, "deep/b.csv", "n\n2\n")
    put(lake, ".hidden/c.csv", "n\n3\n")
    return made


def put(lake: Lake, name: str, content: str) -> None:
    path = lake.put(f"bucket/data/{name}", content)
    os.utime(path, (time.time() - 60,) * 2)


def test_new_objects_are_copied_once_and_unchanged_ones_never(lake: Lake, bucket: FolderBucket) -> None:
    first = lake.ingest(path=ADDRESS)
    assert lake.rows(first.version, "source_file", "n") == [
        {"source_file": "s3://bucket/data/a.jsonl", "n": 1},
        {"source_file": "s3://bucket/data/deep/b.csv", "n": 2},
    ]
    assert first.passed_over == (".hidden/c.csv: hidden",)
    assert not lake.ingest(path=ADDRESS).new
    put(lake, "deep/b.csv", "n\n20\n")
    again = lake.ingest(path=ADDRESS)
    assert lake.values(again.version, "n") == [1, 20]
    assert bucket.copies == {"bucket/data/a.jsonl": 1, "bucket/data/deep/b.csv": 2}
    assert list((lake.home.root / "lake" / "spool").iterdir()) == []


def test_an_address_may_name_one_object(lake: Lake, bucket: FolderBucket) -> None:
    assert lake.values(lake.ingest(path=f"{ADDRESS}/a.jsonl").version, "source_file") == [f"{ADDRESS}/a.jsonl"]


def test_an_object_that_changes_while_it_is_copied_is_refused(lake: Lake, bucket: FolderBucket) -> None:
    def open_changed(path: str) -> Any:
        put(lake, "a.jsonl", '{"n": 1}\n{"n": 2}\n')
        return FolderBucket.open_input_stream(bucket, path)

    bucket.open_input_stream = open_changed  # type: ignore[method-assign]
    with pytest.raises(DataError) as refused:
        lake.ingest(path=ADDRESS)
    assert code(refused.value) == "AW-DATA-08"


def test_what_the_disk_cannot_hold_is_refused_before_the_first_copy(
    lake: Lake, bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 20})
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(DataError) as refused:
        lake.ingest(path=ADDRESS)
    assert code(refused.value) == "AW-DATA-40"
    assert not bucket.copies


def test_objects_are_chosen_like_files(lake: Lake, bucket: FolderBucket) -> None:
    put(lake, "c.bin", "x")
    with pytest.raises(DataError) as refused:
        lake.ingest(path=ADDRESS)
    assert code(refused.value) == "AW-DATA-03"
    made = lake.ingest(path=ADDRESS, reading=ReadOptions(skip_unreadable=True, exclude=("deep/*",)))
    assert lake.values(made.version, "source_file") == [f"{ADDRESS}/a.jsonl"]
    assert made.skipped == {".bin": 1}
    with pytest.raises(DataError) as refused:
        lake.ingest(path=ADDRESS, reading=ReadOptions(include=("*.parquet",)))
    assert code(refused.value) == "AW-DATA-02"


def test_objects_are_decoded_by_the_encoding(lake: Lake, bucket: FolderBucket) -> None:
    put(lake, "a.jsonl", '{"n": "\xe9"}\n')
    first = lake.ingest(path=f"{ADDRESS}/a.jsonl")
    assert lake.values(first.version, "n") == ["\xe9"]
    made = lake.ingest(path=f"{ADDRESS}/a.jsonl", reading=ReadOptions(encoding="latin-1"))
    assert lake.values(made.version, "n") == ["\xc3\xa9"]
    assert not lake.ingest(path=f"{ADDRESS}/a.jsonl").new


def test_no_object_below_an_address(lake: Lake, bucket: FolderBucket) -> None:
    with pytest.raises(DataError) as refused:
        lake.ingest(path="s3://bucket/other")
    assert code(refused.value) == "AW-DATA-39"


@pytest.mark.enable_socket
def test_a_server_that_is_away_is_named_without_secrets(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    set_access(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(DataError) as refused:
        lake.ingest(path=ADDRESS)
    assert code(refused.value) == "AW-DATA-39"
    assert "hush" not in refused.value.lines()


def set_access(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def s3_server(processes: None) -> Iterator[str]:
    """The address of moto, which stands in for a server of S3."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command: list[str | Path] = [
        tools.require_environment("moto"),
        "-m",
        "moto.server",
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        until(lambda: server.poll() is not None or listens(port))
        assert server.poll() is None, "moto ended while it started"
        yield f"http://127.0.0.1:{port}"
        server.kill()


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_moto_serves_the_objects_over_http(lake: Lake, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_access(monkeypatch, s3_server)
    client = open_bucket()
    with pytest.raises(DataError) as refused:
        lake.ingest(path=ADDRESS)
    assert code(refused.value) == "AW-DATA-39"
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/bucket", method="PUT")).close()

    def write_row(number: int) -> None:
        with client.open_output_stream(f"bucket/data/{number:04}.jsonl") as stream:
            stream.write(b'{"n": %d}\n' % number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_row, range(1001)))  # more than one page of a listing
    with client.open_output_stream("bucket/data/big.csv") as stream:
        stream.write(b"n\n" + b"7\n" * 500_000)
    made = lake.ingest(path=ADDRESS)
    assert made.version.rows == 501_001
    time.sleep(2.1)  # younger objects are read again
    lake.ingest(path=ADDRESS)
    assert not lake.ingest(path=ADDRESS).new
    assert "hush-hush" not in "".join(path.read_text("latin-1") for path in lake.home.root.rglob("*") if path.is_file())
