"""Reads the YAML documents of the catalog: engines and one file per regulation."""

from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from archwright.catalog.tables import records
from archwright.errors import CatalogError, ErrorLocation
from archwright.specfile import read_packaged_yaml

T = TypeVar("T")


def read_engines(folder: Path) -> list[records.EngineSpec]:
    return read_document(folder / "engines.yaml", list[records.EngineSpec])


def read_regulations(folder: Path) -> list[records.Regulation]:
    files = sorted((folder / "regulations").glob("*.yaml"))
    return [read_document(file, records.Regulation) for file in files]


def read_document(path: Path, wanted: type[T]) -> T:
    """Raises CatalogError: AW-CAT-03 without the file, AW-CAT-04 for a file of another form."""
    try:
        return read_packaged_yaml(path, wanted)
    except FileNotFoundError:
        message, where = f"the catalog has no {path.name}", ErrorLocation(str(path))
        raise CatalogError("AW-CAT-03", message, where=where, hint="reinstall archwright") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise document_error(path, f"not valid YAML: {error}", None if mark is None else mark.line + 1) from error
    except msgspec.ValidationError as error:
        raise document_error(path, f"a fact has the wrong form: {error}") from error


def document_error(path: Path, message: str, line: int | None = None) -> CatalogError:
    hint = "correct the file, or reinstall archwright"
    return CatalogError("AW-CAT-04", message, where=ErrorLocation(str(path), line), hint=hint)
