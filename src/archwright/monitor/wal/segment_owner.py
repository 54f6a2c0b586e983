"""Owner of WAL segments: binds each segment to one store.

So a process with another database never imports it. Design: a store gets a random name with its
first segment, and segment files carry that name; the URL does not matter. Segments of another store
remain until that store is used again. A segment without a store name (of an older version, or
created while the store was unreachable) belongs to any store.
"""

import secrets
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

from archwright.contract.record import Record
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.wal.segments import OWNER_SEPARATOR, list_segments
from archwright.store import ConflictError, RecordTable, Store


class StoreName(Record):
    """Name of a store, in a single row (`only` = 1)."""

    only: int
    name: str


STORE_NAMES = RecordTable("store_name", StoreName, unique=("only",))
_names_by_store: WeakKeyDictionary[Store, str] = WeakKeyDictionary()


def read_store_name(store: Store) -> str:
    """Return the name of the store, "" if no segment was written for it yet. Raises StoreError."""
    name = _names_by_store.get(store, "")
    if not name:
        for row in store.rows(STORE_NAMES):
            name = _names_by_store[store] = row.name
    return name


def name_segment(store: Store, name: str) -> str:
    """Return the file name of a new segment, with the store's name if the store is reachable."""
    with suppress(StoreError):
        if not read_store_name(store):
            row = StoreName(only=1, name=secrets.token_hex(4))
            with suppress(ConflictError):
                store.append(STORE_NAMES, [row])
        return read_store_name(store) + OWNER_SEPARATOR + name
    return name


def list_store_segments(store: Store, home: Home) -> list[Path]:
    """Return the segments of this store and those without a store, oldest first.

    Raises StoreError.
    """
    return list_sibling_segments(home, read_store_name(store) + OWNER_SEPARATOR)


def list_sibling_segments(home: Home, name: str) -> list[Path]:
    """Return the segments of the same store as the segment `name`, and those without a store."""
    owners = ("", _read_owner(name))
    siblings: list[Path] = []
    for path in list_segments(home.write_ahead_log):
        if _read_owner(path.stem) in owners:
            siblings.append(path)
    return siblings


def _read_owner(segment_name: str) -> str:
    """Return the name of the segment's store, "" if it has none."""
    return segment_name.rpartition(OWNER_SEPARATOR)[0]
