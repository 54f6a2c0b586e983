"""Adapters of public sources, one file per format: bytes of a file in, neutral rows out. Nothing here opens a file, a
connection or a package; which source has which format is a row of refresh_sources.csv.
"""

from __future__ import annotations

from collections.abc import Callable

from archwright.catalog.sources import (
    accelerator_sheet,
    benchmark_scores,
    bulk_offer_file,
    checkpoint_config,
    component_prices,
    go_price_tables,
    grid_carbon,
    hosted_model_list,
    instance_price_list,
    instance_type_dump,
    instance_type_record,
    json_stat_tariffs,
    region_prices,
    retail_prices,
    spot_price_history,
    state_tariffs,
    storage_and_egress_prices,
    token_price_history,
    token_prices,
)
from archwright.catalog.sources.source_records import FileContext, SourceFacts

Adapter = Callable[[bytes, FileContext], SourceFacts]

READERS: dict[str, Adapter] = {
    "go-prices": go_price_tables.read,
    "region-prices": region_prices.read,
    "offer-file": bulk_offer_file.read,
    "retail-prices": retail_prices.read,
    "part-prices": component_prices.read,
    "spot-history": spot_price_history.read,
    "machine-dump": instance_type_dump.read,
    "machine-list": instance_price_list.read,
    "machine-catalogue": instance_price_list.read_catalogue,
    "machine-record": instance_type_record.read,
    "token-prices": token_prices.read,
    "provider-prices": token_price_history.read,
    "model-dump": hosted_model_list.read,
    "benchmark-scores": benchmark_scores.read,
    "checkpoint-config": checkpoint_config.read,
    "device-sheet": accelerator_sheet.read,
    "grid-carbon": grid_carbon.read,
    "statistics-cube": json_stat_tariffs.read,
    "state-tariffs": state_tariffs.read,
    "egress-prices": storage_and_egress_prices.read_egress,
    "object-prices": storage_and_egress_prices.read_objects,
}


def _reject_overflow(read: Adapter) -> Adapter:
    def bounded(data: bytes, file: FileContext) -> SourceFacts:
        try:
            return read(data, file)
        except OverflowError as error:
            raise ValueError(f"a number without bounds: {error}") from error

    return bounded


# Every adapter raises ValueError for bytes that are not of its format, and for a number that no machine holds.
ADAPTERS: dict[str, Adapter] = {name: _reject_overflow(read) for name, read in READERS.items()}
