"""The bytes of a brought file: unpacked, read as CSV rows line by line, or decoded as pages of a JSON interface."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Collection, Iterator
from typing import TypeVar

import msgspec

T = TypeVar("T")
MAGIC = b"\x1f\x8b"
AUTOMATIC_GZIP = 31
# A bulk offer file of one region has hundreds of MB; nothing brought has more than this.
LARGEST_BYTES = 1 << 30
# No line of a price list is longer. Not left to the reader's own limit: other readers of the process move it.
MAX_LINE_CHARACTERS = 100_000


def decompress_gzip(data: bytes) -> bytes:
    """Bytes that are not packed stay. Raises ValueError for a broken gzip file or one that unpacks to too much."""
    if not data.startswith(MAGIC):
        return data
    stream = zlib.decompressobj(AUTOMATIC_GZIP)
    try:
        plain = stream.decompress(data, LARGEST_BYTES)
    except zlib.error as error:
        raise ValueError(f"not a gzip file: {error}") from error
    if stream.unconsumed_tail:
        raise ValueError(f"unpacks to more than {LARGEST_BYTES >> 20} MiB")
    return plain


def read_csv_rows(data: bytes, needed: Collection[str], head: Iterator[str] | None = None) -> Iterator[dict[str, str]]:
    """Rows one by one. `head`: lines already begun, where words stand above the columns' names."""
    try:
        reader = csv.DictReader(read_lines(data) if head is None else head)
        missing = set(needed) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"lacks the columns {', '.join(sorted(missing))}")
        yield from reader
    except (csv.Error, OverflowError) as error:
        raise ValueError(f"not a list of machines: {error}") from error


def read_lines(data: bytes) -> Iterator[str]:
    for line in io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline=""):
        if len(line) > MAX_LINE_CHARACTERS:
            raise ValueError(f"not a list of machines: a line of more than {MAX_LINE_CHARACTERS} characters")
        yield line


def decode_pages(data: bytes, page: type[T]) -> list[T]:
    """One page, a JSON list of pages, or a page on each line. Raises ValueError for what is no page."""
    text = data.strip()
    if text.startswith(b"["):
        return msgspec.json.decode(text, type=list[page])  # type: ignore[valid-type]
    try:
        return [msgspec.json.decode(text, type=page)]
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        pages = [msgspec.json.decode(line, type=page) for line in text.splitlines() if line.strip()]
    if not pages:
        raise ValueError("an empty file")
    return pages
