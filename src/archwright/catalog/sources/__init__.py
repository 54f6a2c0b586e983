"""Adapters of public sources: bytes of a file in, neutral records out; refresh_sources.csv names them."""

from collections.abc import Callable

from archwright.catalog.sources import (
    electricity,
    hosted_prices,
    machine_builds,
    machine_prices,
    model_and_accelerator_specs,
    storage_and_egress_prices,
)
from archwright.catalog.sources.source_records import FileContext, SourceFacts

SourceAdapter = Callable[[bytes, FileContext], SourceFacts]

READERS: dict[str, SourceAdapter] = {
    "go-prices": machine_prices.read_go_tables,
    "region-prices": machine_prices.read_region_tables,
    "offer-file": machine_prices.read_offer_file,
    "retail-prices": machine_prices.read_retail_prices,
    "part-prices": machine_prices.read_component_rates,
    "spot-history": machine_prices.read_spot_history,
    "machine-dump": machine_builds.read_machine_dump,
    "machine-list": machine_builds.read_machine_list,
    "machine-catalogue": machine_builds.read_machine_catalogue,
    "machine-record": machine_builds.read_machine_record,
    "token-prices": hosted_prices.read_token_prices,
    "provider-prices": hosted_prices.read_provider_prices,
    "model-dump": hosted_prices.read_model_dump,
    "benchmark-scores": model_and_accelerator_specs.read_benchmark_scores,
    "checkpoint-config": model_and_accelerator_specs.read_checkpoint_config,
    "device-sheet": model_and_accelerator_specs.read_accelerator_sheet,
    "grid-carbon": electricity.read_grid_carbon,
    "statistics-cube": electricity.read_statistics_cube,
    "state-tariffs": electricity.read_state_tariffs,
    "egress-prices": storage_and_egress_prices.read_egress,
    "object-prices": storage_and_egress_prices.read_objects,
}


def read_source(adapter: str, data: bytes, file: FileContext) -> SourceFacts:
    """Read a source file. Raises ValueError for another format and for a number too large to convert."""
    try:
        return READERS[adapter](data, file)
    except OverflowError as error:
        raise ValueError(f"a number is too large: {error}") from error
