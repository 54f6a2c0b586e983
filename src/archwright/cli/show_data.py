"""The terminal output of data sets and their versions."""

from collections.abc import Collection, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from archwright.api.data import DatasetOutcome
from archwright.cli.show import as_json, make_console, print_rows, print_text
from archwright.cli.table_layout import TableColumn, format_time, make_table, print_fields, print_lines, print_remaining
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
    for action, counts in (("left out", result.drops), ("redacted", result.changes)):
        for name, count in counts.items():
            out.print(f"  {action}  {count:>8,}  {escape(name)}", soft_wrap=True)
    replaced = [f"replaced            {file.path}: its former {file.rows:,} rows" for file in result.replaced]
    print_lines(out, replaced, shown=SHOWN_SKIPPED, prefix="  ")
    print_lines(out, (f"skipped             {line}" for line in result.passed_over), shown=SHOWN_SKIPPED, prefix="  ")
    for suffix, count in result.skipped.items():
        out.print(f"  skipped   {count:>8,}  files of the unknown format {escape(suffix)}", soft_wrap=True)
    return print_text(f"  more: archwright data show {result.id}")


def _summarise_version(version: DatasetVersion) -> str:
    counts = {"row": version.rows, "column": len(version.columns), "file": version.source_files}
    words = [f"{count:,} {name}{'' if count == 1 else 's'}" for name, count in counts.items()]
    return ", ".join([*words, format_quantity(version.size_bytes, "bytes")])


VERSION_COLUMNS = (
    TableColumn("version", "id"),
    TableColumn("rows", "rows", number=True),
    TableColumn("left out", lambda row: sum(row.drops.values()), number=True),
    TableColumn("altered", lambda row: sum(row.changes.values()), number=True),
    TableColumn("files", "source_files", number=True),
    TableColumn("size", lambda row: format_quantity(row.size_bytes, "bytes"), number=True),
    TableColumn("made of", lambda row: row.parent if row.action == "refine" else "files"),
    TableColumn("licence", "licence"),
    TableColumn("made", lambda row: format_time(row.at), whole=True),
)


def print_versions(result: Collection[DatasetVersion]) -> int:
    empty = "no data set yet; create one: archwright data ingest PATH --name NAME"
    return print_rows(VERSION_COLUMNS, result, empty)


FILE_COLUMNS = (
    TableColumn("file", "path"),
    TableColumn("rows", "rows", number=True),
    TableColumn("quarantined", "quarantined", number=True),
    TableColumn("size", lambda row: format_quantity(row.size_bytes, "bytes"), number=True),
    TableColumn("sha256", lambda row: row.sha256[:12], whole=True),
)


def print_card(result: Any) -> int:
    version, out = result.version, make_console()
    origin = f"refined from {version.parent}" if version.action == "refine" else "ingested from files"
    out.print(f"\n[bold]{escape(version.id)}[/]   {escape(origin)}, {format_time(version.at)}", soft_wrap=True)
    out.print(f"{_summarise_version(version)}; licence: {escape(version.licence or 'not stated')}", soft_wrap=True)
    out.print(f"content  {version.content_sha256}\n", soft_wrap=True)
    out.print(_make_columns_table(version.columns))
    for name, unit, counts in (("left out", "rows", version.drops), ("redacted", "values", version.changes)):
        if counts:
            columns = (TableColumn(name, lambda row: row[0]), TableColumn(unit, lambda row: row[1], number=True))
            out.print()
            out.print(make_table(columns, counts.items()))
    out.print()
    out.print(make_table(FILE_COLUMNS, result.files[:SHOWN_FILES]))
    print_remaining(out, len(result.files) - SHOWN_FILES)
    out.print()
    fields = {
        "trained on it": ", ".join((*result.runs, *result.models)) or "nothing yet",
        "refined from it": ", ".join(result.refined) or "nothing yet",
        "owner": result.policy.owner or "unknown",
        "tenant": result.policy.tenant,
        "card": f"archwright data card {version.id}",
        "quarantine": result.quarantine,
        "drops": result.drops,
    }
    print_fields(out, fields)
    return 0


def _make_columns_table(columns: Mapping[str, str]) -> Table:
    def list_names(kind: str) -> str:
        names = [name for name, found in columns.items() if found == kind]
        more = f" and {len(names) - SHOWN_COLUMNS:,} more" if len(names) > SHOWN_COLUMNS else ""
        return ", ".join(names[:SHOWN_COLUMNS]) + more

    return make_table(
        (TableColumn("kind", str, whole=True), TableColumn("columns", list_names)), dict.fromkeys(columns.values())
    )
