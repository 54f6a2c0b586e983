"""CSV reader: a header, then rows with as many fields; the header's most frequent delimiter counts.

A row may span lines, since a quoted field may hold line ends. A row that does not parse, or that does not end within
MAX_ROW_LINES, is parsed again from its first line alone: an unclosed quote costs one row.
"""

import csv
from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from archwright.errors import DataError, ErrorLocation
from archwright.lake.formats import column_names
from archwright.lake.formats.row_chunks import BrokenRowHandler, RowChunk, RowChunks, build_broken_row, is_chunk_full
from archwright.lake.formats.source_files import ScannedFile
from archwright.lake.formats.text_lines import ROW_BYTES, TextLine, read_lines

MAX_ROW_LINES = 256
DELIMITERS = ",\t;|"


class _CsvRow(NamedTuple):
    """`broken` is the reason why `fields` is empty."""

    number: int
    raw: bytes
    fields: list[str]
    broken: str = ""


def read_chunks(source: ScannedFile, on_broken: BrokenRowHandler) -> RowChunks:
    csv.field_size_limit(ROW_BYTES)  # the module's own limit is 128 KB, for all its readers
    stream = read_lines(source)
    first = next((line for line in stream if line.text.strip()), None)
    if first is None:
        return
    header, delimiter = _parse_header(source, first)
    rows: list[_CsvRow] = []
    size = 0
    for row in _parse_rows(stream, delimiter):
        reason = row.broken or ("" if len(row.fields) == len(header) else "wrong number of columns")
        if reason:
            on_broken(build_broken_row(source.name, row.number, reason, row.raw))
            continue
        rows.append(row)
        size += len(row.raw)
        if is_chunk_full(len(rows), size, len(header)):
            yield _build_chunk(rows, header)
            rows, size = [], 0
    if rows:
        yield _build_chunk(rows, header)


def _build_chunk(rows: list[_CsvRow], header: list[str]) -> RowChunk:
    columns = zip(*(row.fields for row in rows), strict=True)
    return RowChunk(
        rows=[row.number for row in rows],
        contents=[msgspec.json.encode(row.fields) for row in rows],
        columns={name: list(column) for name, column in zip(header, columns, strict=True)},
        untyped=True,
        header=msgspec.json.encode(header),
    )


def _parse_header(source: ScannedFile, line: TextLine) -> tuple[list[str], str]:
    """Returns (names, delimiter). Raises DataError AW-DATA-16."""
    try:
        text = line.text.decode()
    except UnicodeDecodeError as error:
        raise _header_error(source, line, "it is not UTF-8", "save the file as UTF-8") from error
    tabbed = ".tsv" in source.name.lower()
    delimiter = "\t" if tabbed else max(DELIMITERS, key=lambda sign: (text.count(sign), -DELIMITERS.index(sign)))
    try:
        found = [name.strip() for name in next(csv.reader((text,), delimiter=delimiter, strict=True))]
    except csv.Error as error:
        raise _header_error(source, line, str(error), "write the column names into the first line") from error
    double = next((name for name, count in Counter(found).items() if count > 1), None)
    if double is not None:
        raise _header_error(source, line, f"the column {double!r} occurs twice", "give each column its own name")
    if all(_is_number(name) for name in found):
        hint = "insert a line with the column names before it"
        raise _header_error(source, line, "the first line contains only numbers", hint)
    column_names.check_column_count(len(found), source.name)
    column_names.check_column_names(found, source.name)
    return found, delimiter


def _header_error(source: ScannedFile, line: TextLine, why: str, hint: str) -> DataError:
    return DataError("AW-DATA-16", f"no header: {why}", where=ErrorLocation(source.name, line.number), hint=hint)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse_rows(stream: Iterator[TextLine], delimiter: str) -> Iterator[_CsvRow]:
    waiting: deque[TextLine] = deque()
    while True:
        line = waiting.popleft() if waiting else next(stream, None)
        if line is None:
            return
        if line.over:
            yield _CsvRow(line.number, line.text, [], "row too long")
        elif line.text.strip():
            together = [line, *_collect_continuation_lines(line, waiting, stream)]
            row = _parse_row(together, delimiter)
            if row.broken and len(together) > 1:
                waiting.extendleft(reversed(together[1:]))
                row = _parse_row(together[:1], delimiter)
            yield row


def _collect_continuation_lines(
    line: TextLine, waiting: deque[TextLine], stream: Iterator[TextLine]
) -> Iterator[TextLine]:
    """Yield the lines after `line` until every quote is closed or the row exceeds a limit."""
    quotes, taken, size = line.text.count(b'"'), 1, len(line.text)
    while quotes % 2 and taken < MAX_ROW_LINES and size <= ROW_BYTES:
        following = waiting.popleft() if waiting else next(stream, None)
        if following is None:
            return
        yield following
        quotes, taken, size = quotes + following.text.count(b'"'), taken + 1, size + len(following.text)


def _parse_row(together: list[TextLine], delimiter: str) -> _CsvRow:
    number, raw = together[0].number, b"\n".join(line.text for line in together)
    if b"\0" in raw:
        return _CsvRow(number, raw, [], "NUL byte")
    try:
        found = list(csv.reader((raw.decode(),), delimiter=delimiter, strict=True))
    except UnicodeDecodeError:
        return _CsvRow(number, raw, [], "not UTF-8")
    except csv.Error:
        return _CsvRow(number, raw, [], "not CSV")
    return _CsvRow(number, raw, found[0])
