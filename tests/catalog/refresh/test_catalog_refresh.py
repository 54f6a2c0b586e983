"""The refreshed layer: taken in, gated, corroborated, switched, rolled back, shown and compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers import refreshed_layer
from archwright.catalog.layers.engine_measurements import MeasuredLayer
from archwright.catalog.load import load_catalog
from archwright.catalog.refresh import catalog_diff, fact_view
from archwright.catalog.refresh import catalog_refresh as refreshing
from archwright.catalog.refresh.catalog_refresh import RefreshReport
from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.records import Offer
from archwright.contract.estimate import within_factor
from archwright.contract.plan import MachineFacts
from archwright.contract.record import replace
from archwright.errors import CatalogError
from archwright.home import Home

from .. import samples
from ..samples import TODAY, Done, refresh


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = samples.write_all(tmp_path_factory.mktemp("bring"))
    return refresh(Home(tmp_path_factory.mktemp("home")), folder)


@pytest.fixture
def bring(tmp_path: Path) -> Path:
    return samples.write_all(tmp_path / "bring")


def offer(catalog: Catalog, name: str) -> Offer:
    return next(row for row in catalog.offers if row.id == name)


def why(done: Done, word: str) -> list[str]:
    """The reasons under which something with `word` in its name was set aside."""
    return [row.reason for row in done.report.set_aside if any(word in example for example in row.examples)]


def test_a_refreshed_price_lies_over_the_shipped_one(done: Done) -> None:
    row = offer(done.catalog, "aws:us-east-1:p5.48xlarge")
    assert (row.on_demand_usd_per_hour, row.as_of, row.price_kind) == (50.0, "2026-11-20", "list")
    assert row.accelerator == "H100-SXM-80GB" and row.spot_usd_per_hour is None
    (layer, *_) = fact_view.view_fact(done.catalog, "offers", row.id, row).chain
    assert (layer.layer, layer.source_kind) == ("refreshed", "api")
    assert done.catalog.freshness(row) == "fresh"
    assert offer(done.catalog, "aws:us-east-1:g5.xlarge") == offer(load_catalog(), "aws:us-east-1:g5.xlarge")


def test_an_unchanged_list_price_keeps_its_discounts(done: Done) -> None:
    p5 = offer(load_catalog(), "aws:us-east-1:p5.48xlarge")
    below = replace(p5, commit_1y_usd_per_hour=30.0)
    same = replace(p5, as_of="2026-11-20", spot_usd_per_hour=None)
    kept = refreshed_layer.overlay_offer(below, same)
    assert kept == replace(below, as_of="2026-11-20")
    assert refreshed_layer.overlay_offer(below, replace(same, spot_usd_per_hour=9.0)).spot_usd_per_hour == 9.0
    cheaper = replace(same, on_demand_usd_per_hour=50.0)
    assert refreshed_layer.overlay_offer(below, cheaper) == cheaper


def test_a_new_machine_comes_with_the_build_another_file_states(done: Done) -> None:
    row = offer(done.catalog, "aws:us-east-1:m9x.large")
    assert (row.vcpu, row.ram_bytes, row.arch, row.geo) == (2, 8 << 30, "arm64", "US")
    assert "DescribeInstanceTypes" in row.spec_source and row.spec_as_of == "2026-11-17"


def test_of_two_sources_of_a_price_the_first_by_priority_counts(done: Done) -> None:
    row = offer(done.catalog, "aws:us-east-1:m8g.large")
    assert "karpenter" in row.source and row.as_of == "2026-11-20"


def test_an_accelerator_is_told_by_its_memory(done: Done) -> None:
    row = offer(done.catalog, "aws:us-east-1:p4x.24xlarge")
    assert row.accelerator == "A100-40GB-SXM"
    assert offer(done.catalog, "aws:us-east-1:g6x.2xlarge").accelerator == "L4"
    piece = offer(done.catalog, "aws:us-east-1:g6f.xlarge")
    assert (piece.accelerator, piece.accelerator_share) == ("L4", 0.125)


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        ("moon-1", "its region, and so its residency, is unknown"),
        ("Dadsv5_Type1", "the build of the machine type is unknown"),
        ("q9.4xlarge", "accelerator Q9000 is unknown"),
        ("nothing.large", "no processors or no memory stated"),
        ("nan.large", "its price is not a number"),
        ("trn2.48xlarge", "gate usable-memory"),
        ("1x_NEW_SECURE", "gate usable-memory"),
        ("central1:a2-highgpu-1g", "its source counts other accelerators, so the price may be that of the host alone"),
        ("a3-highgpu-8g: 90", "gate below-list"),
        ("nowhere-1", "the catalog has no hosted models of this provider"),
        ("free-1", "output is free, or a price is implausible"),
        ("elsewhere", "the catalog has no such provider"),
        ("azure: Internet egress", "the price is not a number of at least 0"),
        ("Nowhere", "the catalog has no such country"),
        ("FRA", "carbon intensity outside 0 to 2000 g/kWh"),
    ],
)
def test_what_is_not_taken_has_a_reason(done: Done, subject: str, reason: str) -> None:
    assert reason in why(done, subject)


def test_what_is_odd_is_taken_and_flagged(done: Done) -> None:
    (flag,) = [flag for flag in done.report.flags if "m9g.large" in flag]
    assert flag == "size-order: aws:us-east-1:m9g.large: 0.05 USD/h; the older m8g.large costs 0.08976"
    assert offer(done.catalog, "aws:us-east-1:m9g.large").on_demand_usd_per_hour == 0.05


def test_a_spot_price_that_equals_the_list_price_is_none(done: Done) -> None:
    assert offer(done.catalog, "gcp:europe-west4:n2-standard-8").spot_usd_per_hour is None
    assert offer(done.catalog, "gcp:europe-west4:a3-highgpu-1g").spot_usd_per_hour == 4.0


def test_hosted_prices_are_held_against_a_second_source(done: Done) -> None:
    models = {(row.provider, row.id): row for row in done.catalog.hosted}
    haiku, flash = models["anthropic", "claude-haiku-4-5"], models["gemini", "gemini-3.6-flash"]
    assert (haiku.agrees, haiku.confidence, haiku.output_tokens) == (True, "high", 64000)
    assert haiku.batch_input_usd_per_token == 5e-7
    assert (flash.agrees, flash.confidence) == (False, "low")
    assert (flash.input_usd_per_token, flash.second_input_usd_per_token) == pytest.approx((1.5e-6, 7.5e-7))
    (said,) = [row for row in done.report.disagreements if row.subject == "gemini:gemini-3.6-flash"]
    assert said.taken == "1.5 in, 7.5 out USD per million tokens (genai-prices)"
    assert said.other == "0.75 in, 3.75 out USD per million tokens (litellm)"
    assert (models["anthropic", "claude-new"].agrees, models["anthropic", "claude-new"].confidence) == (None, "medium")
    assert ("openai", "gpt-5") in models


def test_of_equal_sources_the_newer_one_counts(home: Home, bring: Path) -> None:
    (bring / "genai-prices-2026-11-21.json").rename(bring / "genai-prices-2026-11-19.json")
    (said,) = refresh(home, bring, "hosted").report.disagreements
    assert "litellm" in said.taken and "genai-prices" in said.other


def test_one_file_is_held_against_the_shipped_price(home: Home, bring: Path) -> None:
    (bring / "model_prices_and_context_window-2026-11-20.json").unlink()
    report, catalog = refresh(home, bring, "hosted")
    models = {row.id: row for row in catalog.hosted}
    assert models["claude-haiku-4-5"].agrees is True
    assert models["claude-haiku-4-5"].batch_output_usd_per_token == pytest.approx(2.5e-6)
    assert [row.subject for row in report.disagreements] == ["gemini:gemini-3.6-flash"]
    # The shipped row came from the very work of the other file: no second source.
    (bring / "genai-prices-2026-11-21.json").unlink()
    (bring / "model_prices_and_context_window.json").write_text(json.dumps(samples.TOKENS))
    report, catalog = refresh(home, bring, "hosted")
    models = {row.id: row for row in catalog.hosted}
    assert (models["claude-haiku-4-5"].agrees, models["claude-haiku-4-5"].confidence) == (None, "recalled")
    assert report.disagreements == ()
    assert models["gemini-3.6-flash"].deprecation_date == ""


def test_bytes_and_carbon(done: Done) -> None:
    catalog = done.catalog
    egress = [row for row in catalog.storage_prices if (row.provider, row.kind) == ("aws", "egress")]
    internet = [row for row in egress if row.item == "Internet egress"]
    assert [row.usd_per_byte for row in internet] == [0.08 / 1e9, 0.05 / 1e9]
    assert any(row.item == "Inter-AZ, each direction" for row in egress)
    hot = [row for row in catalog.storage_prices if row.item == "Blob Hot LRS"]
    assert [row.usd_per_byte for row in hot] == [0.017 / 1e9]
    premium = [row for row in catalog.storage_prices if row.item == "Internet egress (premium tier)"]
    assert [row.usd_per_byte for row in premium] == [0.1 / 1e9]
    germany, africa = catalog.grid_gco2_per_kwh("DE"), catalog.grid_gco2_per_kwh("ZA")
    assert germany is not None and africa is not None
    assert (germany.value, africa.value) == (350.5, 700.0)
    assert catalog.electricity_usd_per_kwh("ZA").value == pytest.approx(0.15)
    states = [row for row in catalog.tariffs if row.area == "US-VA"]
    assert [row.grid_gco2_per_kwh for row in states] == [369]


def test_the_report_says_what_was_read_and_what_is_missing(done: Done) -> None:
    report = done.report
    assert report.generation == "0001" and report.refused == ()
    columns = done.catalog.refreshed_layer.prices.values()
    assert report.kept["offers"] == sum(len(prices.on_demand) for prices in columns)
    days = {row.source: row.as_of for row in report.read}
    assert (days["karpenter-aws"], days["litellm"], days["skypilot-runpod"]) == ("2026-11-20", "2026-11-20", "")
    assert {row.file for row in report.missing} >= {"*skypilot*nebius*.csv"}
    assert all(row.origin and row.licence for row in report.missing)
    other = offer(done.catalog, "runpod:US:1x_OTHER_SECURE")
    assert (other.confidence, other.as_of) == ("recalled", "")
    assert done.catalog.digest != load_catalog().digest


def test_the_chain_of_layers(done: Done, tmp_path: Path) -> None:
    def chain(catalog: Catalog, table: str, name: str) -> list[str]:
        row = fact_view.named_rows_by_table(catalog)[table][name]
        return [layer.layer for layer in fact_view.view_fact(catalog, table, name, row).chain]

    for table, name in (
        ("offers", "aws:us-east-1:p5.48xlarge"),
        ("hosted", "gemini:gemini-3.6-flash"),
        ("tariffs", "electricity DE"),
        ("storage_prices", "azure eastus Blob Hot LRS"),
    ):
        assert chain(done.catalog, table, name) == ["refreshed", "shipped"], name
    for name in ("aws:eu-north-1:p5.4xlarge", "aws:eu-central-1:g5.xlarge"):
        assert chain(load_catalog(), "offers", name)[0] == "derived"
    assert chain(done.catalog, "parts", "gpu.h100") == ["shipped"]
    own = samples.load_own(tmp_path, {"accelerators": {"L4": {"tdp_w": 70, **samples.OWN}}})
    view = fact_view.view_fact(own, "accelerators", "L4", own.accelerators["L4"])
    assert [(layer.layer, layer.source_kind) for layer in view.chain] == [("user", "user"), ("shipped", "repo")]
    watts = [figure.value for layer in view.chain for figure in layer.figures if figure.name == "tdp_w"]
    assert watts == [70.0, 72.0]


def test_the_machine_at_hand_is_the_measured_layer() -> None:
    rates = ("memory_bandwidth_bytes_per_s", "matmul_flops_per_s", "disk_write_bytes_per_s")
    plain = {"cores_usable": 2, "memory_bytes": 8 << 30, "disk_free_bytes": 1, "isa": "avx512", "gpus": ()}
    bands = dict.fromkeys(rates, within_factor(9e9, 1.1, "bytes/s"))
    machine = MachineFacts(**plain, **bands, probed_at=1.7e9)  # type: ignore[arg-type]
    catalog = Catalog(DATA, measured=MeasuredLayer(machine))
    row = fact_view.named_rows_by_table(catalog)["machine"]["this-machine"]
    (layer,) = fact_view.view_fact(catalog, "machine", "this-machine", row).chain
    assert (layer.layer, layer.source_kind, layer.as_of) == ("measured", "measured", "2023-11-14")
    stated = {figure.name: (figure.value, figure.unit) for figure in layer.figures}
    assert stated["memory_bandwidth_bytes_per_s.value"] == (9e9, "bytes/s")
    assert stated["memory_bytes"] == (float(8 << 30), "bytes")
    assert "machine" not in fact_view.named_rows_by_table(load_catalog())


def test_a_user_price_lies_over_a_refreshed_one(home: Home, bring: Path) -> None:
    refresh(home, bring, "offers")
    own = {"aws:us-east-1:p5.48xlarge": {"on_demand_usd_per_hour": 33.0, "price_kind": "user", **samples.OWN}}
    catalog = samples.load_own(home.root, {"offers": own})
    row = offer(catalog, "aws:us-east-1:p5.48xlarge")
    assert row.on_demand_usd_per_hour == 33.0
    assert fact_view.view_fact(catalog, "offers", row.id, row).chain[0].layer == "user"
    assert catalog.refreshed_layer.hosted == ()


def test_a_refresh_of_one_class_leaves_the_others(home: Home, bring: Path) -> None:
    refresh(home, bring, "storage")
    (bring / "egress_prices.json").write_text(json.dumps({**samples.EGRESS, "aws": {"tiers": []}}))
    (bring / "object_storage_prices.json").unlink()
    second, third = refresh(home, bring, "storage").report, refresh(home, bring, "grid").report
    assert second.kept == {**third.kept, "grid": 0}
    assert third.kept["storage"] == 5 and third.kept["grid"] == 2
    assert {row.feeds for row in third.missing} == set()


def test_generations_switch_and_roll_back(home: Home, bring: Path) -> None:
    layer = home.catalog_refreshed
    for number in range(1, 7):
        assert refresh(home, bring, "grid").report.generation == f"{number:04d}"
    assert sorted(path.name for path in layer.glob("*.msgpack")) == [f"{n:04d}.msgpack" for n in range(3, 7)]
    assert [refreshed_layer.roll_back(layer) for _ in range(4)] == ["0005", "0004", "0003", ""]
    assert refreshed_layer.current_generation(layer) is None
    assert load_catalog(home, today=TODAY).refreshed_layer.made_at == ""
    with pytest.raises(CatalogError) as caught:
        refreshed_layer.roll_back(layer)
    assert caught.value.code == "AW-CAT-08"
    assert refresh(home, bring, "grid").report.generation == "0007"
    # A generation that was rolled back does not return.
    assert refreshed_layer.roll_back(layer) == ""


def test_a_layer_of_another_version_is_refused_and_a_strange_name_ignored(tmp_path: Path) -> None:
    home = Home(tmp_path)
    layer = home.folder("catalog", "refreshed")
    (layer / "current").write_text("../../etc/passwd")
    assert refreshed_layer.current_generation(layer) is None
    (layer / "current").write_text("0001")
    for content in (None, b"no layer"):
        if content is not None:
            (layer / "0001.msgpack").write_bytes(content)
        with pytest.raises(CatalogError) as caught:
            assert Catalog(Path(), latest=refreshed_layer.current_generation(layer)).refreshed_layer
        assert caught.value.code == "AW-CAT-07"


def test_nothing_to_refresh_from_names_the_files(tmp_path: Path) -> None:
    with pytest.raises(CatalogError) as caught:
        refreshing.refresh_catalog(load_catalog(), tmp_path / "layer", tmp_path, None, TODAY)
    assert caught.value.code == "AW-CAT-09"
    assert "*instance_types*.json.gz" in caught.value.hint
    assert isinstance(caught.value.result, RefreshReport) and caught.value.result.missing
    assert not (tmp_path / "layer").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("global_energy_mix.json", b"{", "truncated"),
        ("global_energy_mix-2027-01-01.json", b"{}", "states a day in the future"),
        ("global_energy_mix.json", b" " * 200, "more than 100"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refreshing, "LARGEST_BYTES", 100)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogError) as caught:
        refreshing.refresh_catalog(load_catalog(), tmp_path / "layer", tmp_path, "grid", TODAY)
    assert says in caught.value.message and name in caught.value.message


def test_the_diff_names_every_changed_figure(done: Done) -> None:
    diff = catalog_diff.diff_catalog(done.catalog, {})
    moved = {f"{change.fact} {change.figure}": [change.before, change.after] for change in diff.changes}
    assert moved["aws:us-east-1:p5.48xlarge on_demand_usd_per_hour"] == [55.04, 50.0]
    assert moved["aws:us-east-1:p5.48xlarge spot_usd_per_hour"][1] is None
    assert moved["electricity DE grid_gco2_per_kwh"] == [381, 350.5]
    assert moved["azure eastus Blob Hot LRS usd_per_byte"] == pytest.approx([0.018 / 1e9, 0.017 / 1e9])
    assert "aws:us-east-1:m8g.large on_demand_usd_per_hour" not in moved
    assert diff.added["offers aws"] >= 2 and diff.added["tariffs"] == 1
    assert diff.refreshed_on == "2026-11-24"
    unchanged = catalog_diff.CatalogDiff(refreshed_on="", changes=(), added={})
    assert catalog_diff.diff_catalog(load_catalog(), {}) == unchanged


def test_queries_of_one_provider_equal_those_of_all(done: Done) -> None:
    providers = {"nobody", *(row.provider for row in done.catalog.offers)}
    apart = [row.id for provider in providers for row in done.catalog.offers_of(provider)]
    assert {row.id for row in done.catalog.offers} == set(apart)
    assert done.catalog.offers_of("nobody") == ()
