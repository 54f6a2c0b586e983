"""How a difference of two plans, and a "what if", read in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from archwright.cli.number_format import money, pretty
from archwright.cli.show import as_json, console
from archwright.cli.table_layout import drawn, indented
from archwright.contract.estimate import Estimate

__all__ = ["as_json", "diff", "what_if"]

MOST_ROWS = 12
PARTED = "; "


def diff(result: Any) -> int:
    """The reasons, the choice, the money; then everything else that reads differently."""
    out = console()
    out.print(f"\n[bold]From plan {result.before[:12]} to {result.after[:12]}[/]")
    _difference(out, result)
    return 0


def what_if(result: Any) -> int:
    out = console()
    out.print(f"\n[bold]What if[/] {escape(', '.join(result.changes))}")
    indented(out, f"without: {_chosen(result.before)}")
    indented(out, f"with:    [bold]{_chosen(result.after)}[/]")
    if result.refused:
        indented(out, escape(result.refused))
    _difference(out, result.difference)
    return 0


def _chosen(choice: Any) -> str:
    if choice.option is None:
        return "nothing is feasible"
    costs = (
        ("over the horizon", choice.total_cost),
        ("a month without staff", choice.cost_per_month),
        ("to buy", choice.capex),
    )
    told = (f"{money(cost.value)} {cost.unit.partition('/')[0]} {name}" for name, cost in costs if cost and cost.value)
    return escape(", ".join((choice.option, *told)))


def _difference(out: Console, result: Any) -> None:
    if result.same:
        out.print("  nothing differs\n")
        return
    for reason in result.because:
        out.print(f"  because {escape(reason)}")
    if result.chosen is None:
        out.print("  [bold]the choice stays[/]")
    else:
        out.print(f"  [bold]the choice goes from {_said(result.chosen.before)} to {_said(result.chosen.after)}[/]")
    for note in result.notes:
        for sign, text in (("-", note.before), ("+", note.after)):
            if text is not None and (note.before is None or note.after is None):
                indented(out, f"{sign} {escape(text)}")
    _figures(out, "What the choice costs", result.costs)
    _figures(out, "Its cost lines", result.lines)
    for title, rows in (
        ("Models", result.models),
        ("Pools", result.pools),
        ("Machines", result.purchases),
        ("Verdicts", result.verdicts),
    ):
        _worded(out, title, rows)
    _figures(out, "Cost of every option over the horizon", result.totals)
    _figures(out, "Promises", result.predictions)
    _worded(out, "Facts", result.facts)
    _worded(out, "Controls", result.controls)
    _sentences(out, "Assumptions", result.assumptions)
    out.print()


def _said(name: str | None) -> str:
    return escape(name) if name is not None else "nothing"


def _figures(out: Console, title: str, rows: Any) -> None:
    if not rows:
        return
    table = drawn(f"\n{title}")
    table.add_column("", overflow="fold")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:MOST_ROWS]:
        table.add_row(escape(row.name), _figure(row.before), _figure(row.after), _change(row.before, row.after))
    out.print(table)
    _left_out(out, rows)


def _figure(estimate: Estimate | None) -> str:
    return pretty(estimate.value, estimate.unit) if estimate is not None else "-"


def _change(before: Estimate | None, after: Estimate | None) -> str:
    """A share where there is one, else what came or went."""
    if before is None or after is None:
        return "new" if before is None else "gone"
    if before.unit != after.unit or before.value <= 0:
        return ""
    if before.value == after.value:
        return "band only"
    return f"{after.value / before.value - 1:+.1%}"


def _worded(out: Console, title: str, rows: Any) -> None:
    if not rows:
        return
    out.print(f"\n[bold]{title}[/]")
    for row in rows[:MOST_ROWS]:
        out.print(f"  {escape(row.name)}")
        for sign, text, other in (("-", row.before, row.after), ("+", row.after, row.before)):
            if text is not None:
                indented(out, f"{sign} {escape(_changed(text, other))}", 4)
    _left_out(out, rows)


def _changed(text: str, other: str | None) -> str:
    """The parts of a text that the other one lacks: a fact rests on many, and most of these stay."""
    same = set(other.split(PARTED)) if other is not None else set[str]()
    return PARTED.join(part for part in text.split(PARTED) if part not in same) or "nothing else"


def _sentences(out: Console, title: str, rows: Any) -> None:
    """What is said now, or no longer."""
    if not rows:
        return
    out.print(f"\n[bold]{title}[/]")
    for row in rows[:MOST_ROWS]:
        indented(out, f"{'+' if row.before is None else '-'} {escape(row.name)}")
    _left_out(out, rows)


def _left_out(out: Console, rows: Any) -> None:
    if len(rows) > MOST_ROWS:
        out.print(f"  [dim]and {len(rows) - MOST_ROWS} more: --json shows all[/]")
