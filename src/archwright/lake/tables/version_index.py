"""The index of data set versions in the store, and its repair after a crash.

A version exists if its table has its tag. Its record is written beside the table before the commit and is copied into
the store afterwards; `repair_index` adds missing copies.
"""

import difflib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from archwright.contract.lineage import DatasetVersion, LineageEdge, SourceFile, format_node
from archwright.contract.record import Record
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home, write_json
from archwright.lake.tables import iceberg_tables, source_file_list
from archwright.lake.tables.data_files import sync_folder
from archwright.lake.tables.iceberg_tables import VersionDraft
from archwright.lake.tables.quarantine import quarantine_path
from archwright.monitor import lineage
from archwright.store import ConflictError, RecordTable, Store

VERSIONS = RecordTable("dataset_versions", DatasetVersion, unique=("id",), index=("dataset",))


def list_versions(store: Store) -> list[DatasetVersion]:
    """All versions, oldest first."""
    return store.rows(VERSIONS)


def newest_version(store: Store, dataset: str) -> DatasetVersion | None:
    """The newest version whose rows were not deleted."""
    live = (version for version in store.rows(VERSIONS, {"dataset": dataset}) if version.dropped_at is None)
    return max(live, key=lambda version: version.version, default=None)


def list_newest_versions(store: Store) -> list[DatasetVersion]:
    """The newest version of each data set, without versions whose rows were deleted."""
    newest = {version.dataset: version for version in list_versions(store) if version.dropped_at is None}
    return list(newest.values())


def next_number(store: Store, dataset: str) -> int:
    """The number of the next version: numbers of deleted versions are not used again."""
    return 1 + max((version.version for version in store.rows(VERSIONS, {"dataset": dataset})), default=0)


def find_version(store: Store, name: str) -> DatasetVersion:
    """The version "docs@v1", or the newest version of "docs". Raises DataError AW-DATA-10."""
    exact = store.rows(VERSIONS, {"id": name})
    found = exact[0] if exact else newest_version(store, name)
    if found is not None:
        return found
    known = {known_id for version in list_versions(store) for known_id in (version.id, version.dataset)}
    near = tuple(difflib.get_close_matches(name, sorted(known), 3, 0.3))
    nearest = f"similar names: {', '.join(near)}; " if near else ""
    message = f"there is no data set or version {name!r}"
    hint = f"{nearest}list all: archwright data list; make one: archwright data ingest"
    raise DataError("AW-DATA-10", message, where=ErrorLocation(field=name), hint=hint, nearest=near)


def commit_version(home: Home, draft: VersionDraft, version: DatasetVersion) -> None:
    """Write the record of the version beside its table, then commit the table."""
    write_json(source_file_list.version_record_path(home, version.dataset, version.version), version)
    draft.commit()


def register_version(home: Home, store: Store, version: DatasetVersion) -> None:
    """Store a committed version's edges, and last its row, which marks it complete."""
    child = format_node("dataset", version.id)
    parents: dict[str, Literal["ingested", "extended", "refined"]] = {}
    if version.parent:
        parents[format_node("dataset", version.parent)] = "refined" if version.action == "refine" else "extended"
    for file in source_file_list.find_new_files(home, version) if version.action == "ingest" else ():
        parents[format_node("file", file.sha256)] = "ingested"
    there = {edge.parent for edge in lineage.read_parents(store, child)}
    new = {parent: relation for parent, relation in parents.items() if parent not in there}
    edges = [LineageEdge(at=version.at, child=child, parent=parent, relation=new[parent]) for parent in new]
    lineage.append_edges(store, edges)
    store.append(VERSIONS, [version])


def repair_index(home: Home, store: Store, dataset: str) -> None:
    """Complete a rewriting, and register committed versions that are not in the index. The caller holds the lock."""
    finish_rewrite(home, store, dataset)
    there = {version.version for version in store.rows(VERSIONS, {"dataset": dataset})}
    paths = home.folder("lake", "versions", dataset).glob("v*.json")
    noted = {int(path.stem[1:]): path for path in paths if path.stem[1:].isdecimal()}
    missing = sorted(noted.keys() - there)
    table = iceberg_tables.load_table(home, dataset) if missing else None  # its library takes long to load
    committed = {} if table is None else iceberg_tables.read_version_tags(table)
    for number in missing:
        try:
            version = msgspec.json.decode(noted[number].read_bytes(), type=DatasetVersion)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # an incomplete or foreign file
        if version.content_sha256 == committed.get(number):
            register_version(home, store, version)


class TableRewrite(Record):
    """The journal of a rewriting: the records of all versions and the changed lists of source files, as they will be.

    It is written before anything is changed and removed last, so a killed rewriting is completed by `finish_rewrite`.
    """

    dataset: str
    versions: tuple[DatasetVersion, ...]
    source_lists: dict[int, tuple[SourceFile, ...]] = {}


def _journal_path(home: Home, dataset: str) -> Path:
    return home.folder("lake", "rewrites") / f"{dataset}.json"


def apply_rewrite(home: Home, store: Store, rewrite: TableRewrite) -> None:
    """Make the table and the records of its versions as `rewrite` says, and delete all other files of the table.

    The caller holds the data set's lock. If the process dies, the next writer or `finish_rewrite` completes the work.
    """
    write_json(_journal_path(home, rewrite.dataset), rewrite)
    finish_rewrite(home, store, rewrite.dataset)


def finish_rewrite(home: Home, store: Store, dataset: str) -> None:
    """Complete a rewriting that was begun, if there is one. The caller holds the data set's lock."""
    path = _journal_path(home, dataset)
    if not path.exists():
        return
    rewrite = msgspec.json.decode(path.read_bytes(), type=TableRewrite)
    live = [version for version in rewrite.versions if version.dropped_at is None]
    iceberg_tables.rebuild_table(home, dataset, live)
    for version in rewrite.versions:
        if version.version in rewrite.source_lists:
            source_file_list.write_source_files(home, version, rewrite.source_lists[version.version])
    for version in rewrite.versions:
        write_json(source_file_list.version_record_path(home, dataset, version.version), version)
        if version.dropped_at is not None:
            quarantine_path(home, dataset, version.version).unlink(missing_ok=True)
    _replace_rows(store, {version.id: version for version in rewrite.versions})
    iceberg_tables.purge_table(home, dataset, live)
    path.unlink()
    sync_folder(path.parent)


def _replace_rows(store: Store, versions: Mapping[str, DatasetVersion]) -> None:
    """Replace records in the index in one transaction, together with all others: rows are never changed in place."""
    while True:
        rows = store.numbered_rows(VERSIONS)
        new = [versions.get(version.id, version) for _seq, version in rows]
        if new == [version for _seq, version in rows]:
            return
        with suppress(ConflictError):  # another process replaced the records of another data set
            store.append_together([(VERSIONS, new)], instead=(VERSIONS, rows[-1][0], len(rows)))
            return
