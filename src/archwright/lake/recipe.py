"""A recipe: a small YAML file that says what a data set is made from and by which steps, in order."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from archwright import specfile
from archwright.contract.record import Record
from archwright.errors import DataError, ErrorLocation
from archwright.lake import daft_engine, pii_redaction, recipe_steps, row_status
from archwright.lake.column_kinds import SYSTEM_COLUMNS


class DropDuplicatesOptions(Record):
    """Keep the first (by source file and row) of all rows with the same values; no `columns` means all of the
    source's."""

    columns: tuple[str, ...] = ()


class RedactOptions(Record):
    """No `columns` means every text column, no `kinds` every kind."""

    columns: tuple[str, ...] = ()
    kinds: tuple[pii_redaction.PiiKind, ...] = pii_redaction.PII_KINDS


class DropEmptyOptions(Record):
    columns: tuple[str, ...] = ()


class DropShortOptions(Record):
    characters: Annotated[int, msgspec.Meta(ge=1)]
    columns: tuple[str, ...] = ()


class RecipeStep(Record):
    """One step: the one field that is set."""

    drop_duplicates: DropDuplicatesOptions | None = msgspec.field(name="drop-duplicates", default=None)
    redact: RedactOptions | None = None
    drop_empty: DropEmptyOptions | None = msgspec.field(name="drop-empty", default=None)
    drop_short: DropShortOptions | None = msgspec.field(name="drop-short", default=None)


class Recipe(Record):
    source: str = msgspec.field(name="from")
    into: str
    steps: tuple[RecipeStep, ...]


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file. Raises DataError AW-DATA-21."""
    found = specfile.read_spec(path, Recipe, lambda message, where: _recipe_error(message, where))
    if not found.steps:
        raise _recipe_error("a recipe without a step", ErrorLocation(str(path), None, "steps"))
    for place, step in enumerate(found.steps):
        if len(_get_options(step)) != 1:
            names = " and ".join(_get_options(step)) or "none"
            raise _recipe_error(f"one step a line; here is {names}", ErrorLocation(str(path), None, f"steps[{place}]"))
    return found


def _get_options(step: RecipeStep) -> dict[str, Any]:
    return {name: options for name, options in msgspec.to_builtins(step).items() if options is not None}


def _recipe_error(message: str, where: ErrorLocation) -> DataError:
    hint = "from: NAME, into: NAME, steps: a list of - drop-duplicates, redact, drop-empty, drop-short: {options}"
    return DataError("AW-DATA-21", message, where=where, hint=hint)


def encode_steps(recipe: Recipe) -> str:
    """The steps as they are kept with a version and compared: one line of JSON."""
    return msgspec.json.encode([_get_options(step) for step in recipe.steps]).decode()


def apply_recipe(recipe: Recipe, columns: Mapping[str, str], rows: Any) -> Any:
    """The engine's frame `rows` with every step to be done on it; see `resolve_step_columns` for what may go wrong."""
    for choice in recipe.steps:
        if choice.drop_duplicates is not None:
            names = resolve_step_columns(choice.drop_duplicates.columns, columns, texts=False)
            keyed = daft_engine.map_batches(
                rows,
                recipe_steps.AddDuplicateKeys(names),
                {row_status.DUPLICATE_KEY: "binary", row_status.ROW_POSITION: "string"},
            )
            twins = recipe_steps.FlagDuplicates(
                f"the same {', '.join(choice.drop_duplicates.columns) or 'content'} as another row"
            )
            rows = daft_engine.map_batches(
                daft_engine.add_first_position(keyed),
                twins,
                drops=(row_status.DUPLICATE_KEY, row_status.ROW_POSITION, row_status.FIRST_POSITION),
            )
        elif choice.redact is not None:
            rows = daft_engine.map_batches(
                rows,
                recipe_steps.RedactPersonalData(
                    resolve_step_columns(choice.redact.columns, columns), choice.redact.kinds
                ),
            )
        elif choice.drop_empty is not None:
            rows = daft_engine.map_batches(
                rows, recipe_steps.DropEmptyRows(resolve_step_columns(choice.drop_empty.columns, columns))
            )
        elif choice.drop_short is not None:
            short = choice.drop_short
            rows = daft_engine.map_batches(
                rows, recipe_steps.DropShortRows(resolve_step_columns(short.columns, columns), short.characters)
            )
    return rows


def resolve_step_columns(wanted: tuple[str, ...], columns: Mapping[str, str], *, texts: bool = True) -> tuple[str, ...]:
    """The columns a step works on. Raises DataError AW-DATA-22 for one that is not there or holds no text."""
    fitting = [name for name, kind in columns.items() if name not in SYSTEM_COLUMNS and (kind == "text" or not texts)]
    for name in wanted:
        if name not in fitting:
            near = tuple(difflib.get_close_matches(name, fitting, 3, 0.3))
            there = name in columns and name not in SYSTEM_COLUMNS
            raise DataError(
                "AW-DATA-22",
                f"the column {name!r} holds no text" if there else f"no column called {name!r}",
                where=ErrorLocation(None, None, name),
                hint=f"columns: {', '.join(near or fitting[:8]) or 'none that would do'}",
                nearest=near,
            )
    if not fitting:
        raise DataError(
            "AW-DATA-22",
            "no column holds text",
            where=ErrorLocation(None, None, "steps"),
            hint="this step works on texts only",
        )
    return wanted or tuple(fitting)
