"""Adapters of public sources, one file per format: bytes of a file in, neutral rows out. Nothing here opens a file, a
connection or a package; which source has which format is a row of refresh_sources.csv.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from archwright.catalog.sources import (
    byte_prices,
    code_prices,
    grid_carbon,
    machine_dump,
    machine_list,
    provider_prices,
    region_prices,
    token_prices,
)
from archwright.catalog.sources.found import Found

Adapter = Callable[[bytes, date], Found]

# Every adapter raises ValueError for bytes that are not of its format.
ADAPTERS: dict[str, Adapter] = {
    "go-prices": code_prices.read,
    "region-prices": region_prices.read,
    "machine-dump": machine_dump.read,
    "machine-list": machine_list.read,
    "token-prices": token_prices.read,
    "provider-prices": provider_prices.read,
    "grid-carbon": grid_carbon.read,
    "egress-prices": byte_prices.read_egress,
    "object-prices": byte_prices.read_objects,
}
