"""Price tables in JSON: region -> on_demand and spot -> machine type -> USD an hour."""

from __future__ import annotations

import msgspec

from archwright.catalog.sources.source_records import FileContext, InstancePrice, SourceFacts


class _Region(msgspec.Struct):
    on_demand: dict[str, float]
    spot: dict[str, float] = {}


class _File(msgspec.Struct):
    prices: dict[str, _Region]


def read(data: bytes, _file: FileContext) -> SourceFacts:
    file = msgspec.json.decode(data, type=_File)
    return SourceFacts(
        prices=tuple(
            InstancePrice(region, name, price, table.spot.get(name))
            for region, table in file.prices.items()
            for name, price in table.on_demand.items()
        )
    )
