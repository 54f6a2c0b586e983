"""CSV tables to records; table_schemas.yaml has the columns, this module the fields without a column."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from archwright.catalog.tables import cost_records, metadata_records, records
from archwright.catalog.tables.csv_table import (
    CsvRow,
    effective_confidence,
    read_rows,
    read_shipped_once,
    table_reader,
)
from archwright.contract.record import Record

R = TypeVar("R", bound=Record)
GIB = 2.0**30
GIGA = 1e9
TERA = 1e12
# Bytes per unit of the source.
BYTES_PER_UNIT = {"GB": GIGA, "GiB": GIB, "GB-month": GIGA, "GiB-month": GIB}
DTYPES = {
    "fp32": "fp32_tflops",
    "tf32": "tf32_dense",
    "bf16": "bf16_dense",
    "fp16": "fp16_dense",
    "fp8": "fp8_dense",
    "int8": "int8_dense_tops",
    "fp4": "fp4_dense",
}


def row_parser(*files: str) -> Callable[[Callable[[CsvRow], R]], Callable[[Path], list[R]]]:
    """Turn a parser of rows into the reader of a table; rows of several files follow each other."""

    def to_reader(parse: Callable[[CsvRow], R]) -> Callable[[Path], list[R]]:
        return lambda folder: [parse(row) for file in files for row in read_rows(folder, file)]

    return to_reader


# --- accelerators, offers and models


def read_accelerators(folder: Path, file: str = "accelerators.csv") -> list[records.Accelerator]:
    found = []
    for row in read_rows(folder, file):
        rates = {dtype: row.number(column, TERA) for dtype, column in DTYPES.items()}
        flops = {dtype: rate for dtype, rate in rates.items() if rate is not None}
        memory_bytes, sparsity = row.whole_number("mem_gib", GIB) or 0, row.text("sparsity_2to4") == "yes"
        found.append(row.to_record(records.Accelerator, memory_bytes=memory_bytes, flops=flops, sparsity=sparsity))
    return found


@read_shipped_once
def read_offers(folder: Path) -> list[records.Offer]:
    """Read offers; a machine's network comes from the price list, or else from its vendor."""
    tables = read_rows(folder, "networks.csv") if (folder / "networks.csv").exists() else ()
    stated = {(row.required_text("provider"), row.required_text("instance_type")): row for row in tables}
    found = []
    for offer in read_rows(folder, "offers.csv"):
        network, note = offer.number("network_gbps", GIGA / 8), offer.text("network_note")
        vendor = stated.get((offer.required_text("provider"), offer.required_text("instance_type")))
        if network is None and vendor is not None:
            network = vendor.required_number("network_gbps", GIGA / 8)
            note = f"up to; {vendor.required_text('source')}"
        found.append(_parse_offer(offer, network, note))
    return found


def _parse_offer(row: CsvRow, network: float | None, note: str) -> records.Offer:
    spot = row.number("spot_usd_h")
    return row.to_record(
        records.Offer,
        network_bytes_per_s=network,
        network_note=note,
        ram_bytes=row.whole_number("ram_gib", GIB) or 0,
        spot_usd_per_hour=None if spot == row.number("on_demand_usd_h") else spot,
    )


@read_shipped_once
@row_parser("llm_quality.csv")
def read_quality_scores(row: CsvRow) -> records.QualityScore:
    table, known = row.one_of("table", records.ScoreTable), row.one_of("independent", records.Independent)
    return row.to_record(records.QualityScore, table=table, independent=known)


read_benchmarks = table_reader(records.Benchmark, "benchmarks.csv")


@read_shipped_once
def read_score_estimates(folder: Path) -> dict[tuple[str, str], list[CsvRow]]:
    """Return the estimated scores by table and model. Design: a plan needs few of the rows, so none is converted."""
    found: dict[tuple[str, str], list[CsvRow]] = {}
    for row in read_rows(folder, "score_estimates.csv"):
        found.setdefault((row.cells["table"], row.cells["model"]), []).append(row)
    return found


def read_models(folder: Path, scores: list[records.QualityScore]) -> list[records.ModelSpec]:
    lowest: dict[str, dict[str, float]] = {}
    for row in scores:
        # Ratings (Elo, above 1) are not shares and cannot be a minimum.
        if row.table == "open" and 0 < row.score < 1:
            of_model = lowest.setdefault(row.model, {})
            of_model[row.benchmark] = min(row.score, of_model.get(row.benchmark, 1.0))
    rows = read_rows(folder, "llms_open.csv")
    return [
        row.to_record(records.ModelSpec, quality=lowest.get(row.required_text("model_id"), {}), languages=())
        for row in rows
    ]


def read_architectures(folder: Path, file: str = "architectures.csv") -> list[records.ModelSpec]:
    return [row.to_record(records.ModelSpec, quality={}, languages=()) for row in read_rows(folder, file)]


@read_shipped_once
@row_parser("llms_hosted.csv", "hosted_regions.csv")
def read_hosted_models(row: CsvRow) -> records.HostedModel:
    agrees = {"yes": True, "no": False}.get(row.text("agrees"))
    confidence = effective_confidence(row.text("as_of"), {True: "high", False: "low", None: "medium"}[agrees])
    places = tuple(row.text("places").split())
    return row.to_record(records.HostedModel, agrees=agrees, confidence=confidence, places=places)


