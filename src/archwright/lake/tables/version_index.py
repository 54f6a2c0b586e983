"""The index of data set versions in the store, and its repair after a crash.

A version exists if its table has its tag. Its record is written beside the table before the commit and is copied into
the store afterwards; `repair_index` adds missing copies.
"""

import difflib
from typing import Literal

import msgspec

from archwright.contract.lineage import DatasetVersion, LineageEdge, format_node
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home, write_atomic, write_json
from archwright.lake import dataset_card
from archwright.lake.tables import iceberg_tables, source_file_list
from archwright.lake.tables.iceberg_tables import VersionDraft
from archwright.monitor import lineage
from archwright.store import RecordTable, Store

VERSIONS = RecordTable("dataset_versions", DatasetVersion, unique=("id",), index=("dataset",))


def list_versions(store: Store) -> list[DatasetVersion]:
    """All versions, oldest first."""
    return store.rows(VERSIONS)


def newest_version(store: Store, dataset: str) -> DatasetVersion | None:
    return max(store.rows(VERSIONS, {"dataset": dataset}), key=lambda version: version.version, default=None)


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
    """Store a committed version's card, its edges, and last its row, which marks it complete."""
    files = source_file_list.read_source_files(home, version)
    write_atomic(dataset_card.card_path(home, version), dataset_card.format_card(version, files).encode())
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
    """Register committed versions that are not in the index. The caller holds the data set's lock."""
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
