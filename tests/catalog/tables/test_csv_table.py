"""Broken tables and documents: each refusal names file, line and column."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from archwright.catalog.tables import parsers, records, yaml_documents
from archwright.catalog.tables.csv_table import DATA, CsvRow, effective_confidence, read_rows
from archwright.errors import CatalogError


def row(**cells: str) -> CsvRow:
    return CsvRow("t.csv", 7, cells)


@pytest.mark.parametrize("value", ["many", "nan", "inf", "-1"])
def test_a_number_that_is_none(value: str) -> None:
    with pytest.raises(CatalogError) as caught:
        row(price=value).number("price")
    assert caught.value.code == "AW-CAT-02"
    assert caught.value.where == ("t.csv", 7, "price")


def test_empty_cells() -> None:
    empty = row(price="", name=" ")
    assert (empty.number("price"), empty.whole_number("price"), empty.count("price")) == (None, None, 0)
    assert empty.text("absent") == ""
    for read, column in ((empty.required_text, "name"), (empty.required_number, "price")):
        with pytest.raises(CatalogError):
            read(column)


def test_units_and_choices() -> None:
    assert row(mem="2").whole_number("mem", 2.0**30) == 2 * 2**30
    assert math.isclose(row(price="3").required_number("price", 1e-6), 3e-6)
    assert row(kind="gpu").one_of("kind", records.DeviceKind) == "gpu"
    with pytest.raises(CatalogError) as caught:
        row(kind="abacus").one_of("kind", records.DeviceKind)
    assert "gpu, soc, asic, cpu" in caught.value.message


@pytest.mark.parametrize(
    ("as_of", "stated", "expected"),
    [
        ("2026-10", "high", "high"),
        ("2026", "medium", "medium"),
        ("2026", "low", "low"),
        ("2026", "guessed", "recalled"),
        ("", "high", "recalled"),
        ("2026 (undated stored copy)", "high", "recalled"),
    ],
)
def test_confidence(as_of: str, stated: str, expected: str) -> None:
    assert effective_confidence(as_of, stated) == expected


def test_the_line_of_a_row_after_a_quoted_line_break(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b\n"x\ny",1\nz,2\n')
    assert [r.line for r in read_rows(tmp_path, "t.csv")] == [3, 4]


def test_a_missing_table_or_document(tmp_path: Path) -> None:
    with pytest.raises(CatalogError) as table:
        parsers.read_offers(tmp_path)
    with pytest.raises(CatalogError) as document:
        yaml_documents.read_engines(tmp_path)
    assert table.value.code == document.value.code == "AW-CAT-03"


@pytest.mark.parametrize(
    ("text", "line"), [("- id: [", 2), ("- {id: x, colour: red}", None), ("just words", None), ("\x00", None)]
)
def test_a_broken_document(tmp_path: Path, text: str, line: int | None) -> None:
    (tmp_path / "engines.yaml").write_text(text + "\n")
    with pytest.raises(CatalogError) as caught:
        yaml_documents.read_engines(tmp_path)
    assert caught.value.code == "AW-CAT-04"
    assert caught.value.where.file == str(tmp_path / "engines.yaml")
    assert caught.value.where.line == line


def test_model_scores_above_one_are_ratings_not_shares() -> None:
    name, stated = "SmolLM2-135M-Instruct", {"method": "", "reported_by": "", "original_source": ""}
    score = msgspec.convert(
        {"model": name, "benchmark": "elo", "score": 1400, "source": "s", **stated}, records.QualityScore
    )
    assert {model.id: model for model in parsers.read_models(DATA, [score])}[name].quality == {}


def test_a_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source_kinds.csv").write_text("kind,pattern,source,as_of,notes\nrepo,(,s,2026,\n")
    with pytest.raises(CatalogError) as caught:
        parsers.read_source_patterns(tmp_path)
    assert (caught.value.code, caught.value.where.line) == ("AW-CAT-02", 2)


def test_a_row_with_a_cell_too_many_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,source\na,one, two\n", encoding="utf-8")
    with pytest.raises(CatalogError, match="comma too many") as caught:
        list(read_rows(tmp_path, "t.csv"))
    assert caught.value.where == ("t.csv", 2, "source")
