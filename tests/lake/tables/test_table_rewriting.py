"""Rows, versions and source files leave a table: files, metadata, records and digests follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from archwright.contract.lineage import DatasetVersion
from archwright.lake import dataset_card
from archwright.lake.tables import data_files, iceberg_tables, quarantine, source_file_list, version_index
from archwright.lake.tables.data_files import StoredFile
from archwright.lake.tables.table_rewriting import VersionChanges, drop_versions, rewrite_file, rewrite_versions

from ...tools.checks import refuses
from ..temporary_lake import Lake


def without_lovelace(batch: Any) -> Any:
    return batch.filter(pc.invert(pc.match_substring(batch.column("text"), "Lovelace")))


def erase_lovelace(lake: Lake, dataset: str = "docs", **more: Any) -> None:
    rewritten = {}
    versions = [version for version in version_index.list_versions(lake.store) if version.dataset == dataset]
    for version in versions:
        for stored in iceberg_tables.list_stored_files(lake.home, version) if version.dropped_at is None else ():
            if stored.file.path not in rewritten:
                rewritten[stored.file.path] = rewrite_file(stored, without_lovelace)
    rewrite_versions(lake.home, lake.store, dataset, VersionChanges(rewritten, **more), at=5.0)


def three_versions(lake: Lake) -> list[DatasetVersion]:
    """v1 has a and b, v2 also c and a new column, v3 another b; `Lovelace` is in a, b and c."""
    lake.put_rows("a.jsonl", [{"text": "x"}, {"text": "Lovelace 1"}])
    lake.put_rows("b.jsonl", [{"text": "Lovelace 2"}, {"text": "y"}])
    made = [lake.ingest().version]
    lake.put_rows("c.jsonl", [{"text": "Lovelace 3", "n": 1}])
    made.append(lake.ingest().version)
    lake.put_rows("b.jsonl", [{"text": "z"}])
    made.append(lake.ingest().version)
    return made


def find(lake: Lake, name: str) -> DatasetVersion:
    return version_index.find_version(lake.store, name)


def check_table(lake: Lake, dataset: str = "docs") -> None:
    """Each file below the table belongs to a version or the metadata, and Iceberg reads the same rows as we do."""
    table = iceberg_tables.load_table(lake.home, dataset)
    assert table is not None
    named = iceberg_tables.list_metadata_files(table)
    live = [v for v in version_index.list_versions(lake.store) if v.dataset == dataset and v.dropped_at is None]
    assert sorted(iceberg_tables.read_version_tags(table)) == [version.version for version in live]
    for version in live:
        named |= set(iceberg_tables.list_data_files(lake.home, version))
        scan = table.scan(snapshot_id=table.refs()[f"v{version.version}"].snapshot_id)
        theirs = scan.to_arrow().select(list(version.columns)).sort_by("record_id").to_pylist()
        ours = [row for batch in iceberg_tables.read_batches(lake.home, version) for row in batch.to_pylist()]
        assert sorted(ours, key=lambda row: row["record_id"]) == theirs
        assert len(ours) == version.rows == sum(file.rows for file in version.data_files)
    folder = data_files.table_folder(lake.home, dataset)
    assert {path for path in folder.rglob("*") if path.is_file()} == named


@pytest.mark.parametrize("size", [1, 10**9])
def test_rows_leave_all_versions(lake: Lake, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(data_files, "FILE_BYTES", size)  # one data file per source file, or one per version
    three_versions(lake)
    erase_lovelace(lake)
    assert [lake.values(f"docs@v{n}", "text") for n in (1, 2, 3)] == [["x", "y"], ["x", "y"], ["x", "z"]]
    check_table(lake)
    assert not any(b"Lovelace" in path.read_bytes() for path in lake.home.lake.rglob("*") if path.is_file())
    files = source_file_list.read_source_files(lake.home, find(lake, "docs@v2"))
    assert [(file.path, file.rows) for file in files] == [("a.jsonl", 1), ("b.jsonl", 1), ("c.jsonl", 0)]
    assert not lake.ingest().new  # the sources are known, so the rows do not come back
    card = dataset_card.build_card(lake.home, lake.store, find(lake, "docs@v1"))
    assert "| rows | 2 |" in dataset_card.format_card(card)


def test_the_digests_are_those_of_data_without_the_rows(lake: Lake, tmp_path: Path) -> None:
    three_versions(lake)
    erase_lovelace(lake)
    (tmp_path / "other").mkdir()
    other = Lake(tmp_path / "other")
    other.put_rows("a.jsonl", [{"text": "x"}])
    other.put_rows("b.jsonl", [{"text": "y"}])
    made = [other.ingest().version]
    for name, rows in (("c.jsonl", []), ("b.jsonl", [{"text": "z"}])):
        other.put_rows(name, rows)
        made.append(other.ingest().version)
    digests = [find(lake, f"docs@v{n}").content_sha256 for n in (1, 2, 3)]
    assert digests == [version.content_sha256 for version in made]
    other.store.close()


def test_versions_are_dropped_and_their_numbers_are_not_used_again(lake: Lake) -> None:
    three_versions(lake)
    drop_versions(lake.home, lake.store, "docs", [1, 3], at=5.0)
    check_table(lake)
    assert lake.rows(find(lake, "docs")) == [
        {"text": text, "n": n}
        for text, n in (("x", None), ("Lovelace 1", None), ("Lovelace 2", None), ("y", None), ("Lovelace 3", 1))
    ]
    assert (find(lake, "docs").id, find(lake, "docs@v3").dropped_at) == ("docs@v2", 5.0)
    assert not quarantine.quarantine_path(lake.home, "docs", 3).exists()
    with refuses("AW-DATA-44", "docs@v3 were deleted"):
        lake.rows("docs@v3")
    again = lake.ingest().version
    assert (again.id, again.parent, lake.values(again, "text")) == (
        "docs@v4",
        "docs@v2",
        ["x", "Lovelace 1", "z", "Lovelace 3"],
    )
    check_table(lake)
    drop_versions(lake.home, lake.store, "docs", [2, 4], at=6.0)
    assert lake.data_files() == set()
    assert lake.ingest().version.id == "docs@v5"
    check_table(lake)


def test_a_source_file_gets_another_name(lake: Lake) -> None:
    lake.put_rows("Lovelace.jsonl", [{"text": "x"}])
    lake.put_rows("b.jsonl", [{"text": "y"}])
    version = lake.ingest().version

    def rename(batch: Any) -> Any:
        place = batch.schema.get_field_index("source_file")
        names = pc.replace_substring(batch.column(place), "Lovelace", "p")
        return batch.set_column(place, "source_file", names)

    made = {
        stored.file.path: rewrite_file(stored, rename)
        for stored in iceberg_tables.list_stored_files(lake.home, version)
    }
    rewrite_versions(lake.home, lake.store, "docs", VersionChanges(made, renamed={"Lovelace.jsonl": "p.jsonl"}), at=5.0)
    check_table(lake)
    files = source_file_list.read_source_files(lake.home, find(lake, "docs"))
    assert [(file.path, file.rows) for file in files] == [("b.jsonl", 1), ("p.jsonl", 1)]
    assert not any(b"Lovelace" in path.read_bytes() for path in lake.home.lake.rglob("*") if path.is_file())


def test_rows_leave_a_refined_version(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "FILE_BYTES", 1)
    three_versions(lake)
    before = lake.refine("[{drop-empty: {columns: [text]}}]").version
    erase_lovelace(lake, "docs-clean")
    after = find(lake, "docs-clean")
    assert lake.values(after, "text") == ["x", "z"]
    same = [old == new for old, new in zip(before.part_sha256, after.part_sha256, strict=True)]
    assert sorted(same) == [False, False, True]
    assert after.content_sha256 != before.content_sha256
    check_table(lake, "docs-clean")


def test_nothing_of_the_old_table_stays_in_the_metadata(lake: Lake) -> None:
    three_versions(lake)
    table = iceberg_tables.load_table(lake.home, "docs")
    assert table is not None
    old = {table.metadata.table_uuid, *(snapshot.snapshot_id for snapshot in table.snapshots())}
    erase_lovelace(lake)
    table = iceberg_tables.load_table(lake.home, "docs")
    assert table is not None
    text = Path(table.metadata_location).read_text()
    assert not any(str(one) in text for one in old)
    assert (table.metadata.metadata_log, len(table.snapshots())) == ([], 3)
    for snapshot in table.snapshots():
        for manifest in snapshot.manifests(table.io):
            for entry in manifest.fetch_manifest_entry(table.io):
                assert not entry.data_file.lower_bounds and not entry.data_file.upper_bounds


def test_a_damaged_file_is_not_rewritten(lake: Lake) -> None:
    version = lake.ingest_rows([{"text": "x"}]).version
    (path,) = lake.data_files()
    path.write_bytes(path.read_bytes()[:-1])
    (stored,) = iceberg_tables.list_stored_files(lake.home, version)
    assert isinstance(stored, StoredFile)
    with refuses("AW-DATA-42"):
        rewrite_file(stored, without_lovelace)
