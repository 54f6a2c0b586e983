"""Removes rows or versions from a table and every trace of them: for erasure and retention.

`rewrite_file` makes the replacement of a data file; `rewrite_versions` puts replacements into all versions at once.
The caller holds the data set's lock for both, and has run `version_index.repair_index`. A kill at any moment leaves
the old table or the new one, and the next writer or `finish_rewrite` completes the new one.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

from archwright.contract.lineage import DataFile, DatasetVersion, SourceFile
from archwright.contract.record import replace
from archwright.home import Home
from archwright.lake.lazy_modules import pa
from archwright.lake.tables import source_file_list, version_index
from archwright.lake.tables.data_files import (
    StoredFile,
    list_sources,
    read_file,
    read_sources,
    table_folder,
    write_file,
)
from archwright.lake.tables.value_digest import ValueDigest, combine_digests, combine_parts
from archwright.store import Store


class VersionChanges(NamedTuple):
    """`rewritten`: data file's path -> its replacement, None if no row is left.

    `dropped`: numbers of versions to delete. `renamed`: source file's name -> its new name in the replacements.
    """

    rewritten: Mapping[str, DataFile | None] = {}
    dropped: Collection[int] = ()
    renamed: Mapping[str, str] = {}


def rewrite_file(stored: StoredFile, change: Callable[[Any], Any]) -> DataFile | None:
    """Write the rows of a data file again, each record batch changed by `change`. Returns None if no row is left.

    The new file counts when `rewrite_versions` has it. Raises DataError AW-DATA-42 or -43.
    """
    batches = list(read_file(stored))
    changed = [change(batch) for batch in batches]
    if not any(batch.num_rows for batch in changed):
        return None
    table = pa.Table.from_batches(changed).cast(batches[0].schema)  # with the field ids of the table
    return write_file(stored.folder, f"data/rewritten-{uuid4()}.parquet", table, stored.file.part)


def drop_versions(home: Home, store: Store, dataset: str, numbers: Collection[int], at: float) -> None:
    """Delete the rows and files of versions; their records stay, with the time `at`."""
    rewrite_versions(home, store, dataset, VersionChanges(dropped=numbers), at)


def rewrite_versions(home: Home, store: Store, dataset: str, changes: VersionChanges, at: float) -> None:
    """Change data files and drop versions in one step, then purge what no version needs any more.

    The table gets new metadata, so no snapshot, manifest or column bound of the old one remains. Counts and digests in
    the records of versions and source files follow. `at` is the time of dropped versions, in seconds.
    """
    old = sorted(store.rows(version_index.VERSIONS, {"dataset": dataset}), key=lambda version: version.version)
    new = [_change_version(version, changes, at) for version in old]
    live = [pair for pair in zip(old, new, strict=True) if pair[1].dropped_at is None]
    newest = max((version.version for _old, version in live), default=0)
    lists = _SourceLists(home, dataset, changes.renamed)
    for before, after in live:
        if after.action == "ingest":
            lists.update(before, after, changes.rewritten)
    # Later versions need the list of a dropped version; without later versions nothing does.
    lists.clear(version.version for version in new if version.version > newest)
    made = {after.id: _digest_version(home, before, after, changes, lists) for before, after in live}
    rewrite = version_index.TableRewrite(
        dataset=dataset,
        versions=tuple(made.get(version.id, version) for version in new),
        source_lists=lists.changed(),
    )
    version_index.apply_rewrite(home, store, rewrite)


def _change_version(version: DatasetVersion, changes: VersionChanges, at: float) -> DatasetVersion:
    if version.dropped_at is not None:
        return version
    if version.version in changes.dropped:
        return replace(version, dropped_at=at, data_files=())
    made = (changes.rewritten.get(file.path, file) for file in version.data_files)
    files = tuple(file for file in made if file is not None)
    size, rows = sum(file.size_bytes for file in files), sum(file.rows for file in files)
    return replace(version, data_files=files, size_bytes=size, rows=rows)


def _digest_version(
    home: Home, before: DatasetVersion, after: DatasetVersion, changes: VersionChanges, lists: "_SourceLists"
) -> DatasetVersion:
    """The version with the digests of its values after the changes."""
    if after.data_files == before.data_files:
        return after
    if after.action == "ingest":
        return replace(after, content_sha256=lists.digest(after.version))
    digests = list(after.part_sha256)
    for part in {file.part for file in before.data_files if file.path in changes.rewritten}:
        values = ValueDigest()
        for file in after.data_files:
            if file.part == part:
                for batch in read_file(_stored(home, after, file), after.columns):
                    values.add(batch)
        digests[part] = values.hexdigest()
    return replace(after, part_sha256=tuple(digests), content_sha256=combine_parts(digests))


def _stored(home: Home, version: DatasetVersion, file: DataFile) -> StoredFile:
    return StoredFile(table_folder(home, version.dataset), file, version.id)


class _SourceLists:
    """The lists of source files of all versions of a data set, changed together with their rows.

    An entry belongs to the version that read the file; later versions have the same rows.
    """

    def __init__(self, home: Home, dataset: str, renamed: Mapping[str, str]) -> None:
        self._home = home
        self._renamed = renamed
        self._old = source_file_list.read_lists(home, dataset)
        self._lists: dict[int, dict[str, SourceFile]] = {}
        for number, files in self._old.items():
            new = (replace(file, path=renamed.get(file.path, file.path)) for file in files)
            self._lists[number] = {file.path: file for file in new}
        self._updated: set[tuple[int, str]] = set()

    def update(self, before: DatasetVersion, after: DatasetVersion, rewritten: Collection[str]) -> None:
        """Set the counts and digests of the source files whose rows were in data files that are `rewritten`."""
        touched = [_stored(self._home, before, file) for file in before.data_files if file.path in rewritten]
        names = {self._renamed.get(name, name) for stored in touched for name in list_sources(stored)}
        owners = {
            name: max(n for n, files in self._lists.items() if n <= after.version and name in files) for name in names
        }
        new = {name: number for name, number in owners.items() if (number, name) not in self._updated}
        digests = {name: ValueDigest() for name in new}
        for stored in (_stored(self._home, after, file) for file in after.data_files) if new else ():
            if not list_sources(stored).isdisjoint(new):
                for name, rows in read_sources(stored, after.columns):
                    if name in new:
                        digests[name].add(rows)
        for name, number in new.items():
            values, file = digests[name], self._lists[number][name]
            self._lists[number][name] = replace(file, rows=values.rows, content_sha256=values.hexdigest())
            self._updated.add((number, name))

    def clear(self, numbers: Iterable[int]) -> None:
        self._lists.update({number: {} for number in self._lists.keys() & set(numbers)})

    def digest(self, version: int) -> str:
        """The content digest of a version."""
        found: dict[str, SourceFile] = {}
        for number in range(1, version + 1):
            found.update(self._lists[number])
        return combine_digests((file.path, file.content_sha256) for file in found.values())

    def changed(self) -> dict[int, tuple[SourceFile, ...]]:
        lists = {number: tuple(files.values()) for number, files in self._lists.items()}
        return {number: files for number, files in lists.items() if files != self._old[number]}
