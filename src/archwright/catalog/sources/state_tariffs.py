"""Retail electricity by state, sector and month, as an energy office's interface answers; cents a kWh.

Of a state the newest month counts.
"""

from __future__ import annotations

import re

import msgspec

from archwright.catalog.sources import pagination
from archwright.catalog.sources.source_records import ElectricityTariff, FileContext, SourceFacts

COUNTRY, CURRENCY = "US", "USD"
CENTS = "cents per kilowatt-hour"
SECTORS = {"COM": "commercial", "IND": "industrial"}
# Groups of states have longer codes.
STATE = re.compile(r"[A-Z]{2}")


class _Row(msgspec.Struct):
    period: str
    stateid: str
    sectorid: str
    price: str | float | None = None
    units: str = msgspec.field(name="price-units", default=CENTS)


class _Response(msgspec.Struct):
    data: list[_Row]


class _Envelope(msgspec.Struct):
    response: _Response


def read(data: bytes, _file: FileContext) -> SourceFacts:
    newest: dict[str, dict[str, tuple[str, float]]] = {}
    for answer in pagination.decode_pages(data, _Envelope):
        for row in answer.response.data:
            sector = SECTORS.get(row.sectorid)
            if sector and row.price is not None and STATE.fullmatch(row.stateid):
                if not row.units.startswith(CENTS):
                    raise ValueError(f"prices in {row.units}, not in {CENTS}")
                of = newest.setdefault(row.stateid, {})
                of[sector] = max(of.get(sector, ("", 0.0)), (row.period, float(row.price) / 100))
    return SourceFacts(
        tariffs=tuple(
            ElectricityTariff.from_bands(COUNTRY, "" if state == COUNTRY else f"{COUNTRY}-{state}", of, CURRENCY)
            for state, of in newest.items()
        )
    )
