"""Which names columns may have, and how many there may be."""

from __future__ import annotations

from collections.abc import Collection

from archwright.errors import DataError, ErrorLocation
from archwright.lake.column_kinds import OWN

COLUMNS = 4096
CHARACTERS = 255
RESERVED = "archwright:"


def check_count(count: int, file: str) -> None:
    """Raises DataError AW-DATA-13."""
    if count > COLUMNS:
        raise DataError(
            "AW-DATA-13",
            f"more than {COLUMNS:,} columns",
            where=ErrorLocation(file),
            hint='are the names data? put them into values: {"name": ..., "value": ...}',
        )


def check(names: Collection[str], file: str) -> None:
    """Raises DataError AW-DATA-14 (a name of ours), 15 (no name)."""
    for name in names:
        if name in OWN or name.startswith(RESERVED):
            raise DataError(
                "AW-DATA-14",
                f"the column name {name!r} is taken",
                where=ErrorLocation(file, None, name),
                hint="archwright gives every row its own columns: rename this one in the source",
            )
        if nameless(name):
            raise DataError(
                "AW-DATA-15",
                f"no name for a column: {name[:40]!r}",
                where=ErrorLocation(file),
                hint=f"1 to {CHARACTERS} printable characters",
            )


def nameless(name: str) -> bool:
    return not name.strip() or len(name) > CHARACTERS or not name.isprintable()
