"""CSV reader: a header, then rows with as many fields; the header's most frequent delimiter counts.

A row may span lines, since a quoted field may hold line ends. A row that does not parse, or that does not end within
MAX_ROW_LINES, is parsed again from its first line alone: an unclosed quote costs one row.
Design: blocks of regular rows are found with numpy and parsed by pyarrow. Any other row is parsed by the csv module,
the authority on what a row is, so that it has the same number and reason as in a file that is read row by row.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from archwright.errors import DataError, ErrorLocation
from archwright.lake.formats import column_names
from archwright.lake.formats.row_chunks import (
    CHUNK_BYTES,
    BrokenRowHandler,
    LazyContents,
    RowChunk,
    RowChunks,
    build_broken_row,
    is_chunk_full,
)
from archwright.lake.formats.source_files import ScannedFile
from archwright.lake.formats.text_lines import ROW_BYTES, LineReader, TextLine, open_text
from archwright.lake.lazy_modules import np, pa, pa_csv

MAX_ROW_LINES = 256
DELIMITERS = ",\t;|"
# Blocks shrink to MIN_BLOCK_BYTES at an irregular row and grow again; so do the rows that are parsed singly after it.
MIN_BLOCK_BYTES = 64 * 1024
MAX_SINGLE_ROWS = 1024
WHITE_SPACE = b" \t\x0b\x0c"


class _CsvRow(NamedTuple):
    """`broken` is the reason why `fields` is empty."""

    number: int
    raw: bytes
    fields: list[str]
    broken: str = ""


class _Layout(NamedTuple):
    source: ScannedFile
    header: list[str]
    delimiter: str


class _RegularRows(NamedTuple):
    """The first `size` bytes of a block, with the places of its rows' lines; `clean` if nothing irregular follows."""

    size: int
    lines: Any
    clean: bool
    quoted: bool = False
    all_lines: int = 0


def read_chunks(source: ScannedFile, on_broken: BrokenRowHandler) -> RowChunks:
    csv.field_size_limit(ROW_BYTES)  # the module's own limit is 128 KB, for all its readers
    with open_text(source) as stream:
        first = next((line for line in stream if line.text.strip()), None)
        if first is None:
            return
        layout = _Layout(source, *_parse_header(source, first))
        most, singles = MIN_BLOCK_BYTES, 1
        while True:
            block = stream.peek(most)
            regular = _find_regular_rows(block, layout)
            if regular.size:
                chunk = _parse_block(block[: regular.size], regular, layout, stream.number)
                stream.skip(regular.size, regular.all_lines)
                if chunk is not None:
                    yield chunk._replace(share=stream.share())
            if regular.clean and regular.size:
                most, singles = min(most * 2, CHUNK_BYTES), 1
                continue
            singles = 1 if regular.size > MIN_BLOCK_BYTES // 2 else min(singles * 2, MAX_SINGLE_ROWS)
            most = MIN_BLOCK_BYTES
            before = stream.number
            yield from _read_singly(stream, layout, singles, on_broken)
            if stream.number == before:
                return


def _read_singly(stream: LineReader, layout: _Layout, count: int, on_broken: BrokenRowHandler) -> RowChunks:
    """Parse `count` rows one by one."""
    rows: list[_CsvRow] = []
    size = 0
    for _ in range(count):
        row = _parse_next_row(stream, layout.delimiter)
        if row is None:
            break
        reason = row.broken or ("" if len(row.fields) == len(layout.header) else "wrong number of columns")
        if reason:
            on_broken(build_broken_row(layout.source.name, row.number, reason, row.raw))
            continue
        rows.append(row)
        size += len(row.raw)
        if is_chunk_full(len(rows), size, len(layout.header)):
            yield _build_chunk(rows, layout.header)
            rows, size = [], 0
    if rows:
        yield _build_chunk(rows, layout.header)


def _build_chunk(rows: list[_CsvRow], header: list[str]) -> RowChunk:
    columns = zip(*(row.fields for row in rows), strict=True)
    return RowChunk(
        rows=[row.number for row in rows],
        contents=[msgspec.json.encode(row.fields) for row in rows],
        columns={name: pa.array(column, pa.large_string()) for name, column in zip(header, columns, strict=True)},
        untyped=True,
    )


