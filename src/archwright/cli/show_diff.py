"""The terminal output of a difference of two plans and of a "what if"."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape

from archwright.cli.show import as_json, make_console
from archwright.cli.table_layout import TableColumn, make_table, print_indented, print_remaining
from archwright.contract.estimate import Estimate
from archwright.contract.number_format import format_change, format_money, format_quantity

__all__ = ["as_json", "print_diff", "print_what_if"]

SHOWN_ROWS = 12
PART_SEPARATOR = "; "


def print_diff(result: Any) -> int:
    out = make_console()
    if hasattr(result, "changes"):
        return _print_bundle_diff(out, result)
    out.print(f"\n[bold]From plan {result.before[:12]} to {result.after[:12]}[/]")
    _print_difference(out, result)
    return 0


def _print_bundle_diff(out: Console, result: Any) -> int:
    out.print(f"\n[bold]{escape(result.folder)}: plan {result.before[:12]} to {result.after[:12]}[/]")
    for one in result.changes:
        out.print(f"  {one.change} [bold]{escape(one.path)}[/]")
        for line in one.lines[2:]:
            out.print(escape(line), highlight=False, soft_wrap=True)
    if not result.changes:
        out.print("  no file differs\n")
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
    parts = [choice.option]
    names = {"total_cost": "over the horizon", "cost_per_month": "a month without staff", "capex": "to buy"}
    for field, name in names.items():
        cost = getattr(choice, field)
        if cost and cost.value:
            parts.append(f"{format_money(cost.value, cost.unit.partition('/')[0])} {name}")
    return escape(", ".join(parts))


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
        if note.before is None or note.after is None:
            sign, text = ("+", note.after) if note.before is None else ("-", note.before)
            print_indented(out, f"{sign} {escape(text)}")
    _print_figures(out, "Cost of the choice", result.costs)
    _print_figures(out, "Its cost lines", result.lines)
    _print_changed_texts(out, "Models", result.models)
    _print_changed_texts(out, "Pools", result.pools)
    _print_changed_texts(out, "Machines", result.purchases)
    _print_changed_texts(out, "Verdicts", result.verdicts)
    _print_figures(out, "Cost of every option over the horizon", result.totals)
    _print_figures(out, "Predictions", result.predictions)
    _print_changed_texts(out, "Facts", result.facts)
    _print_changed_texts(out, "Controls", result.controls)
    _print_rows(
        out, "Assumptions", result.assumptions, lambda row: [f"{'+' if row.before is None else '-'} {row.name}"]
    )
    out.print()


FIGURE_COLUMNS = (
    TableColumn("", "name"),
    TableColumn("before", lambda row: _format_figure(row.before), number=True),
    TableColumn("after", lambda row: _format_figure(row.after), number=True),
    TableColumn("change", lambda row: _format_change(row.before, row.after), number=True),
)


def _print_figures(out: Console, title: str, rows: Any) -> None:
    if rows:
        out.print(make_table(FIGURE_COLUMNS, rows[:SHOWN_ROWS], f"\n{title}"))
    print_remaining(out, len(rows) - SHOWN_ROWS, "  ")


def _format_figure(estimate: Estimate | None) -> str | None:
    return format_quantity(estimate.value, estimate.unit) if estimate is not None else None


def _format_change(before: Estimate | None, after: Estimate | None) -> str:
    """Return the relative change, or say what appeared or disappeared."""
    if before is None or after is None:
        return "new" if before is None else "gone"
    if before.unit != after.unit or before.value <= 0:
        return " "
    if before.value == after.value:
        return "interval only"
    return format_change(after.value / before.value)


def _print_changed_texts(out: Console, title: str, rows: Any) -> None:
    _print_rows(out, title, rows, _list_changed_texts)


def _list_changed_texts(row: Any) -> Iterator[str]:
    yield row.name
    for sign, text, other in (("-", row.before, row.after), ("+", row.after, row.before)):
        if text is not None:
            yield f"  {sign} {_extract_changed_parts(text, other)}"


def _print_rows(out: Console, title: str, rows: Any, list_lines: Callable[[Any], Iterable[str]]) -> None:
    if rows:
        out.print(f"\n[bold]{title}[/]")
    for row in rows[:SHOWN_ROWS]:
        for line in list_lines(row):
            print_indented(out, escape(line.lstrip()), 2 + len(line) - len(line.lstrip()))
    print_remaining(out, len(rows) - SHOWN_ROWS, "  ")


def _extract_changed_parts(text: str, other: str | None) -> str:
    """Return the parts of a text that the other text lacks: most parts of a fact stay the same."""
    same = set(other.split(PART_SEPARATOR)) if other is not None else set[str]()
    return PART_SEPARATOR.join(part for part in text.split(PART_SEPARATOR) if part not in same) or "nothing else"
