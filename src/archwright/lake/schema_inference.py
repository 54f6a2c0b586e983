"""First pass over new files: find columns and their kinds, or refuse the ingest before any change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from archwright.contract.lineage import DatasetVersion
from archwright.errors import DataError, ErrorLocation
from archwright.lake import column_names
from archwright.lake.column_kinds import SYSTEM_COLUMNS, find_widest_kind
from archwright.lake.file_formats import FORMATS
from archwright.lake.source_files import ScannedFile
from archwright.lake.type_inference import choose_kind


def infer_columns(sources: Iterable[ScannedFile], previous: DatasetVersion | None) -> dict[str, str]:
    """Column -> kind of the next version, system columns first. Raises DataError AW-DATA-13 to -19."""
    before = {name: kind for name, kind in previous.columns.items() if name not in SYSTEM_COLUMNS} if previous else {}
    votes = {name: Counter({kind: previous.rows if previous else 0}) for name, kind in before.items()}
    for source in sources:
        FORMATS[source.format].survey(source, votes)
        column_names.check_column_count(len(votes), source.name)
    kinds = {name: _widen_kind(before.get(name), choose_kind(counted)) for name, counted in votes.items()}
    for name, kind in kinds.items():
        # Bytes and text: the one pair of kinds that no kind holds.
        if kind != "bytes" and (before.get(name) == "bytes" or ("bytes" in votes[name] and kind == "text")):
            message = f"the column {name!r} holds bytes in one file and something else in another"
            hint = "rename one of the two in its source"
            raise DataError("AW-DATA-19", message, where=ErrorLocation(None, None, name), hint=hint)
    return {**SYSTEM_COLUMNS, **kinds}


def _widen_kind(before: str | None, now: str) -> str:
    """The kind of an existing column may only become wider."""
    return now if before is None or find_widest_kind((before, now)) == now else before
