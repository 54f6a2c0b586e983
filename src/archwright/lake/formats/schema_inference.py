"""First pass over new files: find columns and their kinds, or refuse the ingest before any change."""

from collections import Counter
from collections.abc import Iterable

from archwright.contract.lineage import DatasetVersion
from archwright.errors import DataError, ErrorLocation
from archwright.lake.formats import column_names
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS, find_widest_kind
from archwright.lake.formats.file_formats import FORMATS
from archwright.lake.formats.source_files import ScannedFile
from archwright.lake.formats.type_inference import choose_kind


def infer_columns(sources: Iterable[ScannedFile], previous: DatasetVersion | None) -> dict[str, str]:
    """Column -> kind of the next version, system columns first. Raises DataError AW-DATA-13 to -19."""
    before = {name: kind for name, kind in previous.columns.items() if name not in SYSTEM_COLUMNS} if previous else {}
    votes = {name: Counter({kind: previous.rows if previous else 0}) for name, kind in before.items()}
    for source in sources:
        FORMATS[source.format].survey(source, votes)
        column_names.check_column_count(len(votes), source.name)
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