# --- places and electricity


read_regions = table_reader(records.Region, "regions.csv", "regions_more.csv")
read_servers = table_reader(cost_records.ServerSpec, "nodes.csv")
read_commitment_discounts = table_reader(cost_records.CommitmentDiscount, "commitments.csv")
read_surcharges = table_reader(cost_records.PlatformSurcharge, "managed_platforms.csv")
read_times_to_live = table_reader(metadata_records.TimeToLive, "ttl.csv")
read_refresh_sources = table_reader(metadata_records.RefreshSource, "refresh_sources.csv")
read_plausibility_exceptions = table_reader(metadata_records.PlausibilityException, "gate_exceptions.csv")
read_device_tools = table_reader(records.DeviceTool, "tools.csv")


@row_parser("countries.csv")
def read_countries(row: CsvRow) -> records.Country:
    return row.to_record(records.Country, places=tuple(row.text("places").split()))


def read_tariffs(folder: Path, known: list[records.Country]) -> list[records.EnergyTariff]:
    """Read tariffs by alpha-3 code, with a state after a dash; the codes EU27 and WORLD are kept."""
    alpha2 = {country.alpha3: country.country for country in known if country.alpha3}
    found = []
    for file in ("energy.csv", "energy_more.csv"):
        for row in read_rows(folder, file):
            code, _, state = row.required_text("country").partition("-")
            country = alpha2.get(code, code)
            found.append(_parse_tariff(row, country, f"{country}-{state}" if state else ""))
    return found


def _parse_tariff(row: CsvRow, country: str, area: str) -> records.EnergyTariff:
    as_of = row.text("price_as_of")
    return records.EnergyTariff(
        country=country,
        area=area,
        industrial_usd_per_kwh=row.number("industrial_usd_kwh"),
        commercial_usd_per_kwh=row.number("commercial_or_nonhousehold_usd_kwh"),
        grid_gco2_per_kwh=row.number("grid_gco2_kwh"),
        grid_year=row.text("grid_year"),
        grid_source=row.text("grid_source"),
        source=row.text("price_source") or row.required_text("grid_source"),
        as_of=as_of or row.text("grid_year"),
        confidence=effective_confidence(as_of, row.text("price_confidence")),
    )


# --- cost of owning, storing, moving, commitments and managed platforms


@row_parser("onprem.csv", "operating.csv", "engine_options.csv")
def read_planning_parameters(row: CsvRow) -> cost_records.PlanningParameter:
    return row.to_record(cost_records.PlanningParameter, **read_band(row))


@row_parser("cloud_services.csv")
def read_cloud_services(row: CsvRow) -> cost_records.CloudService:
    return row.to_record(cost_records.CloudService, **read_band(row))


def read_parts(folder: Path) -> list[cost_records.PlanningParameter]:
    return [*read_planning_parameters(folder), *read_cloud_services(folder)]


read_system_machines = table_reader(cost_records.SystemMachine, "system_machines.csv")


def read_band(row: CsvRow) -> dict[str, Any]:
    """Read low, typical and high; typical replaces a missing low or high, then confidence gives the band."""
    typical = row.required_number("typical")
    low, high = row.number("low"), row.number("high")
    return {"low": typical if low is None else low, "typical": typical, "high": typical if high is None else high}


@row_parser("storage_network.csv")
def read_storage_prices(row: CsvRow) -> cost_records.StoragePrice:
    size = BYTES_PER_UNIT.get(row.required_text("unit"))
    if size is None:
        raise row.cell_error("unit", "an unknown unit")
    usd_per_byte, from_bytes = row.required_number("price_usd") / size, row.number("tier_from_gb", GIGA) or 0.0
    return row.to_record(cost_records.StoragePrice, usd_per_byte=usd_per_byte, from_bytes=from_bytes)


# --- metadata of facts


def read_availability(folder: Path) -> list[metadata_records.RegionAvailability]:
    """Read one table per provider, named after it."""
    rows = _rows_by_provider(folder, "_availability.csv")
    return [row.to_record(metadata_records.RegionAvailability, provider=provider) for provider, row in rows]


def read_region_ratios(folder: Path) -> list[metadata_records.RegionRatio]:
    found = []
    for provider, row in _rows_by_provider(folder, "_region_multipliers.csv"):
        # The home region is in the column's name: `ratio_to_us_east_1`.
        column = next((name for name in row.cells if name.startswith("ratio_to_")), "ratio")
        home, ratio = column.removeprefix("ratio_to_").replace("_", "-"), row.required_number(column)
        stated = {"provider": provider, "family": row.required_text("family").partition(".")[0]}
        found.append(row.to_record(metadata_records.RegionRatio, **stated, home=home, ratio=ratio))
    return found


def _rows_by_provider(folder: Path, ending: str) -> Iterator[tuple[str, CsvRow]]:
    for path in sorted(folder.glob(f"*{ending}")):
        for row in read_rows(folder, path.name):
            yield path.name.removesuffix(ending), row


@row_parser("source_kinds.csv")
def read_source_patterns(row: CsvRow) -> metadata_records.SourcePattern:
    try:
        re.compile(row.required_text("pattern"))
    except re.error:
        raise row.cell_error("pattern", "not a pattern") from None
    return row.to_record(metadata_records.SourcePattern)
