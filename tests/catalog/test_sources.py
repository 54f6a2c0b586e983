"""Adapters read their format and refuse another; the samples are the project's own."""

from __future__ import annotations

import contextlib
import gzip
import json
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.catalog.load import load_catalog
from archwright.catalog.sources import READERS, file_formats, read_source
from archwright.catalog.sources.source_records import BytePrice, FileContext, InstancePrice, SourceFacts

from . import samples
from .samples import TODAY

NAMES = {"machine-catalogue": "gpuhunt-aws-2026-11-20.csv", "device-sheet": "systems/h100_sxm.yaml"}


def read(adapter: str, content: object, name: str = "", today: date = TODAY) -> SourceFacts:
    data = content if isinstance(content, bytes) else content if isinstance(content, str) else json.dumps(content)
    file = FileContext(name or NAMES.get(adapter, "Qwen3-32B/config.json"), today)
    return read_source(adapter, data.encode() if isinstance(data, str) else data, file)


def test_every_adapter_has_a_source_and_every_source_an_adapter() -> None:
    rows = load_catalog().refresh_sources
    assert {row.adapter for row in rows} == set(READERS)
    assert all(row.file and row.origin and row.licence and row.feeds for row in rows)


def test_go_tables_of_both_spellings() -> None:
    found = read("go-prices", samples.AWS_GO)
    assert found.as_of == "2026-11-20"
    assert found.prices[0] == InstancePrice("us-east-1", "p5.48xlarge", 50.0)
    assert found.prices[-1] == InstancePrice("moon-1", "m8g.large", 0.1)
    first = InstancePrice("westeurope", "Standard_ND96isr_H100_v5", 120.0)
    assert read("go-prices", samples.AZURE_GO).prices[0] == first
    assert read("go-prices", '{"us-east-1": {"m8g.large": 0.1}}').as_of == ""


def test_prices_by_region() -> None:
    found = read("region-prices", samples.GCP)
    assert found.prices[0] == InstancePrice("europe-west4", "a3-highgpu-1g", 11.0, 4.0)
    assert found.prices[3].spot is None


def test_a_dump_of_machine_types() -> None:
    builds = {build.instance_type: build for build in read("machine-dump", samples.MACHINES).builds}
    plain, chips, piece = builds["m9x.large"], builds["trn2.48xlarge"], builds["g6f.xlarge"]
    assert (plain.vcpu, plain.ram_bytes, plain.arch, plain.network_note) == (2, 8 << 30, "arm64", "up to")
    assert plain.network_bytes_per_s == 12.5e9 / 8
    assert (plain.accelerator, plain.accelerator_count, plain.memory_gib) == ("", 0, None)
    assert (chips.accelerator, chips.accelerator_count, chips.memory_gib) == ("Trainium2", 16, 512.0)
    assert (piece.accelerator_count, piece.accelerator_share) == (1, 0.125)
    assert (piece.local_nvme_bytes, piece.network_bytes_per_s) == (100 * 10**9, None)


def test_a_file_that_unpacks_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_formats, "LARGEST_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="unpacks to more"):
        file_formats.decompress_gzip(gzip.compress(b" " * (2 << 20)))
    with pytest.raises(ValueError, match="gzip"):
        file_formats.decompress_gzip(file_formats.GZIP_MAGIC + b"no gzip at all")
    assert file_formats.decompress_gzip(gzip.compress(b"words")) == file_formats.decompress_gzip(b"words") == b"words"


def test_a_list_of_machines_takes_the_median_spot_price_of_the_zones() -> None:
    found = read("machine-list", samples.LIST_AWS)
    assert found.prices[0] == InstancePrice("us-east-1", "m8g.large", 0.08976, 0.04)
    assert found.prices[1].spot is None
    assert {build.instance_type for build in found.builds} >= {"m8g.large", "trn2.48xlarge", "no-price"}
    assert "no-price" not in {price.instance_type for price in found.prices}
    assert [build.memory_gib for build in read("machine-list", samples.LIST_RUNPOD).builds] == [80 / 1024, 80.0]


def test_token_prices_of_text_models_only() -> None:
    found = {price.model: price for price in read("token-prices", samples.TOKENS).tokens}
    assert set(found) == {"claude-haiku-4-5", "gemini-3.6-flash", "nowhere-1", "free-1"}
    haiku = found["claude-haiku-4-5"]
    assert (haiku.input, haiku.batch_output, haiku.context_tokens) == (1e-6, 2.5e-6, 200000)
    assert (haiku.output_tokens, haiku.deprecation_date) == (64000, "2027-10-15")
    assert found["gemini-3.6-flash"].context_tokens is None


def test_of_a_history_of_prices_the_one_in_force_counts() -> None:
    found = {price.model: price for price in read("provider-prices", samples.PROVIDERS).tokens}
    assert set(found) == {"claude-haiku-4-5", "claude-new", "gemini-3.6-flash"}
    new = found["claude-new"]
    assert (new.input, new.output) == pytest.approx((4e-6, 20e-6))
    before = read("provider-prices", samples.PROVIDERS, today=date(2026, 1, 1))
    earlier = {price.model: price for price in before.tokens}
    assert (earlier["claude-new"].input, earlier["claude-new"].output) == pytest.approx((5e-6, 25e-6))


