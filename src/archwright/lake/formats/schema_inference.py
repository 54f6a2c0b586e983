"""Chooses the columns of the next version and their kinds.

Design: kinds are guessed from the first rows of some files. One pass converts the rows by the guess and counts all
values by kind. Only if the counts disagree, a second pass converts the rows again: the kinds depend on all rows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from archwright.contract.lineage import DatasetVersion
from archwright.errors import DataError, ErrorLocation
from archwright.lake.formats import column_names, type_inference
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS, find_widest_kind
from archwright.lake.formats.file_formats import FORMATS
from archwright.lake.formats.source_files import ScannedFile
from archwright.lake.formats.type_inference import KindCounts, choose_kind

GUESSED_FILES = 16


def count_previous_kinds(previous: DatasetVersion | None) -> KindCounts:
    """The rows of the previous version count with the kind of their column."""
    columns = previous.columns if previous else {}
    rows = previous.rows if previous else 0
    return {name: Counter({kind: rows}) for name, kind in columns.items() if name not in SYSTEM_COLUMNS}


def add_counts(votes: KindCounts, more: Mapping[str, Counter[str]], file: str) -> None:
    for name, counted in more.items():
        votes.setdefault(name, Counter()).update(counted)
    column_names.check_column_count(len(votes), file)


def select_undeclared(sources: Sequence[ScannedFile]) -> Sequence[ScannedFile]:
    """Some of the files whose columns only their rows show."""
    undeclared = [source for source in sources if FORMATS[source.format].survey is None]
    return undeclared[:: max(1, len(undeclared) // GUESSED_FILES)]


def count_first_rows(source: ScannedFile, votes: KindCounts) -> None:
    chunk = next(FORMATS[source.format].chunks(source, lambda _broken: None), None)
    if chunk is not None:
        counts = {name: type_inference.count_column(values, chunk.untyped) for name, values in chunk.columns.items()}
        add_counts(votes, counts, source.name)


def choose_columns(votes: KindCounts, previous: DatasetVersion | None) -> dict[str, str]:
    """Column -> kind of the next version, system columns first. Raises DataError AW-DATA-19."""
    before = {name: kind for name, kind in previous.columns.items() if name not in SYSTEM_COLUMNS} if previous else {}
    kinds: dict[str, str] = {}
    for name, counted in votes.items():
        kind, old = choose_kind(counted), before.get(name)
        # The kind of an existing column may only become wider.
        kinds[name] = kind if old is None or find_widest_kind((old, kind)) == kind else old
    for name, kind in kinds.items():
        # No kind holds both bytes and text.
        if kind != "bytes" and (before.get(name) == "bytes" or ("bytes" in votes[name] and kind == "text")):
            message = f"the column {name!r} contains bytes in one file and other values in another file"
            hint = "rename the column in one of the files"
            raise DataError("AW-DATA-19", message, where=ErrorLocation(None, None, name), hint=hint)
    return {**SYSTEM_COLUMNS, **kinds}
