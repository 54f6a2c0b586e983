"""For each format its reader, and the function that counts the column kinds which a file declares."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from archwright.lake.formats import (
    csv_reader,
    document_reader,
    json_reader,
    jsonl_reader,
    parquet_reader,
    parsed_document_reader,
)
from archwright.lake.formats.row_chunks import BrokenRowHandler, RowChunks
from archwright.lake.formats.source_files import ScannedFile
from archwright.lake.formats.type_inference import KindCounts


class FileFormat(NamedTuple):
    """`survey` counts the kinds that a file declares; None if only its rows show them."""

    chunks: Callable[[ScannedFile, BrokenRowHandler], RowChunks]
    survey: Callable[[ScannedFile, KindCounts], None] | None = None


FORMATS: dict[str, FileFormat] = {
    "jsonl": FileFormat(jsonl_reader.read_chunks),
    "csv": FileFormat(csv_reader.read_chunks),
    "json": FileFormat(json_reader.read_chunks),
    "parquet": FileFormat(parquet_reader.read_chunks, parquet_reader.count_column_kinds),
    "text": FileFormat(
        document_reader.read_chunks,
        lambda _source, votes: votes.setdefault(document_reader.TEXT_COLUMN, Counter()).update(text=1),
    ),
    **dict.fromkeys(
        ("html", "pdf", "docx", "pptx", "workbook"),
        FileFormat(
            parsed_document_reader.read_chunks,
            partial(parsed_document_reader.count_kinds, parsed_document_reader.DOCUMENT_COLUMNS),
        ),
    ),
    "image": FileFormat(
        parsed_document_reader.read_image,
        partial(parsed_document_reader.count_kinds, parsed_document_reader.IMAGE_COLUMNS),
    ),
}
