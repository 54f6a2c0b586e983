"""Names of rows in output and in the user's own facts: one name, one row of its table."""

import re
from collections.abc import Collection

from archwright.catalog.tables import cost_records, records
from archwright.catalog.tables.csv_table import schema_of
from archwright.contract.record import Record

DEFAULT_NAME_FIELDS = ("provider", "platform", "region", "item", "component", "scope")


def row_name(row: Record) -> str:
    if isinstance(row, records.HostedModel):
        return f"{row.provider}:{row.id}"
    if isinstance(row, records.ExchangeRate):
        return f"{row.base}/{row.quote}"
    if isinstance(row, records.EnergyTariff):
        return f"electricity {row.area or row.country}"
    if isinstance(row, cost_records.StoragePrice) and row.from_bytes:
        return f"{row.provider} {row.region} {row.item} from {row.from_bytes / 1e9:g} GB"
    fields = schema_of(type(row)).name or (("id",) if getattr(row, "id", "") else DEFAULT_NAME_FIELDS)
    parts = [str(part) for part in (getattr(row, field, "") for field in fields) if part not in ("", None)]
    return " ".join(parts) or str(getattr(row, "model", "") or getattr(row, "source", ""))


def replacement_key(row: Record) -> str:
    """Return the name of the facts that a newer fact replaces; a price replaces all tiers."""
    return f"{row.provider} {row.kind} {row.item}" if isinstance(row, cost_records.StoragePrice) else row_name(row)


# The id of a basis in a plan, and the name of the row that the basis is taken from.
BASIS_PATTERNS = (
    (r"part\.(.+)", "{0}"),
    (r"price\.(?:node\.|spot\.)?(.+)", "{0}"),
    (r"exchange\.(\w+)-(\w+)", "{1}/{0}"),
    (r"exchange\.\w+-(\w+)", "EUR/{0}"),
    (r"electricity\.(\w+)", "electricity {0}"),
    (r"egress\.(.+)", "{0} .*internet egress.*"),
    (r"between-regions\.(.+)", "{0} .*inter-region.*"),
    (r"between-zones\.(.+)", "{0} .*inter-az.*"),
    (r"surcharge\.(.+)", "{0}.*"),
    (r"discount\.(\w+)\.commit-1y\.(.+)", "{0} {1} 12.*"),
    (r"discount\.(\w+)\.commit-3y\.(.+)", "{0} {1} 36.*"),
)


def find_row_of_basis(basis: str, names: Collection[str]) -> str | None:
    """Return the one of `names` that the basis of a plan is taken from; None if that is not a single row."""
    for pattern, spelling in BASIS_PATTERNS:
        found = re.fullmatch(pattern, basis)
        if found is not None:
            # An id is a name in lower case with hyphens instead of spaces.
            name_pattern = spelling.format(*(re.escape(part).replace(r"\-", "[- ]") for part in found.groups()))
            row = next((name for name in names if re.fullmatch(name_pattern, name, re.IGNORECASE)), None)
            if row is not None:
                return row
    return None
