"""Accelerators paid by the second: price, time until an idle worker stops, cold start time."""

import functools
from pathlib import Path

from archwright.catalog.tables.csv_table import DATA, read_rows
from archwright.catalog.tables.records import Fact


class ServerlessPrice(Fact):
    """One worker with one accelerator. `start_s` is the cold start to the first request, which is charged."""

    provider: str
    accelerator: str
    usd_per_second: float
    idle_s: float
    start_s_low: float
    start_s: float
    start_s_high: float


@functools.cache
def read_serverless_prices(folder: Path = DATA) -> tuple[ServerlessPrice, ...]:
    """Raises CatalogError AW-CAT-02 for a broken row."""
    return tuple(row.to_record(ServerlessPrice) for row in read_rows(folder, "serverless.csv"))
