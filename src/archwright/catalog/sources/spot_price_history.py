"""A provider's history of spot prices, by zone and time: the newest of each zone, their median for the region."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict

import msgspec

from archwright.catalog.sources import pagination
from archwright.catalog.sources.source_records import FileContext, SourceFacts, SpotPrice

LINUX = "Linux/UNIX"
# A zone beside the region's own (`us-west-2-lax-1a`) is a place of its own.
REGION = re.compile(r"([a-z]{2,}(?:-[a-z]+)+-\d+)[a-z]")


class _Price(msgspec.Struct):
    zone: str = msgspec.field(name="AvailabilityZone")
    machine: str = msgspec.field(name="InstanceType")
    system: str = msgspec.field(name="ProductDescription")
    price: str = msgspec.field(name="SpotPrice")
    time: str = msgspec.field(name="Timestamp")


class _History(msgspec.Struct):
    prices: list[_Price] = msgspec.field(name="SpotPriceHistory")


def read(data: bytes, _file: FileContext) -> SourceFacts:
    newest: dict[tuple[str, str], _Price] = {}
    for page in pagination.decode_pages(data, _History):
        for price in page.prices:
            before = newest.get((price.zone, price.machine))
            if price.system.startswith(LINUX) and (before is None or before.time < price.time):
                newest[price.zone, price.machine] = price
    zones: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (zone, machine), price in newest.items():
        region = REGION.fullmatch(zone)
        zones[region[1] if region else zone, machine].append(float(price.price))
    return SourceFacts(
        as_of=max((price.time for price in newest.values()), default="")[:10],
        spots=tuple(SpotPrice(*key, statistics.median(prices)) for key, prices in zones.items()),
    )
