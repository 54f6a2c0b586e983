"""Versions as tags of an Apache Iceberg table: read at a tag, replace some source files' rows, commit all at once.

Decides that every data file is written here and read one at a time: the library's own stream writer queues the whole
stream in memory and its reader loads every file of a scan. A data file is at most FILE_BYTES in memory, so that is
what either side needs. A commit (rows taken away, rows added, columns, tag) is one row of the catalog's SQLite
table: killed before it, nothing happened; the files it would have named are swept by the next writer.
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
from archwright.lake.column_kinds import arrow_schema, iceberg_type, kind_of_arrow_type, kind_of_iceberg_type
from archwright.lake.dataset_lock import lock_catalog

NAMESPACE = "lake"
FILE_BYTES = 64 * 1024 * 1024
GROUP_BYTES = 8 * 1024 * 1024
VERSION_PROPERTY = "archwright.version"
CONTENT_PROPERTY = "archwright.content"
# Column bounds in the metadata would keep personal values beyond the rows: only where they help to find rows.
TABLE_PROPERTIES = {
    "write.metadata.metrics.default": "none",
    "write.metadata.metrics.column.source_file": "full",
    "write.metadata.previous-versions-max": "5",
    "write.metadata.delete-after-commit.enabled": "true",
}


class TableChange(Record):
    """What a commit does to a data set's table besides adding rows: `columns` is what it has afterwards (name to
    kind), `replaced` names the source files whose rows go; `rewrite` takes all rows away (a column became other)."""

    dataset: str
    version: int
    columns: dict[str, str]
    replaced: tuple[str, ...] = ()
    rewrite: bool = False


@contextmanager
def open_catalog(home: Home) -> Iterator[Any]:
    """The catalog of tables in the home's lake. Closed right after use: a connection kept might hold up a commit."""
    try:
        from pyiceberg.catalog.sql import SqlCatalog  # noqa: PLC0415
    except ImportError as error:
        raise missing_extra("lake", "pyiceberg", "the data lake") from error
    # Plain paths, not file:// URLs: a home may have spaces or # in its name.
    with lock_catalog(home):
        catalog = SqlCatalog(
            NAMESPACE, uri=f"sqlite:///{home.lake / 'catalog.db'}", warehouse=str(home.lake / "tables")
        )
        catalog.create_namespace_if_not_exists(NAMESPACE)
    try:
        yield catalog
    finally:
        catalog.close()


def load_table(home: Home, dataset: str) -> Any | None:
    """The table of a data set; None when it has none yet."""
    if not (home.lake / "catalog.db").exists():
        return None
    identifier = (NAMESPACE, dataset)
    with open_catalog(home) as catalog:
        return catalog.load_table(identifier) if catalog.table_exists(identifier) else None


def read_version_tags(table: Any) -> dict[int, str]:
    """Version -> the digest of its content, as its commit noted it."""
    found = {}
    for name, reference in table.refs().items():
        if name.startswith("v") and name[1:].isdigit():
            noted = table.snapshot_by_id(reference.snapshot_id).summary.additional_properties
            found[int(name[1:])] = str(noted.get(CONTENT_PROPERTY, ""))
    return found


def find_snapshot(home: Home, version: DatasetVersion) -> tuple[Any, int]:
    """(table, id of the snapshot the version's tag names). Raises DataError AW-DATA-11 when the lake has it not."""
    table = load_table(home, version.dataset)
    tag = None if table is None else table.refs().get(f"v{version.version}")
    if table is None or tag is None:
        raise DataError(
            "AW-DATA-11",
            f"the lake of this home does not hold {version.id}",
            where=ErrorLocation(str(home.lake)),
            hint="it was made in another home: ingest its source here",
        )
    return table, int(tag.snapshot_id)


