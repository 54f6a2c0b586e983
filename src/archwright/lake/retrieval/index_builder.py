"""Build the index of a version, and remove records from it."""

import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from archwright.contract.lineage import DatasetVersion
from archwright.contract.record import replace
from archwright.errors import DataError
from archwright.home import Home
from archwright.journal import report_step
from archwright.lake.formats.column_kinds import arrow_type
from archwright.lake.lazy_modules import np, pa, pc
from archwright.lake.passages.chunking import ChunkText, ChunkWorker
from archwright.lake.passages.embedding import EMBEDDING, EmbedderFiles, add_vectors, find_embedder
from archwright.lake.retrieval.index_record import (
    IndexRecord,
    IndexSegment,
    check_segment,
    commit_record,
    index_folder,
    lock_index,
    read_record,
    remove_orphans,
)
from archwright.lake.retrieval.segment import SEGMENT_ROWS, Segment, write_segment
from archwright.lake.steps.step import StepContext
from archwright.lake.steps.text_columns import find_text_column
from archwright.lake.tables.iceberg_tables import read_batches

EMBED_THREADS = min(16, os.cpu_count() or 1)
SEGMENT_BYTES = 128 << 20  # of Arrow memory, if passages are long


class IndexRequest(NamedTuple):
    """`column`: of the texts, by default a usual name; `model`: an embedder of the home, by default the first.

    A data set that no recipe has split is split by `chunk`.
    """

    version: DatasetVersion
    column: str = ""
    model: str = ""
    chunk: ChunkText = ChunkText()
    now: Callable[[], float] = time.time


class IndexResult(NamedTuple):
    """`new` is False if the version had this index; `note` says why it has no vectors, with the line to get a model."""

    record: IndexRecord
    new: bool
    note: str = ""


def build_index(home: Home, request: IndexRequest) -> IndexResult:
    """Index the passages of a version, unless it has the same undamaged index.

    Raises DataError AW-DATA-22 (no text), -78 (not an embedder), MissingError AW-GET-02 (no such model).
    """
    version, note, files = request.version, "", None
    column = find_text_column(version.columns, request.column)
    stored = _find_stored_model(version)
    try:
        files = find_embedder(home, request.model or stored or "")
    except DataError as error:
        if request.model:
            raise
        note = f"{error.message}: only keywords are indexed. Get a model, then index again: {error.hint}"
    planned = IndexRecord(
        version=version.id,
        dataset=version.dataset,
        content_sha256=version.content_sha256,
        at=request.now(),
        column=column,
        passages=0,
        segments=(),
        model=files.name if files else "",
        model_sha256=files.sha256 if files else "",
        options="" if "chunk" in version.columns else msgspec.json.encode(request.chunk).decode(),
    )
    home.folder("lake", "indexes", version.id)
    with lock_index(home, version.id):
        present = _read_present(home, version.id)
        if present is not None and _describe(present) == _describe(planned):
            return IndexResult(present, False, note)
        segments, dimensions = [], 0
        for passages, vectors in _make_segments(home, request, column, files):
            dimensions = 0 if vectors is None else vectors.shape[1]
            segments.append(write_segment(index_folder(home, version.id), passages, column, vectors))
        record = replace(
            planned,
            segments=tuple(segments),
            passages=sum(segment.rows for segment in segments),
            dimensions=dimensions,
        )
        commit_record(home, record)
    return IndexResult(record, True, note)


def _read_present(home: Home, version: str) -> IndexRecord | None:
    """The present record, None if a file is damaged or missing."""
    try:
        record = read_record(home, version)
        for segment in record.segments if record else ():
            check_segment(version, index_folder(home, version), segment)
    except (DataError, FileNotFoundError):
        return None
    return record


def _describe(record: IndexRecord) -> tuple[str, ...]:
    return record.content_sha256, record.column, record.model_sha256, record.options


