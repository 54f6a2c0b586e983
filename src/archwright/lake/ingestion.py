"""Ingest files into the next version of a data set: survey, choose column kinds, write, commit.

A file is identified by its path below the ingested folder and its SHA-256. Unchanged files are not read again, rows of
changed files are replaced, rows of new files are added. The rows of a missing file stay, since a data set may have
several sources. Rows are converted by guessed kinds while they are counted; a wrong guess costs a second pass.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from archwright.contract.lineage import DatasetVersion, Expectation, SourceFile
from archwright.contract.record import replace
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home
from archwright.journal import report_step
from archwright.lake.documents.document_parser import shared_parser
from archwright.lake.formats import schema_inference, type_inference
from archwright.lake.formats.file_formats import FORMATS
from archwright.lake.formats.source_files import ReadOptions, ScannedFile, SourceScan
from archwright.lake.formats.type_inference import KindCounts
from archwright.lake.governance.expectations import DraftState, check_expectations, choose_expectations
from archwright.lake.governance.policy import check_location
from archwright.lake.source_writer import IngestProgress, SourceWriter, group_sources
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


class IngestResult(NamedTuple):
    """`version` is the previous version if not `new`; the rows of its files `replaced` were replaced."""

    version: DatasetVersion
    new: bool
    passed_over: tuple[str, ...]
    replaced: tuple[SourceFile, ...] = ()
    skipped: dict[str, int] = {}


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
    reading: ReadOptions = ReadOptions()


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
        with scan_address(address, home.folder("lake", "spool") / request.name, known, request.reading) as found:
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
    fresh = [source for source in found.sources if not _is_unchanged(source, known.get(source.name))]
    if previous and not fresh and _has_same_terms(request, previous):
        return IngestResult(previous, False, found.passed_over, skipped=found.skipped)
    signatures = {source.name: source.signature for source in found.sources if source.stable}
    newest_at = max((s.path.stat().st_mtime for s in found.sources if not s.remote), default=None)
    number = version_index.next_number(store, request.name)
    change = _SourceChange(known, fresh, signatures, number, newest_at, {})
    try:
        version = _write_version(home, request, previous, change)
    finally:
        shared_parser().close()
    replaced = tuple(
        known[name] for name in (source.name for source in fresh) if name in known.keys() - change.unreadable
    )
    damaged = tuple(f"{name}: {reason}" for name, reason in change.unreadable.items())
    new = version is not previous
    return IngestResult(version, new, (*found.passed_over, *damaged), replaced, found.skipped)


def _has_same_terms(request: IngestRequest, previous: DatasetVersion) -> bool:
    expected = choose_expectations(None, previous)
    return (request.licence, request.expectations) == (previous.licence, expected)


def _is_unchanged(source: ScannedFile, known: SourceFile | None) -> bool:
    return known is not None and (known.sha256, known.encoding) == (source.sha256, source.encoding)


class _SourceChange(NamedTuple):
    """The files of the previous version by name, the files with new content, new signatures of other files.

    `number` is that of the new version, `newest_at` the time of the last change of any local file.
    `unreadable` files are left out, for the reason.
    """

    known: dict[str, SourceFile]
    fresh: list[ScannedFile]
    signatures: dict[str, str]
    number: int
    newest_at: float | None
    unreadable: dict[str, str]

    @contextmanager
    def catch_unreadable(self, source: ScannedFile, options: ReadOptions) -> Iterator[None]:
        """With `skip_unreadable`, note that the file is damaged instead of refusing the ingest."""
        try:
            yield
        except DataError as error:
            if not options.skip_unreadable or error.code in ("AW-DATA-08", "AW-DATA-19"):
                raise
            self.unreadable[source.name] = str(error)


class _KindMismatchError(Exception):
    """The rows have other `kinds` than guessed, or a file is unreadable: write again."""

    def __init__(self, kinds: dict[str, str]) -> None:
        super().__init__()
        self.kinds = kinds


def check_dataset_name(name: str) -> None:
    """Raises DataError AW-DATA-01."""
    if not DATASET_NAME.fullmatch(name):
        hint = "use lower case letters, digits and dashes, at most 64, and start with a letter or digit"
        raise DataError("AW-DATA-01", f"invalid data set name: {name!r}", where=ErrorLocation(field="name"), hint=hint)


def _write_version(
    home: Home, request: IngestRequest, previous: DatasetVersion | None, sources: _SourceChange
) -> DatasetVersion:
    votes = schema_inference.count_previous_kinds(previous)
    for source in sources.fresh:
        survey = FORMATS[source.format].survey
        if survey is not None:
            with sources.catch_unreadable(source, request.reading):
                counts: KindCounts = {}
                survey(source, counts)
                schema_inference.add_counts(votes, counts, source.name)
    guess = {name: Counter(counts) for name, counts in votes.items()}
    for source in schema_inference.select_undeclared(sources.fresh):
        with sources.catch_unreadable(source, request.reading):
            schema_inference.count_first_rows(source, guess)
    try:
        return _try_version(home, request, previous, (sources, schema_inference.choose_columns(guess, previous), votes))
    except _KindMismatchError as wrong:
        report_step("reading again: the first rows did not show the kinds of all columns")
        return _try_version(home, request, previous, (sources, wrong.kinds, None))


def _try_version(
    home: Home,
    request: IngestRequest,
    previous: DatasetVersion | None,
    plan: tuple[_SourceChange, dict[str, str], KindCounts | None],
) -> DatasetVersion:
    """Write with these kinds, or return `previous` if every file with new content is unreadable.

    Raises _KindMismatchError if the counted `votes` choose other kinds.
    """
    sources, kinds, votes = plan
    known = sources.known
    unreadable = set(sources.unreadable)
    fresh = [source for source in sources.fresh if source.name not in unreadable]
    if previous and not fresh and _has_same_terms(request, previous):
        return previous
    fresh_names = {source.name for source in fresh}
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
        writer = SourceWriter(kinds, draft.writer, quarantine, votes)
        progress = IngestProgress(sum(source.size_bytes for source in fresh))
        written: list[SourceFile] = []
        for group in group_sources(fresh):
            with nullcontext() if votes is None else sources.catch_unreadable(group[0], request.reading):
                written += writer.write_sources(group, progress)
        if votes is not None and (writer.unknown or unreadable != set(sources.unreadable)):
            raise _KindMismatchError(schema_inference.choose_columns(votes, previous))
        if votes is not None and (chosen := schema_inference.choose_columns(votes, previous)) != kinds:
            raise _KindMismatchError(chosen)
        files = {**stay, **{file.path: file for file in written}}
        rows = sum(file.rows for file in files.values())
        if not rows:
            # The URL of a database may hold a password; the name of its copy does not.
            place = fresh[0].name if fresh and fresh[0].remote else str(request.path)
            raise _no_row_error(place, quarantine.drops(), sources.unreadable)
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


def _no_row_error(place: str, drops: Mapping[str, int], unreadable: Mapping[str, str]) -> DataError:
    reasons = [f"{count} {reason}" for reason, count in drops.items()]
    reasons += [f"{name}: {reason}" for name, reason in unreadable.items()]
    message = f"no row could be ingested: {', '.join(reasons[:5]) or 'the files are empty'}"
    hint = "check that the files have the format of their suffix"
    return DataError("AW-DATA-09", message, where=ErrorLocation(place), hint=hint)


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
