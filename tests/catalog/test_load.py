"""Layers: the user's facts over the measured machine over the shipped rows."""

from __future__ import annotations

import os
import shutil
from datetime import date
from pathlib import Path

import pytest

from archwright.catalog.catalog import OVERLAID, Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.probe.machine_probe import ProbeSamples, probe_machine
from archwright.catalog.refresh import fact_view
from archwright.catalog.tables.csv_table import DATA
from archwright.errors import CatalogError
from archwright.home import Home


def own(home: Home, text: str) -> Catalog:
    home.catalog_overlay.parent.mkdir(parents=True, exist_ok=True)
    home.catalog_overlay.write_text(text)
    return load_catalog(home)


def layer(catalog: Catalog, table: str, name: str) -> str:
    """Return the layer of the fact that counts."""
    return fact_view.view_fact(catalog, table, name, fact_view.named_rows_by_table(catalog)[table][name]).chain[0].layer


def test_loading_is_cached_and_touches_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert load_catalog() is load_catalog()
    assert load_catalog(home) is load_catalog(home)
    assert load_catalog(home).machine is None
    assert not home.root.exists()


def test_the_whole_catalog_reads() -> None:
    """How long it takes is measured by bench/catalog."""
    catalog = Catalog(DATA)
    for name in (*OVERLAID, "hosted", "regulations", "places", "tariffs", "efficiencies", "digest", "providers"):
        assert getattr(catalog, name)


def test_the_digest_follows_the_facts(tmp_path: Path) -> None:
    home = Home(tmp_path)
    before = load_catalog(home).digest
    assert before == load_catalog().digest
    assert len(before) == 64
    changed = own(home, "accelerators: {L4: {tdp_w: 70, reason: nameplate, until: 2099-12-31}}\n")
    assert changed.digest != before


def test_the_digest_covers_every_kind_of_shipped_file(tmp_path: Path) -> None:
    whole = Catalog(DATA).digest
    for name in ("offers.csv", "engines.yaml", "regulations/gdpr.yaml", "fits/serving.json"):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(DATA, copy)
        assert Catalog(copy).digest == whole
        (copy / name).write_bytes((copy / name).read_bytes() + b" ")
        assert Catalog(copy).digest != whole, name


def test_a_users_fact_wins_and_says_so(tmp_path: Path) -> None:
    catalog = own(
        Home(tmp_path),
        "accelerators: {L4: {tdp_w: 70, reason: nameplate, until: 2099-12-31, as_of: '2026-11-20'}}\n"
        "offers:\n  'aws:us-east-1:g4dn.xlarge': {on_demand_usd_per_hour: 0.4, price_kind: user,"
        " reason: contract, until: 2099-12-31}\n",
    )
    row = catalog.accelerators["L4"]
    assert (row.tdp_w, row.source, row.confidence) == (70, "nameplate", "high")
    assert row.memory_bytes == load_catalog().accelerators["L4"].memory_bytes
    offer = next(offer for offer in catalog.offers if offer.instance_type == "g4dn.xlarge")
    assert offer.on_demand_usd_per_hour == 0.4
    assert len(catalog.offers) == len(load_catalog().offers)
    assert layer(catalog, "accelerators", "L4") == "user"
    assert layer(catalog, "accelerators", "T4") == "shipped"
    assert load_catalog().accelerators["L4"].tdp_w == 72


@pytest.mark.parametrize("written", ["2026-12-31", "'2026-12-31'"])
def test_a_contract_price_holds_until_its_day(tmp_path: Path, written: str) -> None:
    home = Home(tmp_path)
    name = "aws:us-east-1:g4dn.xlarge"
    own(home, f"offers: {{'{name}': {{on_demand_usd_per_hour: 0.4, reason: contract, until: {written}}}}}\n")
    last, after = (load_catalog(home, today=day) for day in (date(2026, 12, 31), date(2027, 1, 1)))
    prices = [next(row for row in c.offers if row.id == name).on_demand_usd_per_hour for c in (last, after)]
    assert prices == [0.4, 0.526]
    assert (last.expired_overrides, after.expired_overrides) == ((), (name,))
    assert (layer(last, "offers", name), layer(after, "offers", name)) == ("user", "shipped")
    assert last.digest != after.digest


def test_the_measured_machine_is_a_layer(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert "machine" not in fact_view.named_rows_by_table(load_catalog(home))
    samples = ProbeSamples(bandwidth=(1e9,), matmul=(1e10,))
    facts = probe_machine(home, None, now=lambda: 1.0, measure=lambda _: samples)
    assert load_catalog(home).machine == facts
    assert layer(load_catalog(home), "machine", "this-machine") == "measured"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("accelerators: {L4: {tdp_w: 70}}", "AW-CAT-04"),
        ("accelerators: {L4: {tdp_w: hot, reason: s, until: 2099-12-31}}", "AW-CAT-04"),
        ("accelerators: {L4: {tdp: 70, reason: s, until: 2099-12-31}}", "AW-CAT-04"),
        ("accelerators: {L5: {tdp_w: 70, reason: s, until: 2099-12-31}}", "AW-CAT-01"),
        ("accelerator: {L4: {tdp_w: 70, reason: s, until: 2099-12-31}}", "AW-CAT-01"),
        ("accelerators: [L4]", "AW-CAT-04"),
        ("accelerators: {", "AW-CAT-04"),
        ("accelerators: {L4: {tdp_w: 70, reason: s, until: soon}}", "AW-CAT-04"),
    ],
)
def test_a_broken_overlay_is_refused(tmp_path: Path, text: str, code: str) -> None:
    catalog = own(Home(tmp_path), text + "\n")
    with pytest.raises(CatalogError) as caught:
        len(catalog.accelerators)
    assert caught.value.code == code


def test_an_empty_overlay_changes_nothing(tmp_path: Path) -> None:
    assert own(Home(tmp_path), "# nothing yet\n").accelerators == load_catalog().accelerators


def test_a_newer_overlay_is_seen(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert own(home, "accelerators: {L4: {tdp_w: 70, reason: s, until: 2099-12-31}}\n").accelerators["L4"].tdp_w == 70
    home.catalog_overlay.write_text("accelerators: {L4: {tdp_w: 71, reason: s, until: 2099-12-31}}\n")
    os.utime(home.catalog_overlay, ns=(1, 1))
    assert load_catalog(home).accelerators["L4"].tdp_w == 71
