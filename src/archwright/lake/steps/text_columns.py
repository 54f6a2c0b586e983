"""The columns that a step works on."""

import difflib
from collections.abc import Mapping
from typing import cast

from archwright.contract.record import replace
from archwright.errors import DataError, ErrorLocation
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS
from archwright.lake.steps.step import Step, StepSources, StepWorker


def resolve_columns(chosen: tuple[str, ...], columns: Mapping[str, str], *, texts: bool = True) -> tuple[str, ...]:
    """The `chosen` columns, or all suitable ones: only text columns if `texts`.

    Raises DataError AW-DATA-22 for a column that is unknown or holds no text, and if no column is suitable.
    """
    suitable = [name for name, kind in columns.items() if name not in SYSTEM_COLUMNS and (kind == "text" or not texts)]
    for name in chosen:
        if name not in suitable:
            near = tuple(difflib.get_close_matches(name, suitable, 3, 0.3))
            exists = name in columns and name not in SYSTEM_COLUMNS
            message = f"the column {name!r} does not contain text" if exists else f"there is no column {name!r}"
            hint = f"choose one of the columns: {', '.join(near or suitable[:8]) or 'none is suitable'}"
            raise DataError("AW-DATA-22", message, where=ErrorLocation(field=name), hint=hint, nearest=near)
    if not suitable:
        hint = "remove the step, or name a column of texts: the step works on texts only"
        raise DataError("AW-DATA-22", "no column contains text", where=ErrorLocation(field="steps"), hint=hint)
    return chosen or tuple(suitable)


USUAL_NAMES = ("text", "content", "body", "markdown")


def find_text_column(columns: Mapping[str, str], chosen: str = "") -> str:
    """The `chosen` column, by default one with a usual name, else the first of texts. Raises as `resolve_columns`."""
    texts = resolve_columns((chosen,) if chosen else (), columns)
    return next((name for name in USUAL_NAMES if name in texts), texts[0])


class TextStep(Step):
    """A step on text columns; no `columns` means all of them. The prepared step names its columns."""

    columns: tuple[str, ...] = ()

    def output_columns(self, columns: dict[str, str]) -> dict[str, str]:
        resolve_columns(self.columns, columns)
        return columns

    def prepare(self, sources: StepSources) -> StepWorker:
        return cast(StepWorker, replace(self, columns=resolve_columns(self.columns, sources.columns)))