def read_batches(home: Home, version: DatasetVersion, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """The rows of a version as Arrow record batches, in the order they were written; `columns` picks some.

    Raises DataError AW-DATA-11 as `find_snapshot` does, 22 for a column that is not there.
    """
    table, place = find_snapshot(home, version)
    names = list(columns if columns is not None else version.columns)
    for name in names:
        if name not in version.columns:
            raise DataError(
                "AW-DATA-22",
                f"no column called {name!r} in {version.id}",
                where=ErrorLocation(None, None, name),
                hint=f"columns: {', '.join(list(version.columns)[:24])}",
            )
    yield from _scan_batches(table.scan(snapshot_id=place).select(*names), names)


def mean_row_bytes(home: Home, version: DatasetVersion) -> int:
    """How many bytes a row of the version has on average, unpacked."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    table, place = find_snapshot(home, version)
    total = 0
    for task in table.scan(snapshot_id=place).plan_files():
        found = pq.read_metadata(task.file.file_path)
        total += sum(found.row_group(group).total_byte_size for group in range(found.num_row_groups))
    return total // max(1, version.rows)


def _scan_batches(scan: Any, names: Sequence[str]) -> Iterator[Any]:
    from pyiceberg.io.pyarrow import ArrowScan  # noqa: PLC0415

    wanted = scan.projection()
    reader = ArrowScan(scan.table_metadata, scan.io, wanted, scan.row_filter)
    for task in sorted(scan.plan_files(), key=lambda task: task.file.file_path):
        for batch in reader.to_record_batches([task]):
            yield _normalise_batch(batch, names)


def _normalise_batch(batch: Any, names: Sequence[str]) -> Any:
    """The batch with its columns in the order asked for and in our types (the format reads text as large text)."""
    import pyarrow as pa  # noqa: PLC0415

    kinds = {name: kind_of_arrow_type(batch.schema.field(name).type) for name in names}
    fields = arrow_schema(kinds)
    return pa.RecordBatch.from_arrays([batch.column(f.name).cast(f.type) for f in fields], schema=fields)


def text_array(values: Sequence[str]) -> Any:
    """An Arrow array of texts, as our tables hold them."""
    import pyarrow as pa  # noqa: PLC0415

    return pa.array(values, pa.large_string())


class DataFileWriter:
    """Parquet files for a table's next commit, each at most FILE_BYTES of Arrow memory."""

    def __init__(self, folder: Path, schema: Any, start: str) -> None:
        """`schema` is an Arrow schema whose fields carry the table's field ids; names begin with `start`."""
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
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

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
    """The next version, made within the block; left by an error before its commit, its files are removed."""
    with open_catalog(home) as catalog:
        draft = VersionDraft(_ensure_table(catalog, change), change)
        try:
            yield draft
        except BaseException:
            draft.discard()
            raise


class VersionDraft:
    """The next version of a data set in the making: rows are written, then `stage` and `commit`.

    Its caller holds the data set's lock.
    """

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
        """Give the table its columns: new ones are added, those of another kind replaced, others taken away."""
        present = {f.name: kind_of_iceberg_type(f.field_type) for f in self._table.schema().fields}
        other = [n for n, kind in self._change.columns.items() if n in present and present[n] != kind]
        with self._transaction.update_schema(allow_incompatible_changes=True) as update:
            for name in other:
                update.delete_column((name,))
            for name in present.keys() - self._change.columns.keys():
                update.delete_column((name,))
        with self._transaction.update_schema() as update:
            for name, kind in self._change.columns.items():
                if name not in present or name in other:
                    update.add_column((name,), iceberg_type(kind))

    def stage(self, content_sha256: str) -> int:
        """Put everything written into the transaction; returns the bytes of the version's files."""
        from pyiceberg.expressions import AlwaysTrue, In  # noqa: PLC0415
        from pyiceberg.table.update.snapshot import ManageSnapshots  # noqa: PLC0415

        self.writer.flush()
        if self._table.current_snapshot() is not None and (self._change.rewrite or self._change.replaced):
            gone = AlwaysTrue() if self._change.rewrite else In("source_file", self._change.replaced)
            with warnings.catch_warnings():
                # A replaced file may have had no rows (all of them quarantined).
                warnings.filterwarnings("ignore", message="Delete operation did not match any records")
                self._transaction.delete(gone)
        noted = {VERSION_PROPERTY: str(self._change.version), CONTENT_PROPERTY: content_sha256}
        self._transaction.add_files(self.writer.paths, snapshot_properties=noted, check_duplicate_files=False)
        snapshot = self._transaction.table_metadata.current_snapshot()
        with ManageSnapshots(self._transaction) as manage:
            manage.create_tag(snapshot.snapshot_id, f"v{self._change.version}")
        return int(snapshot.summary.additional_properties.get("total-files-size", 0))

    def commit(self) -> None:
        """From here on a file may be part of a version: whatever goes wrong now, the next writer sweeps."""
        self.writer.paths = []
        self._transaction.commit_transaction()

    def discard(self) -> None:
        """Remove what was written: the version is not wanted."""
        for path in self.writer.paths:
            Path(path).unlink(missing_ok=True)


def _ensure_table(catalog: Any, change: TableChange) -> Any:
    identifier = (NAMESPACE, change.dataset)
    if catalog.table_exists(identifier):
        table = catalog.load_table(identifier)
        if change.version in read_version_tags(table):
            raise DataError(
                "AW-DATA-25",
                f"the lake holds {change.dataset}@v{change.version}, the store does not know it and its record is gone",
                where=ErrorLocation(None, None, change.dataset),
                hint="bring back the folder lake/versions of the home from a backup, or take another name",
            )
        if read_version_tags(table):
            return table
        catalog.drop_table(identifier)  # made for a first version that never was
    return catalog.create_table(identifier, schema=arrow_schema(change.columns), properties=TABLE_PROPERTIES)


def _remove_orphan_files(table: Any, folder: Path, start: str) -> None:
    """Remove what a killed writer left. That there was one shows in files that begin as the next version's do."""
    if not any(folder.glob(f"{start}-*")):
        return
    manifests = {
        manifest.manifest_path: manifest for found in table.snapshots() for manifest in found.manifests(table.io)
    }
    named = {
        entry.data_file.file_path
        for manifest in manifests.values()
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False)
    }
    for path in folder.iterdir():
        if str(path) not in named:
            path.unlink()
