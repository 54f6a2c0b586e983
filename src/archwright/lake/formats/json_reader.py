"""JSON reader: an array of objects, or objects one after the other; an object is a row, numbered from 1.

Only one object is in memory at a time. An object that is not JSON refuses the file, since its end cannot be found.
"""

import codecs
import json
from collections.abc import Iterator

from archwright.errors import DataError, ErrorLocation
from archwright.lake.formats.jsonl_reader import ObjectLines
from archwright.lake.formats.row_chunks import BrokenRowHandler, RowChunks
from archwright.lake.formats.source_files import ScannedFile
from archwright.lake.formats.text_lines import READ_BYTES, ROW_BYTES, LineReader, TextLine, open_text

WHITE_SPACE = " \t\n\r"
# Finds the end of a value; `jsonl_reader` converts it.
_find_end = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str).raw_decode


def read_chunks(source: ScannedFile, on_broken: BrokenRowHandler) -> RowChunks:
    """Raises DataError AW-DATA-29 if the file is neither an array of values nor a sequence of values."""
    with open_text(source) as stream:
        yield from ObjectLines(source, on_broken).decode_lines(_read_values(source, stream))


def _read_values(source: ScannedFile, stream: LineReader) -> Iterator[TextLine]:
    text = _TextBuffer(source, stream)
    array = text.take_sign("[")
    number = 0
    while not (text.take_sign("]") if array else text.is_empty()):
        if array and number and not text.take_sign(","):
            raise text.error("a comma or ] is missing")
        number += 1
        yield TextLine(number, text.take_value().encode("utf-8", "surrogatepass"), False)
    if array and not text.is_empty():
        raise text.error("there is text after the array")


class _TextBuffer:
    """The text of a file from the next value on."""

    def __init__(self, source: ScannedFile, stream: LineReader) -> None:
        self._source, self._stream = source, stream
        self._decode = codecs.getincrementaldecoder("utf-8")("archwright-mark").decode
        self._text, self._start, self._ended = "", 0, False

    def error(self, message: str) -> DataError:
        hint = "save the file as a JSON array of objects, or as JSON lines; nothing was changed"
        return DataError("AW-DATA-29", f"not a JSON file: {message}", where=ErrorLocation(self._source.name), hint=hint)

    def _load(self) -> bool:
        raw = self._stream.read(READ_BYTES)
        self._ended = not raw
        self._text, self._start = self._text[self._start :] + self._decode(raw, self._ended), 0
        return not self._ended

    def is_empty(self) -> bool:
        """True at the end of the file; skips white space."""
        while True:
            while self._start < len(self._text) and self._text[self._start] in WHITE_SPACE:
                self._start += 1
            if self._start < len(self._text):
                return False
            if self._ended or not self._load():
                return True

    def take_sign(self, sign: str) -> bool:
        found = not self.is_empty() and self._text[self._start] == sign
        self._start += found
        return found

    def take_value(self) -> str:
        if self.is_empty():
            raise self.error("the array is not complete")
        while True:
            try:
                _value, end = _find_end(self._text, self._start)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or self._ended or len(self._text) - self._start > ROW_BYTES:
                    raise self.error(str(error)) from error
            else:
                if end < len(self._text) or self._ended:  # a number may go on
                    value, self._start = self._text[self._start : end], end
                    return value
            self._load()
