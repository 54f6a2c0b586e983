"""Chunks of rows and broken rows, the output of every reader. A reader holds one chunk in memory."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from archwright.contract.record import Record

CHUNK_ROWS = 8192
CHUNK_BYTES = 8 * 1024 * 1024
CHUNK_CELLS = 64 * CHUNK_ROWS
EXCERPT_CHARACTERS = 200


class BrokenRow(Record):
    """A rejected row, as the quarantine stores it; `row` counts from 1."""

    file: str
    row: int
    reason: str
    excerpt: str


BrokenRowHandler = Callable[[BrokenRow], None]


class LazyContents:
    """The content of each row, made when a row is rejected."""

    def __init__(self, make: Callable[[int], bytes]) -> None:
        self._make = make

    def __getitem__(self, place: int) -> bytes:
        return self._make(place)


class RowChunk(NamedTuple):
    """Rows of one file: their numbers (a list or a numpy array), and their contents for the quarantine.

    A column is a list of Python values or an Arrow array; `untyped` columns are texts whose kind is not known. `share`
    of the file, 0 to 1, was read before the end of the chunk.
    """

    rows: Any
    contents: list[bytes] | LazyContents
    columns: dict[str, Any]
    untyped: bool = False
    share: float = 0.0


RowChunks = Iterator[RowChunk]


def is_chunk_full(rows: int, size_bytes: int, columns: int) -> bool:
    return rows >= CHUNK_ROWS or size_bytes >= CHUNK_BYTES or rows * columns >= CHUNK_CELLS


def build_broken_row(file: str, row: int, reason: str, content: bytes) -> BrokenRow:
    """The row with the beginning of its content, bounded and printable."""
    text = content[: EXCERPT_CHARACTERS * 4].decode("utf-8", errors="replace").replace("\x00", "\N{SYMBOL FOR NULL}")
    more = "..." if len(text) > EXCERPT_CHARACTERS or len(content) > EXCERPT_CHARACTERS * 4 else ""
    return BrokenRow(file=file, row=row, reason=reason, excerpt=text[:EXCERPT_CHARACTERS] + more)
