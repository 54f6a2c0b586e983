"""Reads the YAML documents of the catalog: engines and one file per regulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from archwright.catalog import rows
from archwright.errors import CatalogError, Where

T = TypeVar("T")


def engines(folder: Path) -> list[rows.EngineSpec]:
    return _convert(_load(folder / "engines.yaml"), list[rows.EngineSpec], folder / "engines.yaml")


def regulations(folder: Path) -> list[rows.Regulation]:
    files = sorted((folder / "regulations").glob("*.yaml"))
    return [_convert(_load(file), rows.Regulation, file) for file in files]


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
