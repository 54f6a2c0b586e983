"""From CSV columns to records: one function per table whose columns are not the record's fields; units are converted
here and nowhere else.
"""

from __future__ import annotations

from pathlib import Path

from archwright.catalog.tables import records
from archwright.catalog.tables.cost_parsers import join_network_rates
from archwright.catalog.tables.csv_table import CsvRow, effective_confidence, read_rows, table_reader

GIB = 2.0**30
GIGA = 1e9
TERA = 1e12
PER_MILLION = 1e-6

DTYPES = {
    "fp32": "fp32_tflops",
    "tf32": "tf32_dense",
    "bf16": "bf16_dense",
    "fp16": "fp16_dense",
    "fp8": "fp8_dense",
    "int8": "int8_dense_tops",
    "fp4": "fp4_dense",
}


def read_accelerators(folder: Path) -> list[records.Accelerator]:
    return [_parse_accelerator(row) for row in read_rows(folder, "accelerators.csv")]


def read_benchmarked_accelerators(folder: Path) -> list[records.Accelerator]:
    return [_parse_accelerator(row) for row in read_rows(folder, "devices.csv")]


def _parse_accelerator(row: CsvRow) -> records.Accelerator:
    rates = {dtype: row.number(column, TERA) for dtype, column in DTYPES.items()}
    return row.to_record(
        records.Accelerator,
        id=row.required_text("accel_id"),
        arch=row.text("arch"),
        form=row.text("form"),
        memory_bytes=row.whole_number("mem_gib", GIB) or 0,
        memory_marketing=row.text("mem_marketing"),
        memory_bandwidth_bytes_per_s=row.required_number("mem_bw_gbs", GIGA),
        flops={dtype: rate for dtype, rate in rates.items() if rate is not None},
        sparsity=row.text("sparsity_2to4") == "yes",
        scale_up=row.text("scale_up"),
        scale_up_bytes_per_s=row.number("scale_up_gbs_per_dir", GIGA),
        host_link=row.text("host_link"),
        price_low_usd=row.number("price_usd_low"),
        price_high_usd=row.number("price_usd_high"),
    )


def read_offers(folder: Path) -> list[records.Offer]:
    return [_parse_offer(row, network) for row, network in join_network_rates(read_rows(folder, "offers.csv"), folder)]


def _parse_offer(row: CsvRow, network: tuple[float | None, str]) -> records.Offer:
    kind, as_of = row.one_of("price_kind", records.PriceKind), row.text("price_as_of")
    listed, spot = row.number("on_demand_usd_h"), row.number("spot_usd_h")
    return row.to_record(
        records.Offer,
        id=row.required_text("offer_id"),
        accelerator=row.text("accelerator") or None,
        accelerator_count=row.count("accel_count"),
        accelerator_share=row.required_number("accel_share"),
        ram_bytes=round(row.required_number("ram_gib", GIB)),
        arch=row.text("arch"),
        local_nvme_bytes=row.whole_number("local_nvme_gb", GIGA),
        network_bytes_per_s=network[0],
        network_note=network[1],
        on_demand_usd_per_hour=listed,
        spot_usd_per_hour=None if spot == listed else spot,
        commit_1y_usd_per_hour=row.number("commit_1y_usd_h"),
        commit_3y_usd_per_hour=row.number("commit_3y_usd_h"),
        spec_source=row.text("spec_source"),
        spec_as_of=row.text("spec_as_of"),
        source=row.required_text("price_source"),
        as_of=as_of,
        confidence=effective_confidence(as_of, "high" if kind == "list" else "low"),
    )


def read_quality_scores(folder: Path) -> list[records.QualityScore]:
    return [
        row.to_record(
            records.QualityScore,
            model=row.required_text("model_id"),
            benchmark=row.required_text("benchmark").replace("-", "_"),
            method=row.text("method"),
            reported_by=row.text("reported_by"),
            original_source=row.text("original_source"),
            confidence=effective_confidence(row.text("as_of"), "medium"),
        )
        for row in read_rows(folder, "llm_quality.csv")
    ]


