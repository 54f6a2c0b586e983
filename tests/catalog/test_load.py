"""Layers: the user's facts over the measured machine over the shipped rows."""

from __future__ import annotations

import os
import shutil
from datetime import date
from pathlib import Path

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.probe.machine_probe import ProbeSamples, probe_machine
from archwright.catalog.refresh import fact_view
from archwright.catalog.tables.csv_table import DATA
from archwright.home import Home

from .samples import OWN, TODAY, load_own


def layer(catalog: Catalog, table: str, name: str) -> str:
    """Return the layer of the fact that counts."""
    return fact_view.view_fact(catalog, table, name, fact_view.named_rows_by_table(catalog)[table][name]).chain[0].layer


def test_loading_is_cached_and_touches_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert load_catalog() is load_catalog()
    assert load_catalog(home) is load_catalog(home)
    assert load_catalog(home).machine is None
    assert not home.root.exists()


def test_the_digest_follows_the_facts(tmp_path: Path) -> None:
    before = load_catalog(Home(tmp_path)).digest
    assert before == load_catalog().digest and len(before) == 64
    assert load_own(tmp_path, {"accelerators": {"L4": {"tdp_w": 70, **OWN}}}).digest != before


def test_the_digest_covers_every_kind_of_shipped_file(tmp_path: Path) -> None:
    whole = Catalog(DATA).digest
    for name in ("offers.csv", "engines.yaml", "regulations/gdpr.yaml", "guidance/stack.yaml", "fits/serving.json"):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(DATA, copy)
        assert Catalog(copy).digest == whole
        (copy / name).write_bytes((copy / name).read_bytes() + b" ")
        assert Catalog(copy).digest != whole, name


@pytest.mark.parametrize("written", ["2026-12-31", "'2026-12-31'"])
def test_a_contract_price_holds_until_its_day(tmp_path: Path, written: str) -> None:
    name = "aws:us-east-1:g4dn.xlarge"
    text = f"offers: {{'{name}': {{on_demand_usd_per_hour: 0.4, reason: contract, until: {written}}}}}\n"
    last, after = (load_own(tmp_path, text, day) for day in (date(2026, 12, 31), date(2027, 1, 1)))
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


def test_an_empty_overlay_changes_nothing(tmp_path: Path) -> None:
    assert load_own(tmp_path, "# nothing yet\n").accelerators == load_catalog().accelerators


def test_a_newer_overlay_is_seen(tmp_path: Path) -> None:
    assert load_own(tmp_path, {"accelerators": {"L4": {"tdp_w": 70, **OWN}}}).accelerators["L4"].tdp_w == 70
    load_own(tmp_path, {"accelerators": {"L4": {"tdp_w": 71, **OWN}}})
    os.utime(Home(tmp_path).catalog_overlay, ns=(1, 1))
    assert load_catalog(Home(tmp_path), today=TODAY).accelerators["L4"].tdp_w == 71
