"""Electricity by country in JSON: the grid's carbon, and prices per kWh of businesses and of industry."""

import math
import re
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import msgspec

from archwright.catalog.sources.row_reader import read_rows
from archwright.catalog.sources.source_records import CarbonIntensity, ElectricityTariff, FileContext, SourceFacts

CUBE_BANDS = {"MWH500-1999": "commercial", "MWH20000-69999": "industrial"}
CUBE_FILTER = {"tax": "X_VAT", "currency": "EUR", "unit": "KWH"}
BAND_DIMENSION, PLACE_DIMENSION, TIME_DIMENSION = "nrg_cons", "geo", "time"
# The source's codes that differ from ISO 3166-1.
PLACES = {"EL": "GR", "UK": "GB", "EU27_2020": "EU27"}
MAX_CELLS = 2_000_000

CENTS = "cents per kilowatt-hour"
# Groups of states have longer codes.
STATE = re.compile(r"[A-Z]{2}")


class _Category(msgspec.Struct):
    index: dict[str, int] | list[str]

    @property
    def codes(self) -> list[str]:
        return self.index if isinstance(self.index, list) else sorted(self.index, key=self.index.__getitem__)


class _Dimension(msgspec.Struct):
    category: _Category


class _Cube(msgspec.Struct):
    """A JSON-stat 2.0 cube; `value` maps the number of a cell to its figure, last dimension fastest."""

    id: list[str]
    size: list[int]
    dimension: dict[str, _Dimension]
    value: dict[str, float | None] | list[float | None]


class _BandPrice(NamedTuple):
    """The price of one consumer band (`commercial` or `industrial`) in a period."""

    country: str
    area: str
    band: str
    period: str
    price: float


def _newest_tariffs(prices: Iterator[_BandPrice], currency: str) -> SourceFacts:
    """Take the newest period of each area and band. The newer of its two periods dates a tariff."""
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
    rows = (row for row in read_rows("grid-carbon", data) if row["gco2_per_kwh"] is not None)
    return SourceFacts(carbon=tuple(CarbonIntensity(**row | {"year": str(row["year"] or "")}) for row in rows))


def read_statistics_cube(data: bytes, _file: FileContext) -> SourceFacts:
    """Read half-yearly prices of non-household consumers from a cube of official statistics.

    Recoverable taxes are excluded. Bands: a business uses 500 to 2,000 MWh a year, industry 20,000 to 70,000.
    """
    cube = msgspec.json.decode(data, type=_Cube)
    needed = {BAND_DIMENSION, PLACE_DIMENSION, TIME_DIMENSION}
    if not needed <= set(cube.id) or not set(cube.id) <= cube.dimension.keys():
        raise ValueError(f"one of the dimensions {', '.join(sorted(needed))} is missing")
    codes = [cube.dimension[name].category.codes for name in cube.id]
    sizes = [len(of) for of in codes]
    if sizes != cube.size or math.prod(sizes) > MAX_CELLS:
        raise ValueError(f"the dimensions do not have the stated sizes, or there are more than {MAX_CELLS} cells")
    return _newest_tariffs(_cube_prices(cube, codes), CUBE_FILTER["currency"])


def _cube_prices(cube: _Cube, codes: list[list[str]]) -> Iterator[_BandPrice]:
    values = cube.value if isinstance(cube.value, dict) else {str(at): value for at, value in enumerate(cube.value)}
    for number, cell in enumerate(product(*codes)):
        price, code_of = values.get(str(number)), dict(zip(cube.id, cell, strict=True))
        band = CUBE_BANDS.get(code_of[BAND_DIMENSION])
        if price is not None and band and all(code_of.get(name, code) == code for name, code in CUBE_FILTER.items()):
            place = code_of[PLACE_DIMENSION]
            yield _BandPrice(PLACES.get(place, place), "", band, code_of[TIME_DIMENSION], price)


def read_state_tariffs(data: bytes, _file: FileContext) -> SourceFacts:
    """Read retail prices by state, sector and month in cents per kWh, as an energy office's API answers."""
    return _newest_tariffs(_state_prices(read_rows("state-tariffs", data)), "USD")


def _state_prices(rows: Iterator[dict[str, Any]]) -> Iterator[_BandPrice]:
    for row in rows:
        if row["band"] and row["price"] is not None and STATE.fullmatch(row["state"]):
            if not row["unit"].startswith(CENTS):
                raise ValueError(f"the prices are in {row['unit']}, not in {CENTS}")
            area = "" if row["state"] == "US" else f"US-{row['state']}"
            yield _BandPrice("US", area, row["band"], row["period"], float(row["price"]) / 100)
