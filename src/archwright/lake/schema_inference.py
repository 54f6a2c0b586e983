"""The first pass over new files: which columns there are, of which kinds. Whatever refuses an ingest refuses it here,
before anything changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from archwright.contract.lineage import DatasetVersion
from archwright.errors import DataError, ErrorLocation
from archwright.lake import column_names, type_inference
from archwright.lake.column_kinds import SYSTEM_COLUMNS, find_widest_kind
from archwright.lake.file_formats import FORMATS
from archwright.lake.source_files import ScannedFile


def infer_columns(sources: Iterable[ScannedFile], previous: DatasetVersion | None) -> dict[str, str]:
    """Column -> kind of the next version, ours first. Raises DataError AW-DATA-13 to 19 for columns that cannot be."""
    before = {name: kind for name, kind in previous.columns.items() if name not in SYSTEM_COLUMNS} if previous else {}
    votes = {name: Counter({kind: previous.rows if previous else 0}) for name, kind in before.items()}
    for source in sources:
        FORMATS[source.format].survey(source, votes)
        column_names.check_column_count(len(votes), source.name)
    kinds = {
        name: _widen_kind(before.get(name), type_inference.choose_kind(counted)) for name, counted in votes.items()
    }
    for name, kind in kinds.items():
        _check_bytes(name, kind, votes[name], before.get(name))
    return {**SYSTEM_COLUMNS, **kinds}


def _widen_kind(before: str | None, now: str) -> str:
    """A column that is there only becomes wider."""
    if before is None or now == before:
        return now
    return now if find_widest_kind((before, now)) == now else before


def _check_bytes(name: str, kind: str, counted: Counter[str], before: str | None) -> None:
    """Bytes are no text: the one conflict that nothing holds both sides of."""
    if kind != "bytes" and (before == "bytes" or ("bytes" in counted and kind == "text")):
        raise DataError(
            "AW-DATA-19",
            f"the column {name!r} holds bytes in one file and something else in another",
            where=ErrorLocation(None, None, name),
            hint="rename one of the two in its source",
        )
