"""Checks names and number of columns."""

from collections.abc import Collection

from archwright.errors import DataError, ErrorLocation
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS

MAX_COLUMNS = 4096
MAX_NAME_CHARACTERS = 255
RESERVED_PREFIX = "archwright:"


def check_column_count(count: int, file: str) -> None:
    """Raises DataError AW-DATA-13."""
    if count > MAX_COLUMNS:
        hint = 'if the names are data, store them as values: {"name": ..., "value": ...}'
        raise DataError("AW-DATA-13", f"more than {MAX_COLUMNS:,} columns", where=ErrorLocation(file), hint=hint)


def check_column_names(names: Collection[str], file: str) -> None:
    """Raises DataError AW-DATA-14 (a reserved name), AW-DATA-15 (an invalid name)."""
    for name in names:
        if name in SYSTEM_COLUMNS or name.startswith(RESERVED_PREFIX):
            message = f"the column name {name!r} is reserved for archwright"
            hint = "rename the column in the source"
            raise DataError("AW-DATA-14", message, where=ErrorLocation(file, None, name), hint=hint)
        if is_invalid_name(name):
            hint = f"use 1 to {MAX_NAME_CHARACTERS} printable characters"
            raise DataError("AW-DATA-15", f"invalid column name: {name[:40]!r}", where=ErrorLocation(file), hint=hint)


def is_invalid_name(name: str) -> bool:
    return not name.strip() or len(name) > MAX_NAME_CHARACTERS or not name.isprintable()
