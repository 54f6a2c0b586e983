"""Prices of egress and of object storage in JSON: provider -> tiers, with a date for the whole file."""

from typing import Any

import msgspec

from archwright.catalog.sources.row_reader import select_rows
from archwright.catalog.sources.source_records import BytePrice, FileContext, SourceFacts, require_usd

GIGA = 1e9


def read_egress(data: bytes, _file: FileContext) -> SourceFacts:
    """Read internet egress by tier, each after the one before, and traffic between regions."""
    as_of, providers = _split_providers(data)
    found: list[BytePrice] = []
    for row in select_rows("egress-prices", providers):
        name, start_gb = row["provider"], row["free_gb"]
        for tier in select_rows("egress-prices.tiers", row["tiers"]):
            end = None if tier["up_to_gb"] is None else tier["up_to_gb"] * GIGA
            price = tier["usd_per_gb"] / GIGA
            found.append(BytePrice(name, row["region"], "Internet egress", "egress", price, start_gb * GIGA, end))
            start_gb = tier["up_to_gb"] or start_gb
        if row["between_usd_per_gb"] is not None:
            found.append(BytePrice(name, "", "Inter-region", "egress", row["between_usd_per_gb"] / GIGA))
    return SourceFacts(as_of=as_of, stored=tuple(found))


def read_objects(data: bytes, _file: FileContext) -> SourceFacts:
    """Read prices per month. A tier with a capacity limit is a trial's allowance, not a price."""
    as_of, providers = _split_providers(data)
    rows = (row for row in select_rows("object-prices", providers) if row["limit_gb"] is None)
    prices = (
        BytePrice(row["provider"], row["region"], row["item"], "object", row["usd_per_gb"] / GIGA) for row in rows
    )
    return SourceFacts(as_of=as_of, stored=tuple(prices))


def _split_providers(data: bytes) -> tuple[str, dict[str, Any]]:
    """Return the file's date and the objects by provider; the other values of the file are not objects."""
    fields = msgspec.json.decode(data, type=dict[str, Any])
    require_usd(fields.get("currency", "USD"))
    return str(fields.get("as_of") or ""), {name: of for name, of in fields.items() if isinstance(of, dict)}