def _make_segments(
    home: Home, request: IndexRequest, column: str, files: EmbedderFiles | None
) -> Iterator[tuple[Any, Any | None]]:
    """Yield the passages of each segment with their vectors."""
    version, done, began = request.version, 0, time.monotonic()
    pending: list[Any] = []
    count = size = 0
    for batch in _read_passages(home, request, column, files):
        for start in range(0, batch.num_rows, SEGMENT_ROWS):
            part = batch.slice(start, SEGMENT_ROWS)
            if pending and (count + part.num_rows > SEGMENT_ROWS or size + part.nbytes > SEGMENT_BYTES):
                yield _split_vectors(pa.Table.from_batches(pending))
                pending, count, size = [], 0, 0
            pending.append(part)
            count, size, done = count + part.num_rows, size + part.nbytes, done + part.num_rows
            rate = done / max(0.001, time.monotonic() - began)
            report_step(f"indexing {version.id}: {done:,} passages, {rate:,.0f} per second")
    if pending:
        yield _split_vectors(pa.Table.from_batches(pending))


def _split_vectors(table: Any) -> tuple[Any, Any | None]:
    if EMBEDDING not in table.column_names:
        return table, None
    vectors = pc.list_flatten(table.column(EMBEDDING).combine_chunks()).to_numpy()
    return table.drop_columns([EMBEDDING]), vectors.reshape(table.num_rows, -1)


class _UncountedContext:
    """A step's context for passages that are made for the index only."""

    decision = None

    def drop_rows(self, rows: Any, reason: object, kept: object = None, similarity: object = None) -> None: ...

    def count_changes(self, kind: str, number: int) -> None: ...


def _find_stored_model(version: DatasetVersion) -> str | None:
    """The model whose vectors of passages the version holds, as its recipe states; None if it holds none."""
    if "chunk" not in version.columns or EMBEDDING not in version.columns or not version.recipe:
        return None  # the vector of a whole text is not that of its passages
    steps = msgspec.json.decode(version.recipe)
    return next((str(step["embed"].get("model", "")) for step in steps if "embed" in step), None)


def _read_passages(home: Home, request: IndexRequest, column: str, files: EmbedderFiles | None) -> Iterator[Any]:
    columns, model = request.version.columns, _find_stored_model(request.version)
    has_vectors = files is not None and model is not None and find_embedder(home, model).sha256 == files.sha256
    names = [name for name, kind in columns.items() if kind != "bytes" and (name != EMBEDDING or has_vectors)]
    rows = read_batches(home, request.version, names)
    if "chunk" not in columns:
        rows = ChunkWorker(request.chunk, column).process_rows(rows, cast(StepContext, _UncountedContext()))
    for batch in rows:
        if files is None or has_vectors or not batch.num_rows:
            yield batch
        else:
            yield add_vectors(batch, column, files, EMBED_THREADS)


def remove_records(home: Home, version: str, record_ids: Collection[bytes]) -> int:
    """Remove passages with these record ids or parents from the index; returns their number.

    Each segment that holds one is written again without it, so neither text nor vector stays in a file. Readers in
    other processes see the new index at their next search. After a kill, run it again. Raises DataError AW-DATA-77.
    """
    if not index_folder(home, version).is_dir():
        return 0
    with lock_index(home, version):
        record, folder = read_record(home, version), index_folder(home, version)
        remove_orphans(folder, record)
        if record is None:
            return 0
        ids, removed, segments = pa.array(sorted(record_ids), arrow_type("id")), 0, []
        for segment in record.segments:
            opened = Segment(record, folder, segment)
            gone = pc.is_in(opened.passages.column("record_id"), ids)
            if "parent_id" in opened.passages.column_names:
                gone = pc.or_(gone, pc.is_in(opened.passages.column("parent_id"), ids))
            count = pc.sum(gone).as_py() or 0
            removed += count
            segments += _rewrite_segment(record, opened, folder, gone) if count else [segment]
        if removed:
            commit_record(home, replace(record, segments=tuple(segments), passages=record.passages - removed))
    return removed


def _rewrite_segment(record: IndexRecord, opened: Segment, folder: Path, gone: Any) -> list[IndexSegment]:
    left = np.flatnonzero(~gone.to_numpy())
    if not len(left):
        return []
    vectors = opened.read_vectors()
    passages = opened.passages.take(pa.array(left))
    return [write_segment(folder, passages, record.column, None if vectors is None else vectors[left])]
