"""Reads and writes the Parquet files of parts, with bounded memory and checksums of pages."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from archwright.errors import DataError, ErrorLocation
from archwright.lake.formats.column_kinds import arrow_schema
from archwright.lake.lazy_modules import pa, pq

BATCH_ROWS = 8192
BATCH_BYTES = 8 * 1024 * 1024
GROUP_BYTES = 8 * 1024 * 1024


def read_part(path: Path, columns: Mapping[str, str]) -> Iterator[Any]:
    """Yield the rows as record batches of about BATCH_BYTES, with exactly these columns (name to kind).

    A column that the file lacks is null. Raises DataError AW-DATA-62 for a damaged file.
    """
    schema = arrow_schema(columns)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            groups = (file.metadata.row_group(number).total_byte_size for number in range(file.metadata.num_row_groups))
            size = sum(groups) // max(1, file.metadata.num_rows)
            present = [name for name in schema.names if name in file.schema_arrow.names]
            rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, size)))
            for batch in file.iter_batches(batch_size=rows, columns=present):
                arrays = [
                    batch.column(field.name).cast(field.type)
                    if field.name in present
                    else pa.nulls(batch.num_rows, field.type)
                    for field in schema
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
    except (pa.ArrowException, OSError) as error:
        message = f"the data file is damaged: {str(error).splitlines()[0][:200]}"
        hint = "find what is damaged: archwright data check; then restore the file or ingest the sources again"
        raise DataError("AW-DATA-62", message, where=ErrorLocation(str(path)), hint=hint) from error


@contextmanager
def _open_writer(path: Path, schema: Any) -> Iterator[Any]:
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1, write_page_checksum=True) as writer:
        yield writer


def write_part(path: Path, columns: Mapping[str, str], batches: Iterable[Any]) -> int:
    """Write the batches; the file appears when it is complete. Returns the number of rows."""
    schema = arrow_schema(columns)
    draft = path.with_suffix(".draft")
    rows = 0
    with _open_writer(draft, schema) as writer:
        group: list[Any] = []
        for batch in batches:
            group.append(batch.select(schema.names).cast(schema))
            rows += batch.num_rows
            if sum(one.nbytes for one in group) >= GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group))
                group = []
        if group:
            writer.write_table(pa.Table.from_batches(group))
    with open(draft, "rb") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)
    return rows
