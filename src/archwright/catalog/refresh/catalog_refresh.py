"""`catalog refresh`: makes a new refreshed layer of files of public sources that the user has brought.

Nothing is fetched: the machine may be cut off. A source's files are known by their names, plain or packed (.gz). A file
that states no day takes the day in its path (`litellm-2026-11-20.json`), else its rows count as recalled. A refresh
replaces what an earlier one brought of the same class (and provider); all else stays.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import TypeVar

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers import refreshed_layer
from archwright.catalog.layers.refreshed_layer import RefreshedLayer
from archwright.catalog.refresh.figure_merger import FigureMerger
from archwright.catalog.refresh.hosted_price_merger import HostedPriceMerger
from archwright.catalog.refresh.machine_price_merger import MachinePriceMerger
from archwright.catalog.refresh.refresh_input import PriceDisagreement, RefreshInput, RefreshReportBuilder, SkippedRows
from archwright.catalog.sources import read_source
from archwright.catalog.sources.file_formats import decompress_gzip
from archwright.catalog.sources.source_records import FileContext
from archwright.catalog.tables.metadata_records import FactClass, RefreshSource
from archwright.catalog.tables.records import Fact
from archwright.catalog.tables.row_names import replacement_key
from archwright.contract.record import Record, replace
from archwright.errors import CatalogError, ErrorLocation

F = TypeVar("F", bound=Fact)
LARGEST_BYTES = 512 << 20
DAY = re.compile(r"-?\d{4}-\d{2}-\d{2}")
GZIP_SUFFIX = ".gz"
# Builds have no use without prices.
COUPLED_CLASSES: dict[FactClass, tuple[FactClass, ...]] = dict.fromkeys(("machines", "offers"), ("machines", "offers"))


class FileRead(Record):
    """What was read of a source: its one file, or the pattern of several and the newest day they state."""

    file: str
    source: str
    as_of: str
    rows: int
    files: int = 1


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
    set_aside: tuple[SkippedRows, ...] = ()
    disagreements: tuple[PriceDisagreement, ...] = ()
    flags: tuple[str, ...] = ()


def refresh_catalog(catalog: Catalog, layer: Path, bring: Path, only: FactClass | None, today: date) -> RefreshReport:
    """Read `bring` into a new generation of `layer`. Raises CatalogError AW-CAT-09 if it can read nothing."""
    classes = None if only is None else COUPLED_CLASSES.get(only, (only,))
    wanted = [row for row in catalog.refresh_sources if classes is None or row.feeds in classes]
    files: list[RefreshInput] = []
    read: list[FileRead] = []
    refused: list[FileRefused] = []
    missing: list[FileMissing] = []
    for source in sorted(wanted, key=lambda row: row.priority):
        paths = _newest_files(bring, source.file)
        if not paths:
            named = {name: getattr(source, name) for name in FileMissing.__struct_fields__}
            missing.append(FileMissing(**named))
        of_source: list[RefreshInput] = []
        names: list[str] = []
        for path in paths:
            name = path.relative_to(bring).as_posix()
            try:
                of_source += _read_file(catalog, path, name, source, today)
                names.append(name)
            except (CatalogError, ValueError, OSError, RecursionError) as error:
                refused.append(FileRefused(file=name, why=str(error)))
        files += of_source
        if names:
            one = FileRead(
                file=names[0] if len(names) == 1 else source.file,
                source=source.id,
                as_of=max((file.as_of for file in of_source), default=""),
                rows=sum(file.found.rows for file in of_source),
                files=len(names),
            )
            read.append(one)
    report = RefreshReport(generation="", kept={}, read=tuple(read), refused=tuple(refused), missing=tuple(missing))
    if not files:
        raise _nothing_read_error(bring, report)
    # Of equal sources the newer one counts: sorting keeps the order of equals.
    files = sorted(sorted(files, key=lambda file: file.as_of, reverse=True), key=lambda file: file.source.priority)
    aside = RefreshReportBuilder()
    made = _build_layer(catalog, aside, files, today)
    return replace(
        report,
        generation=refreshed_layer.write_generation(layer, made),
        kept=count_rows(made),
        set_aside=aside.skipped_rows,
        disagreements=tuple(aside.disagreements),
        flags=tuple(aside.flags),
    )


def _newest_files(folder: Path, pattern: str) -> tuple[Path, ...]:
    """Of the files that differ by the day in their names alone the last one each."""
    found: dict[str, Path] = {}
    for path in sorted((*folder.glob(pattern), *folder.glob(pattern + GZIP_SUFFIX)), key=str):
        if path.is_file():
            found[DAY.sub("", path.relative_to(folder).as_posix()).removesuffix(GZIP_SUFFIX)] = path
    return tuple(found.values())


def _read_file(catalog: Catalog, path: Path, name: str, source: RefreshSource, today: date) -> list[RefreshInput]:
    """One for each provider that the file speaks of."""
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise ValueError(f"{size} bytes, more than {LARGEST_BYTES}")
    context = FileContext(name.removesuffix(GZIP_SUFFIX), today)
    found = read_source(source.adapter, decompress_gzip(path.read_bytes()), context)
    named = DAY.search(name)
    as_of = found.as_of or (named[0].removeprefix("-") if named else "")
    if as_of > today.isoformat():
        raise ValueError(f"states a day ahead: {as_of}")
    return [
        RefreshInput(replace(source, provider=catalog.canonical_provider(of)), as_of, part, today.isoformat())
        for of, part in found.parts or ((source.provider, found),)
    ]


def _build_layer(
    catalog: Catalog, aside: RefreshReportBuilder, files: list[RefreshInput], today: date
) -> RefreshedLayer:
    """What was there, with what these files bring in place of it."""
    before, figures = catalog.refreshed_layer, FigureMerger(catalog, aside)

    def of(*classes: FactClass) -> list[RefreshInput]:
        return [file for file in files if file.source.feeds in classes]

    return replace(
        before,
        made_at=today.isoformat(),
        prices={**before.prices, **MachinePriceMerger(catalog, aside).merge_prices(of("machines", "offers"))},
        hosted=HostedPriceMerger(catalog, aside).merge_hosted_prices(of("hosted")) or before.hosted,
        storage=_replace_rows(before.storage, figures.merge_storage_prices(of("storage"))),
        grid=figures.merge_grid_carbon(of("grid")) or before.grid,
        tariffs=_replace_rows(before.tariffs, figures.merge_tariffs(of("tariffs"))),
        scores=figures.merge_scores(of("scores")) or before.scores,
        models=_replace_rows(before.models, figures.merge_models(of("models"))),
        accelerators=_replace_rows(before.accelerators, figures.merge_accelerators(of("accelerators"))),
    )


def _replace_rows(before: tuple[F, ...], new: tuple[F, ...]) -> tuple[F, ...]:
    """Tiers of one price are only right together: what is replaced is the whole of them."""
    there = {replacement_key(row) for row in new}
    return (*(row for row in before if replacement_key(row) not in there), *new)


def count_rows(made: RefreshedLayer) -> dict[str, int]:
    tables = ("hosted", "storage", "grid", "tariffs", "scores", "models", "accelerators")
    offers = sum(len(prices.on_demand) for prices in made.prices.values())
    return {"offers": offers, **{table: len(getattr(made, table)) for table in tables}}


def _nothing_read_error(bring: Path, report: RefreshReport) -> CatalogError:
    why = "; ".join(f"{refused.file}: {refused.why}" for refused in report.refused) or "no file of a known source"
    hint = f"bring files of these names: {', '.join(row.file for row in report.missing)}"
    where = ErrorLocation(str(bring))
    error = CatalogError("AW-CAT-09", f"nothing to refresh from: {why}", where=where, hint=hint)
    error.result = report
    return error
