"""Reads the YAML documents of the catalog: engines, one file per regulation, and the user's own overlay."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from archwright.catalog import rows
from archwright.contract.record import Record
from archwright.errors import CatalogError, Where

R = TypeVar("R", bound=Record)
T = TypeVar("T")
# Beside the fields of an own fact: the last day it holds.
UNTIL = "until"


def engines(folder: Path) -> list[rows.EngineSpec]:
    return _convert(_load(folder / "engines.yaml"), list[rows.EngineSpec], folder / "engines.yaml")


def regulations(folder: Path) -> list[rows.Regulation]:
    files = sorted((folder / "regulations").glob("*.yaml"))
    return [_convert(_load(file), rows.Regulation, file) for file in files]


def overlay(path: Path | None) -> dict[str, dict[str, dict[str, Any]]]:
    """The user's facts: table -> id -> changed fields (SI, the names of rows.py). Empty without a file."""
    if path is None or not path.is_file():
        return {}
    return _convert(_load(path) or {}, dict[str, dict[str, dict[str, Any]]], path)


def until(fields: dict[str, Any], path: Path) -> date:
    """The last day an own fact holds: a contract's end; without one, for ever."""
    stated = fields.get(UNTIL, date.max)
    try:
        return stated if isinstance(stated, date) else date.fromisoformat(str(stated))
    except ValueError as error:
        raise CatalogError(
            "AW-CAT-04", f"`{UNTIL}` is no day: {stated!r}", where=Where(str(path)), hint="write it as 2027-12-31"
        ) from error


def overlaid(record: R, changes: dict[str, Any], path: Path) -> R:
    """`record` with the user's fields over it; what the user states needs the user's source, too."""
    if "source" not in changes:
        raise CatalogError(
            "AW-CAT-04",
            "an own fact needs a source",
            where=Where(str(path), None, str(getattr(record, "id", ""))),
            hint="add `source: where you have it from` beside it",
        )
    return _convert({**msgspec.to_builtins(record), "confidence": "high", **changes}, type(record), path)


def _load(path: Path) -> Any:
    try:
        return yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    except FileNotFoundError:
        raise CatalogError(
            "AW-CAT-03", f"the catalog lacks {path.name}", where=Where(str(path)), hint="reinstall archwright"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        raise CatalogError("AW-CAT-04", f"not valid YAML: {error}", where=Where(str(path), line)) from error


def _convert(value: object, wanted: type[T], path: Path) -> T:
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        raise CatalogError(
            "AW-CAT-04", f"a fact has the wrong form: {error}", where=Where(str(path)), hint="correct it there"
        ) from error
