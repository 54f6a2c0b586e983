"""What every format is read into: chunks of rows, and rows that are broken.

A chunk is what is in memory at one time: at most ROWS rows, CELLS values, or about CHUNK_BYTES of source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from archwright.contract.record import Record

CHUNK_ROWS = 8192
CHUNK_BYTES = 8 * 1024 * 1024
CHUNK_CELLS = 64 * CHUNK_ROWS
EXCERPT_CHARACTERS = 200


class BrokenRow(Record):
    """A row that does not come along, as the quarantine keeps it; `row` counts from 1."""

    file: str
    row: int
    reason: str
    excerpt: str


BrokenRowHandler = Callable[[BrokenRow], None]


class RowChunk(NamedTuple):
    """Rows of one file. `contents` (and `header`, what gives them a meaning) is what a row's identity is made of;
    `columns` holds a list of Python values, or an Arrow array, a column. `untyped` columns are lists of texts whose
    kind is still to be found."""

    rows: list[int]
    contents: list[bytes]
    columns: dict[str, Any]
    untyped: bool = False
    header: bytes = b""


RowChunks = Iterator[RowChunk]


def format_excerpt(content: bytes) -> str:
    """The beginning of a row, bounded and printable."""
    text = content[: EXCERPT_CHARACTERS * 4].decode("utf-8", errors="replace").replace("\x00", "\N{SYMBOL FOR NULL}")
    return text[:EXCERPT_CHARACTERS] + (
        "..." if len(text) > EXCERPT_CHARACTERS or len(content) > EXCERPT_CHARACTERS * 4 else ""
    )
