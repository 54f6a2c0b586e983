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
from archwright.lake.tables import iceberg_tables
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
    write_json(home.folder("lake", "versions", version.dataset) / f"v{version.version}.json", version)
    draft.commit()


def register_version(home: Home, store: Store, version: DatasetVersion) -> None:
    """Store a committed version's card, its edges, and last its row, which marks it complete."""
    write_atomic(dataset_card.card_path(home, version), dataset_card.format_card(version).encode())
    child = format_node("dataset", version.id)
    relation: Literal["ingested", "refined"] = "ingested" if version.action == "ingest" else "refined"
    parents = [format_node("dataset", str(version.parent))]
    if version.action == "ingest":
        parents = list(dict.fromkeys(format_node("file", file.sha256) for file in version.files))
    new = [parent for parent in parents if parent not in {edge.parent for edge in lineage.read_parents(store, child)}]
    lineage.append_edges(store, [LineageEdge(at=version.at, child=child, parent=p, relation=relation) for p in new])
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
