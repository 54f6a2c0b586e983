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
from archwright.lake.column_kinds import OWN


class DropDuplicates(Record):
    """Keep the first (by source file and row) of all rows with the same values; no `columns` means all of the
    source's."""

    columns: tuple[str, ...] = ()


class Redact(Record):
    """No `columns` means every text column, no `kinds` every kind."""

    columns: tuple[str, ...] = ()
    kinds: tuple[pii_redaction.Kind, ...] = pii_redaction.KINDS


class DropEmpty(Record):
    columns: tuple[str, ...] = ()


class DropShort(Record):
    characters: Annotated[int, msgspec.Meta(ge=1)]
    columns: tuple[str, ...] = ()


class Choice(Record):
    """One step: the one field that is set."""

    drop_duplicates: DropDuplicates | None = msgspec.field(name="drop-duplicates", default=None)
    redact: Redact | None = None
    drop_empty: DropEmpty | None = msgspec.field(name="drop-empty", default=None)
    drop_short: DropShort | None = msgspec.field(name="drop-short", default=None)


class Recipe(Record):
    source: str = msgspec.field(name="from")
    into: str
    steps: tuple[Choice, ...]


def read(path: Path) -> Recipe:
    """The recipe in a file. Raises DataError AW-DATA-21."""
    found = specfile.read_spec(path, Recipe, lambda message, where: _refused(message, where))
    if not found.steps:
        raise _refused("a recipe without a step", ErrorLocation(str(path), None, "steps"))
    for place, step in enumerate(found.steps):
        if len(_set(step)) != 1:
            names = " and ".join(_set(step)) or "none"
            raise _refused(f"one step a line; here is {names}", ErrorLocation(str(path), None, f"steps[{place}]"))
    return found


def _set(step: Choice) -> dict[str, Any]:
    return {name: options for name, options in msgspec.to_builtins(step).items() if options is not None}


def _refused(message: str, where: ErrorLocation) -> DataError:
    hint = "from: NAME, into: NAME, steps: a list of - drop-duplicates, redact, drop-empty, drop-short: {options}"
    return DataError("AW-DATA-21", message, where=where, hint=hint)


def text_of(recipe: Recipe) -> str:
    """The steps as they are kept with a version and compared: one line of JSON."""
    return msgspec.json.encode([_set(step) for step in recipe.steps]).decode()


def applied(recipe: Recipe, columns: Mapping[str, str], rows: Any) -> Any:
    """The engine's frame `rows` with every step to be done on it; see `checked` for what may go wrong."""
    for choice in recipe.steps:
        if choice.drop_duplicates is not None:
            names = checked(choice.drop_duplicates.columns, columns, texts=False)
            keyed = daft_engine.mapped(
                rows, recipe_steps.Identify(names), {row_status.KEY: "binary", row_status.PLACE: "string"}
            )
            twins = recipe_steps.MarkTwins(
                f"the same {', '.join(choice.drop_duplicates.columns) or 'content'} as another row"
            )
            rows = daft_engine.mapped(
                daft_engine.with_first(keyed), twins, drops=(row_status.KEY, row_status.PLACE, row_status.FIRST)
            )
        elif choice.redact is not None:
            rows = daft_engine.mapped(
                rows, recipe_steps.Redact(checked(choice.redact.columns, columns), choice.redact.kinds)
            )
        elif choice.drop_empty is not None:
            rows = daft_engine.mapped(rows, recipe_steps.DropEmpty(checked(choice.drop_empty.columns, columns)))
        elif choice.drop_short is not None:
            short = choice.drop_short
            rows = daft_engine.mapped(rows, recipe_steps.DropShort(checked(short.columns, columns), short.characters))
    return rows


def checked(wanted: tuple[str, ...], columns: Mapping[str, str], *, texts: bool = True) -> tuple[str, ...]:
    """The columns a step works on. Raises DataError AW-DATA-22 for one that is not there or holds no text."""
    fitting = [name for name, kind in columns.items() if name not in OWN and (kind == "text" or not texts)]
    for name in wanted:
        if name not in fitting:
            near = tuple(difflib.get_close_matches(name, fitting, 3, 0.3))
            there = name in columns and name not in OWN
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
