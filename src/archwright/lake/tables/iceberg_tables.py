"""Data set versions as tags of an Apache Iceberg table, written by atomic commits.

Design: this module writes data files itself and reads them one by one, so memory is bounded by FILE_BYTES; pyiceberg's
writer queues a whole stream and its reader loads all files of a scan. A commit is one row of the catalog's SQLite
table. The next writer removes the files of a writer that was killed before its commit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from archwright.contract.lineage import DatasetVersion
from archwright.contract.record import Record
from archwright.errors import DataError, ErrorLocation, missing_extra
from archwright.home import Home
from archwright.lake.formats.column_kinds import arrow_schema, iceberg_type, kind_of_arrow_type, kind_of_iceberg_type
from archwright.lake.lazy_modules import pa, pq
from archwright.lake.tables.dataset_lock import lock_catalog

NAMESPACE = "lake"
FILE_BYTES = 64 * 1024 * 1024
GROUP_BYTES = 8 * 1024 * 1024
VERSION_PROPERTY = "archwright.version"
CONTENT_PROPERTY = "archwright.content"
# Column bounds in the metadata would outlive deleted personal values, so they exist for source_file only.
TABLE_PROPERTIES = {
    "write.metadata.metrics.default": "none",
    "write.metadata.metrics.column.source_file": "full",
    "write.metadata.previous-versions-max": "5",
    "write.metadata.delete-after-commit.enabled": "true",
}


class TableChange(Record):
    """The change of a commit besides new rows: `columns` (name to kind) is the new schema.

    Rows of the `replaced` source files are deleted; `rewrite` deletes all rows because a column changed its kind.
    """

    dataset: str
    version: int
    columns: dict[str, str]
    replaced: tuple[str, ...] = ()
    rewrite: bool = False


@contextmanager
def open_catalog(home: Home) -> Iterator[Any]:
    """The catalog of the home's lake. Close it soon: an open connection may delay a commit."""
    try:
        from pyiceberg.catalog.sql import SqlCatalog  # noqa: PLC0415
    except ImportError as error:
        raise missing_extra("lake", "pyiceberg", "the data lake") from error
    # Plain paths, not file:// URLs: the name of a home may contain spaces or #.
    with lock_catalog(home):
        uri, warehouse = f"sqlite:///{home.lake / 'catalog.db'}", str(home.lake / "tables")
        catalog = SqlCatalog(NAMESPACE, uri=uri, warehouse=warehouse)
        catalog.create_namespace_if_not_exists(NAMESPACE)
    try:
        yield catalog
    finally:
        catalog.close()


def load_table(home: Home, dataset: str) -> Any | None:
    if not (home.lake / "catalog.db").exists():
        return None
    identifier = (NAMESPACE, dataset)
    with open_catalog(home) as catalog:
        return catalog.load_table(identifier) if catalog.table_exists(identifier) else None


def read_version_tags(table: Any) -> dict[int, str]:
    """Version -> content digest recorded by its commit."""
    found = {}
    for name, reference in table.refs().items():
        if name.startswith("v") and name[1:].isdigit():
            noted = table.snapshot_by_id(reference.snapshot_id).summary.additional_properties
            found[int(name[1:])] = str(noted.get(CONTENT_PROPERTY, ""))
    return found


def find_snapshot(home: Home, version: DatasetVersion) -> tuple[Any, int]:
    """Returns (table, id of the version's snapshot). Raises DataError AW-DATA-11 (not in the lake)."""
    table = load_table(home, version.dataset)
    tag = None if table is None else table.refs().get(f"v{version.version}")
    if table is None or tag is None:
        message = f"{version.id} is not in the lake of this home"
        hint = "ingest its source files in this home; the version was made in another home"
        raise DataError("AW-DATA-11", message, where=ErrorLocation(str(home.lake)), hint=hint)
    return table, int(tag.snapshot_id)


