"""For each format its reader, and the function that counts column kinds before anything is written."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from archwright.lake.formats import (
    csv_reader,
    document_reader,
    jsonl_reader,
    parquet_reader,
    parsed_document_reader,
    type_inference,
)
from archwright.lake.formats.row_chunks import BrokenRowHandler, RowChunks
from archwright.lake.formats.source_files import ScannedFile
from archwright.lake.formats.type_inference import KindCounts


class FileFormat(NamedTuple):
    chunks: Callable[[ScannedFile, BrokenRowHandler], RowChunks]
    survey: Callable[[ScannedFile, KindCounts], None]


def _format_by_reading(chunks: Callable[[ScannedFile, BrokenRowHandler], RowChunks]) -> FileFormat:
    """A format that declares no column kinds: the survey reads the whole file."""

    def survey(source: ScannedFile, votes: KindCounts) -> None:
        for chunk in chunks(source, lambda _broken: None):  # the second pass reports broken rows
            type_inference.count_kinds(chunk, votes)

    return FileFormat(chunks, survey)


FORMATS: dict[str, FileFormat] = {
    "jsonl": _format_by_reading(jsonl_reader.read_chunks),
    "csv": _format_by_reading(csv_reader.read_chunks),
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
