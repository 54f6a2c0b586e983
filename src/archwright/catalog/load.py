"""Opens the catalog: shipped rows, the user's overlay and the measured machine of a home."""

from __future__ import annotations

import functools
from pathlib import Path

from archwright.catalog.facts import Catalog
from archwright.catalog.probe import cached_machine
from archwright.catalog.table import DATA
from archwright.home import Home


def load(home: Home | None = None) -> Catalog:
    """The catalog in force for `home`; without one, the shipped rows alone.

    One per process until the user's overlay or the measured machine changes. Tables are read when first asked
    for, so this returns at once.
    """
    if home is None:
        return _shipped()
    return _of_home(str(home.root), _stamp(home.catalog_overlay), _stamp(home.machine))


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


@functools.cache
def _shipped() -> Catalog:
    return Catalog(DATA)


@functools.lru_cache(maxsize=8)
def _of_home(root: str, _overlay: int, _machine: int) -> Catalog:
    home = Home(root)
    return Catalog(DATA, user=home.catalog_overlay, machine=cached_machine(home))
