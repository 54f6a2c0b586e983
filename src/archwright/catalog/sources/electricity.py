"""Electricity by country in JSON: the grid's carbon, and prices per kWh of businesses and of industry."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import msgspec

from archwright.catalog.sources.document_fields import REQUIRED, FieldTable, read_fields, require_type
from archwright.catalog.sources.file_formats import decode_pages
from archwright.catalog.sources.source_records import CarbonIntensity, ElectricityTariff, FileContext, SourceFacts

CUBE_BANDS = {"MWH500-1999": "commercial", "MWH20000-69999": "industrial"}
CUBE_FILTER = {"tax": "X_VAT", "currency": "EUR", "unit": "KWH"}
BAND_AT, PLACE_AT, TIME_AT = "nrg_cons", "geo", "time"
# Codes of the source that are not those of the standard.
PLACES = {"EL": "GR", "UK": "GB", "EU27_2020": "EU27"}
MOST_CELLS = 2_000_000

CENTS = "cents per kilowatt-hour"
SECTORS = {"COM": "commercial", "IND": "industrial"}
# Groups of states have longer codes.
STATE = re.compile(r"[A-Z]{2}")


class _Country(msgspec.Struct):
    country_name: str = ""
    carbon_intensity: float | None = None
    year: int | None = None


class _Category(msgspec.Struct):
    index: dict[str, int] | list[str]

    @property
    def codes(self) -> list[str]:
        return self.index if isinstance(self.index, list) else sorted(self.index, key=self.index.__getitem__)


class _Dimension(msgspec.Struct):
    category: _Category


class _Cube(msgspec.Struct):
    id: list[str]
    size: list[int]
    dimension: dict[str, _Dimension]
    value: dict[str, float | None] | list[float | None]


class _StateRow(msgspec.Struct):
    period: str
    stateid: str
    sectorid: str
    price: str | float | None = None
    units: str = msgspec.field(name="price-units", default=CENTS)


PAGE_ROWS: FieldTable = {"rows": ("response.data", require_type(list[_StateRow], REQUIRED))}


class _BandPrice(NamedTuple):
    """The price of one consumer band (`commercial` or `industrial`) in a period."""

    country: str
    area: str
    band: str
    period: str
    price: float


def _newest_tariffs(prices: Iterator[_BandPrice], currency: str) -> SourceFacts:
    """Of each area and band the newest period; a tariff is dated by the newest of its two."""
    newest: dict[tuple[str, str], dict[str, tuple[str, float]]] = {}
    for row in prices:
        bands = newest.setdefault((row.country, row.area), {})
        bands[row.band] = max(bands.get(row.band, ("", 0.0)), (row.period, row.price))
    found = []
    for (country, area), bands in newest.items():
        commercial, industrial = (bands[band][1] if band in bands else None for band in ("commercial", "industrial"))
        period = max(period for period, _ in bands.values())
        found.append(ElectricityTariff(country, area, commercial, industrial, currency, period))
    return SourceFacts(tariffs=tuple(found))


def read_grid_carbon(data: bytes, _file: FileContext) -> SourceFacts:
    """Alpha-3 code -> intensity and year."""
    found = []
    for code, row in msgspec.json.decode(data, type=dict[str, _Country]).items():
        if row.carbon_intensity is not None:
            found.append(CarbonIntensity(code, row.country_name, row.carbon_intensity, str(row.year or "")))
    return SourceFacts(carbon=tuple(found))


def read_statistics_cube(data: bytes, _file: FileContext) -> SourceFacts:
    """A cube of official statistics (JSON-stat 2.0): half-yearly prices of non-household consumers.

    Recoverable taxes are left out. A business's band is 500 to 2,000 MWh a year, industry's 20,000 to 70,000.
    """
    cube = msgspec.json.decode(data, type=_Cube)
    if not {BAND_AT, PLACE_AT, TIME_AT} <= set(cube.id) or not set(cube.id) <= cube.dimension.keys():
        raise ValueError(f"lacks a dimension of {BAND_AT}, {PLACE_AT}, {TIME_AT}")
    codes = [cube.dimension[name].category.codes for name in cube.id]
    sizes = [len(of) for of in codes]
    if sizes != cube.size or math.prod(sizes) > MOST_CELLS:
        raise ValueError("its dimensions have other sizes than it states, or too many cells")
    return _newest_tariffs(_cube_prices(cube, codes), CUBE_FILTER["currency"])


def _cube_prices(cube: _Cube, codes: list[list[str]]) -> Iterator[_BandPrice]:
    values = cube.value if isinstance(cube.value, dict) else {str(at): value for at, value in enumerate(cube.value)}
    for at, place in enumerate(product(*codes)):
        price, stands = values.get(str(at)), dict(zip(cube.id, place, strict=True))
        band = CUBE_BANDS.get(stands[BAND_AT])
        if price is not None and band and all(stands.get(name, code) == code for name, code in CUBE_FILTER.items()):
            yield _BandPrice(PLACES.get(stands[PLACE_AT], stands[PLACE_AT]), "", band, stands[TIME_AT], price)


def read_state_tariffs(data: bytes, _file: FileContext) -> SourceFacts:
    """Retail prices by state, sector and month in cents a kWh, as an energy office's interface answers."""
    pages = decode_pages(data, dict[str, Any])
    rows = (row for page in pages for row in read_fields(page, PAGE_ROWS)["rows"])
    return _newest_tariffs(_state_prices(rows), "USD")


def _state_prices(rows: Iterator[_StateRow]) -> Iterator[_BandPrice]:
    for row in rows:
        sector = SECTORS.get(row.sectorid)
        if sector and row.price is not None and STATE.fullmatch(row.stateid):
            if not row.units.startswith(CENTS):
                raise ValueError(f"prices in {row.units}, not in {CENTS}")
            area = "" if row.stateid == "US" else f"US-{row.stateid}"
            yield _BandPrice("US", area, sector, row.period, float(row.price) / 100)
