"""What a row is called where people read it and where their own facts name it: one name, one row of its table."""

from __future__ import annotations

import re
from collections.abc import Collection

from archwright.catalog.tables import cost_records, metadata_records, records
from archwright.contract.record import Record

# The fields whose values are a row's name, where they are not `id` or the usual ones.
NAME_FIELDS: dict[type[Record], tuple[str, ...]] = {
    records.QualityScore: ("model", "benchmark", "method", "reported_by", "original_source"),
    records.ResidencyRule: ("jurisdiction",),
    records.Efficiency: ("engine", "quantisation", "isa", "kind"),
    records.TrainingEfficiency: ("task", "isa"),
    records.Quantisation: ("quantisation",),
    records.Country: ("country",),
    metadata_records.HostedModelFact: ("provider", "model", "kind", "name"),
    metadata_records.RegionAvailability: ("provider", "region", "instance_type"),
    metadata_records.RegionRatio: ("provider", "family", "region"),
    cost_records.CommitmentDiscount: ("provider", "scope", "term_months", "payment"),
}
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
    fields = NAME_FIELDS.get(type(row), ("id",) if getattr(row, "id", "") else DEFAULT_NAME_FIELDS)
    said = [str(part) for part in (getattr(row, field, "") for field in fields) if part not in ("", None)]
    return " ".join(said) or str(getattr(row, "model", "") or getattr(row, "source", ""))


def replacement_key(row: Record) -> str:
    """The name of what a newer fact replaces: a price with all its tiers."""
    return f"{row.provider} {row.kind} {row.item}" if isinstance(row, cost_records.StoragePrice) else row_name(row)


# What a plan calls a fact that it takes from one row, and how that row's name then reads.
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
    """The row, among those with `names`, that a plan's basis of that id was taken from; None where it is no one row."""
    for pattern, spelling in BASIS_PATTERNS:
        found = re.fullmatch(pattern, basis)
        if found is not None:
            # An id is a name in small letters with hyphens for blanks.
            wanted = spelling.format(*(re.escape(part).replace(r"\-", "[- ]") for part in found.groups()))
            row = next((name for name in names if re.fullmatch(wanted, name, re.IGNORECASE)), None)
            if row is not None:
                return row
    return None
