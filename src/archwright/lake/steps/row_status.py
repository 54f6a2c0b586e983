"""Status columns that a row has while a recipe runs; their names are reserved.

A dropped row stays in its batch, marked with step and reason, so that all drops are recorded in one place.
"""

from typing import Any

from archwright.lake.formats.column_names import RESERVED_PREFIX
from archwright.lake.lazy_modules import pa, pc

DROP_STEP = RESERVED_PREFIX + "step"  # the step that dropped the row; null for a kept row
DROP_REASON = RESERVED_PREFIX + "reason"
DUPLICATE_OF = RESERVED_PREFIX + "twin"  # the record that a duplicate repeats
CHANGES = RESERVED_PREFIX + "changes"  # the kind of each altered value
TEXT_COLUMNS = (DROP_STEP, DROP_REASON, DUPLICATE_OF)
# For drop-duplicates: rows with the same key are duplicates, the least position is kept.
DUPLICATE_KEY = RESERVED_PREFIX + "key"
ROW_POSITION = RESERVED_PREFIX + "place"
FIRST_POSITION = RESERVED_PREFIX + "first"  # least position of the key; null if the key is unique


def replace_columns(batch: Any, columns: dict[str, Any]) -> Any:
    arrays = [columns.get(name, batch.column(name)) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def mark_dropped(batch: Any, wanted: Any, step: str, reason: str) -> Any:
    """Mark the rows of the mask `wanted` that are not dropped yet as dropped by `step`."""
    now = pc.and_(wanted, pc.is_null(batch.column(DROP_STEP)))
    marks = {DROP_STEP: step, DROP_REASON: reason}
    return replace_columns(batch, {name: pc.if_else(now, text, batch.column(name)) for name, text in marks.items()})
