"""The list of a version's source files: it grows by what changed, and unchanged files are not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archwright.contract.record import replace
from archwright.lake.formats import source_files
from archwright.lake.tables import iceberg_tables, source_file_list, version_index

from ...tools.checks import refuses
from ..temporary_lake import Lake


def settle(lake: Lake, *names: str) -> None:
    """Make files old enough for their times to be trusted."""
    for name in names:
        os.utime(lake.source / name, (1_000_000, 1_000_000))


def listed(lake: Lake, version: int) -> list[str]:
    path = source_file_list.source_list_path(lake.home, "docs", version)
    return [line.split('"')[3] for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_version_lists_only_its_own_files_and_unchanged_files_are_not_read(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        lake.put(f"{number:02d}.txt", f"text {number}")
        settle(lake, f"{number:02d}.txt")
    lake.ingest()
    lake.put("new.txt", "new")
    lake.put("03.txt", "changed")
    settle(lake, "new.txt")
    read: list[str] = []
    digest = source_files.compute_file_digest

    def noted(path: Path) -> tuple[str, int]:
        read.append(path.name)
        return digest(path)

    monkeypatch.setattr(source_files, "compute_file_digest", noted)
    second = lake.ingest().version
    assert read == ["03.txt", "new.txt"]
    assert (listed(lake, 2), second.source_files) == (["03.txt", "new.txt"], 21)
    files = lake.files(second)
    assert [file.path for file in files] == sorted(path.name for path in lake.source.iterdir())
    assert [file.path for file in files if not file.signature] == ["03.txt"]  # young: its time proves nothing
    assert not lake.ingest().new
    assert read == ["03.txt", "new.txt", "03.txt"]


def test_a_file_changed_within_the_tick_of_its_time_is_noticed(lake: Lake) -> None:
    path = lake.put("a.txt", "one")
    before = path.stat()
    lake.ingest()
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert lake.values(lake.ingest().version, "text") == ["two"]


def test_a_file_whose_time_alone_changed_gets_its_new_signature_with_the_next_version(lake: Lake) -> None:
    lake.put("a.txt", "one")
    first = lake.ingest().version
    settle(lake, "a.txt")
    assert not lake.ingest().new
    lake.put("b.txt", "two")
    second = lake.ingest().version
    assert sorted(listed(lake, 2)) == ["a.txt", "b.txt"]
    assert lake.files(first)[0].signature == "" != lake.files(second)[0].signature
    assert lake.values(second, "text") == ["one", "two"]


def test_files_of_refined_versions_and_lists_that_are_gone(lake: Lake) -> None:
    lake.put("a.txt", "one")
    source = lake.ingest().version
    once = lake.refine("[{drop-empty: {}}]").version
    twice = lake.refine("[{drop-short: {characters: 1}}]", source="docs-clean", into="docs-more").version
    assert lake.files(twice) == lake.files(once) == lake.files(source) != ()
    source_file_list.source_list_path(lake.home, "docs", 1).unlink()
    for version in (source, twice):
        with refuses("AW-DATA-27", "docs@v1"):
            lake.files(version)


def test_a_version_of_an_older_archwright_is_refused(lake: Lake) -> None:
    made = lake.ingest_rows([{"n": 1}]).version
    old = replace(made, id="docs@v2", version=2, columns={**made.columns, "record_id": "text"}, source_files=0)
    lake.store.append(version_index.VERSIONS, [old])
    with refuses("AW-DATA-26", "docs@v2"):
        lake.ingest()
    with refuses("AW-DATA-26"):
        list(iceberg_tables.read_batches(lake.home, old))
    assert lake.files(old) == ()
