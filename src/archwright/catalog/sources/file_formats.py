"""Decodes the bytes of a source file: gzip, CSV line by line, one or several JSON documents, YAML."""

import csv
import io
import zlib
from collections.abc import Collection, Iterator
from typing import Any

import msgspec
import yaml

GZIP_MAGIC = b"\x1f\x8b"
AUTOMATIC_GZIP = 31
# A bulk offer file of one region has hundreds of MB; no source file is larger than this.
LARGEST_BYTES = 1 << 30
# No price list has longer lines. Other code of the process may change csv.field_size_limit, so this is checked here.
MAX_LINE_CHARACTERS = 100_000


def decompress_gzip(data: bytes) -> bytes:
    """Return bytes that are not gzip unchanged. Raises ValueError for a broken or a too large gzip file."""
    if not data.startswith(GZIP_MAGIC):
        return data
    stream = zlib.decompressobj(AUTOMATIC_GZIP)
    try:
        plain = stream.decompress(data, LARGEST_BYTES)
    except zlib.error as error:
        raise ValueError(f"this is not a gzip file: {error}") from error
    if stream.unconsumed_tail:
        raise ValueError(f"the file unpacks to more than {LARGEST_BYTES >> 20} MiB")
    return plain


def read_lines(data: bytes) -> Iterator[str]:
    """Yield the lines of UTF-8 text. Raises ValueError for a line of more than MAX_LINE_CHARACTERS."""
    for line in io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline=""):
        if len(line) > MAX_LINE_CHARACTERS:
            raise ValueError(f"a line has more than {MAX_LINE_CHARACTERS} characters")
        yield line


def read_csv(lines: Iterator[str], required: Collection[str]) -> Iterator[dict[str, str | None]]:
    """Yield CSV rows; an empty cell is None. Raises ValueError if a `required` column is missing."""
    try:
        reader = csv.DictReader(lines)
        missing = set(required) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"these columns are missing: {', '.join(sorted(missing))}")
        yield from ({name: cell or None for name, cell in line.items() if name} for line in reader)
    except (csv.Error, OverflowError) as error:
        raise ValueError(f"this is not CSV: {error}") from error


def decode_pages(data: bytes) -> list[Any]:
    """Decode one JSON document, a list of them, or one per line. Raises ValueError for other bytes."""
    text = data.strip()
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        if text.startswith(b"["):
            raise
        found = [msgspec.json.decode(line) for line in text.splitlines() if line.strip()]
        if not found:
            raise ValueError("the file is empty") from None
    return found if isinstance(found, list) else [found]


def decode_yaml(data: bytes) -> Any:
    try:
        return yaml.load(data, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"this is not YAML: {error}") from error
