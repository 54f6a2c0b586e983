"""Reads and writes the Parquet files of parts, with bounded memory and checksums of pages."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from archwright.errors import DataError, ErrorLocation
from archwright.lake.formats.column_kinds import arrow_schema
from archwright.lake.lazy_modules import pa, pq
from archwright.lake.tables.data_files import COMPRESSION_LEVEL, GROUP_BYTES, read_row_groups

BATCH_ROWS = 8192


def read_part(path: Path, columns: dict[str, str]) -> Iterator[Any]:
    """Yield the rows as record batches of at most BATCH_ROWS with exactly these columns (name to kind).

    Raises DataError AW-DATA-62 for a damaged file.
    """
    try:
        for group in read_row_groups(path, columns):
            for start in range(0, group.num_rows, BATCH_ROWS):
                yield group.slice(start, BATCH_ROWS)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        message = f"the data file is damaged: {str(error).splitlines()[0][:200]}"
        hint = (
            "find what is damaged: archwright data check; then copy it from a restored backup: "
            "archwright restore --into DIR, or ingest the sources again"
        )
        raise DataError("AW-DATA-62", message, where=ErrorLocation(str(path)), hint=hint) from error


def write_part(path: Path, columns: Mapping[str, str], batches: Iterable[Any]) -> int:
    """Write the batches; the file appears when it is complete. Returns the number of rows."""
    schema = arrow_schema(columns)
    draft = path.with_suffix(".draft")
    rows = 0
    options = {"compression": "zstd", "compression_level": COMPRESSION_LEVEL, "write_page_checksum": True}
    with pq.ParquetWriter(draft, schema, **options) as writer:
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
