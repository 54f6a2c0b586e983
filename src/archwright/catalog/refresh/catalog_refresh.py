"""`catalog refresh`: builds a new refreshed layer from files of public sources in the user's folder.

Nothing is downloaded, since the machine may be offline. File names identify the sources, plain or compressed (.gz). A
file without a stated day takes the day in its path (`litellm-2026-11-20.json`), or else its rows count as recalled. A
refresh replaces the earlier facts of the same class (and provider); all other facts stay.
"""

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
# A refresh of prices reads builds too, and the reverse: neither is useful alone.
COUPLED_CLASSES: dict[FactClass, tuple[FactClass, ...]] = dict.fromkeys(("machines", "offers"), ("machines", "offers"))


class FileRead(Record):
    """The files read of one source: a single file's name, or the pattern of several; their newest day."""

    file: str
    source: str
    as_of: str
    rows: int
    files: int = 1


class FileRefused(Record):
    file: str
    why: str


class FileMissing(Record):
    """A file that the folder lacks; it can be downloaded from `origin`."""

    file: str
    feeds: str
    origin: str
    licence: str


class RefreshReport(Record):
    """The result of a refresh; `generation` is empty if no file could be read, `kept` counts the rows."""

    generation: str
    kept: dict[str, int]
    read: tuple[FileRead, ...] = ()
    refused: tuple[FileRefused, ...] = ()
    missing: tuple[FileMissing, ...] = ()
    set_aside: tuple[SkippedRows, ...] = ()
    disagreements: tuple[PriceDisagreement, ...] = ()
    flags: tuple[str, ...] = ()


def refresh_catalog(catalog: Catalog, layer: Path, bring: Path, only: FactClass | None, today: date) -> RefreshReport:
    """Read `bring` into a new generation of `layer`. Raises CatalogError AW-CAT-09 if no file can be read."""
    classes = None if only is None else COUPLED_CLASSES.get(only, (only,))
    sources = [row for row in catalog.refresh_sources if classes is None or row.feeds in classes]
    files: list[RefreshInput] = []
    read: list[FileRead] = []
    refused: list[FileRefused] = []
    missing: list[FileMissing] = []
    for source in sorted(sources, key=lambda row: row.priority):
        paths = _newest_files(bring, source.file)
        if not paths:
            missing.append(FileMissing(**{name: getattr(source, name) for name in FileMissing.__struct_fields__}))
        found: list[RefreshInput] = []
        names: list[str] = []
        for path in paths:
            name = path.relative_to(bring).as_posix()
            try:
                found += _read_file(catalog, path, name, source, today)
                names.append(name)
            except (CatalogError, ValueError, OSError, RecursionError) as error:
                refused.append(FileRefused(file=name, why=str(error)))
        files += found
        if names:
            file_read = FileRead(
                file=names[0] if len(names) == 1 else source.file,
                source=source.id,
                as_of=max((file.as_of for file in found), default=""),
                rows=sum(file.found.rows for file in found),
                files=len(names),
            )
            read.append(file_read)
    report = RefreshReport(generation="", kept={}, read=tuple(read), refused=tuple(refused), missing=tuple(missing))
    if not files:
        reasons = "; ".join(f"{one.file}: {one.why}" for one in refused) or "no file of a known source"
        hint = f"put files of these names into the folder: {', '.join(row.file for row in missing)}"
        message = f"no file can be read: {reasons}"
        unreadable = CatalogError("AW-CAT-09", message, where=ErrorLocation(str(bring)), hint=hint)
        unreadable.result = report
        raise unreadable
    # Among sources of equal priority the newer one wins: sorting is stable.
    files = sorted(sorted(files, key=lambda file: file.as_of, reverse=True), key=lambda file: file.source.priority)
    builder = RefreshReportBuilder()
    refreshed = _build_layer(catalog, builder, files, today)
    return replace(
        report,
        generation=refreshed_layer.write_generation(layer, refreshed),
        kept=count_rows(refreshed),
        set_aside=builder.skipped_rows,
        disagreements=tuple(builder.disagreements),
        flags=tuple(builder.flags),
    )


def _newest_files(folder: Path, pattern: str) -> tuple[Path, ...]:
    """Return the newest of the files whose names differ only by the day."""
    found: dict[str, Path] = {}
    for path in sorted((*folder.glob(pattern), *folder.glob(pattern + GZIP_SUFFIX)), key=str):
        if path.is_file():
            found[DAY.sub("", path.relative_to(folder).as_posix()).removesuffix(GZIP_SUFFIX)] = path
    return tuple(found.values())


def _read_file(catalog: Catalog, path: Path, name: str, source: RefreshSource, today: date) -> list[RefreshInput]:
    """Return one input for each provider of the file."""
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise ValueError(f"the file has {size} bytes, more than {LARGEST_BYTES}")
    context = FileContext(name.removesuffix(GZIP_SUFFIX), today)
    found = read_source(source.adapter, decompress_gzip(path.read_bytes()), context)
    day = DAY.search(name)
    as_of = found.as_of or (day[0].removeprefix("-") if day else "")
    if as_of > today.isoformat():
        raise ValueError(f"the file states a day in the future: {as_of}")
    return [
        RefreshInput(replace(source, provider=catalog.canonical_provider(of)), as_of, part, today.isoformat())
        for of, part in found.parts or ((source.provider, found),)
    ]


def _build_layer(
    catalog: Catalog, report: RefreshReportBuilder, files: list[RefreshInput], today: date
) -> RefreshedLayer:
    """Return the current layer with the facts of these files in place of earlier ones."""
    before, figures = catalog.refreshed_layer, FigureMerger(catalog, report)

    def of(*classes: FactClass) -> list[RefreshInput]:
        return [file for file in files if file.source.feeds in classes]

    return replace(
        before,
        made_at=today.isoformat(),
        prices={**before.prices, **MachinePriceMerger(catalog, report).merge_prices(of("machines", "offers"))},
        hosted=HostedPriceMerger(catalog, report).merge_hosted_prices(of("hosted")) or before.hosted,
        storage=_replace_rows(before.storage, figures.merge_storage_prices(of("storage"))),
        grid=figures.merge_grid_carbon(of("grid")) or before.grid,
        tariffs=_replace_rows(before.tariffs, figures.merge_tariffs(of("tariffs"))),
        scores=figures.merge_scores(of("scores")) or before.scores,
        models=_replace_rows(before.models, figures.merge_models(of("models"))),
        accelerators=_replace_rows(before.accelerators, figures.merge_accelerators(of("accelerators"))),
    )


def _replace_rows(before: tuple[F, ...], new: tuple[F, ...]) -> tuple[F, ...]:
    """Replace rows by key: tiers of a price are valid only together, so all of them are replaced."""
    replaced = {replacement_key(row) for row in new}
    return (*(row for row in before if replacement_key(row) not in replaced), *new)


def count_rows(layer: RefreshedLayer) -> dict[str, int]:
    tables = ("hosted", "storage", "grid", "tariffs", "scores", "models", "accelerators")
    offers = sum(len(prices.on_demand) for prices in layer.prices.values())
    return {"offers": offers, **{table: len(getattr(layer, table)) for table in tables}}
