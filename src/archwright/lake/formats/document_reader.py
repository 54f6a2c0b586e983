"""Text and Markdown reader: a file is one row with the column `text`.

Design: documents are not split. Changes are detected per file; training packs and truncates to its own length.
"""

from archwright.errors import from_os_error
from archwright.lake.formats.row_chunks import BrokenRowHandler, RowChunk, RowChunks, build_broken_row
from archwright.lake.formats.source_files import ScannedFile
from archwright.lake.formats.text_lines import BOM, ROW_BYTES

TEXT_COLUMN = "text"


def read_chunks(source: ScannedFile, on_broken: BrokenRowHandler) -> RowChunks:
    try:
        with open(source.path, "rb") as file:
            raw = file.read(ROW_BYTES + 1).removeprefix(BOM)
    except OSError as error:
        raise from_os_error(error) from error
    if reason := _find_defect(raw):
        on_broken(build_broken_row(source.name, 1, reason, raw))
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
