"""Steps that drop empty and short rows."""

from typing import Annotated, Any

import msgspec

from archwright.lake.lazy_modules import pc
from archwright.lake.steps.step import Rows, StepContext
from archwright.lake.steps.text_columns import TextStep


class DropEmpty(TextStep):
    """Drop rows where one of the columns is empty or white space."""

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        for batch in rows:
            left = batch
            for name in self.columns:
                empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(left.column(name))), 0)
                left = drop_masked(left, pc.fill_null(empty, True), f"{name} is empty", context)
            yield left


class DropShort(TextStep):
    """Drop rows whose columns have fewer `characters` in total."""

    characters: Annotated[int, msgspec.Meta(ge=1)]

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        for batch in rows:
            length = 0
            for name in self.columns:
                length = pc.add(length, pc.fill_null(pc.utf8_length(batch.column(name)), 0))
            short = pc.less(length, self.characters)
            yield drop_masked(batch, short, f"shorter than {self.characters} characters", context)


def drop_masked(batch: Any, mask: Any, reason: str, context: StepContext) -> Any:
    """Drop the rows that the boolean `mask` selects, and return the others."""
    if not pc.any(mask).as_py():
        return batch
    context.drop_rows(batch.filter(mask), reason)
    return batch.filter(pc.invert(mask))
