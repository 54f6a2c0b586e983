"""Which segments of a home belong to which store, so that a process with another database URL never imports them.

Design: a store has a name of its own, made with its first segment, and segments carry it; the URL does not matter. What
another store's writers left waits until that store is used again. A segment without a store's name (of an older
version, or made while the store was unreachable) belongs to any store.
"""

from __future__ import annotations

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
    """One row: `only` is 1."""

    only: int
    name: str


STORE_NAMES = RecordTable("store_name", StoreName, unique=("only",))
_names_by_store: WeakKeyDictionary[Store, str] = WeakKeyDictionary()


def read_store_name(store: Store) -> str:
    """ "" while it has none: nobody wrote for it yet. Raises StoreError when it cannot be asked."""
    found = _names_by_store.get(store, "")
    if not found:
        for row in store.rows(STORE_NAMES):
            found = _names_by_store[store] = row.name
    return found


def name_segment(store: Store, name: str) -> str:
    """The name of a new segment."""
    with suppress(StoreError):
        if not read_store_name(store):
            with suppress(ConflictError):
                store.append(STORE_NAMES, [StoreName(only=1, name=secrets.token_hex(4))])
        return read_store_name(store) + OWNER_SEPARATOR + name
    return name


def list_store_segments(store: Store, home: Home) -> list[Path]:
    """The segments that are of this store or of none, oldest first. Raises StoreError when it cannot be asked."""
    return list_sibling_segments(home, read_store_name(store) + OWNER_SEPARATOR)


def list_sibling_segments(home: Home, name: str) -> list[Path]:
    """The segments that are of the same store as the one of this name, or of none."""
    mine = {name.rpartition(OWNER_SEPARATOR)[0], ""}
    return [path for path in list_segments(home.write_ahead_log) if path.stem.rpartition(OWNER_SEPARATOR)[0] in mine]
