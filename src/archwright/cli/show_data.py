"""The terminal output of data sets and their versions."""

from collections.abc import Collection, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from archwright.api.data import DatasetOutcome
from archwright.cli.show import as_json, make_console, print_rows, print_text
from archwright.cli.table_layout import (
    TableColumn,
    format_time,
    make_size_column,
    make_table,
    make_time_column,
    print_fields,
    print_lines,
    print_remaining,
)
from archwright.contract.lineage import DatasetVersion
from archwright.contract.number_format import format_quantity

__all__ = ["as_json", "print_card", "print_outcome", "print_versions"]

SHOWN_FILES = 12
SHOWN_COLUMNS = 24  # of a version; its card and --json list all columns
SHOWN_SKIPPED = 5


def print_outcome(result: DatasetOutcome) -> int:
    out = make_console()
    state = "" if result.new else "  (nothing changed: this version already holds the same content)"
    out.print(f"[bold]{escape(result.id)}[/]{state}", soft_wrap=True)
    out.print(f"  {_summarise_version(result)}")
    _print_counts(out, "left out", result.drops)
    _print_counts(out, "redacted", result.changes)

    lines: list[str] = []
    for file in result.replaced:
        lines.append(f"replaced            {file.path}: its former {file.rows:,} rows")
    print_lines(out, lines, shown=SHOWN_SKIPPED, prefix="  ")
    skipped = [f"skipped             {line}" for line in result.passed_over]
    print_lines(out, skipped, shown=SHOWN_SKIPPED, prefix="  ")
    for suffix, count in result.skipped.items():
        unknown = f"files of the unknown format {escape(suffix)}"
        out.print(f"  skipped   {count:>8,}  {unknown}", soft_wrap=True)
    return print_text(f"  more: archwright data show {result.id}")


def _print_counts(out: Console, action: str, counts: Mapping[str, int]) -> None:
    for reason, count in counts.items():
        out.print(f"  {action}  {count:>8,}  {escape(reason)}", soft_wrap=True)


def _summarise_version(version: DatasetVersion) -> str:
    parts = [
        _format_plural(version.rows, "row"),
        _format_plural(len(version.columns), "column"),
        _format_plural(version.source_files, "file"),
        format_quantity(version.size_bytes, "bytes"),
    ]
    return ", ".join(parts)


def _format_plural(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}s"


def _count_dropped(version: DatasetVersion) -> int:
    return sum(version.drops.values())


def _count_altered(version: DatasetVersion) -> int:
    return sum(version.changes.values())


def _describe_origin(version: DatasetVersion) -> str | None:
    if version.action == "refine":
        return version.parent
    return "files"


VERSION_COLUMNS = (
    TableColumn("version", "id"),
    TableColumn("rows", "rows", number=True),
    TableColumn("left out", _count_dropped, number=True),
    TableColumn("altered", _count_altered, number=True),
    TableColumn("files", "source_files", number=True),
    make_size_column("size", "size_bytes"),
    TableColumn("made of", _describe_origin),
    TableColumn("licence", "licence"),
    make_time_column("made", "at"),
)


def print_versions(result: Collection[DatasetVersion]) -> int:
    empty = "no data set yet; create one: archwright data ingest PATH --name NAME"
    return print_rows(VERSION_COLUMNS, result, empty)


FILE_COLUMNS = (
    TableColumn("file", "path"),
    TableColumn("rows", "rows", number=True),
    TableColumn("quarantined", "quarantined", number=True),
    make_size_column("size", "size_bytes"),
    TableColumn("sha256", lambda row: row.sha256[:12], whole=True),
)


def print_card(result: Any) -> int:
    version = result.version
    origin = "ingested from files"
    if version.action == "refine":
        origin = f"refined from {version.parent}"
    created = f"{escape(origin)}, {format_time(version.at)}"
    licence = escape(version.licence or "not stated")

    out = make_console()
    out.print(f"\n[bold]{escape(version.id)}[/]   {created}", soft_wrap=True)
    out.print(f"{_summarise_version(version)}; licence: {licence}", soft_wrap=True)
    out.print(f"content  {version.content_sha256}\n", soft_wrap=True)
    out.print(_make_columns_table(version.columns))
    _print_counts_table(out, ("left out", "rows"), version.drops)
    _print_counts_table(out, ("redacted", "values"), version.changes)
    out.print()
    out.print(make_table(FILE_COLUMNS, result.files[:SHOWN_FILES]))
    print_remaining(out, len(result.files) - SHOWN_FILES)
    out.print()
    print_fields(out, _list_card_fields(result))
    return 0


def _list_card_fields(result: Any) -> dict[str, str | None]:
    trained = ", ".join((*result.runs, *result.models))
    refined = ", ".join(result.refined)
    return {
        "trained on it": trained or "nothing yet",
        "refined from it": refined or "nothing yet",
        "owner": result.policy.owner or "unknown",
        "tenant": result.policy.tenant,
        "card": f"archwright data card {result.version.id}",
        "quarantine": result.quarantine,
        "drops": result.drops,
    }


def _print_counts_table(out: Console, headings: tuple[str, str], counts: Mapping[str, int]) -> None:
    if not counts:
        return
    reason, unit = headings
    columns = (TableColumn(reason, str), TableColumn(unit, counts.get, number=True))
    out.print()
    out.print(make_table(columns, counts))


def _make_columns_table(columns: Mapping[str, str]) -> Table:
    names_by_kind: dict[str, list[str]] = {}
    for name, kind in columns.items():
        names_by_kind.setdefault(kind, []).append(name)

    def format_names(kind: str) -> str:
        names = names_by_kind[kind]
        text = ", ".join(names[:SHOWN_COLUMNS])
        hidden = len(names) - SHOWN_COLUMNS
        if hidden > 0:
            text += f" and {hidden:,} more"
        return text

    table_columns = (TableColumn("kind", str, whole=True), TableColumn("columns", format_names))
    return make_table(table_columns, names_by_kind)
