"""The terminal output of policies, the catalogue, access exports and retention."""

from collections.abc import Collection
from typing import Any

from archwright.api.data_governance import CatalogueEntry, PolicyView
from archwright.cli.show import as_json, make_console, print_rows, print_text
from archwright.cli.table_layout import TableColumn, format_time, make_table, print_fields
from archwright.contract.number_format import format_quantity

__all__ = ["as_json", "print_entries", "print_export", "print_policy", "print_retention"]


def print_policy(result: PolicyView) -> int:
    rules, out = result.in_force, make_console()
    fields = {
        "data set": rules.dataset,
        "owner": rules.owner or "unknown",
        "tenant": rules.tenant,
        "readers": ", ".join(rules.readers),
        "purpose": rules.purpose,
        "lawful basis": rules.lawful_basis,
        "consent": rules.consent,
        "classification": rules.classification,
        "residency": ", ".join(rules.residency),
        "retention": f"{rules.retention_days} days" if rules.retention_days else "",
        "licence": rules.licence,
        "released from": ", ".join(rules.released),
    }
    print_fields(out, fields)
    if result.history:
        columns = (TableColumn("changed", lambda row: format_time(row.at), whole=True), TableColumn("by", "by"))
        out.print()
        out.print(make_table(columns, result.history))
    return 0


ENTRY_COLUMNS = (
    TableColumn("data set", "version", whole=True),
    TableColumn("rows", "rows", number=True),
    TableColumn("tenant", "tenant"),
    TableColumn("owner", lambda row: row.owner or "unknown"),
    TableColumn("purpose", "purpose"),
    TableColumn("class", "classification"),
    TableColumn("personal data", lambda row: ", ".join(row.personal_data)),
    TableColumn("made", lambda row: format_time(row.at), whole=True),
)


def print_entries(result: Collection[CatalogueEntry]) -> int:
    return print_rows(ENTRY_COLUMNS, result, "no data set matches")


EXPIRED_COLUMNS = (
    TableColumn("version", "version", whole=True),
    TableColumn("age in days", "age_days", number=True),
    TableColumn("retention", "retention_days", number=True),
    TableColumn("rows", "rows", number=True),
    TableColumn("size", lambda row: format_quantity(row.size_bytes, "bytes"), number=True),
    TableColumn("trained on it", lambda row: ", ".join(row.models)),
)


def print_retention(result: Any) -> int:
    if result.expired:
        print_text("would be deleted:" if result.dry_run else "deleted:")
    return print_rows(EXPIRED_COLUMNS, result.expired, "no version is older than its retention")


def print_export(result: Any) -> int:
    print_text(f"wrote {result.path}: {result.rows:,} rows")
    for version, rows in result.versions.items():
        print_text(f"  {rows:>8,}  {version}")
    return print_text(f"searched {len(result.searched):,} versions")
