"""Writes the rows of source files into data files, with the digest and the counts of each source file."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from archwright.contract.lineage import SourceFile
from archwright.contract.record import replace
from archwright.errors import DataError, ErrorLocation
from archwright.journal import report_step
from archwright.lake.formats import document_reader, type_inference
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS, arrow_schema, arrow_type
from archwright.lake.formats.file_formats import FORMATS
from archwright.lake.formats.row_chunks import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    BrokenRow,
    BrokenRowHandler,
    RowChunk,
    build_broken_row,
)
from archwright.lake.formats.source_files import UTF_8, ScannedFile
from archwright.lake.formats.type_inference import KindCounts
from archwright.lake.lazy_modules import np, pa, pc
from archwright.lake.tables.data_files import DataFileWriter
from archwright.lake.tables.quarantine import Quarantine
from archwright.lake.tables.value_digest import ValueDigest


def build_record_batch(
    source: ScannedFile,
    chunk: RowChunk,
    kinds: dict[str, str],
    on_broken: BrokenRowHandler,
    votes: KindCounts | None = None,
) -> Any:
    """A chunk as a record batch with the columns of `kinds`; a row with a value of another kind is broken.

    Counts the kinds of all values in `votes`.
    """
    made: dict[str, Any] = {}
    bad: dict[int, str] = {}
    for name, kind in kinds.items():
        if name in chunk.columns:
            values = chunk.columns[name]
            made[name], unfit = type_inference.convert_column(values, kind, chunk.untyped)
            bad.update({place: f"{reason}: column {name}" for place, reason in unfit.items() if place not in bad})
            if votes is not None and (unfit or kind == "text"):
                votes.setdefault(name, Counter()).update(type_inference.count_column(values, chunk.untyped))
            elif votes is not None:
                votes.setdefault(name, Counter())[kind] += len(made[name]) - made[name].null_count
        elif name not in SYSTEM_COLUMNS:
            made[name] = pa.nulls(len(chunk.rows), arrow_type(kind))
    made["record_id"] = make_record_ids(source.name, source.sha256, chunk.rows)
    made["source_file"] = pa.repeat(pa.scalar(source.name, pa.large_string()), len(chunk.rows))
    made["source_row"] = pa.array(np.asarray(chunk.rows, np.int64))
    schema = arrow_schema(kinds)
    batch = pa.RecordBatch.from_arrays([made[name] for name in schema.names], schema=schema)
    for place in sorted(bad):
        on_broken(build_broken_row(source.name, int(chunk.rows[place]), bad[place], chunk.contents[place]))
    return batch.filter(pc.invert(pa.array([place in bad for place in range(len(chunk.rows))]))) if bad else batch


def make_record_ids(name: str, sha256: str, rows: Any) -> Any:
    """An Arrow array of ids: `make_id_start` and 8 bytes of the row number."""
    made = np.empty((len(rows), 2), ">u8")
    made[:, 0], made[:, 1] = int.from_bytes(make_id_start(name, sha256), "big"), np.asarray(rows)
    return pa.Array.from_buffers(arrow_type("id"), len(rows), [None, pa.py_buffer(made)])


def make_id_start(name: str, sha256: str) -> bytes:
    """The 8 bytes with which the ids of a file begin: of the digest of its name and its content."""
    return hashlib.sha256(f"{name}\0{sha256}".encode()).digest()[:8]


class IngestProgress:
    """Reports the rate and the time left of reading `size_bytes` of files."""

    def __init__(self, size_bytes: int) -> None:
        self._size, self._done = max(1, size_bytes), 0
        self._began = time.monotonic()

    def report(self, source: ScannedFile, share: float) -> None:
        done = self._done + share * source.size_bytes
        spent = max(1e-3, time.monotonic() - self._began)
        left = spent * (self._size - done) / max(1.0, done)
        rate = f"{done / spent / 1e6:,.1f} MB/s, {left:,.0f} s left"
        report_step(f"ingesting {source.name}: {done / self._size:.0%} of {self._size / 1e6:,.0f} MB, {rate}")

    def finish(self, source: ScannedFile) -> None:
        self._done += source.size_bytes


def group_sources(sources: Sequence[ScannedFile]) -> Iterator[list[ScannedFile]]:
    """One file at a time, but many small documents together: one batch of rows for each costs more than its rows."""
    for documents, run in groupby(sources, key=lambda source: source.format == "text"):
        group: list[ScannedFile] = []
        size = 0
        for source in run:
            if group and (not documents or len(group) >= CHUNK_ROWS or size + source.size_bytes > CHUNK_BYTES):
                yield group
                group, size = [], 0
            group.append(source)
            size += source.size_bytes
        if group:
            yield group


class SourceWriter:
    """Converts rows to `kinds` and writes them. Counts the kinds of values in `votes` if it is not None.

    `unknown` is True from the first chunk on that has a column which `kinds` lacks; later rows are only counted.
    """

    def __init__(
        self, kinds: dict[str, str], writer: DataFileWriter, quarantine: Quarantine, votes: KindCounts | None
    ) -> None:
        self._kinds, self._writer, self._quarantine, self._votes = kinds, writer, quarantine, votes
        self.unknown = False

    def write_sources(self, group: Sequence[ScannedFile], progress: IngestProgress) -> list[SourceFile]:
        if group[0].format == "text":
            return self._write_documents(group, progress)
        return [self._write_source(group[0], progress)]

    def _write_source(self, source: ScannedFile, progress: IngestProgress) -> SourceFile:
        before = self._quarantine.files[source.name]
        content = ValueDigest()
        on_broken = self._make_handler(source)
        votes = self._votes if FORMATS[source.format].survey is None else None
        for chunk in FORMATS[source.format].chunks(source, on_broken):
            self.unknown = self.unknown or not chunk.columns.keys() <= self._kinds.keys()
            if self.unknown and self._votes is not None:
                self._count_chunk(source, chunk)
            else:
                batch = build_record_batch(source, chunk, self._kinds, on_broken, votes)
                self._writer.write(batch)
                content.add(batch)
            progress.report(source, chunk.share)
        progress.finish(source)
        return self._describe(source, content.rows, before, content.hexdigest())

    def _count_chunk(self, source: ScannedFile, chunk: RowChunk) -> None:
        if self._votes is not None and FORMATS[source.format].survey is None:
            for name, values in chunk.columns.items():
                self._votes.setdefault(name, Counter()).update(type_inference.count_column(values, chunk.untyped))

    def _write_documents(self, group: Sequence[ScannedFile], progress: IngestProgress) -> list[SourceFile]:
        before = [self._quarantine.files[source.name] for source in group]
        read = [document_reader.read_document(source, self._make_handler(source)) for source in group]
        good = [(source, text) for source, text in zip(group, read, strict=True) if text is not None]
        made = {name: pa.nulls(len(good), arrow_type(kind)) for name, kind in self._kinds.items()}
        made[document_reader.TEXT_COLUMN] = pa.array([text for _, text in good], pa.large_string())
        ids = [make_id_start(source.name, source.sha256) + (1).to_bytes(8, "big") for source, _ in good]
        made["record_id"] = pa.array(ids, arrow_type("id"))
        made["source_file"] = pa.array([source.name for source, _ in good], pa.large_string())
        made["source_row"] = pa.array(np.ones(len(good), np.int64))
        batch = pa.RecordBatch.from_arrays(list(made.values()), schema=arrow_schema(self._kinds))
        self._writer.write(batch)
        places = {source.name: place for place, (source, _) in enumerate(good)}
        texts = batch.select([document_reader.TEXT_COLUMN])
        found = []
        for source, quarantined in zip(group, before, strict=True):
            content = ValueDigest()
            if source.name in places:
                content.add(texts.slice(places[source.name], 1))
            progress.finish(source)
            found.append(self._describe(source, content.rows, quarantined, content.hexdigest()))
        progress.report(group[-1], 0.0)
        return found

    def _make_handler(self, source: ScannedFile) -> BrokenRowHandler:
        def add(broken: BrokenRow) -> None:
            if source.encoding != UTF_8 and broken.reason == "not UTF-8":
                broken = replace(broken, reason=f"not {source.encoding.upper()}")
            self._quarantine.add(broken)

        return add

    def _describe(self, source: ScannedFile, rows: int, quarantined: int, digest: str) -> SourceFile:
        """Raises DataError AW-DATA-08 if the file changed while it was read."""
        if source.has_changed():
            message = "the file changed while it was read"
            hint = "run the command again when no program writes to the file; nothing was changed"
            raise DataError("AW-DATA-08", message, where=ErrorLocation(source.name), hint=hint)
        return SourceFile(
            path=source.name,
            sha256=source.sha256,
            size_bytes=source.size_bytes,
            rows=rows,
            quarantined=self._quarantine.files[source.name] - quarantined,
            signature=source.signature if source.stable else "",
            content_sha256=digest,
            encoding=source.encoding,
        )
