"""Reader of HTML, PDF, office documents and images: a row per page, slide or sheet, parsed in a child process.

An image is a row with its bytes and no text. A document that cannot be parsed is one broken row with the reason; a page
without text is a broken row, so a scanned PDF is not mistaken for an empty one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from archwright.errors import from_os_error
from archwright.lake.documents.document_contents import DocumentPage
from archwright.lake.documents.document_parser import shared_parser
from archwright.lake.formats.column_kinds import arrow_type
from archwright.lake.formats.row_chunks import BrokenRowHandler, RowChunk, RowChunks, build_broken_row, is_chunk_full
from archwright.lake.formats.source_files import ScannedFile
from archwright.lake.formats.text_lines import ROW_BYTES
from archwright.lake.formats.type_inference import KindCounts
from archwright.lake.lazy_modules import pa

DOCUMENT_COLUMNS = {"text": "text", "page": "integer", "title": "text"}
IMAGE_COLUMNS = {"content": "bytes", "width": "integer", "height": "integer", "format": "text"}


def count_kinds(columns: Mapping[str, str], _source: ScannedFile, votes: KindCounts) -> None:
    for name, kind in columns.items():
        votes.setdefault(name, Counter())[kind] += 1


def read_chunks(source: ScannedFile, on_broken: BrokenRowHandler) -> RowChunks:
    pages: list[DocumentPage] = []
    size = 0
    for page in _parse_source(source, on_broken):
        reason = page.broken or ("" if page.text else "no text on the page")
        if len(page.text) > ROW_BYTES // 4:  # a character has up to four bytes
            reason = "row too long"
        if reason:
            on_broken(build_broken_row(source.name, page.page, reason, page.text.encode()))
            continue
        pages.append(page)
        size += len(page.text)
        if is_chunk_full(len(pages), size, len(DOCUMENT_COLUMNS)):
            yield _build_chunk(pages)
            pages, size = [], 0
    if pages:
        yield _build_chunk(pages)


def _parse_source(source: ScannedFile, on_broken: BrokenRowHandler) -> tuple[DocumentPage, ...]:
    found = shared_parser().parse_file(source.path, source.format)
    if found.broken:
        on_broken(build_broken_row(source.name, 1, found.broken, b""))
    return found.pages


def _build_chunk(pages: Sequence[DocumentPage]) -> RowChunk:
    columns = {
        "text": [page.text for page in pages],
        "page": [page.page for page in pages],
        "title": [page.title or None for page in pages],
    }
    return RowChunk([page.page for page in pages], [page.text.encode() for page in pages], columns)


def read_image(source: ScannedFile, on_broken: BrokenRowHandler) -> RowChunks:
    if source.size_bytes > ROW_BYTES:
        on_broken(build_broken_row(source.name, 1, f"larger than {ROW_BYTES >> 20} MB", b""))
        return
    for page in _parse_source(source, on_broken):
        try:
            raw = source.path.read_bytes()
        except OSError as error:
            raise from_os_error(error) from error
        values = (pa.array([raw], arrow_type("bytes")), [page.width], [page.height], [page.format])
        yield RowChunk([1], [b""], dict(zip(IMAGE_COLUMNS, values, strict=True)))
