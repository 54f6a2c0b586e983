"""Tables on a narrow terminal: a number and a heading stay whole; columns of little worth go first."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from archwright import api
from archwright.catalog.listing import CatalogFilters
from archwright.cli import show_catalog
from archwright.cli.table_layout import TableColumn, choose_columns, make_table


@pytest.mark.parametrize("table", ["nodes", "offers", "models", "accelerators"])
@pytest.mark.parametrize("width", [80, 120])
def test_a_listing_never_clips_a_number_or_a_heading(monkeypatch: pytest.MonkeyPatch, table: str, width: int) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(show_catalog, "make_console", lambda: Console(file=shown, width=width, highlight=False))
    found = api.catalog.list(table, filters=CatalogFilters(limit=200))
    show_catalog.print_listing(found)
    text = shown.getvalue()
    head, *lines = text.splitlines()
    assert "…" not in text
    words = {word for column in show_catalog.LISTING_COLUMNS[table] for word in column.heading.split()}
    assert set(head.split()) <= words | {"as", "of", "age", "confidence"} and "age" in head
    prices = [getattr(row, "usd", None) for row in found.rows]
    for usd in filter(None, prices):
        assert any(f" {usd:,.0f} " in line for line in lines), usd


def test_columns_of_the_highest_rank_leave_first_and_those_without_a_rank_stay() -> None:
    columns = [
        TableColumn("name", "real", whole=True),
        TableColumn("price", "imag", number=True),
        TableColumn("first", lambda _: "x" * 18, rank=2),
        TableColumn("second", lambda _: "y" * 18, rank=1),
    ]
    for width, gone in ((80, set()), (40, {"first"}), (15, {"first", "second"})):
        kept = [one.heading for one in choose_columns(columns, [1], width)]
        assert kept == [one.heading for one in columns if one.heading not in gone]
    shown = io.StringIO()
    price = TableColumn("price", lambda _: "1,480,000", number=True)
    text = TableColumn("text", lambda _: "many words " * 9)
    Console(file=shown, width=24).print(make_table([text, price], [1]))
    assert "1,480,000" in shown.getvalue()
