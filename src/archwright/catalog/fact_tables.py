"""From CSV columns to records: facts about facts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from archwright.catalog import fact_rows as rows
from archwright.catalog.table import Row, confidence, read


def availability(folder: Path) -> list[rows.Availability]:
    """One table per provider, named after it."""
    return [
        rows.Availability(
            provider=provider,
            region=row.name("region"),
            instance_type=row.name("instance_type"),
            on_demand_usd_per_hour=row.number("on_demand_usd_h"),
            source=row.name("source"),
            as_of=row.text("as_of"),
            confidence=confidence(row.text("as_of")),
        )
        for provider, row in _by_provider(folder, "_availability.csv")
    ]


def region_ratios(folder: Path) -> list[rows.RegionRatio]:
    return [
        rows.RegionRatio(
            provider=provider,
            family=row.name("family").partition(".")[0],
            region=row.name("region"),
            home=_home(row),
            ratio=row.required(_ratio_column(row)),
            read_from=row.name("family"),
            source=row.name("source"),
            as_of=row.text("as_of"),
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


def hosted_facts(folder: Path) -> list[rows.HostedFact]:
    return [
        rows.HostedFact(
            provider=row.name("provider"),
            model=row.name("model"),
            kind=row.one_of("kind", rows.HostedKind),
            name=row.name("name"),
            value=row.number("value"),
            source=row.name("source"),
            as_of=row.text("as_of"),
            confidence=confidence(row.text("as_of"), row.text("confidence")),
            notes=row.text("notes"),
        )
        for row in read(folder, "hosted_facts.csv")
    ]


def times_to_live(folder: Path) -> list[rows.TimeToLive]:
    return [
        rows.TimeToLive(
            id=row.name("class"),
            ttl_days=row.count("ttl_days"),
            expires_days=row.whole("expires_days"),
            drift_down=row.required("drift_down"),
            drift_up=row.required("drift_up"),
            applies_to=tuple(row.name("applies_to").split()),
            source=row.name("source"),
            as_of=row.text("as_of"),
            confidence=confidence(row.text("as_of"), row.text("confidence")),
            notes=row.text("notes"),
        )
        for row in read(folder, "ttl.csv")
    ]


def source_words(folder: Path) -> list[rows.SourceWords]:
    found = []
    for row in read(folder, "source_kinds.csv"):
        try:
            re.compile(row.name("pattern"))
        except re.error:
            raise row.broken("pattern", "not a pattern") from None
        found.append(
            rows.SourceWords(
                kind=row.one_of("kind", rows.SourceKind),
                pattern=row.name("pattern"),
                source=row.name("source"),
                as_of=row.text("as_of"),
                confidence=confidence(row.text("as_of")),
                notes=row.text("notes"),
            )
        )
    return found


def refresh_sources(folder: Path) -> list[rows.RefreshSource]:
    return [
        rows.RefreshSource(
            id=row.name("id"),
            feeds=row.one_of("class", rows.FactClass),
            adapter=row.name("adapter"),
            file=row.name("file"),
            provider=row.text("provider"),
            origin=row.name("origin"),
            licence=row.name("licence"),
            priority=row.count("priority"),
            source=row.name("source"),
            as_of=row.text("as_of"),
            confidence=confidence(row.text("as_of"), row.text("confidence")),
            notes=row.text("notes"),
        )
        for row in read(folder, "refresh_sources.csv")
    ]


def gate_exceptions(folder: Path) -> list[rows.GateException]:
    return [
        rows.GateException(
            gate=row.name("gate"),
            subject=row.name("subject"),
            notes=row.name("reason"),
            source=row.name("source"),
            as_of=row.text("as_of"),
            confidence=confidence(row.text("as_of")),
        )
        for row in read(folder, "gate_exceptions.csv")
    ]
