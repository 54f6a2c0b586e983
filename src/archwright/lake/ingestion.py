"""Ingest files into the next version of a data set: survey, choose column kinds, write, commit.

A file is identified by its path below the ingested folder and its SHA-256. Unchanged files are not read again, rows of
changed files are replaced, rows of new files are added. The rows of a missing file stay, since a data set may have
several sources. New files are read twice: the first pass may refuse the ingest, the second pass writes.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from archwright.contract.lineage import DatasetVersion, Expectation, SourceFile
from archwright.contract.record import replace
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home
from archwright.lake.documents.document_parser import shared_parser
from archwright.lake.formats import schema_inference, type_inference
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS, arrow_schema, arrow_type
from archwright.lake.formats.file_formats import FORMATS
from archwright.lake.formats.row_chunks import BrokenRowHandler, RowChunk, build_broken_row
from archwright.lake.formats.source_files import ScannedFile, SourceScan
from archwright.lake.governance.expectations import DraftState, check_expectations, choose_expectations
from archwright.lake.governance.policy import check_location
from archwright.lake.lazy_modules import np, pa, pc
from archwright.lake.sources.source_scan import SourceAddress, scan_address
from archwright.lake.tables import source_file_list, version_index
from archwright.lake.tables.data_files import DataFileWriter, read_sources
from archwright.lake.tables.dataset_lock import lock_dataset
from archwright.lake.tables.iceberg_tables import (
    TableChange,
    check_record_ids,
    draft_version,
    list_stored_files,
)
from archwright.lake.tables.quarantine import Quarantine, quarantine_path
from archwright.lake.tables.rejects_file import open_rejects_file
from archwright.lake.tables.value_digest import ValueDigest, combine_digests
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
    made["record_id"] = make_record_ids(source.name, source.sha256, chunk.rows)
    made["source_file"] = pa.array([source.name] * len(chunk.rows), pa.large_string())
    made["source_row"] = pa.array(chunk.rows, pa.int64())
    schema = arrow_schema(kinds)
    batch = pa.RecordBatch.from_arrays([made[name] for name in schema.names], schema=schema)
    for place in sorted(bad):
        on_broken(build_broken_row(source.name, chunk.rows[place], bad[place], chunk.contents[place]))
    return batch.filter(pc.invert(pa.array([place in bad for place in range(len(chunk.rows))]))) if bad else batch


def make_record_ids(name: str, sha256: str, rows: Any) -> Any:
    """An Arrow array of ids: 8 bytes of the digest of the file's name and content, 8 bytes of the row number."""
    start = hashlib.sha256(f"{name}\0{sha256}".encode()).digest()[:8]
    made = np.empty((len(rows), 2), ">u8")
    made[:, 0], made[:, 1] = int.from_bytes(start, "big"), rows
    return pa.Array.from_buffers(arrow_type("id"), len(rows), [None, pa.py_buffer(made)])


class IngestResult(NamedTuple):
    """`version` is the previous version if not `new`; the rows of its files `replaced` were replaced."""

    version: DatasetVersion
    new: bool
    passed_over: tuple[str, ...]
    replaced: tuple[SourceFile, ...] = ()


class IngestRequest(NamedTuple):
    """The path or URL to ingest, the data set's name and licence; `now` is the clock.

    `table` and `query` select rows of a database. `expectations`: None for those of the version before. `country` of
    the home: alpha-2, "" if unknown.
    """

    path: Path | str
    name: str
    licence: str = ""
    now: Callable[[], float] = time.time
    table: str = ""
    query: str = ""
    expectations: tuple[Expectation, ...] | None = None
    country: str = ""


def ingest_files(home: Home, store: Store, request: IngestRequest) -> IngestResult:
    """Raises DataError AW-DATA-48 (residency), -51 (an expectation failed), and those of the functions it calls."""
    check_dataset_name(request.name)
    check_location(store, request.name, request.country)
    with lock_dataset(home, request.name):
        version_index.repair_index(home, store, request.name)
        previous = version_index.newest_version(store, request.name)
        if previous is not None and previous.action == "refine":
            message = f"a recipe made {previous.id}, so files cannot be ingested into it"
            hint = "ingest into the source of the recipe, then refine again"
            raise DataError("AW-DATA-23", message, where=ErrorLocation(None, None, request.name), hint=hint)
        known: dict[str, SourceFile] = {}
        if previous is not None:
            check_record_ids(previous)
            known = {file.path: file for file in source_file_list.read_source_files(home, previous)}
        licence = request.licence or (previous.licence if previous else "")
        expected = choose_expectations(request.expectations, previous)
        request = request._replace(licence=licence, expectations=expected)
        address = SourceAddress(str(request.path), request.table, request.query)
        with scan_address(address, home.folder("lake", "spool") / request.name, known) as found:
            made = _ingest_sources(home, store, request, previous, found, known)
        if made.new:
            version_index.register_version(home, store, made.version)
        return made


def _ingest_sources(
    home: Home,
    store: Store,
    request: IngestRequest,
    previous: DatasetVersion | None,
    found: SourceScan,
    known: dict[str, SourceFile],
) -> IngestResult:
    fresh = [s for s in found.sources if s.name not in known or known[s.name].sha256 != s.sha256]
    expected = choose_expectations(None, previous)
    if previous and not fresh and (request.licence, request.expectations) == (previous.licence, expected):
        return IngestResult(previous, False, found.passed_over)
    signatures = {s.name: s.signature for s in found.sources if s.stable}
    newest_at = max((s.path.stat().st_mtime for s in found.sources if not s.remote), default=None)
    number = version_index.next_number(store, request.name)
    try:
        version = _write_version(home, request, previous, _SourceChange(known, fresh, signatures, number, newest_at))
    finally:
        shared_parser().close()
    replaced = tuple(known[source.name] for source in fresh if source.name in known)
    return IngestResult(version, True, found.passed_over, replaced)


