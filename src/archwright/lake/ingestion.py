"""Files into the next version of a data set: survey, decide the columns, write, commit.

The unit is the file, known by its path within what was ingested and its SHA-256: an unchanged one is not read again,
a changed one's rows are replaced, a new one's added. A file that is no longer there keeps its rows: a data set may
be brought together from several places, and nothing is taken away because a disk was not mounted. A file of the same
path from another place is the same file, changed: whose rows went is told.
Two passes over what is new: the first refuses and decides before anything changes, the second writes.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from archwright.contract.lineage import DatasetVersion, SourceFile
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home
from archwright.lake import iceberg_tables, schema_inference, type_inference, version_index
from archwright.lake.column_kinds import SYSTEM_COLUMNS, arrow_schema
from archwright.lake.content_digest import ContentDigest
from archwright.lake.dataset_lock import lock_dataset
from archwright.lake.file_formats import FORMATS
from archwright.lake.quarantine import Quarantine, quarantine_path
from archwright.lake.rejects_file import open_rejects_file
from archwright.lake.row_chunks import BrokenRow, BrokenRowHandler, RowChunk, format_excerpt
from archwright.lake.source_files import ScannedFile, read_file_signature, scan_sources
from archwright.store import Store

DATASET_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def build_record_batch(source: ScannedFile, chunk: RowChunk, kinds: dict[str, str], on_broken: BrokenRowHandler) -> Any:
    """A chunk as a record batch with all of `kinds`' columns; rows with a value that does not fit are broken."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    made: dict[str, Any] = {}
    bad: dict[int, str] = {}
    for name, kind in kinds.items():
        if name in chunk.columns:
            made[name], unfit = type_inference.convert_column(chunk.columns[name], kind, chunk.untyped)
            bad.update({place: f"{reason}: column {name}" for place, reason in unfit.items() if place not in bad})
        elif name not in SYSTEM_COLUMNS:
            made[name] = pa.nulls(len(chunk.rows), arrow_schema({name: kind}).field(0).type)
    made["record_id"] = pa.array(_compute_record_ids(source.name, chunk), pa.large_string())
    made["source_file"] = pa.array([source.name] * len(chunk.rows), pa.large_string())
    made["source_row"] = pa.array(chunk.rows, pa.int64())
    schema = arrow_schema(kinds)
    batch = pa.RecordBatch.from_arrays([made[name] for name in schema.names], schema=schema)
    for place in sorted(bad):
        broken = BrokenRow(
            file=source.name, row=chunk.rows[place], reason=bad[place], excerpt=format_excerpt(chunk.contents[place])
        )
        on_broken(broken)
    return batch.filter(pc.invert(pa.array([place in bad for place in range(len(chunk.rows))]))) if bad else batch


def _compute_record_ids(name: str, chunk: RowChunk) -> list[str]:
    """A record's id: the digest of where it stands and what stands there."""
    start = hashlib.sha256(name.encode() + b"\0" + chunk.header)
    made = []
    for row, content in zip(chunk.rows, chunk.contents, strict=True):
        digest = start.copy()
        digest.update(b"%d\0" % row)
        digest.update(content)
        made.append(digest.hexdigest())
    return made


class IngestResult(NamedTuple):
    """`new` is False when nothing had changed and `version` is the one there was; `replaced` are the files as the
    version before had them, whose rows went."""

    version: DatasetVersion
    new: bool
    passed_over: tuple[str, ...]
    replaced: tuple[SourceFile, ...] = ()


class IngestRequest(NamedTuple):
    """What to ingest, into what, under what licence; `now` is the clock."""

    path: Path
    name: str
    licence: str = ""
    now: Callable[[], float] = time.time


def ingest_files(home: Home, store: Store, order: IngestRequest) -> IngestResult:
    check_dataset_name(order.name)
    with lock_dataset(home, order.name):
        version_index.repair_index(home, store, order.name)
        previous = version_index.newest_version(store, order.name)
        if previous is not None and previous.action == "refine":
            raise DataError(
                "AW-DATA-23",
                f"{previous.id} was made by a recipe, files are not ingested over it",
                where=ErrorLocation(None, None, order.name),
                hint="ingest into the data set it was made from, then refine again",
            )
        found = scan_sources(order.path)
        known = {file.path: file for file in previous.files} if previous else {}
        fresh = [s for s in found.sources if s.name not in known or known[s.name].sha256 != s.sha256]
        licence = order.licence or (previous.licence if previous else "")
        if previous and not fresh and licence == previous.licence:
            return IngestResult(previous, False, found.passed_over)
        version = _write_version(home, order, previous, fresh)
        version_index.register_version(home, store, version)
        replaced = tuple(known[source.name] for source in fresh if source.name in known)
        return IngestResult(version, True, found.passed_over, replaced)


