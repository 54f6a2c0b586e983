"""Guidance: what a plan's sections say in words, as rows with their sources. The planner selects and fills in.

Rows of one topic stand from the particular to the general: the first that fits a plan speaks for the topic.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from archwright.catalog.rows import Fact
from archwright.catalog.table import DATA
from archwright.errors import CatalogError, Where

Theme = Literal["stack", "security", "scale", "monitoring", "stages", "practices", "providers"]
Kept = Literal["gateway", "engine", "lake", "registry", "monitoring", "training"]
FOLDER = "guidance"


class Advice(Fact):
    """One row. It fits a plan that has all traits of `when` and none of `unless` (plan/traits.py names them).

    `choice`, `why`, `alternative` and `why_not` may hold `{words}` of the plan. `clauses` ("NAME CLAUSE") says which
    regulations demand it. `kept`: what of the user's own takes its place. `figure` names an estimate of the option.
    """

    id: str
    topic: str
    choice: str
    why: str
    when: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    clauses: tuple[str, ...] = ()
    proof: str = ""
    alternative: str = ""
    why_not: str = ""
    kept: Kept | None = None
    figure: str = ""


@functools.cache
def advice(theme: Theme, folder: Path = DATA) -> tuple[Advice, ...]:
    """The rows of a theme in their order. Raises CatalogError: AW-CAT-03 without the file, AW-CAT-04 for a row that
    has the wrong form, no source or date, or another's id.
    """
    path = folder / FOLDER / f"{theme}.yaml"
    rows = _rows(path)
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise _broken(path, f"two rows are called {row.id!r}")
        if not row.source or not row.as_of:
            raise _broken(path, f"row {row.id!r} has no source or no date")
        seen.add(row.id)
    return rows


def _rows(path: Path) -> tuple[Advice, ...]:
    try:
        read = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
        return msgspec.convert(read, tuple[Advice, ...])
    except FileNotFoundError:
        raise CatalogError(
            "AW-CAT-03", f"the catalog lacks {path.name}", where=Where(str(path)), hint="reinstall archwright"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise _broken(path, f"not valid YAML: {error}", None if mark is None else mark.line + 1) from error
    except msgspec.ValidationError as error:
        raise _broken(path, f"a row has the wrong form: {error}") from error


def _broken(path: Path, what: str, line: int | None = None) -> CatalogError:
    return CatalogError("AW-CAT-04", what, where=Where(str(path), line), hint="correct it there")
