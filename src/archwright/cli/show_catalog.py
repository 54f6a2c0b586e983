"""The terminal output of facts: their layers, the state of the tables, the result and changes of a refresh."""

from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from archwright.api.catalog import CatalogCheck, CatalogDiff, CatalogListing, FactView, RefreshReport
from archwright.cli.show import as_json, make_console, print_table, print_text
from archwright.cli.table_layout import (
    TableColumn,
    choose_columns,
    make_table,
    print_fields,
    print_lines,
    print_remaining,
)

__all__ = ["as_json", "print_check", "print_diff", "print_fact", "print_listing", "print_refresh"]

# Lines shown of a long list; --json has all of them.
SHOWN_ROWS = 30
EMPTY_VALUES: tuple[object, ...] = (None, "", (), [], {})


def print_fact(result: FactView) -> int:
    """Print the figures of each layer side by side, then the other fields of the row in force, then the sources."""
    out = make_console()
    out.print(f"[bold]{escape(result.name)}[/]  ({result.table})", soft_wrap=True)
    units = {figure.name: figure.unit for layer in result.chain for figure in layer.figures}
    columns = [
        TableColumn("figure", lambda name: name.replace("_", " ")),
        TableColumn("unit", lambda name: units[name] or " "),
    ]
    for layer in result.chain:
        figures = {figure.name: _format_number(figure.value) for figure in layer.figures}
        columns.append(TableColumn(layer.layer, figures.get))
    out.print(make_table(columns, units))
    hidden = {*units, "source", "as_of", "confidence", "id"}
    texts = {name: value for name, value in result.row.items() if name not in hidden and value not in EMPTY_VALUES}
    print_fields(out, {name.replace("_", " "): str(value) for name, value in texts.items()})
    for layer in result.chain:
        age = f"{layer.as_of or 'undated'}, {layer.freshness}"
        origin = f"{layer.source_kind}; {age}; confidence {layer.confidence}"
        out.print(f"{layer.layer}: {escape(layer.source)}  ({origin})", soft_wrap=True)
    return 0


def _format_number(value: float | None) -> str | None:
    """Six digits with thousands separators; rates of devices (10^12 and more) as a power of ten."""
    if value is None:
        return None
    return f"{value:,.0f}" if 1e5 <= abs(value) < 1e12 else f"{value:,.6g}"


def _make_number(heading: str, name: str, rank: int = 0) -> TableColumn:
    return TableColumn(heading, lambda row: _format_rounded(getattr(row, name)), number=True, rank=rank)


def _format_rounded(value: float | None) -> str | None:
    """Four digits, all of a whole number: "0.06416", "95.6", "1,480,000"."""
    return None if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


LISTING_COLUMNS = {
    "accelerators": (
        TableColumn("accelerator", "id"),
        TableColumn("vendor", "vendor", rank=5),
        _make_number("GiB", "memory_gib"),
        _make_number("GB/s", "memory_gb_per_s"),
        _make_number("bf16 TFLOP/s", "bf16_tflops", 3),
        TableColumn("planned", "planned", rank=2),
        _make_number("from USD/h", "from_usd_per_hour"),
    ),
    "models": (
        TableColumn("model", "id"),
        _make_number("10^9 parameters", "parameters"),
        _make_number("active", "active"),
        TableColumn("context", "context_tokens", number=True),
        TableColumn("licence", "licence", rank=2),
        TableColumn("commercial", "commercial_use"),
    ),
    "offers": (
        TableColumn("offer", "id"),
        TableColumn("accelerators", "accelerators"),
        _make_number("GiB", "memory_gib"),
        _make_number("USD/h", "usd_per_hour"),
        TableColumn("decides", "decides", rank=2),
    ),
    "nodes": (
        TableColumn("machine", "id"),
        TableColumn("form", "form", rank=8),
        TableColumn("accelerators", "accelerators"),
        _make_number("GiB", "memory_gib"),
        _make_number("USD", "usd"),
        TableColumn("quotes", lambda row: f"{row.usd_low:,.0f} .. {row.usd_high:,.0f}", number=True, rank=1),
        TableColumn("decides", "decides", rank=2),
    ),
}
FACT_COLUMNS = (
    TableColumn("as of", lambda row: "undated" if "undated" in row.as_of else row.as_of, whole=True, rank=7),
    TableColumn("age", "freshness", whole=True),
    TableColumn("confidence", "confidence", whole=True, rank=6),
)


