"""Each part of a version is damaged once, and the check names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from archwright.lake.refinement import shards_folder
from archwright.lake.tables import data_files, iceberg_tables, source_file_list, version_index
from archwright.lake.tables.table_rewriting import drop_versions
from archwright.lake.version_check import VersionCheck, check_versions

from .steps.test_token_shards import make_shards
from .tables.test_data_files import flip_bit
from .temporary_lake import Lake


def check(lake: Lake) -> VersionCheck:
    return check_versions(lake.home, version_index.list_versions(lake.store))


def fill(lake: Lake) -> None:
    lake.put_rows("a.jsonl", [{"t": f"row {n}"} for n in range(50)])
    lake.put_rows("b.jsonl", [{"t": "x"}])
    lake.ingest()
    lake.put_rows("b.jsonl", [{"t": "y"}, {"t": "z", "n": 1}])
    lake.ingest()
    lake.refine("[{drop-empty: {columns: [t]}}]")


def first_file(lake: Lake) -> Path:
    return iceberg_tables.list_data_files(lake.home, version_index.find_version(lake.store, "docs@v1"))[0]


def flip_data(lake: Lake) -> None:
    path = first_file(lake)
    flip_bit(path, path.stat().st_size // 2)


def rewrite_data(lake: Lake) -> None:
    """Another value with a right digest in all records: only the values tell."""
    version = version_index.find_version(lake.store, "docs@v1")
    stored = iceberg_tables.list_stored_files(lake.home, version)[0]
    (batch,) = data_files.read_file(stored)
    rows = batch.to_pylist()
    rows[3]["t"] = "row 4"
    changed = type(batch).from_pylist(rows, schema=batch.schema)
    made = data_files.write_file(stored.folder, stored.file.path, pa.Table.from_batches([changed]), 0)
    path = source_file_list.version_record_path(lake.home, "docs", 1)
    record = json.loads(path.read_bytes())
    record["data_files"][0].update(sha256=made.sha256, size_bytes=made.size_bytes)
    path.write_text(json.dumps(record), encoding="utf-8")


def lose_list(lake: Lake) -> None:
    source_file_list.source_list_path(lake.home, "docs", 1).unlink()


def edit_list(lake: Lake) -> None:
    path = source_file_list.source_list_path(lake.home, "docs", 1)
    path.write_text(path.read_text().replace('"content_sha256":"', '"content_sha256":"0'))


def edit_record(lake: Lake) -> None:
    path = source_file_list.version_record_path(lake.home, "docs", 1)
    path.write_text(path.read_text().replace('"licence": ""', '"licence": "MIT"'))


def break_record(lake: Lake) -> None:
    source_file_list.version_record_path(lake.home, "docs", 1).write_bytes(b"{")


def lose_manifest(lake: Lake) -> None:
    table = iceberg_tables.load_table(lake.home, "docs")
    assert table is not None
    for snapshot in table.snapshots():
        Path(snapshot.manifest_list).unlink()


def flip_metadata(lake: Lake) -> None:
    table = iceberg_tables.load_table(lake.home, "docs")
    assert table is not None
    Path(table.metadata_location).write_bytes(b"{}")


def test_whole_versions_have_no_problem(lake: Lake) -> None:
    fill(lake)
    found = check(lake)
    assert (found.problems, found.versions, found.files) == ((), 3, 3)
    assert found.size_bytes == sum(path.stat().st_size for path in lake.data_files()) > 0
    drop_versions(lake.home, lake.store, "docs", [1], at=1.0)
    assert check(lake).problems == ()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip_data, "damaged: its SHA-256 differs"),
        (lambda lake: first_file(lake).unlink(), "cannot be read: No such file"),
        (lose_list, "list of the source files"),
        (edit_list, "differ from its digest"),
        (edit_record, "differs from the one in the store"),
        (break_record, "record of the version cannot be read"),
        (lose_manifest, "metadata cannot be read"),
        (flip_metadata, "metadata cannot be read"),
    ],
)
def test_damage_is_named(lake: Lake, damage: Callable[[Lake], object], problem: str) -> None:
    fill(lake)
    damage(lake)
    found = check(lake)
    assert [one for one in found.problems if one.version == "docs@v1" and problem in one.problem]
    assert not [one for one in found.problems if one.version.startswith("docs-clean")]


def test_values_are_compared_with_their_digest(lake: Lake) -> None:
    """A file that was written again with another value, and its record with it."""
    fill(lake)
    rewrite_data(lake)
    lake.store.close()
    for path in lake.home.root.glob("archwright.db*"):
        path.unlink()
    fresh = Lake(lake.root)
    version_index.repair_index(fresh.home, fresh.store, "docs")
    problems = [(one.version, one.subject, one.problem) for one in check(fresh).problems]
    assert ("docs@v1", "a.jsonl", "the rows of this source file differ from its digest in the record") in problems
    fresh.store.close()


def test_shards_are_checked(lake: Lake) -> None:
    lake.ingest_rows([{"text": "a b c"}])
    version = make_shards(lake)
    (shard,) = version.token_shards
    assert check(lake).problems == ()
    flip_bit(shards_folder(lake.home, version) / shard.path, shard.size_bytes // 2)
    (found,) = check(lake).problems
    assert found.version == "docs-clean@v1" and "SHA-256" in found.problem
