"""CSV tables to records, for tables with other names or units; units are converted only here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from archwright.catalog.tables import cost_records, metadata_records, records
from archwright.catalog.tables.csv_table import ColumnNames, CsvRow, effective_confidence, read_rows, table_reader
from archwright.catalog.tables.metadata_records import RegionAvailability
from archwright.contract.record import Record

R = TypeVar("R", bound=Record)
GIB = 2.0**30
GIGA = 1e9
TERA = 1e12
PER_MILLION = 1e-6
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
ACCELERATOR_COLUMNS: ColumnNames = {
    "id": ("accel_id",),
    "memory_marketing": ("mem_marketing",),
    "memory_bandwidth_bytes_per_s": ("mem_bw_gbs", GIGA),
    "scale_up_bytes_per_s": ("scale_up_gbs_per_dir", GIGA),
    "price_low_usd": ("price_usd_low",),
    "price_high_usd": ("price_usd_high",),
}
OFFER_COLUMNS: ColumnNames = {
    "id": ("offer_id",),
    "accelerator_count": ("accel_count",),
    "accelerator_share": ("accel_share",),
    "ram_bytes": ("ram_gib", GIB),
    "local_nvme_bytes": ("local_nvme_gb", GIGA),
    "on_demand_usd_per_hour": ("on_demand_usd_h",),
    "commit_1y_usd_per_hour": ("commit_1y_usd_h",),
    "commit_3y_usd_per_hour": ("commit_3y_usd_h",),
    "source": ("price_source",),
    "as_of": ("price_as_of",),
}
MODEL_COLUMNS: ColumnNames = {
    "id": ("model_id",),
    "parameters": ("params_total_b", GIGA),
    "active_parameters": ("params_active_b", GIGA),
    "ffn": ("ffn_intermediate",),
    "expert_ffn": ("moe_intermediate",),
    "vocabulary": ("vocab",),
    "context_tokens": ("context_max",),
}
HOSTED_COLUMNS: ColumnNames = {
    "id": ("model_id",),
    **{
        f"{name}_usd_per_token": (f"{name}_usd_mtok", PER_MILLION)
        for name in ("input", "output", "cache_read", "cache_write", "batch_input", "batch_output")
    },
    "context_tokens": ("context_max",),
    "output_tokens": ("output_max",),
    "second_input_usd_per_token": ("second_source_input", PER_MILLION),
    "second_output_usd_per_token": ("second_source_output", PER_MILLION),
}
SERVER_COLUMNS: ColumnNames = {
    "ram_bytes": ("ram_gib", GIB),
    "power_w": ("power_kw", 1e3),
    "price_low_usd": ("price_usd_low",),
    "price_usd": ("price_usd_typical",),
    "price_high_usd": ("price_usd_high",),
    "network_bytes_per_s": ("network_gbps", GIGA / 8),
}


def row_parser(*files: str) -> Callable[[Callable[[CsvRow], R]], Callable[[Path], list[R]]]:
    """Turn a parser of rows into the reader of a table; rows of several files follow each other."""

    def to_reader(parse: Callable[[CsvRow], R]) -> Callable[[Path], list[R]]:
        return lambda folder: [parse(row) for file in files for row in read_rows(folder, file)]

    return to_reader


# --- accelerators, offers and models


def read_accelerators(folder: Path, file: str = "accelerators.csv") -> list[records.Accelerator]:
    return [_parse_accelerator(row) for row in read_rows(folder, file)]


def _parse_accelerator(row: CsvRow) -> records.Accelerator:
    rates = {dtype: row.number(column, TERA) for dtype, column in DTYPES.items()}
    return row.to_record(
        records.Accelerator,
        optional=("arch", "form", "scale_up", "host_link", "memory_marketing"),
        columns=ACCELERATOR_COLUMNS,
        memory_bytes=row.whole_number("mem_gib", GIB) or 0,
        flops={dtype: rate for dtype, rate in rates.items() if rate is not None},
        sparsity=row.text("sparsity_2to4") == "yes",
    )


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
    kind, spot = row.one_of("price_kind", records.PriceKind), row.number("spot_usd_h")
    return row.to_record(
        records.Offer,
        optional=("arch", "spec_source", "spec_as_of"),
        columns=OFFER_COLUMNS,
        accelerator=row.text("accelerator") or None,
        network_bytes_per_s=network,
        network_note=note,
        spot_usd_per_hour=None if spot == row.number("on_demand_usd_h") else spot,
        confidence=effective_confidence(row.text("price_as_of"), "high" if kind == "list" else "low"),
    )


@row_parser("llm_quality.csv")
def read_quality_scores(row: CsvRow) -> records.QualityScore:
    return row.to_record(
        records.QualityScore,
        optional=("method", "reported_by", "original_source"),
        columns={"model": ("model_id",)},
        benchmark=row.required_text("benchmark").replace("-", "_"),
        confidence=effective_confidence(row.text("as_of"), "medium"),
    )


def read_models(folder: Path, scores: list[records.QualityScore]) -> list[records.ModelSpec]:
    reported: dict[str, dict[str, float]] = {}
    for score in scores:
        # Ratings (Elo, above 1) are not shares and cannot be a minimum.
        if 0 < score.score < 1:
            lowest = reported.setdefault(score.model, {})
            lowest[score.benchmark] = min(score.score, lowest.get(score.benchmark, 1.0))
    rows = read_rows(folder, "llms_open.csv")
    return [_parse_model(row, reported.get(row.required_text("model_id"), {})) for row in rows]


def read_architectures(folder: Path, file: str = "architectures.csv") -> list[records.ModelSpec]:
    return [_parse_model(row, {}) for row in read_rows(folder, file)]


def _parse_model(row: CsvRow, reported: dict[str, float]) -> records.ModelSpec:
    own = {name: row.number(name) for name in ("mmlu_pro", "gpqa", "ifeval", "livecodebench")}
    stated = {name: share for name, share in own.items() if share is not None}
    lowest = {name: min(stated.get(name, 1.0), reported.get(name, 1.0)) for name in {**stated, **reported}}
    return row.to_record(
        records.ModelSpec,
        optional=("org", "licence_conditions", "released"),
        columns=MODEL_COLUMNS,
        quality=dict(sorted(lowest.items())),
    )


@row_parser("llms_hosted.csv")
def read_hosted_models(row: CsvRow) -> records.HostedModel:
    agrees = {"yes": True, "no": False}.get(row.text("agrees"))
    confidence = effective_confidence(row.text("as_of"), {True: "high", False: "low", None: "medium"}[agrees])
    optional = ("deprecation_date", "successor")
    return row.to_record(
        records.HostedModel, optional=optional, columns=HOSTED_COLUMNS, agrees=agrees, confidence=confidence
    )


# --- places and electricity


@row_parser("regions.csv", "regions_more.csv")
def read_regions(row: CsvRow) -> records.Region:
    return row.to_record(
        records.Region,
        optional=("city",),
        grid_gco2_per_kwh=row.number("grid_gco2_kwh"),
        confidence=effective_confidence(row.text("as_of"), row.text("confidence") or "high"),
        notes=row.text("note"),
    )


@row_parser("countries.csv")
def read_countries(row: CsvRow) -> records.Country:
    return row.to_record(records.Country, optional=("alpha3",), places=tuple(row.text("places").split()))


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


@row_parser("onprem.csv", "operating.csv")
def read_planning_parameters(row: CsvRow) -> cost_records.PlanningParameter:
    return row.to_record(cost_records.PlanningParameter, **read_band(row))


def read_band(row: CsvRow) -> dict[str, Any]:
    """Read low, typical and high; typical replaces a missing low or high, then confidence gives the band."""
    typical = row.required_number("typical")
    low, high = row.number("low"), row.number("high")
    return {"low": typical if low is None else low, "typical": typical, "high": typical if high is None else high}


@row_parser("nodes.csv")
def read_servers(row: CsvRow) -> cost_records.ServerSpec:
    accelerator = row.text("accelerator") or None
    return row.to_record(cost_records.ServerSpec, columns=SERVER_COLUMNS, accelerator=accelerator)


@row_parser("storage_network.csv")
def read_storage_prices(row: CsvRow) -> cost_records.StoragePrice:
    size = BYTES_PER_UNIT.get(row.required_text("unit"))
    if size is None:
        raise row.cell_error("unit", "an unknown unit")
    return row.to_record(
        cost_records.StoragePrice,
        optional=("region",),
        usd_per_byte=row.required_number("price_usd") / size,
        from_bytes=row.number("tier_from_gb", GIGA) or 0.0,
        to_bytes=row.number("tier_to_gb", GIGA),
    )


read_commitment_discounts = table_reader(
    cost_records.CommitmentDiscount,
    "commitments.csv",
    optional=("payment",),
    columns={"discount": ("discount_vs_on_demand",)},
)
read_surcharges = table_reader(
    cost_records.PlatformSurcharge,
    "managed_platforms.csv",
    optional=("basis",),
    columns={"low": ("surcharge_pct_low", 0.01), "high": ("surcharge_pct_high", 0.01)},
)


# --- metadata of facts


def read_availability(folder: Path) -> list[RegionAvailability]:
    """Read one table per provider, named after it."""
    columns = {"on_demand_usd_per_hour": ("on_demand_usd_h",)}
    rows = _rows_by_provider(folder, "_availability.csv")
    return [row.to_record(RegionAvailability, columns=columns, provider=provider) for provider, row in rows]


def read_region_ratios(folder: Path) -> list[metadata_records.RegionRatio]:
    found = []
    for provider, row in _rows_by_provider(folder, "_region_multipliers.csv"):
        # The home region is in the column's name: `ratio_to_us_east_1`.
        column = next((name for name in row.cells if name.startswith("ratio_to_")), "ratio")
        made = row.to_record(
            metadata_records.RegionRatio,
            provider=provider,
            family=row.required_text("family").partition(".")[0],
            home=column.removeprefix("ratio_to_").replace("_", "-"),
            ratio=row.required_number(column),
            read_from=row.required_text("family"),
            confidence=effective_confidence(row.text("as_of"), "low"),
        )
        found.append(made)
    return found


def _rows_by_provider(folder: Path, ending: str) -> Iterator[tuple[str, CsvRow]]:
    for path in sorted(folder.glob(f"*{ending}")):
        for row in read_rows(folder, path.name):
            yield path.name.removesuffix(ending), row


read_times_to_live = table_reader(metadata_records.TimeToLive, "ttl.csv", columns={"id": ("class",)})
read_refresh_sources = table_reader(
    metadata_records.RefreshSource, "refresh_sources.csv", optional=("provider",), columns={"feeds": ("class",)}
)
read_plausibility_exceptions = table_reader(
    metadata_records.PlausibilityException, "gate_exceptions.csv", columns={"notes": ("reason",)}
)
read_device_tools = table_reader(records.DeviceTool, "tools.csv")


@row_parser("source_kinds.csv")
def read_source_patterns(row: CsvRow) -> metadata_records.SourcePattern:
    try:
        re.compile(row.required_text("pattern"))
    except re.error:
        raise row.cell_error("pattern", "not a pattern") from None
    return row.to_record(metadata_records.SourcePattern)