def check_dataset_name(name: str) -> None:
    """Raises DataError AW-DATA-01."""
    if not DATASET_NAME.fullmatch(name):
        raise DataError(
            "AW-DATA-01",
            f"no name for a data set: {name!r}",
            where=ErrorLocation(field="name"),
            hint="lower case letters, digits, dashes; at most 64; it starts with a letter or digit",
        )


def _write_version(
    home: Home, order: IngestRequest, previous: DatasetVersion | None, fresh: list[ScannedFile]
) -> DatasetVersion:
    """Write and commit the next version."""
    kinds = schema_inference.infer_columns(fresh, previous)
    before = previous.columns if previous else {}
    known = {file.path: file for file in previous.files} if previous else {}
    change = iceberg_tables.TableChange(
        dataset=order.name,
        version=previous.version + 1 if previous else 1,
        columns=kinds,
        replaced=tuple(source.name for source in fresh if source.name in known),
        rewrite=any(before[name] != kinds[name] for name in before),
    )
    content = ContentDigest()
    with (
        open_rejects_file(quarantine_path(home, order.name, change.version)) as aside,
        iceberg_tables.draft_version(home, change) as draft,
    ):
        quarantine = Quarantine(home, aside)
        _copy_unchanged_rows(home, previous, change, draft.writer, content)
        quarantine.copy_unchanged(previous, {source.name for source in fresh})
        files = [_write_source(source, kinds, draft.writer, quarantine, content) for source in fresh]
        if not draft.writer.rows and not content.rows:
            raise _no_rows_error(order, quarantine)
        aside.commit()
        size = draft.stage(content.hexdigest())
        version = DatasetVersion(
            id=f"{order.name}@v{change.version}",
            dataset=order.name,
            version=change.version,
            at=order.now(),
            action="ingest",
            parent=previous.id if previous else None,
            rows=content.rows,
            size_bytes=size,
            columns=kinds,
            drops=quarantine.drops(),
            changes={},
            files=tuple(sorted({**known, **{file.path: file for file in files}}.values(), key=lambda f: f.path)),
            content_sha256=content.hexdigest(),
            licence=order.licence or (previous.licence if previous else ""),
        )
        version_index.write_version_record(home, version)
        draft.commit()
    return version


def _copy_unchanged_rows(
    home: Home,
    previous: DatasetVersion | None,
    change: iceberg_tables.TableChange,
    writer: iceberg_tables.DataFileWriter,
    content: ContentDigest,
) -> None:
    """Count the rows that stay; write them again when a column became wider."""
    import pyarrow.compute as pc  # noqa: PLC0415

    if previous is None:
        return
    names = None if change.rewrite else ["record_id", "source_file"]
    for batch in iceberg_tables.read_batches(home, previous, names):
        kept = batch.filter(pc.invert(pc.is_in(batch["source_file"], iceberg_tables.text_array(change.replaced))))
        content.add(kept["record_id"])
        if change.rewrite:
            writer.write(type_inference.widen_batch(kept, change.columns))


def _write_source(
    source: ScannedFile,
    kinds: dict[str, str],
    writer: iceberg_tables.DataFileWriter,
    quarantine: Quarantine,
    content: ContentDigest,
) -> SourceFile:
    """One file's rows into the version."""
    before = quarantine.count(source.name)
    rows = 0
    for chunk in FORMATS[source.format].chunks(source, quarantine.add):
        batch = build_record_batch(source, chunk, kinds, quarantine.add)
        writer.write(batch)
        content.add(batch["record_id"])
        rows += batch.num_rows
    if read_file_signature(source.path) != source.signature:
        raise DataError(
            "AW-DATA-08",
            "the file was changed while it was read",
            where=ErrorLocation(source.name),
            hint="run it again when nobody writes to it; nothing was changed",
        )
    return SourceFile(
        path=source.name,
        sha256=source.sha256,
        size_bytes=source.size_bytes,
        rows=rows,
        quarantined=quarantine.count(source.name) - before,
    )


def _no_rows_error(order: IngestRequest, quarantine: Quarantine) -> DataError:
    reasons = ", ".join(f"{count} {reason}" for reason, count in quarantine.drops().items())
    return DataError(
        "AW-DATA-09",
        f"not one row to take: {reasons or 'the files are empty'}",
        where=ErrorLocation(str(order.path)),
        hint="look at the files: are they of the format their names say?",
    )
