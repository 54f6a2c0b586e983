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
    for change in result.changes:
        out.print(f"  {change.change} [bold]{escape(change.path)}[/]")
        for line in change.lines[2:]:
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
    costs = {
        "over the horizon": choice.total_cost,
        "a month without staff": choice.cost_per_month,
        "to buy": choice.capex,
    }
    text = choice.option
    for purpose, cost in costs.items():
        if cost and cost.value:
            currency, _, _ = cost.unit.partition("/")
            amount = format_money(cost.value, currency)
            text += f", {amount} {purpose}"
    return escape(text)


def _print_difference(out: Console, result: Any) -> None:
    if result.is_empty:
        out.print("  nothing differs\n")
        return
    for reason in result.because:
        out.print(f"  because {escape(reason)}")
    out.print(f"  [bold]the choice {_describe_move(result.chosen)}[/]")
    for note in result.notes:
        if note.before is None:
            print_indented(out, f"+ {escape(note.after)}")
        elif note.after is None:
            print_indented(out, f"- {escape(note.before)}")

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
    _print_rows(out, "Assumptions", result.assumptions, list_lines=_list_assumption)
    out.print()


def _describe_move(chosen: Any) -> str:
    if not chosen:
        return "stays"
    before = escape(chosen.before or "nothing")
    after = escape(chosen.after or "nothing")
    return f"goes from {before} to {after}"


def _list_assumption(row: Any) -> Iterator[str]:
    sign = "+" if row.before is None else "-"
    yield f"{sign} {row.name}"


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
    if estimate is None:
        return None
    return format_quantity(estimate.value, estimate.unit)


def _format_change(before: Estimate | None, after: Estimate | None) -> str:
    """Return the relative change, or say what appeared or disappeared."""
    if before is None:
        return "new"
    if after is None:
        return "gone"
    if before.unit != after.unit or before.value <= 0:
        return " "
    if before.value == after.value:
        return "interval only"
    return format_change(after.value / before.value)


def _print_changed_texts(out: Console, title: str, rows: Any) -> None:
    _print_rows(out, title, rows, list_lines=_list_changed_texts)


def _list_changed_texts(row: Any) -> Iterator[str]:
    yield row.name
    if row.before is not None:
        yield f"  - {_extract_changed_parts(row.before, row.after)}"
    if row.after is not None:
        yield f"  + {_extract_changed_parts(row.after, row.before)}"


def _print_rows(
    out: Console,
    title: str,
    rows: Any,
    *,
    list_lines: Callable[[Any], Iterable[str]],
) -> None:
    if rows:
        out.print(f"\n[bold]{title}[/]")
    for row in rows[:SHOWN_ROWS]:
        for line in list_lines(row):
            text = line.lstrip()
            indent = len(line) - len(text)
            print_indented(out, escape(text), 2 + indent)
    print_remaining(out, len(rows) - SHOWN_ROWS, "  ")


def _extract_changed_parts(text: str, compared: str | None) -> str:
    """Return the parts of a text that the compared text lacks: most parts of a fact stay the same."""
    shared: set[str] = set()
    if compared is not None:
        shared.update(compared.split(PART_SEPARATOR))
    changed = [part for part in text.split(PART_SEPARATOR) if part not in shared]
    return PART_SEPARATOR.join(changed) or "nothing else"
