"""Lines of a text file with bounded memory: at most ROW_BYTES per line, and blocks of whole lines for fast readers.

The file may be compressed, and in any encoding that Python knows; its lines are UTF-8. CR LF becomes LF.
"""

import codecs
import gzip
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, NamedTuple, cast

from archwright.errors import DataError, ErrorLocation, from_os_error
from archwright.lake.formats.source_files import ScannedFile, check_unpacked_size
from archwright.lake.lazy_modules import np

ROW_BYTES = 16 * 1024 * 1024
READ_BYTES = 1024 * 1024
BOM = b"\xef\xbb\xbf"
UNDECODABLE = "\udcff"  # not valid in UTF-8: the row that contains it is broken
codecs.register_error("archwright-mark", lambda error: (UNDECODABLE, cast(UnicodeDecodeError, error).end))


class TextLine(NamedTuple):
    """`text` has no line end; it is truncated to ROW_BYTES if `over`."""

    number: int
    text: bytes
    over: bool


@contextmanager
def open_text(source: ScannedFile) -> Iterator["LineReader"]:
    """Raises DataError AW-DATA-07 for a damaged gzip file, -28 for a file that unpacks to more than its limit."""
    try:
        packed = source.name.lower().endswith(".gz")
        with cast("IO[bytes]", gzip.open(source.path, "rb")) if packed else open(source.path, "rb") as file:
            yield LineReader(source, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        message = f"the compressed file is damaged: {error}"
        hint = "copy or compress the file again; nothing was changed"
        raise DataError("AW-DATA-07", message, where=ErrorLocation(source.name), hint=hint) from error
    except OSError as error:
        raise from_os_error(error) from error


class LineReader:
    """Iterates over the lines, numbered from 1. `peek` and `skip` read a block of lines instead of single lines."""

    def __init__(self, source: ScannedFile, file: IO[bytes]) -> None:
        self._source, self._file = source, file
        self._decoder = None
        if source.encoding != "utf-8":
            self._decoder = codecs.getincrementaldecoder(source.encoding)("archwright-mark")
        self._buffer, self._start, self._held, self._read = b"", 0, b"", 0
        self._ended = False
        self._waiting: deque[TextLine] = deque()
        self._number = 1

    def __iter__(self) -> Iterator[TextLine]:
        return self

    def __next__(self) -> TextLine:
        if self._waiting:
            return self._waiting.popleft()
        if not self._fill_line():
            raise StopIteration
        limit = self._start + ROW_BYTES + 1
        end = self._buffer.find(b"\n", self._start, limit)
        over = end < 0 and len(self._buffer) >= limit
        end = end if end >= 0 else min(len(self._buffer), limit)
        line = TextLine(self._number, self._buffer[self._start : end], over)
        self._start = end + (not over)
        self._number += 1
        while over and (end := self._buffer.find(b"\n", self._start)) < 0 and self._fill(1, skip=True):
            pass
        self._start = end + 1 if over and end >= 0 else self._start
        return line

    def put_back(self, lines: Sequence[TextLine]) -> None:
        self._waiting.extendleft(reversed(lines))

    def peek(self, size: int) -> bytes:
        """At most about `size` bytes of whole lines, each with its line end; empty if the next line must be iterated.

        The caller calls `skip` for what it has read.
        """
        size = min(size, ROW_BYTES)
        if self._waiting or not self._fill(size):
            return b""
        end = self._buffer.rfind(b"\n", self._start, self._start + size) + 1
        return self._buffer[self._start : end]

    def skip(self, size: int, lines: int) -> None:
        self._start += size
        self._number += lines

    @property
    def number(self) -> int:
        """The number of the next line."""
        return self._waiting[0].number if self._waiting else self._number

    def read(self, size: int) -> bytes:
        """The next bytes without their line structure; fewer than `size` at the end of the file."""
        self._fill(size)
        piece = self._buffer[self._start : self._start + size]
        self._start += len(piece)
        return piece

    def share(self) -> float:
        """The share of the file that was read, 0 to 1."""
        raw = getattr(self._file, "fileobj", self._file)
        return min(1.0, float(raw.tell()) / max(1, self._source.size_bytes))

    def _fill(self, size: int, *, skip: bool = False) -> bool:
        """Load until `size` bytes are there; `skip` drops the bytes that are there. False at the end of the file."""
        self._start = len(self._buffer) if skip else self._start
        have = len(self._buffer) - self._start
        if have < size and not self._ended:
            parts = [self._buffer[self._start :]]
            while have < size and not self._ended:
                parts.append(self._load())
                have += len(parts[-1])
            self._buffer, self._start = b"".join(parts), 0
        return self._start < len(self._buffer)

    def _fill_line(self) -> bool:
        """Load until a whole line or the longest row is there."""
        size = 1
        while self._fill(size) and self._buffer.find(b"\n", self._start) < 0 and size <= ROW_BYTES and not self._ended:
            size = min(len(self._buffer) - self._start + READ_BYTES, ROW_BYTES + 1)
        return self._start < len(self._buffer)

    def _load(self) -> bytes:
        raw = self._file.read(READ_BYTES)
        first, self._read = not self._read, self._read + len(raw)
        check_unpacked_size(self._source, self._read)
        self._ended = not raw
        if self._decoder is not None:
            raw = self._decoder.decode(raw, self._ended).encode("utf-8", "surrogatepass")
        if first:
            raw = raw.removeprefix(BOM)
        raw, self._held = self._held + raw, b""
        if raw.endswith(b"\r"):
            raw, self._held = raw[:-1], b"" if self._ended else b"\r"
        return _unify_line_ends(raw) if b"\r" in raw else raw


def _unify_line_ends(raw: bytes) -> bytes:
    """Replace CR LF by LF, quicker than bytes.replace."""
    data = np.frombuffer(raw, np.uint8)
    stays = np.ones(len(data), bool)
    stays[:-1] = (data[:-1] != ord("\r")) | (data[1:] != ord("\n"))
    return cast(bytes, data[stays].tobytes())