def read_models(folder: Path, scores: list[records.QualityScore]) -> list[records.ModelSpec]:
    reported: dict[str, dict[str, float]] = {}
    for score in scores:
        # Ratings (chess-like, over 1) are not shares and cannot be a floor.
        if 0 < score.score < 1:
            known = reported.setdefault(score.model, {})
            known[score.benchmark] = min(score.score, known.get(score.benchmark, 1.0))
    return [
        _parse_model(row, reported.get(row.required_text("model_id"), {})) for row in read_rows(folder, "llms_open.csv")
    ]


def read_architectures(folder: Path, file: str = "architectures.csv") -> list[records.ModelSpec]:
    return [_parse_model(row, {}) for row in read_rows(folder, file)]


def _parse_model(row: CsvRow, reported: dict[str, float]) -> records.ModelSpec:
    own = {name: row.number(name) for name in ("mmlu_pro", "gpqa", "ifeval", "livecodebench")}
    stated = {name: share for name, share in own.items() if share is not None}
    lowest = {name: min(stated.get(name, 1.0), reported.get(name, 1.0)) for name in {**stated, **reported}}
    return row.to_record(
        records.ModelSpec,
        id=row.required_text("model_id"),
        org=row.text("org"),
        parameters=round(row.required_number("params_total_b", GIGA)),
        active_parameters=round(row.required_number("params_active_b", GIGA)),
        ffn=row.whole_number("ffn_intermediate"),
        expert_ffn=row.whole_number("moe_intermediate"),
        vocabulary=row.count("vocab"),
        context_tokens=row.count("context_max"),
        licence_conditions=row.text("licence_conditions"),
        released=row.text("released"),
        quality=dict(sorted(lowest.items())),
    )


def read_hosted_models(folder: Path) -> list[records.HostedModel]:
    return [_parse_hosted_model(row) for row in read_rows(folder, "llms_hosted.csv")]


def _parse_hosted_model(row: CsvRow) -> records.HostedModel:
    agrees = {"yes": True, "no": False}.get(row.text("agrees"))
    return row.to_record(
        records.HostedModel,
        id=row.required_text("model_id"),
        input_usd_per_token=row.required_number("input_usd_mtok", PER_MILLION),
        output_usd_per_token=row.required_number("output_usd_mtok", PER_MILLION),
        cache_read_usd_per_token=row.number("cache_read_usd_mtok", PER_MILLION),
        cache_write_usd_per_token=row.number("cache_write_usd_mtok", PER_MILLION),
        batch_input_usd_per_token=row.number("batch_input_usd_mtok", PER_MILLION),
        batch_output_usd_per_token=row.number("batch_output_usd_mtok", PER_MILLION),
        context_tokens=row.whole_number("context_max"),
        output_tokens=row.whole_number("output_max"),
        deprecation_date=row.text("deprecation_date"),
        successor=row.text("successor"),
        agrees=agrees,
        second_input_usd_per_token=row.number("second_source_input", PER_MILLION),
        second_output_usd_per_token=row.number("second_source_output", PER_MILLION),
        confidence=effective_confidence(row.text("as_of"), {True: "high", False: "low", None: "medium"}[agrees]),
    )


def read_regions(folder: Path) -> list[records.Region]:
    return [
        row.to_record(
            records.Region,
            city=row.text("city"),
            grid_gco2_per_kwh=row.number("grid_gco2_kwh"),
            confidence=effective_confidence(row.text("as_of"), row.text("confidence") or "high"),
            notes=row.text("note"),
        )
        for file in ("regions.csv", "regions_more.csv")
        for row in read_rows(folder, file)
    ]


def read_countries(folder: Path) -> list[records.Country]:
    return [
        row.to_record(records.Country, alpha3=row.text("alpha3"), places=tuple(row.text("places").split()))
        for row in read_rows(folder, "countries.csv")
    ]


def read_tariffs(folder: Path, known: list[records.Country]) -> list[records.EnergyTariff]:
    """Energy rows are keyed by alpha-3, with a state behind a dash; two groups (EU27, WORLD) stay as they are."""
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


read_device_tools = table_reader(records.DeviceTool, "tools.csv")
