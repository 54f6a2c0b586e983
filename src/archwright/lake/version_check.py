"""Compares versions with their records: files, values, lists of source files, table metadata.

Data files are hashed again, also those that this process has verified. Values are digested once for every source file
or part, however many versions have it.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from archwright.contract.lineage import DataFile, DatasetVersion
from archwright.contract.record import Record
from archwright.errors import ArchwrightError, DataError, boundary
from archwright.home import Home
from archwright.journal import report_step
from archwright.lake.refinement import shards_folder
from archwright.lake.tables import iceberg_tables, source_file_list
from archwright.lake.tables.data_files import (
    StoredFile,
    list_sources,
    read_file,
    read_sources,
    table_folder,
    verify_file,
)
from archwright.lake.tables.value_digest import ValueDigest, combine_digests, combine_parts

UnitKey = tuple[str, tuple[str, ...]]
"""A source file or part, and the paths of the data files that hold its rows."""


class VersionProblem(Record):
    version: str
    subject: str
    problem: str


class VersionCheck(Record):
    """`size_bytes` were read in `seconds`: data files and shards."""

    versions: int
    files: int
    size_bytes: int
    seconds: float
    problems: tuple[VersionProblem, ...]


def check_versions(home: Home, versions: Sequence[DatasetVersion]) -> VersionCheck:
    """Check the files and values of the versions; every difference is a problem of the result."""
    checker, began = _Checker(home, versions), time.monotonic()
    for version in versions:
        checker.check(version)
    return VersionCheck(
        versions=len(versions),
        files=len(checker.files),
        size_bytes=sum(checker.files.values()),
        seconds=time.monotonic() - began,
        problems=tuple(checker.problems),
    )


class _Checker:
    def __init__(self, home: Home, versions: Sequence[DatasetVersion]) -> None:
        self._home = home
        self._left = sum(file.size_bytes for version in versions for file in version.data_files)
        self._left += sum(shard.size_bytes for version in versions for shard in version.token_shards)
        self._began = time.monotonic()
        self._tables: dict[str, Any] = {}
        self._names: dict[Path, set[str]] = {}
        self._units: dict[UnitKey, tuple[int, str]] = {}
        self._damaged: set[Path] = set()
        self.files: dict[Path, int] = {}  # with their sizes
        self.problems: list[VersionProblem] = []

    def check(self, version: DatasetVersion) -> None:
        self._check_record(version)
        if version.dropped_at is not None:
            return
        try:
            stored = iceberg_tables.list_stored_files(self._home, version)
        except DataError as error:
            self._add(version, version.id, str(error))
            return
        folder = shards_folder(self._home, version)
        for shard in version.token_shards:
            file = DataFile(path=shard.path, sha256=shard.sha256, size_bytes=shard.size_bytes, rows=0)
            self._check_file(version, StoredFile(folder, file, version.id))
        for one in stored:
            self._check_file(version, one)
        self._check_metadata(version)
        if not self._damaged.intersection(file.path for file in stored):
            self._check_values(version, stored)

    def _add(self, version: DatasetVersion, subject: str, problem: str) -> None:
        self.problems.append(VersionProblem(version=version.id, subject=subject, problem=problem))

    def _check_record(self, version: DatasetVersion) -> None:
        path = source_file_list.version_record_path(self._home, version.dataset, version.version)
        try:
            if msgspec.json.decode(path.read_bytes(), type=DatasetVersion) != version:
                self._add(version, str(path), "this record of the version differs from the one in the store")
        except (OSError, msgspec.MsgspecError) as error:
            self._add(version, str(path), f"this record of the version cannot be read: {error}")

    def _check_file(self, version: DatasetVersion, stored: StoredFile) -> None:
        self._left -= stored.file.size_bytes
        if stored.path in self.files:
            return
        rate = sum(self.files.values()) / max(1e-3, time.monotonic() - self._began)
        report_step(f"checking {version.id}: {rate / 1e6:,.0f} MB/s, {self._left / max(1.0, rate):,.0f} s left")
        self.files[stored.path] = stored.file.size_bytes
        try:
            verify_file(stored, again=True)
        except DataError as error:
            self._damaged.add(stored.path)
            self._add(version, str(stored.path), str(error))

    def _check_metadata(self, version: DatasetVersion) -> None:
        """The table has the version under its tag, with its digest and its data files."""
        try:
            with boundary("table metadata"):
                table = self._tables.get(version.dataset) or iceberg_tables.load_table(self._home, version.dataset)
                self._tables[version.dataset] = table
                found = {} if table is None else iceberg_tables.read_version_files(table, version.version)
        except ArchwrightError as error:
            self._add(version, str(table_folder(self._home, version.dataset)), f"the metadata cannot be read: {error}")
            return
        expected = {file.path: (file.rows, file.size_bytes) for file in version.data_files}
        if table is None or iceberg_tables.read_version_tags(table).get(version.version) != version.content_sha256:
            self._add(version, version.id, "the table has no such version, or one with another content digest")
        elif found != expected:
            self._add(version, version.id, "the table lists other data files than the record of the version")

    def _check_values(self, version: DatasetVersion, stored: list[StoredFile]) -> None:
        """The values of each unit and of the version have the recorded digests, and rows the recorded number."""
        try:
            recorded = self._read_recorded_digests(version)
            found = self._digest_units(version, stored)
        except DataError as error:
            self._add(version, version.id, str(error))
            return
        nothing = (0, ValueDigest().hexdigest())
        for name in sorted(recorded.keys() | found.keys()):
            if found.get(name, nothing)[1] != recorded.get(name):
                unit = "source file" if version.action == "ingest" else "part"
                self._add(version, name, f"the rows of this {unit} differ from its digest in the record")
        total = combine_digests(recorded.items()) if version.action == "ingest" else combine_parts(version.part_sha256)
        if total != version.content_sha256:
            self._add(version, version.id, "the content digest differs from the digests of its units")
        if (rows := sum(count for count, _digest in found.values())) != version.rows:
            self._add(version, version.id, f"the table has {rows:,} rows, and the record {version.rows:,}")

    def _read_recorded_digests(self, version: DatasetVersion) -> dict[str, str]:
        if version.action == "refine":
            return {str(number): digest for number, digest in enumerate(version.part_sha256)}
        return {file.path: file.content_sha256 for file in source_file_list.read_source_files(self._home, version)}

    def _digest_units(self, version: DatasetVersion, stored: list[StoredFile]) -> dict[str, tuple[int, str]]:
        """Unit -> rows, digest. Reads the data files that hold a unit which no earlier version had."""
        places: dict[str, list[str]] = {}
        for file in stored:
            if file.path not in self._names:
                self._names[file.path] = list_sources(file) if version.action == "ingest" else {str(file.file.part)}
            for name in self._names[file.path]:
                places.setdefault(name, []).append(str(file.path))
        keys = {name: (name, tuple(paths)) for name, paths in places.items()}
        digests = {name: ValueDigest() for name, key in keys.items() if key not in self._units}
        needed = {path for name in digests for path in places[name]}
        for file in stored:
            if str(file.path) in needed:
                for name, rows in _read_units(version, file):
                    if name in digests:
                        digests[name].add(rows)
        self._units.update((keys[name], (values.rows, values.hexdigest())) for name, values in digests.items())
        return {name: self._units[key] for name, key in keys.items()}


def _read_units(version: DatasetVersion, stored: StoredFile) -> Iterator[tuple[str, Any]]:
    if version.action == "ingest":
        return read_sources(stored, version.columns)
    return ((str(stored.file.part), rows) for rows in read_file(stored, version.columns))
