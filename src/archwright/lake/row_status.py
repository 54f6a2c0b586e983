"""What a row carries on its way through a recipe besides its own columns: in columns whose names no source may have.

A dropped row goes on to the end, marked with who dropped it and why, so that every drop is written down in one place.
"""

from __future__ import annotations

from typing import Any

from archwright.lake.column_names import RESERVED_PREFIX

DROP_STEP = RESERVED_PREFIX + "step"  # the step that dropped the row; null while it is in
DROP_REASON = RESERVED_PREFIX + "reason"
DUPLICATE_OF = RESERVED_PREFIX + "twin"  # of a duplicate: the record that is kept
CHANGES = RESERVED_PREFIX + "changes"  # what was altered in the row: a word each time
TEXT_COLUMNS = (DROP_STEP, DROP_REASON, DUPLICATE_OF)
# Of a step that compares rows with each other: what makes two of them the same, and which comes first.
DUPLICATE_KEY = RESERVED_PREFIX + "key"
ROW_POSITION = RESERVED_PREFIX + "place"
FIRST_POSITION = (
    RESERVED_PREFIX + "first"
)  # the place of the first row with the same key; null for a row without a twin


def replace_columns(batch: Any, columns: dict[str, Any]) -> Any:
    """The batch with some of its columns exchanged."""
    import pyarrow as pa  # noqa: PLC0415

    arrays = [columns.get(name, batch.column(name)) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def mark_dropped(batch: Any, wanted: Any, step: str, reason: str) -> Any:
    """Mark the rows of the mask `wanted` that are still in as dropped by `step`."""
    import pyarrow.compute as pc  # noqa: PLC0415

    now = pc.and_(wanted, pc.is_null(batch.column(DROP_STEP)))
    marks = {DROP_STEP: step, DROP_REASON: reason}
    return replace_columns(batch, {name: pc.if_else(now, text, batch.column(name)) for name, text in marks.items()})
