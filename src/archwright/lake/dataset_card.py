"""The card of a version: a Markdown file with its content, origin and changes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from archwright.contract.lineage import DatasetVersion, SourceFile
from archwright.home import Home
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS

MAX_LISTED_FILES = 200  # listed in the card; `data show --json` lists all files


def card_path(home: Home, version: DatasetVersion) -> Path:
    return home.folder("lake", "cards") / f"{version.id}.md"


def format_card(version: DatasetVersion, sources: Sequence[SourceFile]) -> str:
    made = datetime.fromtimestamp(version.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    origin = f"refined from {version.parent}" if version.action == "refine" else "ingested from files"
    facts = {
        "made": f"{made}, {origin}",
        "rows": f"{version.rows:,}",
        "bytes": f"{version.size_bytes:,}",
        "licence": version.licence or "not stated",
        "version before" if version.action == "ingest" else "parent": version.parent or "none",
        "content (SHA-256)": version.content_sha256,
    }
    columns = [(name, kind, "system" if name in SYSTEM_COLUMNS else "") for name, kind in version.columns.items()]
    files = [
        (f.path, f"{f.rows:,}", f"{f.quarantined:,}", f"{f.size_bytes:,}", f.sha256) for f in sources[:MAX_LISTED_FILES]
    ]
    left = len(sources) - MAX_LISTED_FILES
    more = f"\nand {left:,} more files: `archwright data show {version.id} --json` lists them\n" if left > 0 else ""
    recipe = (
        ["## Recipe\n", f"```json\n{json.dumps(json.loads(version.recipe), indent=2)}\n```\n"] if version.recipe else []
    )
    parts = [
        f"# Data set {version.id}\n",
        _format_table(("", ""), facts.items()),
        "## Columns\n",
        _format_table(("column", "kind", ""), columns),
        "## Dropped rows\n",
        _format_counts(version.drops, "reason", "rows"),
        "## Changed values\n",
        _format_counts(version.changes, "change", "values"),
        *recipe,
        "## Source files\n",
        _format_table(("file", "rows", "quarantined", "bytes", "SHA-256"), files) + more,
    ]
    return "\n".join(parts)


def _format_counts(counts: Mapping[str, int], name: str, unit: str) -> str:
    return _format_table((name, unit), [(key, f"{count:,}") for key, count in counts.items()]) if counts else "none\n"


def _format_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table. Markup in cells is escaped, since a file may have any name."""
    markup = str.maketrans({"\\": "\\\\", "|": "\\|", "\n": " ", "<": "&lt;"})
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.translate(markup) for cell in line)} |" for line in lines) + "\n"
