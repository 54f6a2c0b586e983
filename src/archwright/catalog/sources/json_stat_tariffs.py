"""A cube of official statistics (JSON-stat 2.0): electricity prices of non-household consumers by half-year.

Value-added tax and other recoverable taxes are left out; a business's band is 500 to 2,000 MWh a year, industry's
20,000 to 70,000. Of a country the newest half-year counts.
"""

from __future__ import annotations

from itertools import product

import msgspec

from archwright.catalog.sources.source_records import ElectricityTariff, FileContext, SourceFacts

BANDS = {"MWH500-1999": "commercial", "MWH20000-69999": "industrial"}
TAX, CURRENCY, UNIT = "X_VAT", "EUR", "KWH"
BAND_AT, PLACE_AT, TIME_AT = "nrg_cons", "geo", "time"
# Codes of the source that are not those of the standard.
PLACES = {"EL": "GR", "UK": "GB", "EU27_2020": "EU27"}
MOST_CELLS = 2_000_000


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
    updated: str = ""


def read(data: bytes, _file: FileContext) -> SourceFacts:
    cube = msgspec.json.decode(data, type=_Cube)
    if not {BAND_AT, PLACE_AT, TIME_AT} <= set(cube.id) or not set(cube.id) <= cube.dimension.keys():
        raise ValueError(f"lacks a dimension of {BAND_AT}, {PLACE_AT}, {TIME_AT}")
    codes = [cube.dimension[name].category.codes for name in cube.id]
    cells = 1
    for of in codes:
        cells *= len(of)
    if [len(of) for of in codes] != cube.size or cells > MOST_CELLS:
        raise ValueError("its dimensions have other sizes than it states, or too many cells")
    values = cube.value if isinstance(cube.value, dict) else {str(at): value for at, value in enumerate(cube.value)}
    newest: dict[str, dict[str, tuple[str, float]]] = {}
    for at, place in enumerate(product(*codes)):
        price, stands = values.get(str(at)), dict(zip(cube.id, place, strict=True))
        band = _consumer_band(stands)
        if price is not None and band:
            of_place = newest.setdefault(stands[PLACE_AT], {})
            of_place[band] = max(of_place.get(band, ("", 0.0)), (stands[TIME_AT], price))
    return SourceFacts(
        tariffs=tuple(
            ElectricityTariff.from_bands(PLACES.get(place, place), "", bands, CURRENCY)
            for place, bands in newest.items()
        )
    )


def _consumer_band(stands: dict[str, str]) -> str:
    """Empty for a cell that is no price of these bands."""
    wanted = {"tax": TAX, "currency": CURRENCY, "unit": UNIT}
    if any(stands.get(name, code) != code for name, code in wanted.items()):
        return ""
    return BANDS.get(stands[BAND_AT], "")
