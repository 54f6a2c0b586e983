"""Damaged data files: each is refused before its first row, and a file is hashed once per process."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO

import pytest

from archwright.contract.lineage import DatasetVersion
from archwright.errors import DataError
from archwright.lake.tables import data_files, iceberg_tables
from archwright.training import training_data
from archwright.training.training_spec import Columns, TrainSpec

from ...tools.checks import refuses
from ..temporary_lake import Lake

FLIPS = 60


def ingest(lake: Lake) -> tuple[DatasetVersion, Path]:
    version = lake.ingest_rows([{"n": n, "text": f"row {n} " * 5, "x": n / 7} for n in range(300)]).version
    (path,) = iceberg_tables.list_data_files(lake.home, version)
    return version, path


def flip_bit(path: Path, place: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        (value,) = file.read(1)
        file.seek(place)
        file.write(bytes([value ^ (1 << place % 8)]))


def test_the_record_has_the_digest_the_size_and_the_rows(lake: Lake) -> None:
    version, path = ingest(lake)
    (file,) = version.data_files
    data = path.read_bytes()
    assert (file.sha256, file.size_bytes, file.rows) == (hashlib.sha256(data).hexdigest(), len(data), 300)
    assert version.size_bytes == len(data)


def test_every_flipped_bit_is_an_error(lake: Lake) -> None:
    version, path = ingest(lake)
    size = path.stat().st_size
    for number in range(FLIPS):
        flip_bit(path, number * size // FLIPS)
        with refuses("AW-DATA-42", "docs@v1 is damaged") as caught:
            next(iceberg_tables.read_batches(lake.home, version, ["n"]))
        assert caught.value.where.file == str(path)
        flip_bit(path, number * size // FLIPS)
    assert lake.values(version, "n") == list(range(300))


def test_pages_have_checksums(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the digest of the file, flips in the data are found by the pages: what changes while it is read."""
    version, path = ingest(lake)
    monkeypatch.setattr(data_files, "verify_file", lambda stored: None)
    whole, size = lake.rows(version), path.stat().st_size
    found = []
    for number in range(FLIPS):
        flip_bit(path, number * size // FLIPS)
        try:
            found.append("equal" if lake.rows(version) == whole else "other")
        except DataError as error:
            found.append(error.code)
        flip_bit(path, number * size // FLIPS)
    assert found.count("AW-DATA-42") > FLIPS // 2
    assert found.count("other") <= 2  # in the headers of pages and the footer, which only the digest of the file covers


def test_training_refuses_a_damaged_file(lake: Lake) -> None:
    version, path = ingest(lake)
    spec = TrainSpec(name="m", dataset="docs", task="text-lora", base="b", columns=Columns(text="text"))
    assert training_data.load_version(lake.home, version, spec).version == version
    flip_bit(path, path.stat().st_size // 2)
    with refuses("AW-DATA-42"):
        training_data.load_version(lake.home, version, spec)


def test_a_recipe_refuses_a_damaged_source(lake: Lake) -> None:
    _version, path = ingest(lake)
    flip_bit(path, path.stat().st_size // 2)
    with refuses("AW-DATA-42"):
        lake.refine("[{drop-empty: {}}]")


def test_a_missing_file(lake: Lake) -> None:
    version, path = ingest(lake)
    path.rename(path.with_suffix(".away"))
    with refuses("AW-DATA-43", "docs@v1 cannot be read: No such file"):
        lake.rows(version)


def test_a_file_is_hashed_once_per_process_and_again_after_a_change(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, path = ingest(lake)
    monkeypatch.setattr(data_files, "_verified", set())
    hashed: list[str] = []
    digest = hashlib.file_digest

    def note(file: IO[bytes], name: str) -> object:
        hashed.append(file.name)
        return digest(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", note)
    lake.rows(version)
    lake.rows(version)
    assert len(hashed) == 1
    os.utime(path, ns=(1, 1))
    lake.rows(version)
    assert len(hashed) == 2


def test_replaced_rows_are_removed_file_by_file(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "FILE_BYTES", 1)  # one data file per source file
    for name in "abc":
        lake.put_rows(f"{name}.jsonl", [{"from": name}])
    first = lake.ingest().version
    lake.put_rows("b.jsonl", [{"from": "new"}])
    second = lake.ingest().version
    assert lake.values(second, "from") == ["a", "new", "c"]
    assert len(set(first.data_files) & set(second.data_files)) == 2
    assert lake.values(first, "from") == ["a", "b", "c"]
