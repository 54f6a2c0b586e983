"""Adapters of public sources, one file per format: bytes of a file in, neutral rows out. Nothing here opens a file, a
connection or a package; which source has which format is a row of refresh_sources.csv.
"""

from __future__ import annotations

from collections.abc import Callable

from archwright.catalog.sources import (
    benchmark_scores,
    byte_prices,
    checkpoint_config,
    code_prices,
    device_sheet,
    grid_carbon,
    machine_dump,
    machine_list,
    machine_record,
    model_dump,
    offer_file,
    part_prices,
    provider_prices,
    region_prices,
    retail_prices,
    spot_history,
    state_tariffs,
    statistics_cube,
    token_prices,
)
from archwright.catalog.sources.found import File, Found

Adapter = Callable[[bytes, File], Found]

READERS: dict[str, Adapter] = {
    "go-prices": code_prices.read,
    "region-prices": region_prices.read,
    "offer-file": offer_file.read,
    "retail-prices": retail_prices.read,
    "part-prices": part_prices.read,
    "spot-history": spot_history.read,
    "machine-dump": machine_dump.read,
    "machine-list": machine_list.read,
    "machine-catalogue": machine_list.read_catalogue,
    "machine-record": machine_record.read,
    "token-prices": token_prices.read,
    "provider-prices": provider_prices.read,
    "model-dump": model_dump.read,
    "benchmark-scores": benchmark_scores.read,
    "checkpoint-config": checkpoint_config.read,
    "device-sheet": device_sheet.read,
    "grid-carbon": grid_carbon.read,
    "statistics-cube": statistics_cube.read,
    "state-tariffs": state_tariffs.read,
    "egress-prices": byte_prices.read_egress,
    "object-prices": byte_prices.read_objects,
}


def _finite(read: Adapter) -> Adapter:
    def bounded(data: bytes, file: File) -> Found:
        try:
            return read(data, file)
        except OverflowError as error:
            raise ValueError(f"a number without bounds: {error}") from error

    return bounded


# Every adapter raises ValueError for bytes that are not of its format, and for a number that no machine holds.
ADAPTERS: dict[str, Adapter] = {name: _finite(read) for name, read in READERS.items()}
