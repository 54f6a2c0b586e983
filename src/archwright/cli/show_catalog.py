"""Facts as people read them: their layers, the state of the tables, what a refresh did and changed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from archwright.api.catalog import CatalogCheck, CatalogDiff, FactView, RefreshReport
from archwright.cli.show import as_json, make_console, print_table, print_text
from archwright.cli.table_layout import make_plain_table

__all__ = ["as_json", "print_check", "print_diff", "print_fact", "print_refresh"]

# Lines shown of a long list; --json has them all.
SHOWN_ROWS = 30
EMPTY_VALUES: tuple[object, ...] = (None, "", (), [], {})


def print_fact(result: FactView) -> int:
    """The figures of each layer beside each other, then what the row in force says in words, then the sources."""
    out = make_console()
    out.print(f"[bold]{escape(result.name)}[/]  ({result.table})", soft_wrap=True)
    drawn = make_plain_table("figure", "unit", *(layer.layer for layer in result.chain))
    stated = [{figure.name: figure.value for figure in layer.figures} for layer in result.chain]
    units = {figure.name: figure.unit for layer in result.chain for figure in layer.figures}
    for name, unit in units.items():
        drawn.add_row(name.replace("_", " "), unit, *(_format_number(values.get(name)) for values in stated))
    out.print(drawn)
    hidden = {*units, "source", "as_of", "confidence", "id"}
    words = {name: value for name, value in result.row.items() if name not in hidden and value not in EMPTY_VALUES}
    width = max(map(len, words), default=0)
    for name, value in words.items():
        out.print(f"{name.replace('_', ' '):<{width}}  {escape(str(value))}", soft_wrap=True)
    for layer in result.chain:
        age = f"{layer.as_of or 'undated'}, {layer.freshness}"
        origin = f"{layer.source_kind}; {age}; confidence {layer.confidence}"
        out.print(f"{layer.layer}: {escape(layer.source)}  ({origin})", soft_wrap=True)
    return 0


def _format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def print_check(result: CatalogCheck) -> int:
    """Tables, gates and their findings; the exit status says whether a gate refuses a row."""
    print_table(result.tables)
    out = make_console()
    out.print()
    print_table(result.gates)
    for finding in result.findings:
        mark = "[red]refused[/]" if finding.refuses else "[yellow]odd[/]"
        out.print(f"{mark}  {finding.gate}: {escape(finding.subject)}: {escape(finding.says)}", soft_wrap=True)
    out.print(f"no price for: {escape(', '.join(result.unpriced)) or 'none'}", soft_wrap=True)
    if result.lapsed:
        out.print(f"your own facts that hold no more: {escape(', '.join(result.lapsed))}", soft_wrap=True)
    refreshed = f"refreshed {result.refreshed_on or 'never'}"
    print_text(f"ages counted at {result.today}; {refreshed}; catalog {result.digest[:12]}")
    return int(any(finding.refuses for finding in result.findings))


def print_diff(result: CatalogDiff) -> int:
    if not result.refreshed_on:
        return print_text("nothing was refreshed: archwright catalog refresh --from DIR")
    out = make_console()
    out.print(f"refreshed {result.refreshed_on}: {len(result.changes):,} figures changed")
    drawn = make_plain_table("fact", "figure", "unit", "before", "after", "change")
    largest = sorted(result.changes, key=lambda change: -abs(_relative_change(change.before, change.after)))
    for change in largest[:SHOWN_ROWS]:
        share = f"{_relative_change(change.before, change.after):+.1%}" if change.before else "-"
        numbers = (_format_number(change.before), _format_number(change.after))
        share = share if change.after is not None else "gone"
        drawn.add_row(escape(change.fact), change.figure.replace("_", " "), change.unit, *numbers, share)
    if result.changes:
        out.print(drawn)
    _print_remaining(len(result.changes))
    for name, count in result.added.items():
        print_text(f"new: {count:,} {name}")
    for plan in result.plans:
        facts = escape(", ".join(plan.facts))
        out.print(f"{escape(plan.plan)} ({escape(plan.organisation)}) rests on {facts}", soft_wrap=True)
    if not result.plans:
        print_text("no plan at hand rests on a changed fact")
    return 0


def _relative_change(before: float, after: float | None) -> float:
    return 0.0 if after is None or not before else after / before - 1


def _print_remaining(count: int) -> None:
    if count > SHOWN_ROWS:
        print_text(f"and {count - SHOWN_ROWS:,} more (--json names them)")


def print_refresh(result: RefreshReport) -> int:
    """What was read, what was set aside and why, where sources disagree, which files are still to be brought."""
    if result.generation:
        kept = ", ".join(f"{count:,} {name}" for name, count in result.kept.items())
        print_text(f"refreshed facts in force: generation {result.generation}: {kept}")
    elif not (result.refused or result.missing):
        print_text("the shipped facts are in force")
    _print_rows("read", result.read)
    _print_rows("not read", result.refused)
    _print_rows("set aside", result.set_aside)
    _print_rows("two sources disagree; the first counts, the band covers both", result.disagreements)
    out = make_console()
    for flag in result.flags[:SHOWN_ROWS]:
        out.print(f"odd: {escape(flag)}", soft_wrap=True)
    _print_remaining(len(result.flags))
    _print_rows("not brought: a file of this name, from there", result.missing)
    return 0


def _print_rows(title: str, rows: Sequence[object]) -> None:
    if rows:
        make_console().print(f"\n[bold]{title}[/]")
        print_table(rows[:SHOWN_ROWS])
        _print_remaining(len(rows))
