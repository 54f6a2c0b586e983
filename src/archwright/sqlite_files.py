"""Consistent copies and checks of SQLite files that are in use."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from archwright.errors import ErrorLocation, StoreError


def copy_sqlite_file(source: Path, target: Path) -> None:
    """Copy a database to a new file as it is at one moment, while others write to it. Raises StoreError AW-STO-26.

    Design: SQLite's own backup in one step. In steps, each write of another process would begin it again."""
    target.touch(0o600, exist_ok=False)
    try:
        with closing(_open_file(source)) as origin, closing(sqlite3.connect(target)) as copy:
            origin.backup(copy)
    except sqlite3.Error as error:
        message = f"the database cannot be copied: {error}"
        hint = "check the file and the free space, then run the command again"
        raise StoreError("AW-STO-26", message, where=ErrorLocation(str(source)), hint=hint) from error


def _open_file(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True)


def find_damage(path: Path) -> str:
    """Return the first problem that SQLite finds in a database in use, empty for none."""
    try:
        with closing(_open_file(path)) as database:
            (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            return "" if found == "ok" else str(found)
    except sqlite3.DatabaseError as error:
        return str(error)
