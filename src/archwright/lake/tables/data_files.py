"""Parquet files of a table: written with a checksum per page and a SHA-256 of the file, verified when they are read.

Design: a bit flip in a file without checksums reads as other data in most places. The SHA-256 of the version's record
is compared before the first row of a file is read; the checksums of pages cover what changes afterwards.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple
from uuid import uuid4

from archwright.contract.lineage import DataFile
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home
from archwright.lake.formats.column_kinds import arrow_schema
from archwright.lake.lazy_modules import pa, pc, pq

FILE_BYTES = 64 * 1024 * 1024
# Each group repeats its dictionaries: groups of 8 MiB make files of numbers a third larger.
GROUP_BYTES = 32 * 1024 * 1024
# Level 3 makes files 8 to 15 % smaller and writes texts at 0.63 of the speed.
COMPRESSION_LEVEL = 1
# Their values differ in every row, so a dictionary only costs time. DuckDB or Polars lack the other encodings of ids.
ENCODINGS = {"record_id": "PLAIN", "source_row": "DELTA_BINARY_PACKED"}
RESTORE_HINT = (
    "list all damage: archwright data check; then copy the files from a restored backup: "
    "archwright restore --into DIR, or ingest the sources under another name"
)
# (path, inode, size, time of change) of the files that this process has verified.
_verified: set[tuple[str, int, int, int]] = set()


def table_folder(home: Home, dataset: str) -> Path:
    """The folder of a table; it may be absent."""
    return home.lake / "tables" / "lake" / dataset


def sync_folder(folder: Path) -> None:
    """Make new and deleted names of the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class StoredFile(NamedTuple):
    """A data file of the version or draft `owner` in the folder of its table, or a shard beside it."""

    folder: Path
    file: DataFile
    owner: str

    @property
    def path(self) -> Path:
        return self.folder / self.file.path


def verify_file(stored: StoredFile, *, again: bool = False) -> None:
    """Compare the file with its record, once per process unless `again`. Raises DataError AW-DATA-42 or -43."""
    try:
        found = stored.path.stat()
        seen = (str(stored.path), found.st_ino, found.st_size, found.st_mtime_ns)
        if seen in _verified and not again:
            return
        with open(stored.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable_error(stored, error.strerror or str(error)) from error
    if digest != stored.file.sha256:
        raise _damaged_error(stored, "its SHA-256 differs from the record")
    _verified.add(seen)


def _damaged_error(stored: StoredFile, reason: str) -> DataError:
    message = f"a data file of {stored.owner} is damaged: {reason}"
    return DataError("AW-DATA-42", message, where=ErrorLocation(str(stored.path)), hint=RESTORE_HINT)


def _unreadable_error(stored: StoredFile, reason: str) -> DataError:
    message = f"a data file of {stored.owner} cannot be read: {reason}"
    hint = (
        "if rows were erased meanwhile, run the command again; else copy the file from a restored backup: "
        "archwright restore --into DIR"
    )
    return DataError("AW-DATA-43", message, where=ErrorLocation(str(stored.path)), hint=hint)


def read_file(stored: StoredFile, columns: dict[str, str] | None = None) -> Iterator[Any]:
    """Yield the rows as record batches of `columns` (name to kind; None: as stored); absent columns are null.

    A batch is a row group, about GROUP_BYTES. Raises DataError AW-DATA-42 or -43.
    """
    verify_file(stored)
    try:
        yield from read_row_groups(stored.path, columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # names in the footer are decoded
        raise _damaged_error(stored, str(error).splitlines()[0][:200]) from error


def read_row_groups(path: Path, columns: dict[str, str] | None = None) -> Iterator[Any]:
    """As `read_file`, of any Parquet file. Raises ArrowException and OSError for a damaged file."""
    with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
        names = file.schema_arrow.names
        schema = file.schema_arrow if columns is None else arrow_schema(columns)
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, [name for name in schema.names if name in names])
            arrays = [
                rows.column(field.name).cast(field.type).combine_chunks()
                if field.name in names
                else pa.nulls(rows.num_rows, field.type)
                for field in schema
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def read_sources(stored: StoredFile, columns: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield (source file, record batch): the rows of `read_file`, cut where the source file changes."""
    for batch in read_file(stored, columns):
        start, runs = 0, pc.run_end_encode(batch.column("source_file"))
        for end, name in zip(runs.run_ends.to_pylist(), runs.values.to_pylist(), strict=True):
            yield name, batch.slice(start, end - start)
            start = end


def list_sources(stored: StoredFile) -> set[str]:
    """The names of the source files of the rows. Reads one column, which is small."""
    batches = read_file(stored, {"source_file": "text"})
    return {name for batch in batches for name in batch.column(0).unique().to_pylist()}


class _HashedFile:
    """Passes what pyarrow writes on to `file`, with the SHA-256 and the number of the bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.size_bytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size_bytes

    def flush(self) -> None:
        self._file.flush()

    def sync(self) -> str:
        """Make the bytes durable. Returns their SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()


def write_file(folder: Path, path: str, table: Any, part: int) -> DataFile:
    """Write an Arrow table to `path` below `folder`, durably."""
    group = max(1, table.num_rows * GROUP_BYTES // max(1, table.nbytes))
    with open(folder / path, "wb") as raw:
        file = _HashedFile(raw)
        pq.write_table(
            table,
            file,
            row_group_size=group,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            use_dictionary=[name for name in table.column_names if name not in ENCODINGS],
            column_encoding={name: kind for name, kind in ENCODINGS.items() if name in table.column_names},
            write_page_checksum=True,
        )
        digest = file.sync()
    return DataFile(path=path, sha256=digest, size_bytes=file.size_bytes, rows=table.num_rows, part=part)


class DataFileWriter:
    """Writes the Parquet files of a table's next version, each at most FILE_BYTES of Arrow memory.

    The rows between two calls of `end_part` are those of a part, for a refined version.
    """

    def __init__(self, folder: Path, schema: Any, start: str) -> None:
        """`folder` is that of the table, `schema` is Arrow with the table's field ids, `start` begins file names."""
        self._folder = folder
        self._schema = schema
        self._start = start
        self._part = 0
        self._unit = str(uuid4())
        self._buffer: list[Any] = []
        self._size = 0
        self.files: list[DataFile] = []
        self.rows = 0

    def write(self, batch: Any) -> None:
        self._buffer.append(batch)
        self._size += batch.nbytes
        self.rows += batch.num_rows
        if self._size >= FILE_BYTES:
            self.flush()

    def end_part(self) -> None:
        self.flush()
        self._part += 1

    def flush(self) -> None:
        buffer, self._buffer, self._size = self._buffer, [], 0
        table = pa.Table.from_batches(buffer).select(self._schema.names).cast(self._schema) if buffer else None
        if table is not None and table.num_rows:
            path = f"data/{self._start}-{len(self.files):06d}-{self._unit}.parquet"
            self.files.append(write_file(self._folder, path, table, self._part))

    def discard(self) -> None:
        """Remove the files written so far."""
        for file in self.files:
            (self._folder / file.path).unlink(missing_ok=True)
        self.files.clear()
