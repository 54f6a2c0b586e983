"""The card of a version: content, origin, policy, quality and uses, as a record and as Markdown.

Design: a card is generated when it is read. So it states the policy and the uses of that moment, and no copy of it can
name a person after an erasure.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from archwright.contract.lineage import DatasetVersion, LineageEdge, SourceFile, format_node
from archwright.contract.record import Record
from archwright.home import Home
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS
from archwright.lake.governance.expectations import format_bound
from archwright.lake.governance.policy import DatasetPolicy, read_lawful_bases, read_policy
from archwright.lake.personal_data import span_finder
from archwright.lake.refinement import drops_path
from archwright.lake.tables import version_index
from archwright.lake.tables.quarantine import quarantine_path
from archwright.lake.tables.source_file_list import read_source_files
from archwright.monitor import lineage
from archwright.store import Store

MAX_LISTED_FILES = 200  # in the Markdown form; the record lists all files
NOT_STATED = "not stated"
PERSONAL_KINDS = (*span_finder.PERSONAL_KINDS, "name")


class DatasetCard(Record):
    """A version with its policy, files and uses.

    `models` were trained on it, by `runs`; `refined` are the versions made from it. `lineage` has the edges to the
    versions before it, and to everything made of it. `personal_data` counts the values found by kind, in this version
    or when it was refined. `quarantine` and `drops` are files with the rows left out (JSON lines), None without rows.
    """

    version: DatasetVersion
    policy: DatasetPolicy
    files: tuple[SourceFile, ...]
    models: tuple[str, ...]
    runs: tuple[str, ...]
    refined: tuple[str, ...]
    lineage: tuple[LineageEdge, ...]
    personal_data: dict[str, int]
    limits: tuple[str, ...]
    quarantine: str | None
    drops: str | None


def build_card(home: Home, store: Store, version: DatasetVersion) -> DatasetCard:
    """The card with the policy and uses of this moment. Raises DataError AW-DATA-27 if a list of files is missing."""
    node = format_node("dataset", version.id)
    above = [edge for edge in lineage.trace_ancestry(store, node) if not edge.parent.startswith("file:")]
    below = _trace_descendants(store, node)
    uses = [edge.child.partition(":") for edge in below if edge.parent == node]
    refined = tuple(dict.fromkeys(name for kind, _, name in uses if kind == "dataset"))
    policy = read_policy(store, version.dataset)
    found: dict[str, int] = {}
    for one in (version, *(v for v in version_index.list_versions(store) if v.id in refined)):
        for kind, count in one.changes.items():
            personal = kind.removesuffix(span_finder.FOUND)
            if personal in PERSONAL_KINDS:
                found[personal] = max(count, found.get(personal, 0))
    rejected = quarantine_path(home, version.dataset, version.version)
    drops = drops_path(home, version.dataset, version.version)
    return DatasetCard(
        version=version,
        policy=policy,
        files=read_source_files(home, version),
        models=tuple(dict.fromkeys(name for kind, _, name in uses if kind == "model")),
        runs=tuple(dict.fromkeys(name for kind, _, name in uses if kind == "run")),
        refined=refined,
        lineage=(*above, *below),
        personal_data=found,
        limits=tuple(_list_limits(version, policy, found)),
        quarantine=str(rejected) if rejected.is_file() and rejected.stat().st_size else None,
        drops=str(drops) if drops.is_file() and drops.stat().st_size else None,
    )


def _trace_descendants(store: Store, start: str) -> list[LineageEdge]:
    """Every edge from `start` down to refined versions, runs and models, each once."""
    found: dict[tuple[str, str], LineageEdge] = {}
    waiting = [start]
    while waiting:
        for edge in lineage.read_children(store, waiting.pop(0)):
            if (edge.child, edge.parent) not in found and edge.relation not in ("answered-by", "extended"):
                found[edge.child, edge.parent] = edge
                waiting.append(edge.child)
    return list(found.values())


def _list_limits(version: DatasetVersion, policy: DatasetPolicy, found: Mapping[str, int]) -> Iterable[str]:
    """List the facts that limit the use of the version."""
    if version.dropped_at is not None:
        yield "The rows of this version were deleted."
    left_out = sum(version.drops.values())
    if version.action == "ingest" and left_out:
        yield f"{left_out:,} rows could not be read ({left_out / (left_out + version.rows):.1%})."
    for field in ("owner", "purpose", "lawful_basis", "classification"):
        if not getattr(policy, field):
            yield f"The {field.replace('_', ' ')} is not stated."
    if not (version.licence or policy.licence):
        yield "The licence is not stated."
    if not version.expectations:
        yield "No expectation checks the values."
    if not found and policy.lawful_basis != "not-personal":
        yield "No personal data were found; a search may not have been made."


def format_card(card: DatasetCard) -> str:
    """The card as Markdown."""
    version, policy = card.version, card.policy
    origin = f"refined from {version.parent}" if version.action == "refine" else "ingested from files"
    facts = {
        "made": f"{datetime.fromtimestamp(version.at, UTC):%Y-%m-%d %H:%M UTC}, {origin}",
        "rows": f"{version.rows:,}",
        "bytes": f"{version.size_bytes:,}",
        "licence": version.licence or policy.licence or NOT_STATED,
        "version before" if version.action == "ingest" else "parent": version.parent or "none",
        "content (SHA-256)": version.content_sha256,
    }
    rules = {
        "owner": policy.owner or "unknown",
        "tenant": policy.tenant,
        "readers": ", ".join(policy.readers),
        "purpose": policy.purpose or NOT_STATED,
        "lawful basis": ": ".join(filter(None, (policy.lawful_basis, read_lawful_bases().get(policy.lawful_basis))))
        or NOT_STATED,
        "consent": policy.consent or NOT_STATED,
        "classification": policy.classification or NOT_STATED,
        "residency": ", ".join(policy.residency) or NOT_STATED,
        "retention": f"{policy.retention_days} days" if policy.retention_days else NOT_STATED,
    }
    columns = [(name, kind, "system" if name in SYSTEM_COLUMNS else "") for name, kind in version.columns.items()]
    checks = [
        (", ".join(e.columns), e.check, format_bound(e.bound), format_bound(e.measured)) for e in version.expectations
    ]
    files = [(f.path, f"{f.rows:,}", f"{f.quarantined:,}", f"{f.size_bytes:,}", f.sha256) for f in card.files]
    left = len(files) - MAX_LISTED_FILES
    more = f"\nand {left:,} more files; `archwright data show {version.id} --json` lists all\n" if left > 0 else ""
    edges = [(edge.parent, edge.relation, edge.child) for edge in card.lineage]
    recipe = (
        ["## Recipe\n", f"```json\n{json.dumps(json.loads(version.recipe), indent=2)}\n```\n"] if version.recipe else []
    )
    parts = [
        f"# Data set {version.id}\n",
        _format_table(("", ""), facts.items()),
        "## Policy\n",
        _format_table(("", ""), rules.items()),
        "## Columns\n",
        _format_table(("column", "kind", ""), columns),
        "## Dropped rows\n",
        _format_counts(version.drops, "reason", "rows"),
        "## Personal data found\n",
        _format_counts(card.personal_data, "kind", "values"),
        "## Changed values\n",
        _format_counts(version.changes, "change", "values"),
        "## Expectations\n",
        _format_table(("column", "check", "bound", "measured"), checks) if checks else "none\n",
        *recipe,
        "## Lineage\n",
        _format_table(("from", "", "to"), edges) if edges else "none\n",
        "## Known limits\n",
        "".join(f"- {limit}\n" for limit in card.limits) or "none\n",
        "## Source files\n",
        _format_table(("file", "rows", "quarantined", "bytes", "SHA-256"), files[:MAX_LISTED_FILES]) + more,
    ]
    return "\n".join(parts)


def _format_counts(counts: Mapping[str, int], name: str, unit: str) -> str:
    return _format_table((name, unit), [(key, f"{count:,}") for key, count in counts.items()]) if counts else "none\n"


def _format_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table. Markup in cells is escaped, since a file may have any name."""
    markup = str.maketrans({"\\": "\\\\", "|": "\\|", "\n": " ", "\r": " ", "<": "&lt;", "`": "\\`", "[": "\\["})
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.translate(markup) for cell in line)} |" for line in lines) + "\n"
