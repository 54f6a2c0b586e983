"""Lines of a text file or gzip file with bounded memory: at most ROW_BYTES per line."""

import gzip
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple, cast

from archwright.errors import DataError, ErrorLocation, from_os_error
from archwright.lake.formats.source_files import ScannedFile

ROW_BYTES = 16 * 1024 * 1024
BOM = b"\xef\xbb\xbf"


class TextLine(NamedTuple):
    """`text` has no line end; it is truncated to ROW_BYTES if `over`."""

    number: int
    text: bytes
    over: bool


def read_lines(source: ScannedFile) -> Iterator[TextLine]:
    """All lines, numbered from 1. Raises DataError AW-DATA-07 for a damaged gzip file."""
    try:
        packed = source.name.lower().endswith(".gz")
        with cast("IO[bytes]", gzip.open(source.path, "rb")) if packed else open(source.path, "rb") as file:
            number = 0
            while raw := file.readline(ROW_BYTES + 1):
                number += 1
                over = len(raw) > ROW_BYTES and not raw.endswith(b"\n")
                piece = raw
                while over and piece and not piece.endswith(b"\n"):
                    piece = file.readline(ROW_BYTES)
                if number == 1:
                    raw = raw.removeprefix(BOM)
                yield TextLine(number, raw.removesuffix(b"\n").removesuffix(b"\r"), over)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        message = f"the compressed file is damaged: {error}"
        hint = "copy or compress the file again; nothing was changed"
        raise DataError("AW-DATA-07", message, where=ErrorLocation(source.name), hint=hint) from error
    except OSError as error:
        raise from_os_error(error) from error