def test_carbon_by_country() -> None:
    carbon = read("grid-carbon", samples.GRID).carbon
    assert [row.country for row in carbon] == ["DEU", "ZAF", "XXX", "FRA"]
    assert (carbon[0].name, carbon[0].gco2_per_kwh, carbon[0].year) == ("Germany", 350.5, "2025")


def test_tiers_of_egress_begin_after_what_is_free() -> None:
    found = read("egress-prices", samples.EGRESS)
    assert found.as_of == "2026-11-01"
    assert found.stored[:3] == (
        BytePrice("aws", "us-east-1", "Internet egress", "egress", 0.08 / 1e9, 1e11, 1e13),
        BytePrice("aws", "us-east-1", "Internet egress", "egress", 0.05 / 1e9, 1e13, None),
        BytePrice("aws", "", "Inter-region", "egress", 0.02 / 1e9),
    )
    (hot,) = read("object-prices", samples.OBJECTS).stored
    assert (hot.provider, hot.item, hot.usd_per_byte) == ("azure", "Blob Hot (LRS)", 0.017 / 1e9)


@pytest.mark.parametrize("adapter", sorted(READERS))
@pytest.mark.parametrize("data", [b"", b"[1, 2", b"\xff\xfe", b'{"a": [1]}', b"a,b\n1,2\n"])
def test_bytes_of_another_form_are_refused(adapter: str, data: bytes) -> None:
    with pytest.raises(ValueError):
        found = read(adapter, data)
        # Objects of unknown providers may be an empty, valid file; nothing must come out of it.
        if found == SourceFacts():
            raise ValueError


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 10**30), st.floats(), st.text(max_size=8))
# Words of the formats, so that a made-up document gets past the first look.
FORMAT_WORDS = """
prices on_demand spot VCpuInfo DefaultVCpus MemoryInfo SizeInMiB GpuInfo Gpus Name litellm_provider mode chat id models
input_cost_per_token output_cost_per_token input_mtok output_mtok base constraint start_date carbon_intensity year
tiers as_of price_per_gb_usd sku price_per_gb_month_usd currency aws
"""
WORDS = st.sampled_from(FORMAT_WORDS.split())
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(WORDS, st.text(max_size=4)), inner)),
    max_leaves=20,
)


@settings(max_examples=60)
@given(st.sampled_from(sorted(READERS)), st.one_of(DOCUMENTS.map(json.dumps).map(str.encode), st.binary(max_size=200)))
def test_hostile_bytes_are_refused_and_never_a_bug(adapter: str, data: bytes) -> None:
    try:
        found = read(adapter, data)
    except ValueError:
        return
    assert isinstance(found, SourceFacts)


@settings(max_examples=60)
@given(st.lists(st.lists(st.text(alphabet="0123456789.-einfa{}'\"\n,", max_size=8), max_size=10), max_size=5))
def test_hostile_lists_are_refused_and_never_a_bug(lines: list[list[str]]) -> None:
    data = (samples.LIST_HEAD + "\n".join(",".join(line) for line in lines)).encode()
    with contextlib.suppress(ValueError):
        assert isinstance(read("machine-list", data), SourceFacts)


PAGE, SKU, SALES = (json.dumps(of) for of in (samples.RETAIL[0], samples.SKUS[0], samples.SALES))


@pytest.mark.parametrize(
    ("adapter", "content", "says"),
    [
        ("machine-list", samples.LIST_HEAD + "m8g.large,,inf,2,8,0.1,us-east-1,,\n", "too large"),
        ("machine-list", samples.LIST_HEAD + "m8g.large,,0,2,1e308,0.1,us-east-1,,\n", "too large"),
        ("device-sheet", "gpu: {mem_capacity: .inf, mem_bw: 1.0, bfloat16_tc_flops: 1.0}", "too large"),
        ("machine-list", samples.LIST_HEAD + "x" * 200_000, "more than 100000 characters"),
        ("egress-prices", {"currency": "EUR"}, "EUR"),
        ("retail-prices", PAGE.replace('"USD"', '"EUR"'), "EUR"),
        ("part-prices", SKU.replace('"USD"', '"EUR"'), "EUR"),
        ("state-tariffs", SALES.replace("cents per", "dollars per"), "not in cents"),
        ("offer-file", samples.OFFER_FILE.partition("\n")[2], "version"),
        ("offer-file", samples.OFFER_FILE.replace('"Tenancy"', '"Tenure"'), "columns are missing"),
        ("device-sheet", "gpu: {power: 1}", "memory, bandwidth"),
        ("statistics-cube", {**samples.CUBE, "size": [1]}, "stated sizes"),
        ("statistics-cube", {**samples.CUBE, "id": ["geo"]}, "one of the dimensions"),
    ],
)
def test_a_refusal_says_what_is_wrong(adapter: str, content: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(adapter, content)