def print_listing(result: CatalogListing) -> int:
    """Print the rows and the number of the others; if there are none, the filters that remove them."""
    if not result.rows:
        flags = " or ".join("--" + name.replace("_", "-") for name in result.removed_by)
        return print_text(f"no {result.table} fit; without {flags} some would" if flags else f"no {result.table}")
    out = make_console()
    columns = choose_columns((*LISTING_COLUMNS[result.table], *FACT_COLUMNS), result.rows, out.width)
    out.print(make_table(columns, result.rows))
    more = result.total - len(result.rows)
    return print_text(f"{result.total:,} {result.table}" + (f"; {more:,} more with a higher --limit" if more else ""))


def print_check(result: CatalogCheck) -> int:
    """Print tables, gates and their findings; the exit status is 1 if a gate refuses a row."""
    print_table(result.tables)
    out = make_console()
    out.print()
    print_table(result.gates)
    for finding in result.findings:
        mark = "[red]refused[/]" if finding.refuses else "[yellow]odd[/]"
        out.print(f"{mark}  {finding.gate}: {escape(finding.subject)}: {escape(finding.says)}", soft_wrap=True)
    out.print(f"no price for: {escape(', '.join(result.unpriced)) or 'none'}", soft_wrap=True)
    if result.lapsed:
        out.print(f"your own facts that have expired: {escape(', '.join(result.lapsed))}", soft_wrap=True)
    refreshed = f"refreshed {result.refreshed_on or 'never'}"
    print_text(f"ages as of {result.today}; {refreshed}; catalog {result.digest[:12]}")
    return int(any(finding.refuses for finding in result.findings))


def _format_change(row: Any) -> str | None:
    if row.after is None:
        return "gone"
    return f"{_relative_change(row):+.1%}" if row.before else None


def _relative_change(row: Any) -> float:
    return 0.0 if row.after is None or not row.before else row.after / row.before - 1


CHANGE_COLUMNS = (
    TableColumn("fact", "fact"),
    TableColumn("figure", lambda row: row.figure.replace("_", " ")),
    TableColumn("unit", "unit"),
    TableColumn("before", lambda row: _format_number(row.before)),
    TableColumn("after", lambda row: _format_number(row.after)),
    TableColumn("change", _format_change),
)


def print_diff(result: CatalogDiff) -> int:
    if not result.refreshed_on:
        return print_text("no refreshed facts; read some: archwright catalog refresh --from DIR")
    out = make_console()
    out.print(f"refreshed {result.refreshed_on}: {len(result.changes):,} figures changed")
    largest = sorted(result.changes, key=lambda change: -abs(_relative_change(change)))
    if largest:
        out.print(make_table(CHANGE_COLUMNS, largest[:SHOWN_ROWS]))
    print_remaining(out, len(largest) - SHOWN_ROWS)
    for name, count in result.added.items():
        print_text(f"new: {count:,} {name}")
    for plan in result.plans:
        facts = escape(", ".join(plan.facts))
        out.print(f"{escape(plan.plan)} ({escape(plan.organisation)}) rests on {facts}", soft_wrap=True)
    if not result.plans:
        print_text("none of the plans found rests on a changed fact")
    return 0


def print_refresh(result: RefreshReport) -> int:
    """Print what was read, what was rejected and why, where sources disagree, and which files are missing."""
    if result.generation:
        accepted = ", ".join(f"{count:,} {name}" for name, count in result.kept.items())
        print_text(f"refreshed facts in force: generation {result.generation}: {accepted}")
    elif not (result.refused or result.missing):
        print_text("the shipped facts are in force")
    _print_rows("read", result.read)
    _print_rows("not read", result.refused)
    _print_rows("rejected", result.set_aside)
    _print_rows("two sources disagree; the first is used, and the interval covers both", result.disagreements)
    print_lines(make_console(), (f"odd: {flag}" for flag in result.flags), SHOWN_ROWS)
    _print_rows("missing files: put a file of this name, from this address, into the folder", result.missing)
    return 0


def _print_rows(title: str, rows: Sequence[object]) -> None:
    if rows:
        out = make_console()
        out.print(f"\n[bold]{title}[/]")
        print_table(rows[:SHOWN_ROWS])
        print_remaining(out, len(rows) - SHOWN_ROWS)
