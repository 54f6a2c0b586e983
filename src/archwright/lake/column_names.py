"""Which names columns may have, and how many there may be."""

from __future__ import annotations

from collections.abc import Collection

from archwright.errors import DataError, ErrorLocation
from archwright.lake.column_kinds import SYSTEM_COLUMNS

MAX_COLUMNS = 4096
MAX_NAME_CHARACTERS = 255
RESERVED_PREFIX = "archwright:"


def check_column_count(count: int, file: str) -> None:
    """Raises DataError AW-DATA-13."""
    if count > MAX_COLUMNS:
        hint = 'are the names data? put them into values: {"name": ..., "value": ...}'
        raise DataError("AW-DATA-13", f"more than {MAX_COLUMNS:,} columns", where=ErrorLocation(file), hint=hint)


def check_column_names(names: Collection[str], file: str) -> None:
    """Raises DataError AW-DATA-14 (a name of ours), 15 (no name)."""
    for name in names:
        if name in SYSTEM_COLUMNS or name.startswith(RESERVED_PREFIX):
            message = f"the column name {name!r} is taken"
            hint = "archwright gives every row its own columns: rename this one in the source"
            raise DataError("AW-DATA-14", message, where=ErrorLocation(file, None, name), hint=hint)
        if is_invalid_name(name):
            hint = f"1 to {MAX_NAME_CHARACTERS} printable characters"
            raise DataError("AW-DATA-15", f"no name for a column: {name[:40]!r}", where=ErrorLocation(file), hint=hint)


def is_invalid_name(name: str) -> bool:
    return not name.strip() or len(name) > MAX_NAME_CHARACTERS or not name.isprintable()
