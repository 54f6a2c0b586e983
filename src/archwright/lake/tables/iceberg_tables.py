"""Data set versions as tags of an Apache Iceberg table, written by atomic commits.

Design: this module writes and reads the data files itself, one by one, so memory is bounded by FILE_BYTES and each file
is verified; pyiceberg's writer queues a whole stream and its reader checks nothing. Rows of replaced source files are
removed by writing those data files again that hold any. A commit is one row of the catalog's SQLite table. The next
writer removes the files of a writer that was killed before its commit.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from archwright.contract.lineage import DataFile, DatasetVersion
from archwright.contract.record import Record
from archwright.errors import DataError, ErrorLocation, missing_extra
from archwright.home import Home
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS, arrow_schema, iceberg_type, kind_of_iceberg_type
from archwright.lake.lazy_modules import pa, pc
from archwright.lake.tables.data_files import (
    DataFileWriter,
    StoredFile,
    list_sources,
    read_file,
    sync_folder,
    table_folder,
    verify_file,
)
from archwright.lake.tables.dataset_lock import lock_file

NAMESPACE = "lake"
CATALOG_NAME = "catalog.db"
VERSION_PROPERTY = "archwright.version"
CONTENT_PROPERTY = "archwright.content"
# Data files are entered without column bounds, which would hold personal values outside of the data files.
TABLE_PROPERTIES = {
    "write.metadata.metrics.default": "none",
    "write.metadata.previous-versions-max": "5",
    "write.metadata.delete-after-commit.enabled": "true",
}
# A commit of another data set may hold the catalog for so long before ours fails.
CATALOG_WAIT_S = 60


class TableChange(Record):
    """The change of a commit besides new rows: `columns` (name to kind) is the new schema.

    Rows of the `replaced` source files are deleted; `rewrite` deletes all rows because a column changed its kind.
    `before` are the data files of the newest version.
    """

    dataset: str
    version: int
    columns: dict[str, str]
    replaced: tuple[str, ...] = ()
    rewrite: bool = False
    before: tuple[DataFile, ...] = ()


@contextmanager
def open_catalog(home: Home) -> Iterator[Any]:
    """The catalog of the home's lake. Close it soon: an open connection may delay a commit."""
    try:
        from pyiceberg.catalog.sql import SqlCatalog  # noqa: PLC0415
    except ImportError as error:
        raise missing_extra("lake", "pyiceberg", "the data lake") from error
    # Plain paths, not file:// URLs: the name of a home may contain spaces or #.
    with lock_file(home, "catalog"):  # one process opens or creates it at a time
        uri = f"sqlite:///{home.lake / CATALOG_NAME}?timeout={CATALOG_WAIT_S}"
        warehouse = str(home.lake / "tables")
        catalog = SqlCatalog(NAMESPACE, uri=uri, warehouse=warehouse)
        catalog.create_namespace_if_not_exists(NAMESPACE)
    try:
        yield catalog
    finally:
        catalog.close()


def load_table(home: Home, dataset: str) -> Any | None:
    if not (home.lake / CATALOG_NAME).exists():
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


def check_record_ids(version: DatasetVersion) -> None:
    """Raises DataError AW-DATA-26 for a version whose record ids are texts."""
    if version.columns.get("record_id") not in (None, SYSTEM_COLUMNS["record_id"]):
        message = f"an older version of archwright made {version.id}, and its record ids have another form"
        hint = "ingest its files into a data set of another name: archwright data ingest PATH --name NAME"
        raise DataError("AW-DATA-26", message, where=ErrorLocation(field=version.id), hint=hint)


def read_version_files(table: Any, version: int) -> dict[str, tuple[int, int]]:
    """Path below the table -> rows, bytes of the data files that the table lists for a version."""
    found = {}
    reference = table.refs().get(f"v{version}")
    for task in table.scan(snapshot_id=reference.snapshot_id).plan_files() if reference else ():
        path = task.file.file_path.removeprefix(f"{table.location()}/")
        found[path] = (task.file.record_count, task.file.file_size_in_bytes)
    return found


def list_stored_files(home: Home, version: DatasetVersion) -> list[StoredFile]:
    """The data files in the order of writing, not verified. Raises DataError AW-DATA-11 (not in the lake), -44."""
    check_record_ids(version)
    folder = table_folder(home, version.dataset)
    if version.dropped_at is not None:
        message, hint = f"the rows of {version.id} were deleted", "choose another version: archwright data list"
        raise DataError("AW-DATA-44", message, where=ErrorLocation(field=version.id), hint=hint)
    if not folder.is_dir() or (version.rows and not version.data_files):
        message = f"{version.id} is not in the lake of this home"
        hint = "ingest its source files in this home; the version was made in another home or by an older program"
        raise DataError("AW-DATA-11", message, where=ErrorLocation(str(home.lake)), hint=hint)
    return [StoredFile(folder, file, version.id) for file in version.data_files]


