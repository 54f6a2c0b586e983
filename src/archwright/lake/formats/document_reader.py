"""Text and Markdown reader: a file is one row with the column `text`.

Design: documents are not split. Changes are detected per file; training packs and truncates to its own length.
"""

from archwright.lake.formats.row_chunks import BrokenRowHandler, RowChunk, RowChunks, build_broken_row
from archwright.lake.formats.source_files import ScannedFile
from archwright.lake.formats.text_lines import ROW_BYTES, open_text

TEXT_COLUMN = "text"


def read_chunks(source: ScannedFile, on_broken: BrokenRowHandler) -> RowChunks:
    text = read_document(source, on_broken)
    if text is not None:
        yield RowChunk(rows=[1], contents=[text.encode()], columns={TEXT_COLUMN: [text]})


def read_document(source: ScannedFile, on_broken: BrokenRowHandler) -> str | None:
    with open_text(source) as stream:
        raw = stream.read(ROW_BYTES + 1)
    reason = "row too long" if len(raw) > ROW_BYTES else "NUL byte" if b"\0" in raw else ""
    if not reason:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            reason = "not UTF-8"
        else:
            if text.strip():
                return text
            reason = "empty"
    on_broken(build_broken_row(source.name, 1, reason, raw))
    return None
