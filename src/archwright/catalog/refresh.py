"""`catalog refresh`: reads files of public sources that the user has brought, and makes a new refreshed layer of them.

Nothing is fetched: the machine may be cut off. A source's file is known by its name; one that states no day takes the
day in its name (`litellm-2026-11-20.json` ...), else its rows count as recalled. What a refresh brings replaces what an
earlier one brought of that class (and provider); all else stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from archwright.catalog import refreshed
from archwright.catalog.brought import Brought, Disagreement, SetAside
from archwright.catalog.cost_rows import StoragePrice
from archwright.catalog.fact_rows import FactClass, RefreshSource
from archwright.catalog.facts import Catalog
from archwright.catalog.intake import Intake
from archwright.catalog.refreshed import Refreshed
from archwright.catalog.sources import ADAPTERS
from archwright.contract.record import Record, replace
from archwright.errors import CatalogError, Where

LARGEST_BYTES = 256 << 20
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
# Builds have no use without prices.
TOGETHER: dict[FactClass, tuple[FactClass, ...]] = dict.fromkeys(("machines", "offers"), ("machines", "offers"))


class FileRead(Record):
    file: str
    source: str
    as_of: str
    rows: int


class FileRefused(Record):
    file: str
    why: str


class FileMissing(Record):
    """What the folder lacks: a file of that name, to be had from `origin`."""

    file: str
    feeds: str
    origin: str
    licence: str


class RefreshReport(Record):
    """What a refresh did. `generation` is empty when nothing could be read; `kept` counts the rows now in the layer."""

    generation: str
    kept: dict[str, int]
    read: tuple[FileRead, ...] = ()
    refused: tuple[FileRefused, ...] = ()
    missing: tuple[FileMissing, ...] = ()
    set_aside: tuple[SetAside, ...] = ()
    disagreements: tuple[Disagreement, ...] = ()
    flags: tuple[str, ...] = ()


def refresh(catalog: Catalog, layer: Path, bring: Path, only: FactClass | None, today: date) -> RefreshReport:
    """Reads `bring`, writes a new generation into `layer` and switches to it.

    Raises CatalogError AW-CAT-09, the report with it, when no file of any source could be read.
    """
    classes = None if only is None else TOGETHER.get(only, (only,))
    wanted = [row for row in catalog.refresh_sources if row.adapter and (classes is None or row.feeds in classes)]
    files: list[Brought] = []
    read: list[FileRead] = []
    refused: list[FileRefused] = []
    missing: list[FileMissing] = []
    for source in sorted(wanted, key=lambda row: row.priority):
        path = _newest(bring, source.file)
        if path is None:
            missing.append(_missing(source))
            continue
        try:
            file = _read(path, source, today)
        except (CatalogError, ValueError, OSError, RecursionError) as error:
            refused.append(FileRefused(file=path.name, why=str(error)))
            continue
        files.append(file)
        read.append(FileRead(file=path.name, source=source.id, as_of=file.as_of, rows=_rows(file)))
    report = RefreshReport(generation="", kept={}, read=tuple(read), refused=tuple(refused), missing=tuple(missing))
    if not files:
        raise _nothing(bring, report)
    # Of equal sources the newer one counts: sorting keeps the order of equals.
    files = sorted(sorted(files, key=lambda file: file.as_of, reverse=True), key=lambda file: file.source.priority)
    intake = Intake(catalog)
    made = _layer(catalog.latest, intake, files, today)
    return replace(
        report,
        generation=refreshed.write(layer, made),
        kept=kept(made),
        set_aside=intake.aside.rows,
        disagreements=tuple(intake.aside.disagreements),
        flags=tuple(intake.aside.flags),
    )


def _newest(folder: Path, pattern: str) -> Path | None:
    """Of several files of a source the last by name: a day in the name sorts."""
    return max((path for path in folder.glob(pattern) if path.is_file()), default=None, key=lambda path: path.name)


def _read(path: Path, source: RefreshSource, today: date) -> Brought:
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise ValueError(f"{size} bytes, more than {LARGEST_BYTES}")
    found = ADAPTERS[source.adapter](path.read_bytes(), today)
    named = DAY.search(path.name)
    as_of = found.as_of or (named[0] if named else "")
    if as_of > today.isoformat():
        raise ValueError(f"states a day ahead: {as_of}")
    return Brought(source, as_of, found)


def _rows(file: Brought) -> int:
    found = file.found
    return len(found.prices) or len(found.builds) or len(found.tokens) or len(found.stored) or len(found.carbon)


def _layer(before: Refreshed, intake: Intake, files: list[Brought], today: date) -> Refreshed:
    """What was there, with what these files bring in place of it."""

    def of(*classes: FactClass) -> list[Brought]:
        return [file for file in files if file.source.feeds in classes]

    return replace(
        before,
        made_at=today.isoformat(),
        prices={**before.prices, **intake.prices(of("machines", "offers"))},
        hosted=intake.hosted(of("hosted")) or before.hosted,
        storage=_merged(before.storage, intake.storage(of("storage"))),
        grid=intake.grid(of("grid")) or before.grid,
    )


def _merged(before: tuple[StoragePrice, ...], new: tuple[StoragePrice, ...]) -> tuple[StoragePrice, ...]:
    there = {(row.provider, row.kind, row.item) for row in new}
    return (*(row for row in before if (row.provider, row.kind, row.item) not in there), *new)


def kept(made: Refreshed) -> dict[str, int]:
    return {
        "offers": sum(len(prices.on_demand) for prices in made.prices.values()),
        "hosted": len(made.hosted),
        "storage": len(made.storage),
        "grid": len(made.grid),
    }


def _missing(source: RefreshSource) -> FileMissing:
    return FileMissing(file=source.file, feeds=source.feeds or "", origin=source.origin, licence=source.licence)


def _nothing(bring: Path, report: RefreshReport) -> CatalogError:
    why = "; ".join(f"{refused.file}: {refused.why}" for refused in report.refused) or "no file of a known source"
    error = CatalogError(
        "AW-CAT-09",
        f"nothing to refresh from: {why}",
        where=Where(str(bring)),
        hint="bring files of these names: " + _names(report.missing),
    )
    error.result = report
    return error


def _names(missing: Iterable[FileMissing]) -> str:
    return ", ".join(row.file for row in missing)