def _find_regular_rows(block: bytes, layout: _Layout) -> _RegularRows:
    """The longest start of the block that consists of whole rows which every CSV parser reads alike."""
    if not block:
        return _RegularRows(0, (), clean=False)
    data = np.frombuffer(block, np.uint8)
    signs = (data == 10) | (data == ord(layout.delimiter))
    quoted = b'"' in block
    places = np.flatnonzero(signs | (data == 34) if quoted else signs)
    found = data[places]
    ends = line_ends = places[found == 10]
    bad = [place for sign in (b"\0", b"\r") if (place := block.find(sign)) >= 0]
    if not block.isascii():
        try:
            block.decode()
        except UnicodeDecodeError as error:
            bad.append(error.start)
    if quoted:
        quotes = places[found == 34]
        around = np.zeros(256, bool)
        around[[10, 34, ord(layout.delimiter)]] = True
        opens, closes = quotes[0::2], quotes[1::2]  # the second quote of a pair closes and opens the field again
        wrong = (opens[(opens > 0) & ~around[data[opens - 1]]], closes[~around[data[closes + 1]]])
        bad += [int(places[0]) for places in wrong if len(places)]
        outside = (np.bitwise_xor.accumulate((found == 34).view(np.uint8)) == 0) & (found != 34)
        places, found = places[outside], found[outside]
        ends = places[found == 10]
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    blank = starts == ends
    odd = np.zeros(len(ends), bool)
    if not _are_fields_even(found, len(ends), layout):
        separators = places[found != 10]
        odd = (np.diff(np.searchsorted(separators, ends), prepend=0) != len(layout.header) - 1) & ~blank
    lines = np.arange(len(ends))
    if len(ends) < len(line_ends):
        lines = np.searchsorted(line_ends, starts)
        odd |= np.diff(np.searchsorted(line_ends, ends), prepend=-1) > MAX_ROW_LINES
    if any(sign in block for sign in (b" ", b"\t", b"\x0b", b"\x0c")):
        indented = np.flatnonzero(np.isin(data[starts], np.frombuffer(WHITE_SPACE, np.uint8)))
        odd[[row for row in indented.tolist() if not block[starts[row] : ends[row]].strip()]] = True
    first = [int(np.argmax(odd))] if odd.any() else []
    rows = min([len(ends), *first, *(int(np.searchsorted(ends, place)) for place in bad)])
    size = int(ends[rows - 1]) + 1 if rows else 0
    all_lines = int(np.searchsorted(line_ends, size))
    return _RegularRows(size, lines[:rows][~blank[:rows]], rows == len(ends), quoted, all_lines)


def _are_fields_even(found: Any, rows: int, layout: _Layout) -> bool:
    """True if the delimiters and line ends `found` are those of whole rows, none blank; quicker than to count them."""
    fields = len(layout.header)
    if len(found) < rows * fields:
        return False
    table = found[: rows * fields].reshape(rows, fields)
    return bool((table[:, -1] == 10).all() and (table[:, :-1] == ord(layout.delimiter)).all())


def _parse_block(block: bytes, regular: _RegularRows, layout: _Layout, number: int) -> RowChunk | None:
    if not len(regular.lines):
        return None
    table = pa_csv.read_csv(
        pa.BufferReader(block),
        read_options=pa_csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=layout.header),
        parse_options=pa_csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=regular.quoted),
        convert_options=pa_csv.ConvertOptions(
            check_utf8=False, column_types=dict.fromkeys(layout.header, pa.large_string())
        ),
    )
    if table.num_rows != len(regular.lines):
        raise AssertionError(f"{table.num_rows} rows of {len(regular.lines)} in a block of {layout.source.name}")
    columns = {name: column.chunk(0) for name, column in zip(layout.header, table.columns, strict=True)}
    contents = LazyContents(lambda place: msgspec.json.encode([array[place].as_py() for array in columns.values()]))
    return RowChunk(regular.lines + number, contents, columns, untyped=True)


def _parse_header(source: ScannedFile, line: TextLine) -> tuple[list[str], str]:
    """Returns (names, delimiter). Raises DataError AW-DATA-16."""
    try:
        text = line.text.decode()
    except UnicodeDecodeError as error:
        hint = "save the file as UTF-8, or name its encoding: --encoding"
        raise _header_error(source, line, f"it is not {source.encoding.upper()}", hint) from error
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


def _parse_next_row(stream: LineReader, delimiter: str) -> _CsvRow | None:
    """The next row that is not blank; None at the end of the file."""
    line = next((line for line in stream if line.over or line.text.strip()), None)
    if line is None:
        return None
    if line.over:
        return _CsvRow(line.number, line.text, [], "row too long")
    together = [line, *_collect_continuation_lines(line, stream)]
    row = _parse_row(together, delimiter)
    if row.broken and len(together) > 1:
        stream.put_back(together[1:])
        row = _parse_row(together[:1], delimiter)
    return row


def _collect_continuation_lines(line: TextLine, stream: Iterable[TextLine]) -> Iterator[TextLine]:
    """Yield the lines after `line` until every quote is closed or the row exceeds a limit."""
    quotes, taken, size = line.text.count(b'"'), 1, len(line.text)
    lines = iter(stream)
    while quotes % 2 and taken < MAX_ROW_LINES and size <= ROW_BYTES:
        following = next(lines, None)
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
