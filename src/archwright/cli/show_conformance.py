"""The table of the budget suite."""

from typing import Any

from rich.markup import escape

from archwright.api.budget_conformance import ConformanceReport, describe_setting
from archwright.cli.show import as_json, make_console
from archwright.cli.table_layout import TableColumn, make_table

__all__ = ["as_json", "print_conformance"]
COLOURS = {"ok": "green", "skipped": "dim", "inconclusive": "yellow"}


def _choose_colour(case: Any) -> str:
    return COLOURS.get(case.verdict, "red")


COLUMNS = (
    TableColumn("case", "case", whole=True),
    TableColumn("sent", "sent", number=True),
    TableColumn("answered", "answered", number=True),
    TableColumn("budget", "budget_usd", number=True),
    TableColumn("recorded", "recorded_usd", number=True),
    TableColumn("counted", "counted_usd", number=True),
    TableColumn("overspent", "overspent_usd", number=True),
    TableColumn("verdict", "verdict", whole=True, style=_choose_colour),
)


def print_conformance(result: ConformanceReport) -> int:
    out = make_console()
    title = f"Budgets of {result.url}, model {result.model}, in USD"
    out.print(make_table(COLUMNS, result.cases, title, boxed=True))
    for line in describe_setting(result):
        out.print(line, markup=False)
    for case in result.cases:
        if case.note:
            out.print(f"  {case.case}: {escape(case.note)}")
    out.print(f"{result.overspent_usd:.6f} USD overspent")
    return 0
