"""The terminal output of policies, the catalogue, access exports and retention."""

from collections.abc import Collection
from typing import Any

from archwright.api.data_governance import CatalogueEntry, PolicyView
from archwright.cli.show import as_json, make_console, print_rows, print_text
from archwright.cli.table_layout import (
    TableColumn,
    make_size_column,
    make_table,
    make_time_column,
    print_fields,
)

__all__ = ["as_json", "print_entries", "print_export", "print_policy", "print_retention"]

CHANGE_COLUMNS = (make_time_column("changed", "at"), TableColumn("by", "by"))


def print_policy(result: PolicyView) -> int:
    rules = result.in_force
    fields: dict[str, str | None] = {
        "data set": rules.dataset,
        "owner": rules.owner or "unknown",
        "tenant": rules.tenant,
        "readers": ", ".join(rules.readers),
        "purpose": rules.purpose,
        "lawful basis": rules.lawful_basis,
    }
    fields["consent"] = rules.consent
    fields["classification"] = rules.classification
    fields["residency"] = ", ".join(rules.residency)
    if rules.retention_days:
        fields["retention"] = f"{rules.retention_days} days"
    fields["licence"] = rules.licence
    fields["released from"] = ", ".join(rules.released)

    out = make_console()
    print_fields(out, fields)
    if result.history:
        out.print()
        out.print(make_table(CHANGE_COLUMNS, result.history))
    return 0


ENTRY_COLUMNS = (
    TableColumn("data set", "version", whole=True),
    TableColumn("rows", "rows", number=True),
    TableColumn("tenant", "tenant"),
    TableColumn("owner", lambda row: row.owner or "unknown"),
    TableColumn("purpose", "purpose"),
    TableColumn("class", "classification"),
    TableColumn("personal data", lambda row: ", ".join(row.personal_data)),
    make_time_column("made", "at"),
)


def print_entries(result: Collection[CatalogueEntry]) -> int:
    return print_rows(ENTRY_COLUMNS, result, "no data set matches")


EXPIRED_COLUMNS = (
    TableColumn("version", "version", whole=True),
    TableColumn("age in days", "age_days", number=True),
    TableColumn("retention", "retention_days", number=True),
    TableColumn("rows", "rows", number=True),
    make_size_column("size", "size_bytes"),
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
