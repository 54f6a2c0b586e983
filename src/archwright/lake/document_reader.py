"""Text and Markdown: a file is one document, a row with the column `text`.

Not cut at paragraphs or headings: any cut loses what held the parts together, the file is the unit in which changes
are noticed anyway, and training packs and cuts to its own length.
"""

from __future__ import annotations

from archwright.errors import from_os_error
from archwright.lake.row_chunks import BrokenRow, BrokenRowHandler, RowChunk, RowChunks, format_excerpt
from archwright.lake.source_files import ScannedFile
from archwright.lake.text_lines import BOM, ROW_BYTES

TEXT_COLUMN = "text"


def read_chunks(source: ScannedFile, on_broken: BrokenRowHandler) -> RowChunks:
    try:
        with open(source.path, "rb") as file:
            raw = file.read(ROW_BYTES + 1).removeprefix(BOM)
    except OSError as error:
        raise from_os_error(error) from error
    reason = _find_defect(raw)
    if reason:
        on_broken(BrokenRow(file=source.name, row=1, reason=reason, excerpt=format_excerpt(raw)))
    else:
        yield RowChunk(rows=[1], contents=[raw], columns={TEXT_COLUMN: [raw.decode()]})


def _find_defect(raw: bytes) -> str:
    if len(raw) > ROW_BYTES:
        return "row too long"
    if b"\0" in raw:
        return "NUL byte"
    try:
        return "" if raw.decode().strip() else "empty"
    except UnicodeDecodeError:
        return "not UTF-8"