class _SourceChange(NamedTuple):
    """The files of the previous version by name, the files with new content, new signatures of other files.

    `number` is that of the new version, `newest_at` the time of the last change of any local file.
    """

    known: dict[str, SourceFile]
    fresh: list[ScannedFile]
    signatures: dict[str, str]
    number: int
    newest_at: float | None


def check_dataset_name(name: str) -> None:
    """Raises DataError AW-DATA-01."""
    if not DATASET_NAME.fullmatch(name):
        hint = "use lower case letters, digits and dashes, at most 64, and start with a letter or digit"
        raise DataError("AW-DATA-01", f"invalid data set name: {name!r}", where=ErrorLocation(field="name"), hint=hint)


def _write_version(
    home: Home, request: IngestRequest, previous: DatasetVersion | None, sources: _SourceChange
) -> DatasetVersion:
    fresh, known = sources.fresh, sources.known
    fresh_names = {source.name for source in fresh}
    kinds = schema_inference.infer_columns(fresh, previous)
    before = previous.columns if previous else {}
    change = TableChange(
        dataset=request.name,
        version=sources.number,
        columns=kinds,
        replaced=tuple(sorted(fresh_names & known.keys())),
        rewrite=any(before[name] != kinds[name] for name in before),
        before=previous.data_files if previous else (),
    )
    path = quarantine_path(home, request.name, change.version)
    with open_rejects_file(path) as rejects, draft_version(home, change) as draft:
        quarantine = Quarantine(home, rejects)
        stay = {
            name: replace(file, signature=sources.signatures.get(name, file.signature))
            for name, file in known.items()
            if name not in fresh_names
        }
        if change.rewrite and previous:
            stay = _widen_unchanged_rows(home, previous, change, draft.writer, stay)
        quarantine.copy_unchanged(previous, known.values(), fresh_names)
        written = [_write_source(source, kinds, draft.writer, quarantine) for source in fresh]
        files = {**stay, **{file.path: file for file in written}}
        rows = sum(file.rows for file in files.values())
        if not rows:
            reasons = ", ".join(f"{count} {reason}" for reason, count in quarantine.drops().items())
            message = f"no row could be ingested: {reasons or 'the files are empty'}"
            hint = "check that the files have the format of their suffix"
            # The URL of a database may hold a password; the name of its copy does not.
            place = fresh[0].name if fresh and fresh[0].remote else str(request.path)
            raise DataError("AW-DATA-09", message, where=ErrorLocation(place), hint=hint)
        digest = combine_digests((file.path, file.content_sha256) for file in files.values())
        data_files = draft.stage(digest)
        version = DatasetVersion(
            id=f"{request.name}@v{change.version}",
            dataset=request.name,
            version=change.version,
            at=request.now(),
            action="ingest",
            parent=previous.id if previous else None,
            rows=rows,
            size_bytes=sum(file.size_bytes for file in data_files),
            columns=kinds,
            drops=quarantine.drops(),
            changes={},
            source_files=len(files),
            content_sha256=digest,
            licence=request.licence,
            data_files=data_files,
        )
        version = check_expectations(DraftState(home, version, previous, sources.newest_at), request.expectations or ())
        rejects.commit()
        changed = [file for path, file in files.items() if known.get(path) != file]
        source_file_list.write_source_files(home, version, changed)
        version_index.commit_version(home, draft, version)
    return version


def _widen_unchanged_rows(
    home: Home,
    previous: DatasetVersion,
    change: TableChange,
    writer: DataFileWriter,
    files: Mapping[str, SourceFile],
) -> dict[str, SourceFile]:
    """Write the rows of the unchanged `files` again with the new kinds. Returns the files with their new digests."""
    digests = {name: ValueDigest() for name in files}
    for stored in list_stored_files(home, previous):
        for name, batch in read_sources(stored, previous.columns):
            if name in files:
                rows = type_inference.widen_batch(batch, change.columns)
                writer.write(rows)
                digests[name].add(rows)
    return {name: replace(file, content_sha256=digests[name].hexdigest()) for name, file in files.items()}


def _write_source(
    source: ScannedFile, kinds: dict[str, str], writer: DataFileWriter, quarantine: Quarantine
) -> SourceFile:
    before = quarantine.files[source.name]
    content = ValueDigest()
    for chunk in FORMATS[source.format].chunks(source, quarantine.add):
        batch = build_record_batch(source, chunk, kinds, quarantine.add)
        writer.write(batch)
        content.add(batch)
    if source.has_changed():
        message = "the file changed while it was read"
        hint = "run the command again when no program writes to the file; nothing was changed"
        raise DataError("AW-DATA-08", message, where=ErrorLocation(source.name), hint=hint)
    return SourceFile(
        path=source.name,
        sha256=source.sha256,
        size_bytes=source.size_bytes,
        rows=content.rows,
        quarantined=quarantine.files[source.name] - before,
        signature=source.signature if source.stable else "",
        content_sha256=content.hexdigest(),
    )
