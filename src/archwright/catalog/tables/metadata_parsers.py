"""From CSV columns to records: facts about facts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from archwright.catalog.tables import metadata_records as rows
from archwright.catalog.tables.csv_table import CsvRow, effective_confidence, read_rows


def read_availability(folder: Path) -> list[rows.RegionAvailability]:
    """One table per provider, named after it."""
    return [
        row.to_record(rows.RegionAvailability, provider=provider, on_demand_usd_per_hour=row.number("on_demand_usd_h"))
        for provider, row in _rows_by_provider(folder, "_availability.csv")
    ]


def read_region_ratios(folder: Path) -> list[rows.RegionRatio]:
    return [
        row.to_record(
            rows.RegionRatio,
            provider=provider,
            family=row.required_text("family").partition(".")[0],
            home=_home_region(row),
            ratio=row.required_number(_ratio_column(row)),
            read_from=row.required_text("family"),
            confidence=effective_confidence(row.text("as_of"), "low"),
        )
        for provider, row in _rows_by_provider(folder, "_region_multipliers.csv")
    ]


def _rows_by_provider(folder: Path, ending: str) -> Iterator[tuple[str, CsvRow]]:
    for path in sorted(folder.glob(f"*{ending}")):
        for row in read_rows(folder, path.name):
            yield path.name.removesuffix(ending), row


def _ratio_column(row: CsvRow) -> str:
    return next((name for name in row.cells if name.startswith("ratio_to_")), "ratio")


def _home_region(row: CsvRow) -> str:
    """The home region stands in the column's name: `ratio_to_us_east_1`."""
    return _ratio_column(row).removeprefix("ratio_to_").replace("_", "-")


def read_times_to_live(folder: Path) -> list[rows.TimeToLive]:
    return [row.to_record(rows.TimeToLive, id=row.required_text("class")) for row in read_rows(folder, "ttl.csv")]


def read_source_patterns(folder: Path) -> list[rows.SourcePattern]:
    found = []
    for row in read_rows(folder, "source_kinds.csv"):
        try:
            re.compile(row.required_text("pattern"))
        except re.error:
            raise row.cell_error("pattern", "not a pattern") from None
        found.append(row.to_record(rows.SourcePattern))
    return found


def read_refresh_sources(folder: Path) -> list[rows.RefreshSource]:
    return [
        row.to_record(rows.RefreshSource, feeds=row.one_of("class", rows.FactClass), provider=row.text("provider"))
        for row in read_rows(folder, "refresh_sources.csv")
    ]


def read_plausibility_exceptions(folder: Path) -> list[rows.PlausibilityException]:
    return [
        row.to_record(rows.PlausibilityException, notes=row.required_text("reason"))
        for row in read_rows(folder, "gate_exceptions.csv")
    ]
