"""The questions a planner asks of the shipped catalog."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.errors import CatalogError

CATALOG = load_catalog()


def test_all_rows_are_taken() -> None:
    counts = {"accelerators": 55, "offers": 1437 + 18, "models": 70, "hosted": 115 + 274, "scores": 1572}
    counts |= {"exchange_rates": 17, "regulations": 7, "residency_rules": 12, "regions": 141 + 21, "tariffs": 29 + 16}
    counts |= {"availability": 176 + 206, "region_ratios": 24, "refresh_sources": 28}
    assert {name: len(getattr(CATALOG, name)) for name in counts} == counts
    assert sum(len(regulation.controls) for regulation in CATALOG.regulations.values()) == 81


def test_units_are_si() -> None:
    h100 = CATALOG.accelerators["H100-SXM-80GB"]
    assert h100.memory_bytes == 80 * 2**30
    assert h100.memory_bandwidth_bytes_per_s == pytest.approx(3.35e12)
    assert h100.flops["bf16"] == pytest.approx(989e12)
    assert h100.flops["fp8"] == pytest.approx(1978e12)
    assert "fp4" not in h100.flops
    assert h100.scale_up_bytes_per_s == pytest.approx(450e9)
    offer = next(offer for offer in CATALOG.offers if offer.id == "aws:us-east-1:g4dn.xlarge")
    assert (offer.ram_bytes, offer.local_nvme_bytes) == (16 * 2**30, 125 * 10**9)
    assert offer.network_bytes_per_s == pytest.approx(25e9 / 8)
    hosted = next(model for model in CATALOG.hosted if model.id == "claude-haiku-4-5")
    assert hosted.input_usd_per_token == pytest.approx(1e-6)
    assert hosted.agrees is True


def test_a_host_processor_has_no_memory_of_its_own() -> None:
    assert {row.memory_bytes for row in CATALOG.accelerators.values() if row.kind == "cpu"} == {0}


def test_a_spot_price_that_equals_the_list_price_is_no_spot_market() -> None:
    runpod = [offer for offer in CATALOG.offers if offer.provider == "runpod"]
    assert {offer.spot_usd_per_hour for offer in runpod} == {None}
    assert all(offer.on_demand_usd_per_hour for offer in runpod)


def test_undated_prices_are_recalled_and_derived_ones_are_no_list_prices() -> None:
    by_id = {offer.id: offer for offer in CATALOG.offers}
    assert by_id["scaleway:fr-par:H100-1-80G"].confidence == "recalled"
    assert {offer.confidence for offer in CATALOG.offers if offer.price_kind == "derived"} == {"medium"}
    assert by_id["aws:us-east-1:g4dn.xlarge"].confidence == "high"


def test_quality_is_the_lowest_reported_share() -> None:
    assert CATALOG.models["Llama-3.1-8B-Instruct"].quality["mmlu_pro"] == pytest.approx(0.483)
    assert CATALOG.models["Mistral-Small-3.2-24B-Instruct-2506"].quality["gpqa"] == pytest.approx(0.4613)
    assert "mmlu_pro" not in CATALOG.models["Llama-3.2-1B-Instruct"].quality


def test_benchmarks_are_shares() -> None:
    assert {"mmlu_pro", "gpqa", "ifeval", "livecodebench"} <= CATALOG.benchmarks
    assert "lmarena_text_elo" not in CATALOG.benchmarks
    assert all(0 < share < 1 for model in CATALOG.models.values() for share in model.quality.values())


def test_exchange_is_banded_and_inverts() -> None:
    dollars = CATALOG.exchange_rate("EUR", "USD")
    assert (dollars.value, dollars.low, dollars.high, dollars.unit) == (1.1172, 1.113, 1.1974, "USD/EUR")
    euros = CATALOG.exchange_rate("USD", "EUR")
    assert euros.value * dollars.value == pytest.approx(1)
    assert euros.low == pytest.approx(1 / dollars.high)
    cross = CATALOG.exchange_rate("USD", "GBP")
    assert cross.low < cross.value < cross.high
    assert cross.value == pytest.approx(0.8338 / 1.1172)
    assert CATALOG.exchange_rate("CHF", "CHF").factor == 1.0
    assert {"EUR", "USD", "GBP", "JPY"} <= CATALOG.currencies


@pytest.mark.parametrize(("base", "quote"), [("EUR", "USDD"), ("USDD", "EUR"), ("XXX", "XXX")])
def test_an_unknown_currency_is_refused_with_the_nearest(base: str, quote: str) -> None:
    with pytest.raises(CatalogError) as caught:
        CATALOG.exchange_rate(base, quote)
    assert caught.value.code == "AW-CAT-01"


def test_a_rate_outside_its_own_year_widens_the_band() -> None:
    norway = CATALOG.exchange_rate("EUR", "NOK")
    assert norway.low == norway.value < norway.high


@pytest.mark.parametrize(
    ("place", "inside", "outside"),
    [
        ("EEA", ("DE", "NO"), ("CH", "GB", "??")),
        ("EU", (), ("NO",)),
        ("US", ("US",), ("DE",)),
        ("APAC", ("JP",), ("US",)),
        ("any", ("BR",), ()),
        ("DE", ("DE",), ()),
        ("eu-central-1", ("DE",), ("FR",)),
    ],
)
def test_inside(place: str, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    assert all(CATALOG.is_inside(country, place) for country in inside)
    assert not any(CATALOG.is_inside(country, place) for country in outside)


def test_an_unknown_place_is_refused_with_the_nearest() -> None:
    with pytest.raises(CatalogError) as caught:
        CATALOG.is_inside("DE", "EAA")
    assert "EEA" in caught.value.nearest


def test_regions_of_small_and_hosted_providers_are_known() -> None:
    helsinki = CATALOG.region("nebius", "eu-north1")
    assert helsinki is not None
    assert (helsinki.country, helsinki.data_zone, helsinki.confidence) == ("FI", "EEA", "recalled")
    assert CATALOG.region("nebius", "mars") is None
    assert {"openai", "mistral", "aws", "lambda", "this-machine", "on-premises"} <= CATALOG.providers
    assert {"EEA", "US", "APAC", "any", "DE", "us-east-1"} <= CATALOG.places


def test_electricity_of_a_country_its_union_or_the_world() -> None:
    germany = CATALOG.electricity_usd_per_kwh("DE")
    assert germany.value == pytest.approx(0.2264 * 1.1172, abs=1e-4) and germany.unit == "USD/kWh"
    assert CATALOG.electricity_usd_per_kwh("MT").value == pytest.approx(0.2054)
    assert CATALOG.electricity_usd_per_kwh("JP").value == pytest.approx(0.15)
    assert CATALOG.electricity_usd_per_kwh("MT").factor == pytest.approx(1.6)
    assert CATALOG.electricity_usd_per_kwh("US").factor < CATALOG.electricity_usd_per_kwh("DE").factor


def test_electricity_takes_the_industrial_price_when_it_is_the_only_one(tmp_path: Path) -> None:
    folder, rows = tmp_path, "XA,XAA,A,,Etc/UTC,s,2026\nXB,XBB,B,,Etc/UTC,s,2026\n"
    (folder / "countries.csv").write_text(f"country,alpha3,name,places,time_zone,source,as_of\n{rows}")
    head = (DATA / "energy.csv").read_text().splitlines()[0]
    (folder / "energy.csv").write_text(f"{head}\nXAA,0.05,,s,2026,high,,,\nXBB,,,,,,99,2023,grid\n")
    (folder / "energy_more.csv").write_text(head + "\n")
    (folder / "ttl.csv").write_text((DATA / "ttl.csv").read_text())
    catalog = Catalog(folder, today=date(2026, 11, 24))
    assert catalog.electricity_usd_per_kwh("XA").value == 0.05
    assert catalog.grid_gco2_per_kwh("XA") is None
    assert catalog.tariffs[1].source == "grid"
    with pytest.raises(CatalogError):
        catalog.electricity_usd_per_kwh("XB")


def test_grid_carbon() -> None:
    germany = CATALOG.grid_gco2_per_kwh("DE")
    assert germany is not None and (germany.value, germany.unit) == (381, "g/kWh")
    assert CATALOG.grid_gco2_per_kwh("ZA") is None


def test_engines_and_the_artefact_of_the_small_model() -> None:
    assert set(CATALOG.engines) == {
        *("llamacpp", "vllm", "openai-http", "null"),
        *("llama-server", "ollama", "sglang"),
    }
    assert CATALOG.list_engine_series("vllm")["ttft_s"] == "vllm:time_to_first_token_seconds"
    artefact = CATALOG.artefacts["SmolLM2-135M-Instruct"]
    assert artefact.size_bytes == 98362432
    assert CATALOG.quantisations[artefact.quantisation].bits_per_weight == 5.0


def test_regulation_text_keeps_its_commas() -> None:
    control = next(rule for rule in CATALOG.regulations["gdpr"].controls if rule.clause == "16-18")
    assert control.demand == "rectification, erasure, restriction"
    assert control.evidence == "erasure receipt"
    act = CATALOG.regulations["eu-ai-act"]
    assert act.fine is not None and act.fine.max_turnover_share == 0.07
    assert any(deadline.was == "2026-08-02" for deadline in act.deadlines)


def test_families_and_machines() -> None:
    names = [row.id for row in CATALOG.accelerator_family("H100")]
    assert names == ["H100-SXM-80GB", "H100-PCIe-80GB", "H100-NVL-94GB"]
    assert [row.id for row in CATALOG.accelerator_family("Trillium")] == ["TPUv6e"]
    assert CATALOG.accelerator_family("abacus") == ()
    count, row = CATALOG.resolve_machine("8x H100 SXM")
    assert (count, row.id) == (8, "H100-SXM-80GB")
    assert CATALOG.model("meta-llama/Llama-3.1-8B-Instruct").id == "Llama-3.1-8B-Instruct"


def test_a_figure_carries_the_band_of_its_confidence() -> None:
    row = CATALOG.accelerators["H100-SXM-80GB"]
    assert row.band(700.0, "W").factor == pytest.approx(1.1)
    assert CATALOG.accelerators["RTX-4090"].band(450.0, "W").factor == pytest.approx(1.6)
