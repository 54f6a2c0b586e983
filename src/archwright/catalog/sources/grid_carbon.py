"""Carbon of electricity by country in JSON: alpha-3 code -> intensity and year."""

from __future__ import annotations

import msgspec

from archwright.catalog.sources.source_records import CarbonIntensity, FileContext, SourceFacts


class _Country(msgspec.Struct):
    country_name: str = ""
    carbon_intensity: float | None = None
    year: int | None = None


def read(data: bytes, _file: FileContext) -> SourceFacts:
    countries = msgspec.json.decode(data, type=dict[str, _Country])
    return SourceFacts(
        carbon=tuple(
            CarbonIntensity(code, row.country_name, row.carbon_intensity, str(row.year or ""))
            for code, row in countries.items()
            if row.carbon_intensity is not None
        )
    )
