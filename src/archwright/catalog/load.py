"""Opens the catalog: shipped rows, the user's overlay and the measured machine of a home."""

from __future__ import annotations

import functools

from archwright.catalog.facts import Catalog
from archwright.catalog.probe import cached_machine
from archwright.catalog.table import DATA
from archwright.home import Home


def load(home: Home | None = None) -> Catalog:
    """The catalog in force for `home` (without one: the shipped rows). One per process and home.

    Tables are read when first asked for, so this returns at once.
    """
    if home is None:
        return _shipped()
    return _of_home(str(home.root))


@functools.cache
def _shipped() -> Catalog:
    return Catalog(DATA)


@functools.cache
def _of_home(root: str) -> Catalog:
    home = Home(root)
    return Catalog(DATA, user=home.root / "catalog" / "user.yaml", machine=cached_machine(home))
