"""How a difference of two plans, and a "what if", read in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from archwright.cli.number_format import format_money, format_quantity
from archwright.cli.show import as_json, make_console
from archwright.cli.table_layout import make_titled_table, print_indented
from archwright.contract.estimate import Estimate

__all__ = ["as_json", "print_diff", "print_what_if"]

SHOWN_ROWS = 12
PART_SEPARATOR = "; "


def print_diff(result: Any) -> int:
    """The reasons, the choice, the money; then everything else that reads differently."""
    out = make_console()
    out.print(f"\n[bold]From plan {result.before[:12]} to {result.after[:12]}[/]")
    _print_difference(out, result)
    return 0


def print_what_if(result: Any) -> int:
    out = make_console()
    out.print(f"\n[bold]What if[/] {escape(', '.join(result.changes))}")
    print_indented(out, f"without: {_format_choice(result.before)}")
    print_indented(out, f"with:    [bold]{_format_choice(result.after)}[/]")
    if result.refused:
        print_indented(out, escape(result.refused))
    _print_difference(out, result.difference)
    return 0


def _format_choice(choice: Any) -> str:
    if choice.option is None:
        return "nothing is feasible"
    told = [choice.option]
    names = {"total_cost": "over the horizon", "cost_per_month": "a month without staff", "capex": "to buy"}
    for field, name in names.items():
        cost = getattr(choice, field)
        if cost and cost.value:
            told.append(f"{format_money(cost.value)} {cost.unit.partition('/')[0]} {name}")
    return escape(", ".join(told))


def _print_difference(out: Console, result: Any) -> None:
    if result.is_empty:
        out.print("  nothing differs\n")
        return
    for reason in result.because:
        out.print(f"  because {escape(reason)}")
    chosen = result.chosen
    moved = chosen and f"goes from {escape(chosen.before or 'nothing')} to {escape(chosen.after or 'nothing')}"
    out.print(f"  [bold]the choice {moved or 'stays'}[/]")
    for note in result.notes:
        for sign, text in (("-", note.before), ("+", note.after)):
            if text is not None and (note.before is None or note.after is None):
                print_indented(out, f"{sign} {escape(text)}")
    _print_figures(out, "What the choice costs", result.costs)
    _print_figures(out, "Its cost lines", result.lines)
    _print_changed_texts(out, "Models", result.models)
    _print_changed_texts(out, "Pools", result.pools)
    _print_changed_texts(out, "Machines", result.purchases)
    _print_changed_texts(out, "Verdicts", result.verdicts)
    _print_figures(out, "Cost of every option over the horizon", result.totals)
    _print_figures(out, "Promises", result.predictions)
    _print_changed_texts(out, "Facts", result.facts)
    _print_changed_texts(out, "Controls", result.controls)
    _print_sentences(out, "Assumptions", result.assumptions)
    out.print()


def _print_figures(out: Console, title: str, rows: Any) -> None:
    if not rows:
        return
    table = make_titled_table(f"\n{title}", "", numbers=("before", "after", "change"))
    for row in rows[:SHOWN_ROWS]:
        figures = (_format_figure(row.before), _format_figure(row.after), _format_change(row.before, row.after))
        table.add_row(escape(row.name), *figures)
    out.print(table)
    _print_remaining(out, rows)


def _format_figure(estimate: Estimate | None) -> str:
    return format_quantity(estimate.value, estimate.unit) if estimate is not None else "-"


def _format_change(before: Estimate | None, after: Estimate | None) -> str:
    """A share where there is one, else what came or went."""
    if before is None or after is None:
        return "new" if before is None else "gone"
    if before.unit != after.unit or before.value <= 0:
        return ""
    if before.value == after.value:
        return "band only"
    return f"{after.value / before.value - 1:+.1%}"


def _print_changed_texts(out: Console, title: str, rows: Any) -> None:
    if rows:
        out.print(f"\n[bold]{title}[/]")
    for row in rows[:SHOWN_ROWS]:
        out.print(f"  {escape(row.name)}")
        for sign, text, other in (("-", row.before, row.after), ("+", row.after, row.before)):
            if text is not None:
                print_indented(out, f"{sign} {escape(_extract_changed_parts(text, other))}", 4)
    _print_remaining(out, rows)


def _extract_changed_parts(text: str, other: str | None) -> str:
    """The parts of a text that the other one lacks: a fact rests on many, and most of these stay."""
    same = set(other.split(PART_SEPARATOR)) if other is not None else set[str]()
    return PART_SEPARATOR.join(part for part in text.split(PART_SEPARATOR) if part not in same) or "nothing else"


def _print_sentences(out: Console, title: str, rows: Any) -> None:
    """What is said now, or no longer."""
    if rows:
        out.print(f"\n[bold]{title}[/]")
    for row in rows[:SHOWN_ROWS]:
        print_indented(out, f"{'+' if row.before is None else '-'} {escape(row.name)}")
    _print_remaining(out, rows)


def _print_remaining(out: Console, rows: Any) -> None:
    if len(rows) > SHOWN_ROWS:
        out.print(f"  [dim]and {len(rows) - SHOWN_ROWS} more: --json shows all[/]")
