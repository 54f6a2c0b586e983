"""Ingest files into the next version of a data set: survey, choose column kinds, write, commit.

A file is identified by its path below the ingested folder and its SHA-256. Unchanged files are not read again, rows of
changed files are replaced, rows of new files are added. The rows of a missing file stay, since a data set may have
several sources. New files are read twice: the first pass may refuse the ingest, the second pass writes.
"""

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from archwright.contract.lineage import DatasetVersion, SourceFile
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home
from archwright.lake.formats import schema_inference, type_inference
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS, arrow_schema
from archwright.lake.formats.file_formats import FORMATS
from archwright.lake.formats.row_chunks import BrokenRowHandler, RowChunk, build_broken_row
from archwright.lake.formats.source_files import ScannedFile, read_file_signature, scan_sources
from archwright.lake.lazy_modules import pa, pc
from archwright.lake.tables import version_index
from archwright.lake.tables.content_digest import ContentDigest
from archwright.lake.tables.data_files import DataFileWriter
from archwright.lake.tables.dataset_lock import lock_dataset
from archwright.lake.tables.iceberg_tables import TableChange, draft_version, read_batches
from archwright.lake.tables.quarantine import Quarantine, quarantine_path
from archwright.lake.tables.rejects_file import open_rejects_file
from archwright.store import Store

DATASET_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def build_record_batch(source: ScannedFile, chunk: RowChunk, kinds: dict[str, str], on_broken: BrokenRowHandler) -> Any:
    """A chunk as a record batch with the columns of `kinds`; a row with a value of another kind is broken."""
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
        on_broken(build_broken_row(source.name, chunk.rows[place], bad[place], chunk.contents[place]))
    return batch.filter(pc.invert(pa.array([place in bad for place in range(len(chunk.rows))]))) if bad else batch


def _compute_record_ids(name: str, chunk: RowChunk) -> list[str]:
    """SHA-256 of file name, header, row number and content of each row."""
    start = hashlib.sha256(name.encode() + b"\0" + chunk.header)
    made = []
    for row, content in zip(chunk.rows, chunk.contents, strict=True):
        digest = start.copy()
        digest.update(b"%d\0" % row)
        digest.update(content)
        made.append(digest.hexdigest())
    return made


class IngestResult(NamedTuple):
    """`version` is the previous version if not `new`; the rows of its files `replaced` were replaced."""

    version: DatasetVersion
    new: bool
    passed_over: tuple[str, ...]
    replaced: tuple[SourceFile, ...] = ()


class IngestRequest(NamedTuple):
    """The path to ingest, the data set's name and licence; `now` is the clock."""

    path: Path
    name: str
    licence: str = ""
    now: Callable[[], float] = time.time


def ingest_files(home: Home, store: Store, request: IngestRequest) -> IngestResult:
    check_dataset_name(request.name)
    with lock_dataset(home, request.name):
        version_index.repair_index(home, store, request.name)
        previous = version_index.newest_version(store, request.name)
        if previous is not None and previous.action == "refine":
            message = f"a recipe made {previous.id}, so files cannot be ingested into it"
            hint = "ingest into the source of the recipe, then refine again"
            raise DataError("AW-DATA-23", message, where=ErrorLocation(None, None, request.name), hint=hint)
        found = scan_sources(request.path)
        known = {file.path: file for file in previous.files} if previous else {}
        fresh = [s for s in found.sources if s.name not in known or known[s.name].sha256 != s.sha256]
        request = request._replace(licence=request.licence or (previous.licence if previous else ""))
        if previous and not fresh and request.licence == previous.licence:
            return IngestResult(previous, False, found.passed_over)
        version = _write_version(home, request, previous, fresh)
        version_index.register_version(home, store, version)
        replaced = tuple(known[source.name] for source in fresh if source.name in known)
        return IngestResult(version, True, found.passed_over, replaced)


