"""Predictions and their accuracy as people read them."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from archwright.cli.number_format import format_band, format_quantity
from archwright.cli.show import as_json, make_console
from archwright.cli.table_layout import make_plain_table

__all__ = ["print_accuracy", "as_json", "print_prediction"]


def print_prediction(result: Any) -> int:
    """The numbers with bands, then what they rest on."""
    out = make_console()
    out.print(f"\n[bold]{escape(result.model)}[/] on {result.devices} x {escape(result.accelerator)}")
    drawn = make_plain_table("", "value", "90 % band", "", right={"value", "90 % band"})
    for name, estimate in result.estimates.items():
        value, definition = format_quantity(estimate.value, estimate.unit), result.definitions.get(name, "")
        drawn.add_row(name, value, format_band(estimate), escape(definition))
    out.print(drawn)
    if result.layout:
        out.print(f"layout: {escape(result.layout)}")
    out.print(f"stratum: {escape(result.stratum)}")
    for kind in ("weak", "assumed"):
        for line in getattr(result, kind):
            out.print(f"{kind}: {escape(line)}")
    out.print(f"[dim]{escape(result.formula)}[/]")
    for line in result.sources:
        out.print(f"[dim]{escape(line)}[/]")
    return 0


def print_accuracy(result: Any) -> int:
    """How many rows were answered; error and coverage per quantity and stratum."""
    out = make_console()
    answered = f"{result.answered} of {result.rows} rows answered, {result.weak} weak"
    out.print(f"{escape(result.file)}: {result.kind}, {answered}")
    for line in result.not_answered:
        out.print(f"  not answered: {escape(line)}")
    if result.scores:
        numbers = ("rows", "median error", "mean", "p90", "in the 90 % band", "half-width")
        drawn = make_plain_table("quantity", "stratum", *numbers, right=numbers)
        for row in result.scores:
            percents = (row.median_error_percent, row.mean_error_percent, row.p90_error_percent, row.covered_percent)
            figures = (str(row.rows), *(f"{percent:.1f} %" for percent in percents), f"x{row.median_half_width:.2f}")
            drawn.add_row(row.metric, row.stratum, *figures)
        out.print(drawn)
    if result.rows_out:
        out.print(f"wrote {escape(result.rows_out)}")
    return 0
