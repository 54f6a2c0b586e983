"""Rates of work beside serving text: every row has its band and its source, and reads back as stated."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.work_rate_parsers import read_work_rates
from archwright.errors import CatalogError
from archwright.sizing.hardware.device_rates import quote_work_rates, read_work_rate

CATALOG = load_catalog()
HEAD = "id,item,low,typical,high,unit,source,as_of,confidence,notes\n"


@pytest.mark.parametrize("name", CATALOG.work_rates)
def test_every_row_has_a_band_and_says_where_it_comes_from(name: str) -> None:
    made = CATALOG.work_rates[name]
    assert 0 < made.low < made.typical <= made.high
    assert made.source and (made.confidence == "recalled" or made.as_of)
    assert made.item in made.fact and made.source in made.fact


def test_a_row_without_a_band_takes_that_of_its_confidence(tmp_path: Path) -> None:
    (tmp_path / "work_efficiencies.csv").write_text(HEAD + "a.b,Something,,10,,s,somebody,2026,high,\n")
    (row,) = read_work_rates(tmp_path)
    assert (row.low, row.high) == (10, 10)
    for file in DATA.iterdir():
        if file.is_file() and file.name != "work_efficiencies.csv":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    found = read_work_rate(Catalog(tmp_path), "a.b")
    assert found.low < found.value == 10 < found.high


def test_a_row_without_a_figure_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work_efficiencies.csv").write_text(HEAD + "a.b,Something,,,,s,somebody,2026,high,\n")
    with pytest.raises(CatalogError) as caught:
        read_work_rates(tmp_path)
    assert caught.value.code == "AW-CAT-02"


def test_rates_and_what_a_basis_quotes() -> None:
    found = read_work_rate(CATALOG, "host.core", "b")
    assert (found.low, found.value, found.high, found.basis) == (50e9, 100e9, 150e9, "b")
    assert found.divide_amount(1.0, "s/FLOP").low == pytest.approx(1 / 150e9)
    assert quote_work_rates(CATALOG, "host.core")[0].startswith("Matrix products of one processor core")
    assert (DATA / "work_efficiencies.csv").is_file()
