"""JSON lines reader: one object per line; any other line is broken."""

from collections.abc import Mapping

import msgspec

from archwright.lake.formats import column_names
from archwright.lake.formats.row_chunks import BrokenRowHandler, RowChunk, RowChunks, build_broken_row, is_chunk_full
from archwright.lake.formats.source_files import ScannedFile
from archwright.lake.formats.text_lines import TextLine, read_lines

_decode = msgspec.json.Decoder().decode


def read_chunks(source: ScannedFile, on_broken: BrokenRowHandler) -> RowChunks:
    numbers: list[int] = []
    contents: list[bytes] = []
    records: list[Mapping[str, object]] = []
    keys: set[str] = set()  # in this chunk
    seen: set[str] = set()  # in the file
    size = 0
    for line in read_lines(source):
        if not line.text.strip():
            continue
        record = _parse_record(line)
        if not isinstance(record, str) and not keys.issuperset(record):
            if any(map(column_names.is_invalid_name, record)):
                record = "no name for a column"
            else:
                column_names.check_column_names(record.keys() - keys, source.name)
                keys.update(record)
                seen.update(record)
                column_names.check_column_count(len(seen), source.name)
        if isinstance(record, str):
            on_broken(build_broken_row(source.name, line.number, record, line.text))
            continue
        numbers.append(line.number)
        contents.append(line.text)
        records.append(record)
        size += len(line.text)
        if is_chunk_full(len(numbers), size, len(keys)):
            yield _build_chunk(numbers, contents, records)
            numbers, contents, records, keys, size = [], [], [], set(), 0
    if numbers:
        yield _build_chunk(numbers, contents, records)


def _parse_record(line: TextLine) -> Mapping[str, object] | str:
    """The object on a line, or the reason why the line is broken."""
    if line.over:
        return "row too long"
    try:
        found = _decode(line.text)
    except UnicodeDecodeError:
        return "not UTF-8"
    except RecursionError:
        return "nested too deep"
    except msgspec.ValidationError:
        return "number not finite"
    except msgspec.DecodeError:
        return "not JSON"
    return found if isinstance(found, dict) else "not a JSON object"


def _build_chunk(numbers: list[int], contents: list[bytes], records: list[Mapping[str, object]]) -> RowChunk:
    keys: dict[str, None] = {}
    for record in records:
        if keys.keys() != record.keys():
            keys.update(dict.fromkeys(record))
    return RowChunk(numbers, contents, {name: [record.get(name) for record in records] for name in keys})
