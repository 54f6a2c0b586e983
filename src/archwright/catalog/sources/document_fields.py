"""Fields of parsed JSON by tables: for each field where its value stands and how it is converted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

# Field -> the dotted path of its value and what makes the field of it; the converter gets None for a missing value.
FieldTable = Mapping[str, tuple[str, Callable[[Any], Any]]]
REQUIRED = object()


def require_type(kind: Any, otherwise: object = None, unit: float | None = None) -> Callable[[Any], Any]:
    """A strict converter to `kind`, times `unit`; a missing value gives `otherwise`, if not REQUIRED."""

    def convert(value: Any) -> Any:
        if value is None and otherwise is REQUIRED:
            raise ValueError("missing")
        if value is None:
            return otherwise
        found = msgspec.convert(value, kind)
        return found if unit is None else found * unit

    return convert


def read_fields(document: object, table: FieldTable) -> dict[str, Any]:
    """Raises ValueError with the path of a value that has another type, or is missing and required."""
    found: dict[str, Any] = {}
    for name, (path, convert) in table.items():
        value: Any = document
        try:
            for part in path.split("."):
                value = msgspec.convert(value, dict[str, Any]).get(part) if value is not None else None
            found[name] = convert(value)
        except ValueError as error:
            raise ValueError(f"{error} - at `$.{path}`") from error
    return found
