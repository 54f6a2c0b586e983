"""Prices of egress and of object storage in JSON: provider -> tiers, with a date for the whole file."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from archwright.catalog.sources.source_records import BytePrice, FileContext, SourceFacts, require_usd

GIGA = 1e9
T = TypeVar("T")


class _EgressTier(msgspec.Struct):
    price_per_gb_usd: float
    up_to_gb: float | None = None


class _Egress(msgspec.Struct):
    tiers: list[_EgressTier]
    region: str = ""
    free_tier_gb: float = 0.0
    inter_region_per_gb_usd: float | None = None


class _ObjectTier(msgspec.Struct):
    sku: str
    price_per_gb_month_usd: float
    capacity_gb_limit: float | None = None


class _Objects(msgspec.Struct):
    tiers: list[_ObjectTier]
    region: str = ""


def read_egress(data: bytes, _file: FileContext) -> SourceFacts:
    as_of, providers = _split_providers(data, _Egress)
    found: list[BytePrice] = []
    for name, stated in providers.items():
        start = stated.free_tier_gb
        for tier in stated.tiers:
            end = None if tier.up_to_gb is None else tier.up_to_gb * GIGA
            price = tier.price_per_gb_usd / GIGA
            found.append(BytePrice(name, stated.region, "Internet egress", "egress", price, start * GIGA, end))
            start = tier.up_to_gb or start
        if stated.inter_region_per_gb_usd is not None:
            price = stated.inter_region_per_gb_usd / GIGA
            found.append(BytePrice(name, "", "Inter-region", "egress", price))
    return SourceFacts(as_of=as_of, stored=tuple(found))


def read_objects(data: bytes, _file: FileContext) -> SourceFacts:
    """A tier with a capacity limit is a trial's allowance, no price."""
    as_of, providers = _split_providers(data, _Objects)
    prices = tuple(
        BytePrice(name, stated.region, tier.sku, "object", tier.price_per_gb_month_usd / GIGA)
        for name, stated in providers.items()
        for tier in stated.tiers
        if tier.capacity_gb_limit is None
    )
    return SourceFacts(as_of=as_of, stored=prices)


def _split_providers(data: bytes, form: type[T]) -> tuple[str, dict[str, T]]:
    """The file's date, and what stands under each provider's name beside it."""
    fields = msgspec.json.decode(data, type=dict[str, Any])
    require_usd(fields.get("currency", "USD"))
    providers = {name: msgspec.convert(value, form) for name, value in fields.items() if isinstance(value, dict)}
    return str(fields.get("as_of") or ""), providers
