"""Data sets as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from rich.markup import escape
from rich.table import Table

from archwright.api.data import DatasetCard, DatasetOutcome
from archwright.cli.number_format import pretty
from archwright.cli.show import as_json, console, text
from archwright.cli.table_layout import plain
from archwright.contract.lineage import DatasetVersion, SourceFile

__all__ = ["as_json", "card", "outcome", "versions"]

FILES = 12
NAMES = 24  # shown of a version; its card and --json have more
PASSED_OVER = 5


def outcome(result: DatasetOutcome) -> int:
    """What came of an ingest or a refine."""
    out = console()
    state = "" if result.new else "  (the same content made this version before: nothing has changed in it)"
    out.print(f"[bold]{escape(result.id)}[/]{state}", soft_wrap=True)
    out.print(f"  {_sum(result)}")
    for reason, count in result.drops.items():
        out.print(f"  left out  {count:>8,}  {escape(reason)}", soft_wrap=True)
    for kind, count in result.changes.items():
        out.print(f"  redacted  {count:>8,}  {escape(kind)}", soft_wrap=True)
    for file in result.replaced[:PASSED_OVER]:
        out.print(f"  replaced            {escape(file.path)}: the {file.rows:,} rows it had went", soft_wrap=True)
    for line in result.passed_over[:PASSED_OVER]:
        out.print(f"  passed over         {escape(line)}", soft_wrap=True)
    if len(result.passed_over) > PASSED_OVER:
        out.print(f"  passed over         and {len(result.passed_over) - PASSED_OVER:,} more (--json names them)")
    return text(f"  more: archwright data show {result.id}")


def _sum(version: DatasetVersion) -> str:
    counts = {"row": version.rows, "column": len(version.columns), "file": len(version.files)}
    words = [f"{count:,} {name}{'' if count == 1 else 's'}" for name, count in counts.items()]
    return ", ".join([*words, pretty(version.size_bytes, "bytes")])


def versions(result: Iterable[DatasetVersion]) -> int:
    """Every version, one line each."""
    found = list(result)
    if not found:
        return text("no data set yet; make one: archwright data ingest PATH --name NAME")
    numbers = ("rows", "left out", "altered", "files", "size")
    drawn = plain("version", *numbers, "made of", "licence", "made", right=numbers, whole=(*numbers, "made"))
    for version in found:
        drawn.add_row(
            escape(version.id),
            f"{version.rows:,}",
            f"{sum(version.drops.values()):,}",
            f"{sum(version.changes.values()):,}",
            f"{len(version.files):,}",
            pretty(version.size_bytes, "bytes"),
            escape(version.parent or "") if version.action == "refine" else "files",
            escape(version.licence) or "-",
            _when(version.at),
        )
    console().print(drawn)
    return 0


def _when(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")


def card(result: DatasetCard) -> int:
    """A version in full, but for long lists of files."""
    version, out = result.version, console()
    origin = f"refined from {version.parent}" if version.action == "refine" else "ingested from files"
    out.print(f"\n[bold]{escape(version.id)}[/]   {escape(origin)}, {_when(version.at)}", soft_wrap=True)
    out.print(f"{_sum(version)}; licence: {escape(version.licence or 'not stated')}", soft_wrap=True)
    out.print(f"content  {version.content_sha256}\n", soft_wrap=True)
    out.print(_columns(version.columns))
    for drawn in (
        *([_pairs("left out", "rows", version.drops)] if version.drops else ()),
        *([_pairs("redacted", "values", version.changes)] if version.changes else ()),
        _files(version.files),
    ):
        out.print()
        out.print(drawn)
    if len(version.files) > FILES:
        out.print(f"[dim]and {len(version.files) - FILES:,} more[/]")
    made = {"trained on it": [*result.runs, *result.models], "refined from it": result.refined}
    aside = {"card": result.card, "quarantine": result.quarantine, "drops": result.drops}
    lines = {name: ", ".join(names) or "nothing yet" for name, names in made.items()}
    lines |= {name: path for name, path in aside.items() if path}
    out.print()
    for name, value in lines.items():
        out.print(f"{name:<16} {escape(value)}", soft_wrap=True)
    return 0


def _columns(columns: Mapping[str, str]) -> Table:
    """By kind, since a table may have hundreds."""
    drawn = plain("kind", "columns", whole={"kind"})
    for kind in dict.fromkeys(columns.values()):
        names = [name for name, found in columns.items() if found == kind]
        more = f" and {len(names) - NAMES:,} more" if len(names) > NAMES else ""
        drawn.add_row(kind, escape(", ".join(names[:NAMES]) + more))
    return drawn


def _pairs(left: str, right: str, rows: Mapping[str, int]) -> Table:
    drawn = plain(left, right, right={right})
    for name, value in rows.items():
        drawn.add_row(escape(name), f"{value:,}")
    return drawn


def _files(files: Iterable[SourceFile]) -> Table:
    numbers = ("rows", "quarantined", "size")
    drawn = plain("file", *numbers, "sha256", right=numbers, whole=(*numbers, "sha256"))
    for file in list(files)[:FILES]:
        size = pretty(file.size_bytes, "bytes")
        drawn.add_row(escape(file.path), f"{file.rows:,}", f"{file.quarantined:,}", size, file.sha256[:12])
    return drawn
