"""Opens the catalog: shipped rows, refreshed facts, the user's overlay and the measured machine."""

import functools
from datetime import UTC, date, datetime
from pathlib import Path

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers import refreshed_layer
from archwright.catalog.layers.engine_measurements import MeasuredLayer, read_engine_measurements
from archwright.catalog.layers.stored_models import read_held_digests, read_stored_models
from archwright.catalog.probe.machine_probe import cached_machine
from archwright.catalog.tables.csv_table import DATA
from archwright.home import Home


def load_catalog(home: Home | None = None, *, today: date | None = None) -> Catalog:
    """Return the catalog of `home` with ages at `today` (default: the current day, UTC).

    Without a home: the shipped rows alone, with ages at the day of the newest row. The catalog is cached until the
    overlay, the refreshed layer, the measured machine, its engines or the folder of the models changes. Tables
    are read on first use.
    """
    if home is None:
        return _cached_catalog(None, (), today)
    refreshed = home.catalog_refreshed / refreshed_layer.CURRENT_FILE
    files = (home.catalog_overlay, home.machine_facts, home.engine_measurements, refreshed, home.stored_models)
    return _cached_catalog(str(home.root), tuple(map(_modified_ns, files)), today or datetime.now(UTC).date())


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=12)
def _cached_catalog(root: str | None, _stamps: tuple[int, ...], today: date | None) -> Catalog:
    if root is None:
        return Catalog(DATA, today=today)
    home = Home(root)
    latest = refreshed_layer.current_generation(home.catalog_refreshed)
    found = Catalog(
        DATA,
        user=home.catalog_overlay,
        measured=MeasuredLayer(cached_machine(home), read_engine_measurements(home)),
        latest=latest,
        today=today,
        stored=read_stored_models(home),
    )
    found.held = read_held_digests(home)
    return found