def check_dataset_name(name: str) -> None:
    """Raises DataError AW-DATA-01."""
    if not DATASET_NAME.fullmatch(name):
        hint = "use lower case letters, digits and dashes, at most 64, and start with a letter or digit"
        raise DataError("AW-DATA-01", f"invalid data set name: {name!r}", where=ErrorLocation(field="name"), hint=hint)


def _write_version(
    home: Home, request: IngestRequest, previous: DatasetVersion | None, fresh: list[ScannedFile]
) -> DatasetVersion:
    kinds = schema_inference.infer_columns(fresh, previous)
    before = previous.columns if previous else {}
    known = {file.path: file for file in previous.files} if previous else {}
    change = TableChange(
        dataset=request.name,
        version=previous.version + 1 if previous else 1,
        columns=kinds,
        replaced=tuple(source.name for source in fresh if source.name in known),
        rewrite=any(before[name] != kinds[name] for name in before),
        before=previous.data_files if previous else (),
    )
    content = ContentDigest()
    path = quarantine_path(home, request.name, change.version)
    with open_rejects_file(path) as rejects, draft_version(home, change) as draft:
        quarantine = Quarantine(home, rejects)
        _copy_unchanged_rows(home, previous, change, draft.writer, content)
        quarantine.copy_unchanged(previous, {source.name for source in fresh})
        files = [_write_source(source, kinds, draft.writer, quarantine, content) for source in fresh]
        if not draft.writer.rows and not content.rows:
            reasons = ", ".join(f"{count} {reason}" for reason, count in quarantine.drops().items())
            message = f"no row could be ingested: {reasons or 'the files are empty'}"
            hint = "check that the files have the format of their suffix"
            raise DataError("AW-DATA-09", message, where=ErrorLocation(str(request.path)), hint=hint)
        rejects.commit()
        digest = content.hexdigest()
        data_files = draft.stage(digest)
        version = DatasetVersion(
            id=f"{request.name}@v{change.version}",
            dataset=request.name,
            version=change.version,
            at=request.now(),
            action="ingest",
            parent=previous.id if previous else None,
            rows=content.rows,
            size_bytes=sum(file.size_bytes for file in data_files),
            columns=kinds,
            drops=quarantine.drops(),
            changes={},
            files=tuple(sorted({**known, **{file.path: file for file in files}}.values(), key=lambda f: f.path)),
            content_sha256=digest,
            licence=request.licence,
            data_files=data_files,
        )
        version_index.commit_version(home, draft, version)
    return version


def _copy_unchanged_rows(
    home: Home, previous: DatasetVersion | None, change: TableChange, writer: DataFileWriter, content: ContentDigest
) -> None:
    """Count the unchanged rows; write them again if a column kind changed."""
    if previous is None:
        return
    names = None if change.rewrite else ["record_id", "source_file"]
    replaced = pa.array(change.replaced, pa.large_string())
    for batch in read_batches(home, previous, names):
        kept = batch.filter(pc.invert(pc.is_in(batch["source_file"], replaced)))
        content.add(kept["record_id"])
        if change.rewrite:
            writer.write(type_inference.widen_batch(kept, change.columns))


def _write_source(
    source: ScannedFile, kinds: dict[str, str], writer: DataFileWriter, quarantine: Quarantine, content: ContentDigest
) -> SourceFile:
    before = quarantine.files[source.name]
    rows = 0
    for chunk in FORMATS[source.format].chunks(source, quarantine.add):
        batch = build_record_batch(source, chunk, kinds, quarantine.add)
        writer.write(batch)
        content.add(batch["record_id"])
        rows += batch.num_rows
    if read_file_signature(source.path) != source.signature:
        message = "the file changed while it was read"
        hint = "run the command again when no program writes to the file; nothing was changed"
        raise DataError("AW-DATA-08", message, where=ErrorLocation(source.name), hint=hint)
    return SourceFile(
        path=source.name,
        sha256=source.sha256,
        size_bytes=source.size_bytes,
        rows=rows,
        quarantined=quarantine.files[source.name] - before,
    )
