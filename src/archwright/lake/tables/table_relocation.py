"""The tables of a lake in another folder: their metadata and manifests name every file by its full path."""

import json
from collections import defaultdict
from pathlib import Path
from uuid import uuid4

from archwright.contract.lineage import DatasetVersion
from archwright.home import Home, write_atomic
from archwright.lake.tables import iceberg_tables
from archwright.lake.tables.data_files import table_folder
from archwright.lake.tables.iceberg_tables import NAMESPACE, open_catalog
from archwright.lake.tables.version_index import list_versions
from archwright.store import Store


def relocate_tables(home: Home, store: Store) -> None:
    """Make the tables name the files of this home. It may be repeated; the caller lets nobody else use the lake."""
    if not (home.lake / iceberg_tables.CATALOG_NAME).exists():
        return
    versions: dict[str, list[DatasetVersion]] = defaultdict(list)
    for version in list_versions(store):
        if version.dropped_at is None:
            versions[version.dataset].append(version)
    for dataset, metadata_file in _list_metadata_files(home).items():
        folder = table_folder(home, dataset)
        if not _is_below(metadata_file, folder):
            _move_metadata(home, dataset, Path(metadata_file).name)
        live = sorted(versions[dataset], key=lambda version: version.version)
        iceberg_tables.rebuild_table(home, dataset, live)
        iceberg_tables.purge_table(home, dataset, live)


def _list_metadata_files(home: Home) -> dict[str, str]:
    """The file of the metadata of each table, as the catalog states it."""
    from pyiceberg.catalog.sql import IcebergTables  # noqa: PLC0415

    rows = IcebergTables.__table__
    query = rows.select().where(rows.c.table_namespace == NAMESPACE)
    with open_catalog(home) as catalog, catalog.engine.connect() as connection:
        return {row.table_name: row.metadata_location for row in connection.execute(query)}


def _is_below(name: str, folder: Path) -> bool:
    return Path(name).is_relative_to(folder)


def _move_metadata(home: Home, dataset: str, name: str) -> None:
    """Write the metadata with the table's folder in this home, and make the catalog name it.

    The snapshots still name manifests at the old place; `rebuild_table` needs only the schemas of snapshots."""
    folder = table_folder(home, dataset)
    metadata = json.loads((folder / "metadata" / name).read_bytes())
    metadata["location"] = str(folder)
    target = folder / "metadata" / f"00000-{uuid4()}.metadata.json"
    write_atomic(target, json.dumps(metadata).encode())
    iceberg_tables.set_metadata_file(home, dataset, str(target))
