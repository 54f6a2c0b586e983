"""Lines of a CSV file as they come, for tables too long to hold twice."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator

# No line of a price list is longer. Not left to the reader's own limit: other readers of the process move it.
MAX_LINE_CHARACTERS = 100_000


def read_csv_rows(data: bytes, needed: Collection[str], head: Iterator[str] | None = None) -> Iterator[dict[str, str]]:
    """`head`: lines already begun, where words stand above the columns' names."""
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