def list_data_files(home: Home, version: DatasetVersion) -> list[Path]:
    """The verified data files in the order of writing. Raises DataError AW-DATA-11, -42 to -44."""
    found = list_stored_files(home, version)
    for stored in found:
        verify_file(stored)
    return [stored.path for stored in found]


def read_batches(home: Home, version: DatasetVersion, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """Yield the rows of a version as Arrow record batches in the order of writing; all columns by default.

    The batches have the Arrow types of `column_kinds`; each file is verified before its first batch. Raises DataError
    AW-DATA-11 (not in the lake), AW-DATA-22 (no such column), AW-DATA-42 to -44 (damaged, unreadable, deleted).
    """
    names = list(columns if columns is not None else version.columns)
    for name in names:
        if name not in version.columns:
            message = f"{version.id} has no column {name!r}"
            hint = f"choose one of its columns: {', '.join(list(version.columns)[:24])}"
            raise DataError("AW-DATA-22", message, where=ErrorLocation(field=name), hint=hint)
    for stored in list_stored_files(home, version):
        yield from read_file(stored, {name: version.columns[name] for name in names})


@contextmanager
def draft_version(home: Home, change: TableChange) -> Iterator[VersionDraft]:
    """A draft of the next version; an error in the block removes its uncommitted files."""
    with open_catalog(home) as catalog:
        draft = VersionDraft(_ensure_table(catalog, change), change)
        try:
            yield draft
        except BaseException:
            draft.writer.discard()
            raise


class VersionDraft:
    """The next version: write rows, then `stage` and `commit`. The caller holds the data set's lock."""

    def __init__(self, table: Any, change: TableChange) -> None:
        self._change = change
        self._table = table
        self._transaction = self._table.transaction()
        self._update_schema()
        from pyiceberg.io.pyarrow import schema_to_pyarrow  # noqa: PLC0415

        self._folder = Path(self._table.location())
        (self._folder / "data").mkdir(parents=True, exist_ok=True)
        start = f"v{change.version:06d}"
        _remove_orphan_files(table, self._folder / "data", start)
        schema = schema_to_pyarrow(self._transaction.table_metadata.schema())
        self.writer = DataFileWriter(self._folder, schema, start)
        self._unchanged = () if change.rewrite else change.before
        if change.replaced and self._unchanged:
            self._remove_replaced_rows()

    def _remove_replaced_rows(self) -> None:
        """Write the data files again that hold rows of replaced source files, without those rows."""
        replaced = pa.array(self._change.replaced, pa.large_string())
        unchanged = []
        for file in self._unchanged:
            stored = StoredFile(
                self._folder, file, f"the version before {self._change.dataset}@v{self._change.version}"
            )
            if list_sources(stored).isdisjoint(self._change.replaced):
                unchanged.append(file)
                continue
            for batch in read_file(stored, self._change.columns):
                self.writer.write(batch.filter(pc.invert(pc.is_in(batch.column("source_file"), replaced))))
        self._unchanged = tuple(unchanged)

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

    def stage(self, content_sha256: str) -> tuple[DataFile, ...]:
        """Add all written rows to the transaction. Returns the data files of the version in the order of rows."""
        self.writer.flush()
        sync_folder(self._folder / "data")
        files = (*self._unchanged, *self.writer.files)
        _stage_snapshot(self._transaction, self._change.before, files, (self._change.version, content_sha256))
        return files

    def commit(self) -> None:
        """Commit. After a failure the files may belong to a version, so only the next writer removes orphans."""
        self.writer.files = []
        self._transaction.commit_transaction()


def _stage_snapshot(
    transaction: Any, before: Collection[DataFile], files: Collection[DataFile], version: tuple[int, str]
) -> None:
    """Add the snapshot and the tag of a `version` (number, content digest), whose parent has the files `before`."""
    from pyiceberg.table.update.snapshot import ManageSnapshots  # noqa: PLC0415

    number, content = version
    location = transaction.table_metadata.location
    noted = {VERSION_PROPERTY: str(number), CONTENT_PROPERTY: content}
    old, new = {file.path for file in before}, {file.path for file in files}
    with transaction.update_snapshot(snapshot_properties=noted).overwrite() as update:
        for file in before:
            if file.path not in new:
                update.delete_data_file(_iceberg_file(location, file))
        for file in files:
            if file.path not in old:
                update.append_data_file(_iceberg_file(location, file))
    snapshot = transaction.table_metadata.current_snapshot()
    with ManageSnapshots(transaction) as manage:
        manage.create_tag(snapshot.snapshot_id, f"v{number}")


def _iceberg_file(location: str, file: DataFile) -> Any:
    """The entry of a manifest, without bounds and counts of columns."""
    from pyiceberg import manifest  # noqa: PLC0415
    from pyiceberg.typedef import Record as PartitionValues  # noqa: PLC0415

    entry = manifest.DataFile.from_args(
        content=manifest.DataFileContent.DATA,
        file_path=f"{location}/{file.path}",
        file_format=manifest.FileFormat.PARQUET,
        partition=PartitionValues(),
        record_count=file.rows,
        file_size_in_bytes=file.size_bytes,
    )
    entry.spec_id = 0
    return entry


def _ensure_table(catalog: Any, change: TableChange) -> Any:
    identifier = (NAMESPACE, change.dataset)
    if catalog.table_exists(identifier):
        table = catalog.load_table(identifier)
        if change.version in read_version_tags(table):
            name = f"{change.dataset}@v{change.version}"
            message = f"the lake contains {name}, but its record is missing in the store and in lake/versions"
            hint = (
                "copy the folder lake/versions from a restored backup: archwright restore --into DIR; or choose "
                "another name"
            )
            raise DataError("AW-DATA-25", message, where=ErrorLocation(field=change.dataset), hint=hint)
        if read_version_tags(table):
            return table
        catalog.drop_table(identifier)  # created for a first version that was not committed, or all were deleted
        shutil.rmtree(table.location())
    return catalog.create_table(identifier, schema=arrow_schema(change.columns), properties=TABLE_PROPERTIES)


def list_metadata_files(table: Any) -> set[Path]:
    """The files of the table besides its data files: metadata, lists of manifests, manifests."""
    snapshots = table.snapshots()
    named = {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
    named |= {snapshot.manifest_list for snapshot in snapshots}
    named |= {manifest.manifest_path for snapshot in snapshots for manifest in snapshot.manifests(table.io)}
    return {Path(name) for name in named}


def rebuild_table(home: Home, dataset: str, versions: Sequence[DatasetVersion]) -> None:
    """Replace the metadata of a table in one step by new ones that name only `versions`, oldest first.

    Columns keep their field ids. Old metadata and other data files stay until `purge_table`.
    """
    from pyiceberg.serializers import ToOutputFile  # noqa: PLC0415

    with open_catalog(home) as catalog:
        table = catalog.load_table((NAMESPACE, dataset))
        path = f"{table.location()}/metadata/00000-{uuid4()}.metadata.json"
        ToOutputFile.table_metadata(_replay_versions(table, versions), table.io.new_output(path))
    sync_folder(Path(path).parent)
    set_metadata_file(home, dataset, path)


def set_metadata_file(home: Home, dataset: str, path: str) -> None:
    """Make the catalog name another file of metadata of a table, without its history."""
    from pyiceberg.catalog.sql import IcebergTables  # noqa: PLC0415

    rows = IcebergTables.__table__
    this = (rows.c.catalog_name == NAMESPACE) & (rows.c.table_namespace == NAMESPACE) & (rows.c.table_name == dataset)
    with open_catalog(home) as catalog, catalog.engine.begin() as connection:
        connection.execute(rows.update().where(this).values(metadata_location=path, previous_metadata_location=None))


def _replay_versions(table: Any, versions: Sequence[DatasetVersion]) -> Any:
    """New metadata of the table, without its history, with one snapshot and tag for each version."""
    from pyiceberg.table import StagedTable  # noqa: PLC0415
    from pyiceberg.table.update import SetCurrentSchemaUpdate, update_table_metadata  # noqa: PLC0415

    old, tags = table.metadata, table.refs()
    schemas = [table.snapshot_by_id(tags[f"v{version.version}"].snapshot_id).schema_id for version in versions]
    used = set(schemas) or {old.current_schema_id}
    nothing: dict[str, Any] = {"snapshots": [], "refs": {}, "snapshot_log": [], "metadata_log": [], "statistics": []}
    made = old.model_copy(
        update={
            **nothing,
            "table_uuid": uuid4(),
            "current_snapshot_id": None,
            "last_sequence_number": 0,
            "schemas": [schema for schema in old.schemas if schema.schema_id in used],
            "current_schema_id": (schemas or [old.current_schema_id])[0],
            "properties": TABLE_PROPERTIES,
        }
    )
    before: tuple[DataFile, ...] = ()
    for version, schema in zip(versions, schemas, strict=True):
        made = update_table_metadata(made, (SetCurrentSchemaUpdate(schema_id=schema),))
        transaction = StagedTable(table.name(), made, table.metadata_location, table.io, table.catalog).transaction()
        _stage_snapshot(transaction, before, version.data_files, (version.version, version.content_sha256))
        made, before = transaction.table_metadata, version.data_files
    return made


def purge_table(home: Home, dataset: str, versions: Collection[DatasetVersion]) -> None:
    """Remove every file of the table that is neither a data file of `versions` nor part of its metadata."""
    folder = table_folder(home, dataset)
    reachable = {folder / file.path for version in versions for file in version.data_files}
    reachable |= list_metadata_files(load_table(home, dataset))
    for place in (folder / "data", folder / "metadata"):
        for path in place.iterdir():
            if path not in reachable:
                path.unlink()
        sync_folder(place)


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
