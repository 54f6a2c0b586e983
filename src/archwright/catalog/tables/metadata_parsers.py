"""From CSV columns to records: facts about facts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from archwright.catalog.tables import metadata_records as rows
from archwright.catalog.tables.csv_table import Row, confidence, read


def availability(folder: Path) -> list[rows.Availability]:
    """One table per provider, named after it."""
    return [
        row.record(rows.Availability, provider=provider, on_demand_usd_per_hour=row.number("on_demand_usd_h"))
        for provider, row in _by_provider(folder, "_availability.csv")
    ]


def region_ratios(folder: Path) -> list[rows.RegionRatio]:
    return [
        row.record(
            rows.RegionRatio,
            provider=provider,
            family=row.name("family").partition(".")[0],
            home=_home(row),
            ratio=row.required(_ratio_column(row)),
            read_from=row.name("family"),
            confidence=confidence(row.text("as_of"), "low"),
        )
        for provider, row in _by_provider(folder, "_region_multipliers.csv")
    ]


def _by_provider(folder: Path, ending: str) -> Iterator[tuple[str, Row]]:
    for path in sorted(folder.glob(f"*{ending}")):
        for row in read(folder, path.name):
            yield path.name.removesuffix(ending), row


def _ratio_column(row: Row) -> str:
    return next((name for name in row.cells if name.startswith("ratio_to_")), "ratio")


def _home(row: Row) -> str:
    """The home region stands in the column's name: `ratio_to_us_east_1`."""
    return _ratio_column(row).removeprefix("ratio_to_").replace("_", "-")


def times_to_live(folder: Path) -> list[rows.TimeToLive]:
    return [row.record(rows.TimeToLive, id=row.name("class")) for row in read(folder, "ttl.csv")]


def source_words(folder: Path) -> list[rows.SourceWords]:
    found = []
    for row in read(folder, "source_kinds.csv"):
        try:
            re.compile(row.name("pattern"))
        except re.error:
            raise row.broken("pattern", "not a pattern") from None
        found.append(row.record(rows.SourceWords))
    return found


def refresh_sources(folder: Path) -> list[rows.RefreshSource]:
    return [
        row.record(rows.RefreshSource, feeds=row.one_of("class", rows.FactClass), provider=row.text("provider"))
        for row in read(folder, "refresh_sources.csv")
    ]


def gate_exceptions(folder: Path) -> list[rows.GateException]:
    return [row.record(rows.GateException, notes=row.name("reason")) for row in read(folder, "gate_exceptions.csv")]
