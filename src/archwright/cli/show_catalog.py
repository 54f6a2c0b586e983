"""The terminal output of facts.

Their layers, the state of the tables, the result and the changes of a refresh.
"""

from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from archwright.api.catalog import (
    CatalogCheck,
    CatalogDiff,
    CatalogListing,
    FactView,
    RefreshReport,
)
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
HIDDEN_FIELDS = ("source", "as_of", "confidence", "id")
EMPTY_VALUES: tuple[object, ...] = (None, "", (), [], {})


def print_fact(result: FactView) -> int:
    """Print the figures of each layer side by side, then the other fields, then the sources.

    The fields are those of the row in force.
    """
    out = make_console()
    out.print(f"[bold]{escape(result.name)}[/]  ({result.table})", soft_wrap=True)

    units: dict[str, str] = {}
    layer_columns: list[TableColumn] = []
    for layer in result.chain:
        texts: dict[str, str | None] = {}
        for figure in layer.figures:
            units[figure.name] = figure.unit
            texts[figure.name] = _format_number(figure.value)
        layer_columns.append(TableColumn(layer.layer, texts.get))
    figure_column = TableColumn("figure", lambda name: name.replace("_", " "))
    unit_column = TableColumn("unit", lambda name: units[name] or " ")
    out.print(make_table((figure_column, unit_column, *layer_columns), units))

    fields: dict[str, str | None] = {}
    for name, value in result.row.items():
        if name not in units and name not in HIDDEN_FIELDS and value not in EMPTY_VALUES:
            fields[name.replace("_", " ")] = str(value)
    print_fields(out, fields)

    for layer in result.chain:
        age = f"{layer.as_of or 'undated'}, {layer.freshness}"
        origin = f"{layer.source_kind}; {age}; confidence {layer.confidence}"
        out.print(f"{layer.layer}: {escape(layer.source)}  ({origin})", soft_wrap=True)
    return 0


def _format_number(value: float | None) -> str | None:
    """Six digits with thousands separators; rates of devices (10^12 and more) as a power of ten."""
    if value is None:
        return None
    if 1e5 <= abs(value) < 1e12:
        return f"{value:,.0f}"
    return f"{value:,.6g}"


def _make_number(heading: str, name: str, rank: int = 0) -> TableColumn:
    def format_cell(row: Any) -> str | None:
        return _format_rounded(getattr(row, name))

    return TableColumn(heading, format_cell, number=True, rank=rank)


def _format_rounded(value: float | None) -> str | None:
    """Four digits, all of a whole number: "0.06416", "95.6", "1,480,000"."""
    if value is None:
        return None
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _format_quotes(row: Any) -> str:
    return f"{row.usd_low:,.0f} .. {row.usd_high:,.0f}"


def _format_date(row: Any) -> str:
    as_of: str = row.as_of
    if "undated" in as_of:
        return "undated"
    return as_of


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
    "devices": (
        TableColumn("device", "id"),
        TableColumn("kind", "kind", whole=True),
        TableColumn("vendor", "vendor", rank=5),
        TableColumn("cores", "cores", number=True),
        _make_number("GiB", "memory_gib"),
        _make_number("GB/s", "memory_gb_per_s"),
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
        TableColumn("quotes", _format_quotes, number=True, rank=1),
        TableColumn("decides", "decides", rank=2),
    ),
}
FACT_COLUMNS = (
    TableColumn("as of", _format_date, whole=True, rank=7),
    TableColumn("age", "freshness", whole=True),
    TableColumn("confidence", "confidence", whole=True, rank=6),
)


def print_listing(result: CatalogListing) -> int:
    """Print the rows and the number of the others; without rows, the filters that remove them."""
    if not result.rows:
        return _print_empty_listing(result)

    out = make_console()
    columns = (*LISTING_COLUMNS[result.table], *FACT_COLUMNS)
    fitting = choose_columns(columns, result.rows, out.width)
    out.print(make_table(fitting, result.rows))

    summary = f"{result.total:,} {result.table}"
    hidden = result.total - len(result.rows)
    if hidden:
        summary += f"; {hidden:,} more with a higher --limit"
    return print_text(summary)


def _print_empty_listing(result: CatalogListing) -> int:
    if not result.removed_by:
        return print_text(f"no {result.table}")
    flags = ["--" + name.replace("_", "-") for name in result.removed_by]
    return print_text(f"no {result.table} fit; without {' or '.join(flags)} some would")


def print_check(result: CatalogCheck) -> int:
    """Print tables, gates and their findings; the exit status is 1 if a gate refuses a row."""
    print_table(result.tables)
    out = make_console()
    out.print()
    print_table(result.gates)
    for finding in result.findings:
        mark = "[red]refused[/]" if finding.refuses else "[yellow]odd[/]"
        subject = escape(finding.subject)
        says = escape(finding.says)
        out.print(f"{mark}  {finding.gate}: {subject}: {says}", soft_wrap=True)

    unpriced = escape(", ".join(result.unpriced))
    out.print(f"no price for: {unpriced or 'none'}", soft_wrap=True)
    if result.lapsed:
        lapsed = escape(", ".join(result.lapsed))
        out.print(f"your own facts that have expired: {lapsed}", soft_wrap=True)
    refreshed = f"refreshed {result.refreshed_on or 'never'}"
    print_text(f"ages as of {result.today}; {refreshed}; catalog {result.digest[:12]}")
    return int(any(finding.refuses for finding in result.findings))


def _format_change(row: Any) -> str | None:
    if row.after is None:
        return "gone"
    if not row.before:
        return None
    return f"{_relative_change(row):+.1%}"


def _relative_change(row: Any) -> float:
    if row.after is None or not row.before:
        return 0.0
    ratio: float = row.after / row.before
    return ratio - 1


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
    largest_first = sorted(result.changes, key=lambda change: -abs(_relative_change(change)))
    if largest_first:
        out.print(make_table(CHANGE_COLUMNS, largest_first[:SHOWN_ROWS]))
    print_remaining(out, len(largest_first) - SHOWN_ROWS)

    for name, count in result.added.items():
        print_text(f"new: {count:,} {name}")
    for plan in result.plans:
        name = f"{escape(plan.plan)} ({escape(plan.organisation)})"
        facts = escape(", ".join(plan.facts))
        out.print(f"{name} rests on {facts}", soft_wrap=True)
    if not result.plans:
        print_text("none of the plans found rests on a changed fact")
    return 0


def print_refresh(result: RefreshReport) -> int:
    """Print what was read and rejected, where sources disagree, and which files are missing."""
    if result.generation:
        counts = [f"{count:,} {name}" for name, count in result.kept.items()]
        accepted = ", ".join(counts)
        print_text(f"refreshed facts in force: generation {result.generation}: {accepted}")
    elif not (result.refused or result.missing):
        print_text("the shipped facts are in force")

    _print_rows("read", result.read)
    _print_rows("not read", result.refused)
    _print_rows("rejected", result.set_aside)
    disagreements = "two sources disagree; the first is used, and the interval covers both"
    _print_rows(disagreements, result.disagreements)
    flags = [f"odd: {flag}" for flag in result.flags]
    print_lines(make_console(), flags, shown=SHOWN_ROWS)
    missing = "missing files: put a file of this name, from this address, into the folder"
    _print_rows(missing, result.missing)
    return 0


def _print_rows(title: str, rows: Sequence[object]) -> None:
    if rows:
        out = make_console()
        out.print(f"\n[bold]{title}[/]")
        print_table(rows[:SHOWN_ROWS])
        print_remaining(out, len(rows) - SHOWN_ROWS)