def read_batches(home: Home, version: DatasetVersion, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """Yield the rows of a version as Arrow record batches in the order of writing; all columns by default.

    The batches have the Arrow types of `column_kinds`. Raises DataError AW-DATA-11 (not in the lake), AW-DATA-22 (no
    such column).
    """
    from pyiceberg.io.pyarrow import ArrowScan  # noqa: PLC0415

    table, place = find_snapshot(home, version)
    names = list(columns if columns is not None else version.columns)
    for name in names:
        if name not in version.columns:
            message = f"{version.id} has no column {name!r}"
            hint = f"choose one of its columns: {', '.join(list(version.columns)[:24])}"
            raise DataError("AW-DATA-22", message, where=ErrorLocation(None, None, name), hint=hint)
    scan = table.scan(snapshot_id=place).select(*names)
    reader = ArrowScan(scan.table_metadata, scan.io, scan.projection(), scan.row_filter)
    for task in sorted(scan.plan_files(), key=lambda task: task.file.file_path):
        for batch in reader.to_record_batches([task]):
            fields = arrow_schema({name: kind_of_arrow_type(batch.schema.field(name).type) for name in names})
            yield pa.RecordBatch.from_arrays([batch.column(f.name).cast(f.type) for f in fields], schema=fields)


def list_data_files(home: Home, version: DatasetVersion) -> list[Path]:
    """The data files of a version in the order of writing. Raises DataError AW-DATA-11 (not in the lake)."""
    table, place = find_snapshot(home, version)
    return sorted(Path(task.file.file_path) for task in table.scan(snapshot_id=place).plan_files())


def mean_row_bytes(home: Home, version: DatasetVersion) -> int:
    """Mean uncompressed bytes per row."""
    table, place = find_snapshot(home, version)
    total = 0
    for task in table.scan(snapshot_id=place).plan_files():
        found = pq.read_metadata(task.file.file_path)
        total += sum(found.row_group(group).total_byte_size for group in range(found.num_row_groups))
    return total // max(1, version.rows)


class DataFileWriter:
    """Writes the Parquet files of a table's next commit, each at most FILE_BYTES of Arrow memory."""

    def __init__(self, folder: Path, schema: Any, start: str) -> None:
        """`schema` is an Arrow schema with the table's field ids; `start` is the prefix of file names."""
        self._start = start
        self._folder = folder
        self._schema = schema
        self._unit = str(uuid4())
        self._buffer: list[Any] = []
        self._size = 0
        self.paths: list[str] = []
        self.rows = 0

    def write(self, batch: Any) -> None:
        self._buffer.append(batch)
        self._size += batch.nbytes
        self.rows += batch.num_rows
        if self._size >= FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self.rows or not self._buffer:
            return
        path = self._folder / f"{self._start}-{len(self.paths):05d}-{self._unit}.parquet"
        table = pa.Table.from_batches(self._buffer).select(self._schema.names).cast(self._schema)
        group = max(1, table.num_rows * GROUP_BYTES // max(1, table.nbytes))
        pq.write_table(table, path, compression="zstd", row_group_size=group)
        self.paths.append(str(path))
        self._buffer, self._size = [], 0


@contextmanager
def draft_version(home: Home, change: TableChange) -> Iterator[VersionDraft]:
    """A draft of the next version; an error in the block removes its uncommitted files."""
    with open_catalog(home) as catalog:
        draft = VersionDraft(_ensure_table(catalog, change), change)
        try:
            yield draft
        except BaseException:
            for path in draft.writer.paths:
                Path(path).unlink(missing_ok=True)
            raise


class VersionDraft:
    """The next version: write rows, then `stage` and `commit`. The caller holds the data set's lock."""

    def __init__(self, table: Any, change: TableChange) -> None:
        self._change = change
        self._table = table
        self._transaction = self._table.transaction()
        self._update_schema()
        from pyiceberg.io.pyarrow import schema_to_pyarrow  # noqa: PLC0415

        folder = Path(self._table.location()) / "data"
        folder.mkdir(parents=True, exist_ok=True)
        start = f"v{change.version:06d}"
        _remove_orphan_files(table, folder, start)
        self.writer = DataFileWriter(folder, schema_to_pyarrow(self._transaction.table_metadata.schema()), start)

    def _update_schema(self) -> None:
        """Add new columns, replace columns of another kind, delete the others."""
        present = {f.name: kind_of_iceberg_type(f.field_type) for f in self._table.schema().fields}
        other = [n for n, kind in self._change.columns.items() if n in present and present[n] != kind]
        with self._transaction.update_schema(allow_incompatible_changes=True) as update:
            for name in (*other, *(present.keys() - self._change.columns.keys())):
                update.delete_column((name,))
        with self._transaction.update_schema() as update:
            for name, kind in self._change.columns.items():
                if name not in present or name in other:
                    update.add_column((name,), iceberg_type(kind))

    def stage(self, content_sha256: str) -> int:
        """Add all written rows to the transaction. Returns the size of the version's files in bytes."""
        from pyiceberg.expressions import AlwaysTrue, In  # noqa: PLC0415
        from pyiceberg.table.update.snapshot import ManageSnapshots  # noqa: PLC0415

        self.writer.flush()
        if self._table.current_snapshot() is not None and (self._change.rewrite or self._change.replaced):
            deleted = AlwaysTrue() if self._change.rewrite else In("source_file", self._change.replaced)
            with warnings.catch_warnings():
                # All rows of a replaced file may have been quarantined.
                warnings.filterwarnings("ignore", message="Delete operation did not match any records")
                self._transaction.delete(deleted)
        noted = {VERSION_PROPERTY: str(self._change.version), CONTENT_PROPERTY: content_sha256}
        self._transaction.add_files(self.writer.paths, snapshot_properties=noted, check_duplicate_files=False)
        snapshot = self._transaction.table_metadata.current_snapshot()
        with ManageSnapshots(self._transaction) as manage:
            manage.create_tag(snapshot.snapshot_id, f"v{self._change.version}")
        return int(snapshot.summary.additional_properties.get("total-files-size", 0))

    def commit(self) -> None:
        """Commit. After a failure the files may belong to a version, so only the next writer removes orphans."""
        self.writer.paths = []
        self._transaction.commit_transaction()


def _ensure_table(catalog: Any, change: TableChange) -> Any:
    identifier = (NAMESPACE, change.dataset)
    if catalog.table_exists(identifier):
        table = catalog.load_table(identifier)
        if change.version in read_version_tags(table):
            name = f"{change.dataset}@v{change.version}"
            message = f"the lake contains {name}, but its record is missing in the store and in lake/versions"
            hint = "restore the folder lake/versions of the home from a backup, or choose another name"
            raise DataError("AW-DATA-25", message, where=ErrorLocation(None, None, change.dataset), hint=hint)
        if read_version_tags(table):
            return table
        catalog.drop_table(identifier)  # created for a first version that was not committed
    return catalog.create_table(identifier, schema=arrow_schema(change.columns), properties=TABLE_PROPERTIES)


def _remove_orphan_files(table: Any, folder: Path, start: str) -> None:
    """Remove the files of a killed writer, if files with the prefix of the next version exist."""
    if not any(folder.glob(f"{start}-*")):
        return
    manifests = {found.manifest_path: found for snapshot in table.snapshots() for found in snapshot.manifests(table.io)}
    named = {
        entry.data_file.file_path
        for manifest in manifests.values()
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False)
    }
    for path in folder.iterdir():
        if str(path) not in named:
            path.unlink()
