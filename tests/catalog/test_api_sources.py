"""Providers' own interfaces and public collections: read in their form, joined, gated, laid over the shipped rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from archwright.catalog.load import load_catalog
from archwright.catalog.refresh import catalog_diff, fact_view
from archwright.catalog.sources.source_records import ComponentRate, InstancePrice, SpotPrice
from archwright.catalog.tables.records import Offer
from archwright.home import Home

from . import samples
from .samples import Done, refresh
from .test_sources import read


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return refresh(Home(tmp_path_factory.mktemp("home")), samples.write_api_files(tmp_path_factory.mktemp("bring")))


def offer(done: Done, name: str) -> Offer:
    return next(row for row in done.catalog.offers_of(name.partition(":")[0]) if row.id == name)


# --- forms


def test_a_bulk_offer_file_gives_plain_machines_only() -> None:
    found = read("offer-file", samples.OFFER_FILE)
    assert found.as_of == "2026-11-21"
    assert found.prices[0] == InstancePrice("eu-central-1", "m8g.large", 0.1077, None, 0.07, 0.05)
    types = [price.instance_type for price in found.prices]
    assert types == ["m8g.large", "g5.xlarge", "m8g.16xlarge", "unheard.large"]


@pytest.mark.parametrize("form", ["pages", "lines"])
def test_retail_prices_of_several_pages(form: str) -> None:
    pages = "\n".join(json.dumps(page) for page in samples.RETAIL)
    found = read("retail-prices", samples.RETAIL if form == "pages" else pages)
    assert found.prices == (
        InstancePrice("westeurope", samples.D8, 0.46, 0.11, 0.3, 0.2),
        InstancePrice("westeurope", "Standard_D32s_v5", 1.84, 9.0),
    )


def test_rates_of_parts_leave_out_other_ways_to_buy_them() -> None:
    rates = read("part-prices", "\n".join(map(json.dumps, samples.SKUS))).rates
    assert rates[0] == ComponentRate("us-central1", "G2 Instance", "core", 0.024988, False)
    assert {rate.of for rate in rates if rate.spot} == {"G2 Instance", "Nvidia L4"}
    (disk,) = [rate for rate in rates if rate.part == "ssd"]
    assert disk.usd_per_hour == pytest.approx(0.08 / 730)
    assert not [rate for rate in rates if "Custom" in rate.of or "Tenancy" in rate.of or "Commit" in rate.of]


def test_of_a_spot_history_the_newest_of_each_zone_and_the_median_of_a_region() -> None:
    found = read("spot-history", samples.SPOTS)
    assert found.as_of == "2026-11-23"
    assert found.spots[:2] == (
        SpotPrice("us-east-1", "p5.48xlarge", 20.0),
        SpotPrice("us-east-1-bos-1a", "p5.48xlarge", 2.0),
    )


def test_a_catalogue_has_its_provider_in_its_name_and_spot_prices_of_their_own() -> None:
    ((provider, found),) = read("machine-catalogue", samples.CATALOGUE, "gpuhunt-gcp.csv").parts
    assert provider == "gcp"
    assert found.prices[0] == InstancePrice("europe-west4", "g2-standard-4", 0.75, 0.35)
    assert (found.builds[0].accelerator, found.builds[0].memory_gib, found.builds[0].arch) == ("L4", 24.0, "x86")
    with pytest.raises(ValueError, match="provider"):
        read("machine-catalogue", samples.CATALOGUE, "catalogue.csv")


def test_a_record_of_a_machine_says_whose_it_is() -> None:
    part = samples.server("g2", gpu_count=0.5, gpu_model="L4", gpu_memory_min=24576, storage_size=375)
    ((provider, found),) = read("machine-record", part).parts
    (build,) = found.builds
    assert (provider, build.vcpu, build.ram_bytes, build.arch) == ("gcp", 4, 16 << 30, "x86_64")
    assert (build.accelerator_count, build.accelerator_share, build.memory_gib) == (1, 0.5, 24.0)
    assert build.local_nvme_bytes == 375 * 10**9
    assert read("machine-record", samples.server("g2", status="INACTIVE")).rows == 0


def test_a_dump_of_models_leaves_out_what_is_withdrawn_or_has_no_price() -> None:
    (price,) = read("model-dump", samples.MODEL_DUMP).tokens
    assert (price.provider, price.model, price.context_tokens) == ("anthropic", "claude-haiku-4-5", 200000)
    assert (price.input, price.output, price.cache_read) == pytest.approx((1e-6, 5e-6, 1e-7))


def test_a_configuration_names_its_model_by_its_folder_or_its_own_name() -> None:
    (shape,) = read("checkpoint-config", samples.CONFIG, "models/Qwen3-32B/config.json").architectures
    assert shape.model == "Qwen3-32B" and "sliding_window" not in shape.fields
    (other,) = read("checkpoint-config", samples.CONFIG, "a/Qwen--Qwen3-8B_config.json").architectures
    assert other.model == "Qwen3-8B"
    nested = {"text_config": {**samples.CONFIG, "num_local_experts": 8}, "scale": float("inf")}
    (seeing,) = read("checkpoint-config", nested).architectures
    assert seeing.fields["expert_ffn"] == 25600
    latent = {**samples.CONFIG, "kv_lora_rank": 512, "head_dim": None, "num_key_value_heads": None}
    fields = read("checkpoint-config", latent).architectures[0].fields
    assert "head_dim" not in fields and fields["kv_heads"] == 64
    assert read("checkpoint-config", {"producer": {"name": "a"}}).rows == 0


def test_a_sheet_of_a_device_and_a_cube_of_statistics() -> None:
    (device,) = read("device-sheet", samples.SHEET).devices
    assert (device.name, device.flops["fp8"], device.tdp_w) == ("h100 sxm", 1978e12, 700.0)
    germany, greece, _ = read("statistics-cube", samples.CUBE).tariffs
    # Band, tax, place and half-year count from the last dimension on.
    assert germany.country == "DE"
    assert [germany.commercial, germany.industrial] == pytest.approx([0.106, 0.119])
    assert (germany.period, greece.country, greece.currency) == ("2025-S2", "GR", "EUR")


def test_state_tariffs_are_cents_of_the_newest_month() -> None:
    found = {tariff.area or tariff.country: tariff for tariff in read("state-tariffs", samples.SALES).tariffs}
    assert set(found) == {"US-VA", "US", "US-OH", "US-NV"}
    assert (found["US-VA"].commercial, found["US-VA"].period) == (0.14, "2026-08")


# --- what a refresh makes of them


def test_every_file_is_read_and_every_source_without_one_is_named(done: Done) -> None:
    assert done.report.refused == ()
    assert {row.source for row in done.report.read} >= {
        "aws-bulk", "aws-spot", "azure-retail", "gcp-billing", "gpuhunt", "sparecores", "models.dev", "llm-leaderboard",
        "hf-config", "aiconfigurator-systems", "aiconfigurator-models", "eurostat", "eia",
    }  # fmt: skip
    assert {row.source: row.as_of for row in done.report.read}["aiconfigurator-systems"] == "2026-08-21"
    assert "*skypilot*aws*.csv" in {row.file for row in done.report.missing}


def test_predicted_prices_stand_beside_the_list_price(done: Done) -> None:
    eight = offer(done, f"azure:westeurope:{samples.D8}")
    prices = (eight.on_demand_usd_per_hour, eight.commit_1y_usd_per_hour, eight.commit_3y_usd_per_hour)
    assert prices == (0.46, 0.3, 0.2)
    small = offer(done, "aws:eu-central-1:m8g.large")
    assert (small.commit_1y_usd_per_hour, small.as_of) == (0.07, "2026-11-21")


def test_a_machine_priced_by_its_parts_costs_what_its_provider_lists(done: Done) -> None:
    shipped = {row.id: row.on_demand_usd_per_hour for row in load_catalog().offers_of("gcp")}
    for name in ("g2-standard-4", "g2-standard-96", "a2-ultragpu-1g", "a2-ultragpu-8g", "a2-highgpu-1g"):
        row = offer(done, f"gcp:us-central1:{name}")
        assert row.source.startswith("Cloud Billing Catalog API"), name
        assert row.on_demand_usd_per_hour == pytest.approx(shipped[row.id], rel=1e-4), name
    assert offer(done, "gcp:us-central1:g2-standard-4").spot_usd_per_hour == pytest.approx(0.28)
    # One part of it has no rate.
    (shipped_row,) = [row for row in load_catalog().offers_of("gcp") if row.id == "gcp:us-central1:n2-standard-8"]
    assert offer(done, "gcp:us-central1:n2-standard-8").source == shipped_row.source


def test_a_spot_price_lies_in_the_row_of_its_list_price(done: Done) -> None:
    row = offer(done, "aws:us-east-1:p5.48xlarge")
    assert (row.on_demand_usd_per_hour, row.spot_usd_per_hour) == (55.04, 20.0)
    assert row.source.endswith("per region") and " ; spot: " in row.source and row.as_of == "2026-09-19"


def test_a_work_under_a_licence_keeps_it_in_its_rows(done: Done) -> None:
    new = offer(done, "gcp:europe-west4:n9-standard-4")
    assert "CC BY-SA 4.0" in new.spec_source and (new.vcpu, new.on_demand_usd_per_hour) == (4, 0.21)
    assert offer(done, "gcp:europe-west4:g2-standard-4").source.startswith("dstackai/gpuhunt")
    # Under this catalog's name for the provider.
    assert offer(done, "lambda:us-east-1:gpu_1x_h100_pcie").on_demand_usd_per_hour == 3.1


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        ("unheard.large", "the build of the machine type is unknown"),
        ("aws:eu-west-9:unheard.large", "a spot price without a list price"),
        ("aws:eu-central-1:g5.xlarge: 90", "gate price-of-one"),
        ("Standard_D32s_v5: 9 USD/h", "gate below-list"),
        ("b9-highgpu-1g", "gate usable-memory"),
        ("g2-standard-20", "gate accelerator-charged"),
        ("m8g.16xlarge: 0.05", "gate size-order"),
        ("a9-highgpu-1g", "accelerator Q9000 is unknown"),
        ("Qwen3-8B", "gate recount"),
        ("H200-SXM-141GB", "gate dense-rates"),
        ("elo", "the score is not a share between 0 and 1"),
        ("gpt-5-2025-08-07: swe-bench-verified", "two sources of the shipped score contradict it"),
        ("nobodys-1b", "the catalog has no such model"),
        ("XK", "the catalog has no such country"),
        ("US-NV", "price per kWh outside 0.005 to 2 USD"),
        ("US-OH", "no price for a business"),
    ],
)
def test_what_is_not_taken_has_a_reason(done: Done, subject: str, reason: str) -> None:
    found = [row.reason for row in done.report.set_aside if any(subject in example for example in row.examples)]
    assert reason in found


def test_figures_lie_over_the_shipped_ones_and_show_their_layers(done: Done) -> None:
    catalog, shipped = done.catalog, load_catalog()
    assert catalog.models["Qwen3-32B"].context_tokens == 40960
    assert catalog.models["Qwen3-32B"].quality == shipped.models["Qwen3-32B"].quality
    assert catalog.models["Llama-3.1-8B-Instruct"].quality["mmlu_pro"] == 0.41
    hosted = catalog.hosted_evidence("openai", "gpt-5")
    assert (hosted["gpqa"].value, hosted["lmarena_text_elo"].value) == (0.87, 1437)
    assert hosted["swe_bench_verified"] == shipped.hosted_evidence("openai", "gpt-5")["swe_bench_verified"]
    h100 = catalog.accelerators["H100-SXM-80GB"]
    assert h100.memory_bandwidth_bytes_per_s == 3.4e12
    assert h100.memory_bytes == shipped.accelerators["H100-SXM-80GB"].memory_bytes
    assert catalog.electricity_usd_per_kwh("US").value == 0.15
    assert catalog.electricity_usd_per_kwh("GR").value == pytest.approx(0.109 * 1.1172)
    states = {row.area: row for row in catalog.tariffs}
    assert states["US-VA"].commercial_usd_per_kwh == 0.14 and states["US-VA"].grid_gco2_per_kwh == 369
    for table, name in (("accelerators", "H100-SXM-80GB"), ("models", "Qwen3-32B"), ("tariffs", "electricity DE")):
        view = fact_view.view_fact(catalog, table, name, catalog.rows_by_name(table)[name])
        assert [layer.layer for layer in view.chain] == ["refreshed", "shipped"], name
    moved = {f"{change.fact} {change.figure}" for change in catalog_diff.diff_catalog(catalog, {}).changes}
    assert "H100-SXM-80GB memory_bandwidth_bytes_per_s" in moved and "electricity US-VA commercial_usd_per_kwh" in moved


def test_of_one_file_under_two_days_the_newer_is_read_and_others_stay(tmp_path: Path) -> None:
    folder, home = tmp_path / "bring", Home(tmp_path / "home")
    folder.mkdir()
    old = samples.OFFER_FILE.replace("0.1077", "0.5")
    (folder / "aws-ec2-eu-central-1-2026-11-01.csv").write_text(old)
    (folder / "aws-ec2-eu-central-1-2026-11-22.csv.gz").write_bytes(gzip.compress(samples.OFFER_FILE.encode()))
    (folder / "aws-ec2-eu-west-1.csv").write_text(samples.OFFER_FILE.replace("eu-central-1", "eu-west-1"))
    report, catalog = refresh(home, folder, "offers")
    (read_of,) = report.read
    assert (read_of.file, read_of.files, read_of.rows) == ("*aws*ec2*.csv", 2, 8)
    found = [offer(Done(report, catalog), f"aws:{region}:m8g.large") for region in ("eu-central-1", "eu-west-1")]
    assert [row.on_demand_usd_per_hour for row in found] == [0.1077, 0.1077]
