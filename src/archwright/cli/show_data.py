"""Data sets as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from rich.markup import escape
from rich.table import Table

from archwright.api.data import DatasetCard, DatasetOutcome
from archwright.cli.number_format import format_quantity
from archwright.cli.show import as_json, make_console, print_text
from archwright.cli.table_layout import make_plain_table
from archwright.contract.lineage import DatasetVersion, SourceFile

__all__ = ["as_json", "print_card", "print_outcome", "print_versions"]

SHOWN_FILES = 12
SHOWN_COLUMNS = 24  # shown of a version; its card and --json have more
SHOWN_SKIPPED = 5


def print_outcome(result: DatasetOutcome) -> int:
    """What came of an ingest or a refine."""
    out = make_console()
    state = "" if result.new else "  (the same content made this version before: nothing has changed in it)"
    out.print(f"[bold]{escape(result.id)}[/]{state}", soft_wrap=True)
    out.print(f"  {_summarise_version(result)}")
    for reason, count in result.drops.items():
        out.print(f"  left out  {count:>8,}  {escape(reason)}", soft_wrap=True)
    for kind, count in result.changes.items():
        out.print(f"  redacted  {count:>8,}  {escape(kind)}", soft_wrap=True)
    for file in result.replaced[:SHOWN_SKIPPED]:
        out.print(f"  replaced            {escape(file.path)}: the {file.rows:,} rows it had went", soft_wrap=True)
    for line in result.passed_over[:SHOWN_SKIPPED]:
        out.print(f"  passed over         {escape(line)}", soft_wrap=True)
    if len(result.passed_over) > SHOWN_SKIPPED:
        out.print(f"  passed over         and {len(result.passed_over) - SHOWN_SKIPPED:,} more (--json names them)")
    return print_text(f"  more: archwright data show {result.id}")


def _summarise_version(version: DatasetVersion) -> str:
    counts = {"row": version.rows, "column": len(version.columns), "file": len(version.files)}
    words = [f"{count:,} {name}{'' if count == 1 else 's'}" for name, count in counts.items()]
    return ", ".join([*words, format_quantity(version.size_bytes, "bytes")])


def print_versions(result: Iterable[DatasetVersion]) -> int:
    """Every version, one line each."""
    found = list(result)
    if not found:
        return print_text("no data set yet; make one: archwright data ingest PATH --name NAME")
    numbers = ("rows", "left out", "altered", "files", "size")
    drawn = make_plain_table("version", *numbers, "made of", "licence", "made", right=numbers, whole=(*numbers, "made"))
    for version in found:
        drawn.add_row(
            escape(version.id),
            f"{version.rows:,}",
            f"{sum(version.drops.values()):,}",
            f"{sum(version.changes.values()):,}",
            f"{len(version.files):,}",
            format_quantity(version.size_bytes, "bytes"),
            escape(version.parent or "") if version.action == "refine" else "files",
            escape(version.licence) or "-",
            _format_time(version.at),
        )
    make_console().print(drawn)
    return 0


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")


def print_card(result: DatasetCard) -> int:
    """A version in full, but for long lists of files."""
    version, out = result.version, make_console()
    origin = f"refined from {version.parent}" if version.action == "refine" else "ingested from files"
    out.print(f"\n[bold]{escape(version.id)}[/]   {escape(origin)}, {_format_time(version.at)}", soft_wrap=True)
    out.print(f"{_summarise_version(version)}; licence: {escape(version.licence or 'not stated')}", soft_wrap=True)
    out.print(f"content  {version.content_sha256}\n", soft_wrap=True)
    out.print(_make_columns_table(version.columns))
    for left, right, counts in (("left out", "rows", version.drops), ("redacted", "values", version.changes)):
        if counts:
            drawn = make_plain_table(left, right, right={right})
            for name, count in counts.items():
                drawn.add_row(escape(name), f"{count:,}")
            out.print()
            out.print(drawn)
    out.print()
    out.print(_make_files_table(version.files[:SHOWN_FILES]))
    if len(version.files) > SHOWN_FILES:
        out.print(f"[dim]and {len(version.files) - SHOWN_FILES:,} more[/]")
    lines = {
        "trained on it": ", ".join((*result.runs, *result.models)) or "nothing yet",
        "refined from it": ", ".join(result.refined) or "nothing yet",
        "card": result.card,
        "quarantine": result.quarantine,
        "drops": result.drops,
    }
    out.print()
    for name, value in lines.items():
        if value:
            out.print(f"{name:<16} {escape(value)}", soft_wrap=True)
    return 0


def _make_columns_table(columns: Mapping[str, str]) -> Table:
    """By kind, since a table may have hundreds."""
    drawn = make_plain_table("kind", "columns", whole={"kind"})
    for kind in dict.fromkeys(columns.values()):
        names = [name for name, found in columns.items() if found == kind]
        more = f" and {len(names) - SHOWN_COLUMNS:,} more" if len(names) > SHOWN_COLUMNS else ""
        drawn.add_row(kind, escape(", ".join(names[:SHOWN_COLUMNS]) + more))
    return drawn


def _make_files_table(files: Iterable[SourceFile]) -> Table:
    numbers = ("rows", "quarantined", "size")
    drawn = make_plain_table("file", *numbers, "sha256", right=numbers, whole=(*numbers, "sha256"))
    for file in files:
        size = format_quantity(file.size_bytes, "bytes")
        drawn.add_row(escape(file.path), f"{file.rows:,}", f"{file.quarantined:,}", size, file.sha256[:12])
    return drawn
