"""The index of data set versions in the store, and how it is made right after a break.

The truth is the lake: a version exists when its table has its tag. Its record is noted beside the table before the
commit that makes the tag, and brought into the store after it; `repair_index` does for every tag what was left undone.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import msgspec

from archwright.contract.lineage import DatasetVersion, LineageEdge, format_node
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home, write_json
from archwright.lake import dataset_card, iceberg_tables
from archwright.monitor import lineage
from archwright.store import RecordTable, Store

VERSIONS = RecordTable("dataset_versions", DatasetVersion, unique=("id",), index=("dataset",))


def list_versions(store: Store) -> list[DatasetVersion]:
    """Every version, in order of arrival."""
    return store.rows(VERSIONS)


def newest_version(store: Store, dataset: str) -> DatasetVersion | None:
    return max(store.rows(VERSIONS, {"dataset": dataset}), key=lambda version: version.version, default=None)


def find_version(store: Store, name: str) -> DatasetVersion:
    """ "docs@v1", or "docs" for its newest version. Raises DataError AW-DATA-10."""
    exact = store.rows(VERSIONS, {"id": name})
    found = exact[0] if exact else newest_version(store, name)
    if found is not None:
        return found
    known = {version.id for version in list_versions(store)} | {version.dataset for version in list_versions(store)}
    near = tuple(difflib.get_close_matches(name, sorted(known), 3, 0.3))
    nearest = f"nearest: {', '.join(near)}; " if near else ""
    raise DataError(
        "AW-DATA-10",
        f"no data set or version called {name!r}",
        where=ErrorLocation(field=name),
        hint=f"{nearest}archwright data list names them, archwright data ingest makes one",
        nearest=near,
    )


def write_version_record(home: Home, version: DatasetVersion) -> None:
    """Write the record of a version that is about to be committed."""
    write_json(_record_path(home, version.dataset, version.version), version)


def _record_path(home: Home, dataset: str, version: int) -> Path:
    return home.folder("lake", "versions", dataset) / f"v{version}.json"


def register_version(home: Home, store: Store, version: DatasetVersion) -> None:
    """Bring a committed version into the index: its card, its edges, its row (last: it says all is there)."""
    dataset_card.write_card(home, version)
    at = version.at
    child = format_node("dataset", version.id)
    edges = []
    if version.action == "ingest":
        digests = dict.fromkeys(file.sha256 for file in version.files)
        edges = [
            LineageEdge(at=at, child=child, parent=format_node("file", sha), relation="ingested") for sha in digests
        ]
    else:
        edges = [
            LineageEdge(at=at, child=child, parent=format_node("dataset", str(version.parent)), relation="refined")
        ]
    there = {edge.parent for edge in lineage.read_parents(store, child)}
    lineage.append_edges(store, [edge for edge in edges if edge.parent not in there])
    store.append(VERSIONS, [version])


def repair_index(home: Home, store: Store, dataset: str) -> None:
    """Bring what was committed and not registered into the index. The caller holds the data set's lock."""
    there = {version.version for version in store.rows(VERSIONS, {"dataset": dataset})}
    paths = home.folder("lake", "versions", dataset).glob("v*.json")
    noted = {int(path.stem[1:]): path for path in paths if path.stem[1:].isdecimal()}
    missing = sorted(noted.keys() - there)
    table = iceberg_tables.load_table(home, dataset) if missing else None  # only then worth loading the table's library
    committed = {} if table is None else iceberg_tables.read_version_tags(table)
    for number in missing:
        try:
            version = msgspec.json.decode(noted[number].read_bytes(), type=DatasetVersion)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # half of a note, or none of ours: what it would tell is as good as lost
        if version.content_sha256 == committed.get(number):
            register_version(home, store, version)
