"""JSON lines reader: one object per line; any other line is broken.

Design: blocks of lines are decoded at once into structs with the fields and types that the file had so far. A block
that does not fit is decoded line by line, and its fields and types are added.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from archwright.lake.formats import column_names
from archwright.lake.formats.row_chunks import (
    CHUNK_BYTES,
    CHUNK_CELLS,
    BrokenRowHandler,
    LazyContents,
    RowChunk,
    RowChunks,
    build_broken_row,
    is_chunk_full,
)
from archwright.lake.formats.source_files import ScannedFile
from archwright.lake.formats.text_lines import TextLine, open_text
from archwright.lake.lazy_modules import np, pa

# The first rows are decoded one by one, to find the fields.
FIRST_BLOCK_BYTES = 256 * 1024
BLOCK_BYTES = CHUNK_BYTES // 2
LINE_END = ord("\n")
MAX_STRUCT_FIELDS = 256
ARROW_TYPES: dict[frozenset[type], str] = {
    frozenset((str,)): "large_string",
    frozenset((int,)): "int64",
    frozenset((float,)): "float64",
    frozenset((bool,)): "bool_",
}
_decode = msgspec.json.Decoder().decode


def read_chunks(source: ScannedFile, on_broken: BrokenRowHandler) -> RowChunks:
    reader = ObjectLines(source, on_broken)
    most = min(FIRST_BLOCK_BYTES, BLOCK_BYTES)
    with open_text(source) as stream:
        while True:
            block, number = stream.peek(most), stream.number
            most = BLOCK_BYTES
            if block:
                ends = np.flatnonzero(np.frombuffer(block, np.uint8) == LINE_END)
                stream.skip(len(block), len(ends))
                chunk = reader.decode_block(block, number, ends)
                for found in reader.decode_lines(_split_lines(block, number)) if chunk is None else (chunk,):
                    yield found._replace(share=stream.share())
            elif line := next(stream, None):
                yield from reader.decode_lines((line,))
            else:
                return


def _split_lines(block: bytes, number: int) -> Iterator[TextLine]:
    for place, text in enumerate(block.split(b"\n")):
        yield TextLine(number + place, text, False)


class ObjectLines:
    """Decodes lines of one file. `_types` are the types of each column's values so far, None left out."""

    def __init__(self, source: ScannedFile, on_broken: BrokenRowHandler) -> None:
        self._source, self._on_broken = source, on_broken
        self._types: dict[str, set[type]] = {}
        self._decoder: msgspec.json.Decoder[Any] | None = None

    def decode_block(self, block: bytes, number: int, ends: Any) -> RowChunk | None:
        """The rows of a block of lines from `number` on, that end at `ends`; None to decode it line by line."""
        lines, data = len(ends), np.frombuffer(block, np.uint8)
        # Every line is one object: between two values at a line end stands `}`, then `{`.
        if self._decoder is None or not block.startswith(b"{") or (data[ends[:-1] - 1] != ord("}")).any():
            return None
        if (data[ends[:-1] + 1] != ord("{")).any():
            return None
        if lines * len(self._types) > CHUNK_CELLS * 8:
            return None
        try:
            records = self._decoder.decode_lines(block)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if len(records) != lines:
            return None
        columns = {}
        for place, (name, types) in enumerate(self._types.items()):
            values = list(map(attrgetter(f"f{place}"), records))
            columns[name] = _build_array(values, types)
        split: list[bytes] = []

        def find_line(place: int) -> bytes:
            if not split:
                split.extend(block.split(b"\n"))
            return split[place]

        return RowChunk(np.arange(number, number + lines), LazyContents(find_line), columns)

    def decode_lines(self, lines: Iterable[TextLine]) -> RowChunks:
        numbers: list[int] = []
        contents: list[bytes] = []
        records: list[Mapping[str, object]] = []
        keys: set[str] = set()  # in this chunk
        size = 0
        for line in lines:
            if not line.text.strip():
                continue
            record = _parse_record(line)
            if not isinstance(record, str) and not keys.issuperset(record):
                if any(map(column_names.is_invalid_name, record)):
                    record = "no name for a column"
                else:
                    column_names.check_column_names(record.keys() - keys, self._source.name)
                    keys.update(record)
                    self._types.update((name, set()) for name in record if name not in self._types)
                    column_names.check_column_count(len(self._types), self._source.name)
            if isinstance(record, str):
                self._on_broken(build_broken_row(self._source.name, line.number, record, line.text))
                continue
            numbers.append(line.number)
            contents.append(line.text)
            records.append(record)
            size += len(line.text)
            if is_chunk_full(len(numbers), size, len(keys)):
                yield self._build_chunk(numbers, contents, records)
                numbers, contents, records, keys, size = [], [], [], set(), 0
        if numbers:
            yield self._build_chunk(numbers, contents, records)

    def _build_chunk(self, numbers: list[int], contents: list[bytes], records: list[Mapping[str, object]]) -> RowChunk:
        keys: dict[str, None] = {}
        for record in records:
            if keys.keys() != record.keys():
                keys.update(dict.fromkeys(record))
        columns = {name: [record.get(name) for record in records] for name in keys}
        before = {name: len(types) for name, types in self._types.items()}
        for name, values in columns.items():
            self._types[name].update(set(map(type, values)) - {type(None)})
        if self._decoder is None or before != {name: len(types) for name, types in self._types.items()}:
            self._decoder = self._make_decoder()
        return RowChunk(numbers, contents, columns)

    def _make_decoder(self) -> msgspec.json.Decoder[Any] | None:
        if len(self._types) > MAX_STRUCT_FIELDS:
            return None
        fields = []
        for place, types in enumerate(self._types.values()):
            hint: Any = None
            for kind in types | ({int} if float in types else set()):  # else 1 would become 1.0
                hint = kind if hint is None else hint | kind
            plain = hint is not None and not types & {dict, list}
            fields.append((f"f{place}", hint | None if plain else Any, None))
        renamed = {f"f{place}": name for place, name in enumerate(self._types)}
        made = msgspec.defstruct("Row", fields, rename=renamed, forbid_unknown_fields=True, gc=False)
        return msgspec.json.Decoder(made)


def _build_array(values: Sequence[object], types: set[type]) -> Any:
    """An Arrow array if all values have one plain type, else the values themselves."""
    if types == {float}:
        types.update(set(map(type, values)) - {type(None)})
    name = ARROW_TYPES.get(frozenset(types))
    try:
        return values if name is None else pa.array(values, getattr(pa, name)())
    except OverflowError:  # an integer of more than 64 bits
        return values


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
