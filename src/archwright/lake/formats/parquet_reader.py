"""Parquet reader: columns of a known kind keep their values, other columns become JSON text.

A row is broken if a text is not valid UTF-8, a number is not finite, or an unsigned integer exceeds 63 bits.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from archwright.errors import DataError, ErrorLocation
from archwright.lake.formats import column_names
from archwright.lake.formats.column_kinds import arrow_type, kind_of_arrow_type
from archwright.lake.formats.row_chunks import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    BrokenRowHandler,
    LazyContents,
    RowChunk,
    RowChunks,
    build_broken_row,
)
from archwright.lake.formats.source_files import ScannedFile, check_unpacked_size
from archwright.lake.lazy_modules import np, pa, pc, pq

REPEATED_BYTES = 8
BATCH_CHUNKS = 8  # arrays take less memory than Python objects


@contextmanager
def _open_parquet(source: ScannedFile, dictionaries: Sequence[str] = ()) -> Iterator[Any]:
    """The open file. Raises DataError AW-DATA-17 if opening or reading the file fails."""
    try:
        with pq.ParquetFile(
            source.path, memory_map=True, pre_buffer=False, buffer_size=1024 * 1024, read_dictionary=dictionaries
        ) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        message = f"not a complete Parquet file: {str(error).splitlines()[0][:200]}"
        hint = "write or copy the file again; nothing was changed"
        raise DataError("AW-DATA-17", message, where=ErrorLocation(source.name), hint=hint) from error


def count_column_kinds(source: ScannedFile, votes: dict[str, Counter[str]]) -> None:
    """Count the declared kind of each column once per row."""
    with _open_parquet(source) as file:
        found = file.schema_arrow.names
        column_names.check_column_count(len(found), source.name)
        column_names.check_column_names(found, source.name)
        if len(set(found)) < len(found):
            hint = "rename one of the columns"
            raise DataError("AW-DATA-18", "two columns have the same name", where=ErrorLocation(source.name), hint=hint)
        for field in file.schema_arrow:
            votes.setdefault(field.name, Counter())[kind_of_arrow_type(field.type)] += file.metadata.num_rows


def read_chunks(source: ScannedFile, on_broken: BrokenRowHandler) -> RowChunks:
    """Raises DataError AW-DATA-28 if the file unpacks to more than its limit.

    Texts are read with their dictionaries, so a value that repeats is decoded only for the rows of one chunk.
    """
    with _open_parquet(source) as file:
        texts = _find_repeated_texts(file)
    with _open_parquet(source, texts) as file:
        _check_size(source, file.metadata, file.schema_arrow)
        start, unpacked = 1, 0
        stated = _count_stated_bytes(file.metadata)
        most = max(1, min(BATCH_CHUNKS * CHUNK_ROWS, CHUNK_BYTES * file.metadata.num_rows // max(1, stated)))
        for batch in file.iter_batches(batch_size=most):
            row_bytes = max(1, _count_decoded_bytes(batch) // max(1, batch.num_rows))
            unpacked += row_bytes * batch.num_rows
            check_unpacked_size(source, unpacked)
            step = max(1, CHUNK_BYTES // row_bytes)
            for place in range(0, batch.num_rows, step):
                part = batch.slice(place, step)
                for chunk in _convert_batch(source, part, start + place, on_broken):
                    yield chunk._replace(share=start / max(1, file.metadata.num_rows))
            start += batch.num_rows


def _find_repeated_texts(file: Any) -> list[str]:
    """Columns of texts of which a value takes so few bytes that most values must repeat."""
    names = [field.name for field in file.schema_arrow if kind_of_arrow_type(field.type) in ("text", "bytes")]
    flat = {file.metadata.schema.column(place).path: place for place in range(file.metadata.num_columns)}
    found = []
    for name in names:
        if name in flat and file.metadata.schema.column(flat[name]).physical_type == "BYTE_ARRAY":
            groups = range(file.metadata.num_row_groups)
            size = sum(file.metadata.row_group(group).column(flat[name]).total_uncompressed_size for group in groups)
            if size < REPEATED_BYTES * file.metadata.num_rows:
                found.append(name)
    return found


def _check_size(source: ScannedFile, metadata: Any, schema: Any) -> None:
    """Check the sizes that the footer states, before any page is unpacked."""
    fixed = sum(field.type.bit_width // 8 for field in schema if pa.types.is_primitive(field.type))
    check_unpacked_size(source, max(_count_stated_bytes(metadata), metadata.num_rows * (fixed + 1)))


def _count_stated_bytes(metadata: Any) -> int:
    return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))


def _count_decoded_bytes(batch: Any) -> int:
    """The bytes of the batch without dictionaries."""
    total = 0
    for array in batch.columns:
        if pa.types.is_dictionary(array.type) and len(array.dictionary):
            lengths = pc.binary_length(array.dictionary).take(array.indices)
            total += int(pc.sum(lengths).as_py() or 0) + 8 * len(array)
        else:
            total += array.nbytes
    return total


def _convert_batch(source: ScannedFile, batch: Any, start: int, on_broken: BrokenRowHandler) -> RowChunks:
    bad: dict[int, str] = {}
    columns: dict[str, Any] = {}
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        columns[name], unfit = _normalise_column(array)
        bad.update({place: f"{reason}: column {name}" for place, reason in unfit.items() if place not in bad})

    def encode_row(place: int) -> bytes:
        row = {name: array[place].as_py() for name, array in columns.items()}
        return msgspec.json.encode({name: value for name, value in row.items() if value is not None})

    for place in sorted(bad):
        on_broken(build_broken_row(source.name, start + place, bad[place], encode_row(place)))
    good = np.delete(np.arange(batch.num_rows), sorted(bad))
    if bad:
        columns = {name: array.take(pa.array(good, pa.int64())) for name, array in columns.items()}
    if len(good):
        yield RowChunk(good + start, LazyContents(encode_row), columns)


def _normalise_column(array: Any) -> tuple[Any, dict[int, str]]:
    """The column converted to a kind of the lake, and the reasons of its broken rows (null in the column)."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = kind_of_arrow_type(array.type)
    if kind == "text":
        return _convert_texts(array)
    wrong, reason = None, "number not finite"
    if kind == "number":
        wrong = pc.invert(pc.is_finite(array))
    elif pa.types.is_uint64(array.type):
        wrong, reason = pc.greater(array, pa.scalar(2**63 - 1, pa.uint64())), "number too large"
    if wrong is None or not pc.any(wrong).as_py():
        return array.cast(arrow_type(kind), safe=False), {}
    bad = dict.fromkeys(pc.indices_nonzero(wrong.fill_null(False)).to_pylist(), reason)
    return pc.if_else(wrong, None, array).cast(arrow_type(kind), safe=False), bad


def _convert_texts(array: Any) -> tuple[Any, dict[int, str]]:
    kind = array.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        # Text of a plain value (a decimal, a time of day), JSON text of an object or list.
        encode, values = msgspec.json.Encoder(enc_hook=str).encode, array.to_pylist()
        texts = [None if value is None else encode(value).decode() for value in values]
        made = [text[1:-1] if text and text.startswith('"') else text for text in texts]
        return pa.array(made, pa.large_string()), {}
    array = array.cast(pa.large_string())
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return _decode_texts(array)
    return array, {}


def _decode_texts(array: Any) -> tuple[Any, dict[int, str]]:
    """Decode value by value; the second result reports values that are not valid UTF-8."""
    bad: dict[int, str] = {}
    made: list[str | None] = []
    for place, raw in enumerate(array.cast(pa.large_binary()).to_pylist()):
        try:
            made.append(None if raw is None else raw.decode())
        except UnicodeDecodeError:
            made.append(None)
            bad[place] = "not UTF-8"
    return pa.array(made, pa.large_string()), bad
