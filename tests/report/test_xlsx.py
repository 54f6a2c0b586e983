"""The workbook: numbers that add up by themselves, texts that never calculate, the same bytes twice."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.record import replace
from archwright.report.document import Document
from archwright.report.document_builder import build_document
from archwright.report.workbook_writer import column_letters
from archwright.report.xlsx import render_xlsx

from .full_plan import BOARD, HYBRID, MONTHS, OPTIONS
from .workbook_reader import Cell, Workbook

CALCULATED = ["Bill of materials", "Request for quotation", "By year", "By month"]


@pytest.fixture(scope="session")
def book(board: Document) -> Workbook:
    return Workbook(render_xlsx(board))


def test_every_plan_has_its_sheets(any_document: Document) -> None:
    names = Workbook(render_xlsx(any_document)).names
    chapters = [*any_document.board]
    for part in any_document.parts:
        chapters += part.chapters
    views = [chapter.id.capitalize() for chapter in chapters if chapter.id != "bill"]
    assert [name for name in names if name not in CALCULATED] == views
    expected = CALCULATED if any_document.plan.chosen is not None else []
    assert [name for name in names if name in CALCULATED] == expected


def test_money_is_a_number_with_its_interval_beside(book: Workbook) -> None:
    cells = book.cells("Options")
    (title,) = [place for place, cell in cells.items() if cell.text == "Total, EUR"]
    row = int(title[1:]) + 1
    assert HYBRID.total_cost is not None
    assert cells[f"B{row}"].number == HYBRID.total_cost.value
    assert cells[f"C{row}"].text == "14.6 to 20.5 M"


def test_totals_are_formulas_and_come_to_the_plans_total(book: Workbook) -> None:
    cells = book.cells("Bill of materials")
    last = len(HYBRID.cost_lines) + 2
    assert cells[f"I{last}"].formula == f"SUM(I2:I{last - 1})"
    assert HYBRID.total_cost is not None
    assert cells[f"I{last}"].number == pytest.approx(HYBRID.total_cost.value)
    assert cells[f"I{last + 2}"].formula == f"ROUND(I{last}-I{last + 1},2)" and cells[f"I{last + 2}"].number == 0
    assert cells["C2"].number == 16 and cells["F2"].number == 280_000 and cells["J2"].number == 1
    for row in range(2, last):
        assert cells[f"I{row}"].number == pytest.approx(product(row, cells)), row
        assert cells[f"K{row}"].text and cells[f"L{row}"].text and cells[f"M{row}"].text, row


def product(row: int, cells: dict[str, Cell]) -> float:
    """The result of `=C2*F2*H2`."""
    assert cells[f"I{row}"].formula == f"C{row}*F{row}*H{row}"
    return math.prod(cells[f"{column}{row}"].number or 0.0 for column in "CFH")


def test_years_add_up_to_the_total(book: Workbook) -> None:
    cells = book.cells("By year")
    assert HYBRID.total_cost is not None
    assert cells["F7"].formula == "SUM(F2:F6)" and cells["F7"].number == pytest.approx(HYBRID.total_cost.value)
    assert cells["F2"].formula == "SUM(B2:E2)" and cells["B2"].number == pytest.approx(4_790_000)


def test_a_request_for_quotation_has_positions_and_no_price(book: Workbook) -> None:
    cells = book.cells("Request for quotation")
    heads = next(place for place, cell in cells.items() if cell.text == "unit price")
    column, row = heads[0], int(heads[1:])
    assert (
        cells[f"B{row + 1}"].text == "price of a machine of eight accelerators" and cells[f"D{row + 1}"].number == 17.1
    )
    assert f"{column}{row + 1}" not in cells, "the vendor fills the prices in"
    assert not [cell for cell in cells.values() if cell.formula or (cell.number or 0) > 1000]
    assert not [cell.text for cell in cells.values() if "280,000" in cell.text or "budget" in cell.text]


def test_months_follow_the_plans_own_flow(book: Workbook) -> None:
    cells = book.cells("By month")
    recurring = sum(not line.once for line in HYBRID.cost_lines)
    paid, first = column_letters(recurring + 2), column_letters(recurring + 3)
    assert cells[f"{first}1"].text == "cumulative: hybrid-own-base"
    assert cells[f"{first}{MONTHS + 1}"].number == pytest.approx(HYBRID.cumulative_cost[-1])
    assert cells[f"{paid}2"].formula == f"{first}2"
    assert cells[f"{paid}3"].formula == f"{first}3-{first}2"
    assert cells[f"{paid}{MONTHS + 2}"].formula == f"SUM({paid}2:{paid}{MONTHS + 1})"
    assert cells[f"{paid}{MONTHS + 2}"].number == pytest.approx(HYBRID.cumulative_cost[-1])
    assert re.fullmatch(r"'Bill of materials'!\$C\$\d+\*'Bill of materials'!\$F\$\d+", cells["B2"].formula or "")
    assert cells[f"{column_letters(recurring + 1)}2"].formula == f"SUM(B2:{column_letters(recurring)}2)"


def made(**changes: Any) -> Workbook:
    return Workbook(render_xlsx(build_document(replace(BOARD, **changes), load_catalog())))


def test_months_without_a_flow_are_there_and_those_after_its_end_are_empty() -> None:
    bare = replace(HYBRID, cumulative_cost=(), cost_lines=(), total_cost=None)
    assert made(options=(bare,)).cells("By month")[f"A{MONTHS + 1}"].number == MONTHS
    short = replace(OPTIONS[1], cumulative_cost=OPTIONS[1].cumulative_cost[:12])
    cells = made(options=(HYBRID, short)).cells("By month")
    column = next(place[:-1] for place, cell in cells.items() if cell.text == f"cumulative: {short.name}")
    assert f"{column}13" in cells and f"{column}14" not in cells


def test_a_text_longer_than_a_cell_is_cut() -> None:
    assert len(made(assumptions=("x" * 40_000,)).cells("Assumptions")["A4"].text) == 32_767


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_a_text_is_never_a_formula(start: str) -> None:
    text, ours = f"{start}HYPERLINK(1+1)", re.compile(r"SUM\(|ROUND\(|[A-Z]+\d+[-*]|[A-Z]+2$|'Bill of materials'!")
    book = made(organisation=text, assumptions=(text,), not_sized=(text, "{=1+1}", "https://example.org"))
    for name in book.names:
        for place, cell in book.cells(name).items():
            assert cell.formula is None or ours.match(cell.formula), place
    assert Cell(text, None, None) in book.cells("Uncertainty").values()


def test_the_same_plan_gives_the_same_bytes_dated_by_the_plan(board: Document, book: Workbook) -> None:
    assert render_xlsx(board) == render_xlsx(board)
    assert "2026-11-24T12:00:00Z" in book.core
    assert "1980-01-01T00:00:00Z" in made(created_at="some day").core


def test_columns_have_letters() -> None:
    assert [column_letters(n) for n in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]
