"""A recipe: a YAML file with the source of a data set and the steps that produce it, in order."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from archwright import specfile
from archwright.contract.record import Record
from archwright.errors import DataError, ErrorLocation
from archwright.lake.daft_engine import add_first_position, map_batches
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS
from archwright.lake.steps import pii_redaction, recipe_steps
from archwright.lake.steps.row_status import DUPLICATE_KEY, FIRST_POSITION, ROW_POSITION


class ColumnOptions(Record):
    """No `columns` means all columns for drop-duplicates, and all text columns for the other steps."""

    columns: tuple[str, ...] = ()


class RedactOptions(Record):
    columns: tuple[str, ...] = ()
    kinds: tuple[pii_redaction.PiiKind, ...] = pii_redaction.PII_KINDS


class DropShortOptions(Record):
    characters: Annotated[int, msgspec.Meta(ge=1)]
    columns: tuple[str, ...] = ()


class RecipeStep(Record):
    """One step: exactly one field is set. drop-duplicates keeps the first row (source file, row)."""

    drop_duplicates: ColumnOptions | None = msgspec.field(name="drop-duplicates", default=None)
    redact: RedactOptions | None = None
    drop_empty: ColumnOptions | None = msgspec.field(name="drop-empty", default=None)
    drop_short: DropShortOptions | None = msgspec.field(name="drop-short", default=None)


class Recipe(Record):
    source: str = msgspec.field(name="from")
    into: str
    steps: tuple[RecipeStep, ...]


def read_recipe(path: Path) -> Recipe:
    """Raises DataError AW-DATA-21."""
    found = specfile.read_spec(path, Recipe, _recipe_error)
    if not found.steps:
        raise _recipe_error("the recipe has no step", ErrorLocation(str(path), None, "steps"))
    for place, step in enumerate(found.steps):
        if len(_get_options(step)) != 1:
            names = " and ".join(_get_options(step)) or "none"
            where = ErrorLocation(str(path), None, f"steps[{place}]")
            raise _recipe_error(f"each item is one step, this item has {names}", where)
    return found


def _get_options(step: RecipeStep) -> dict[str, Any]:
    return {name: options for name, options in msgspec.to_builtins(step).items() if options is not None}


def _recipe_error(message: str, where: ErrorLocation) -> DataError:
    hint = "write from: NAME, into: NAME, steps: a list of drop-duplicates, redact, drop-empty, drop-short: {options}"
    return DataError("AW-DATA-21", message, where=where, hint=hint)


def encode_steps(recipe: Recipe) -> str:
    """The steps as one line of JSON, stored with a version to compare recipes."""
    return msgspec.json.encode([_get_options(step) for step in recipe.steps]).decode()


def apply_recipe(recipe: Recipe, columns: Mapping[str, str], rows: Any) -> Any:
    """Apply every step to the engine's frame `rows`. Raises what `resolve_step_columns` raises."""
    for choice in recipe.steps:
        if choice.drop_duplicates is not None:
            wanted = choice.drop_duplicates.columns
            keys = recipe_steps.AddDuplicateKeys(resolve_step_columns(wanted, columns, texts=False))
            keyed = map_batches(rows, keys, {DUPLICATE_KEY: "binary", ROW_POSITION: "string"})
            twins = recipe_steps.FlagDuplicates(f"the same {', '.join(wanted) or 'content'} as another row")
            rows = map_batches(add_first_position(keyed), twins, drops=(DUPLICATE_KEY, ROW_POSITION, FIRST_POSITION))
        elif choice.redact is not None:
            names = resolve_step_columns(choice.redact.columns, columns)
            rows = map_batches(rows, recipe_steps.RedactPersonalData(names, choice.redact.kinds))
        elif choice.drop_empty is not None:
            names = resolve_step_columns(choice.drop_empty.columns, columns)
            rows = map_batches(rows, recipe_steps.DropEmptyRows(names))
        elif choice.drop_short is not None:
            names = resolve_step_columns(choice.drop_short.columns, columns)
            rows = map_batches(rows, recipe_steps.DropShortRows(names, choice.drop_short.characters))
    return rows


def resolve_step_columns(wanted: tuple[str, ...], columns: Mapping[str, str], *, texts: bool = True) -> tuple[str, ...]:
    """The columns of a step. Raises DataError AW-DATA-22 for a column that is unknown or holds no text."""
    fitting = [name for name, kind in columns.items() if name not in SYSTEM_COLUMNS and (kind == "text" or not texts)]
    for name in wanted:
        if name not in fitting:
            near = tuple(difflib.get_close_matches(name, fitting, 3, 0.3))
            there = name in columns and name not in SYSTEM_COLUMNS
            message = f"the column {name!r} does not contain text" if there else f"there is no column {name!r}"
            hint = f"choose one of the columns: {', '.join(near or fitting[:8]) or 'none is suitable'}"
            raise DataError("AW-DATA-22", message, where=ErrorLocation(None, None, name), hint=hint, nearest=near)
    if not fitting:
        hint = "remove the step, or name a column of texts: the step works on texts only"
        raise DataError("AW-DATA-22", "no column contains text", where=ErrorLocation(None, None, "steps"), hint=hint)
    return wanted or tuple(fitting)
