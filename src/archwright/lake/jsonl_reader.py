"""JSON lines: one object a line. A line that is anything else is broken, and so is one that is no valid UTF-8."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from archwright.lake import column_names
from archwright.lake.row_chunks import CELLS, CHUNK_BYTES, ROWS, Broken, Chunk, Chunks, OnBroken, excerpt
from archwright.lake.source_files import Source
from archwright.lake.text_lines import Line, lines

_decode = msgspec.json.Decoder().decode


def chunks(source: Source, on_broken: OnBroken) -> Chunks:
    numbers: list[int] = []
    contents: list[bytes] = []
    records: list[Mapping[str, object]] = []
    keys: set[str] = set()  # of the chunk
    seen: set[str] = set()  # of the file
    size = 0
    for line in lines(source):
        if not line.text.strip():
            continue
        record = _record(line)
        if not isinstance(record, str) and not keys.issuperset(record):
            if any(map(column_names.nameless, record)):
                record = "no name for a column"
            else:
                column_names.check(record.keys() - keys, source.name)
                keys.update(record)
                seen.update(record)
                column_names.check_count(len(seen), source.name)
        if isinstance(record, str):
            on_broken(Broken(file=source.name, row=line.number, reason=record, excerpt=excerpt(line.text)))
            continue
        numbers.append(line.number)
        contents.append(line.text)
        records.append(record)
        size += len(line.text)
        if len(numbers) >= ROWS or size >= CHUNK_BYTES or len(numbers) * len(keys) >= CELLS:
            yield _chunk(numbers, contents, records)
            numbers, contents, records, keys, size = [], [], [], set(), 0
    if numbers:
        yield _chunk(numbers, contents, records)


def _record(line: Line) -> Mapping[str, object] | str:
    """The object on a line, or why there is none."""
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


def _chunk(numbers: list[int], contents: list[bytes], records: list[Mapping[str, object]]) -> Chunk:
    keys: dict[str, None] = {}
    for record in records:
        if keys.keys() != record.keys():
            keys.update(dict.fromkeys(record))
    return Chunk(numbers, contents, {name: [record.get(name) for record in records] for name in keys})
