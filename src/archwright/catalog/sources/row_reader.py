"""Reads the rows of a source file by the tables of formats.yaml: path, type and unit of each value."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from archwright.catalog.sources.file_formats import decode_pages, decode_yaml, read_csv, read_lines
from archwright.contract.record import Record
from archwright.specfile import read_packaged_yaml

# A row with the objects around it, the outermost first; each with its key.
Lineage = tuple[tuple[str, Any], ...]


class SourceColumn(Record):
    """The place of a value (`at`) and its conversion; formats.yaml describes the fields."""

    at: str
    kind: str = "text"
    required: bool = False
    optional: bool = False
    default: Any = None
    scale: float | int | None = None
    values: dict[Any, Any] | None = None


class SourceFormat(Record):
    """The table of one source form; formats.yaml describes the fields."""

    form: Literal["json", "pages", "csv", "yaml"] = "json"
    rows: str = ""
    only: dict[str, tuple[str | None, ...]] = {}
    without: dict[str, tuple[str | None, ...]] = {}
    columns: dict[str, SourceColumn]


# Types of values: any other type refuses the file.
_TYPES: Mapping[str, Any] = {
    "text": str,
    "int": int,
    "float": float,
    "bool": bool,
    "texts": list[str],
    "floats": dict[str, float],
    "object": dict[str, Any],
    "objects": list[dict[str, Any]],
    "text_or_int": str | int,
    "text_or_float": str | float,
    "any": Any,
}
_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    **{name: partial(msgspec.convert, type=kind) for name, kind in _TYPES.items()},
    # A value of another type is missing.
    "number": lambda value: float(value) if isinstance(value, int | float) else None,
    "rounded": lambda value: round(float(value)) if isinstance(value, int | float) else None,
    "amount": lambda value: (
        msgspec.convert(value, float, strict=False) if isinstance(value, int | float | str) else None
    ),
    "positive": lambda value: value if isinstance(value, int) and value is not True and value > 0 else None,
}
_CELL_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {"text": str, "float": float}


@cache
def load_formats() -> Mapping[str, SourceFormat]:
    return read_packaged_yaml(Path(__file__).parent / "formats.yaml", dict[str, SourceFormat])


def read_rows(name: str, data: bytes) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of the format `name`. Iterating raises ValueError for another form."""
    form = load_formats()[name].form
    if form == "csv":
        yield from read_csv_rows(name, read_lines(data))
    elif form == "pages":
        yield from (row for page in decode_pages(data) for row in select_rows(name, page))
    else:
        yield from select_rows(name, decode_yaml(data) if form == "yaml" else msgspec.json.decode(data))


def select_rows(name: str, document: object) -> Iterator[dict[str, Any]]:
    """Yield the rows of a decoded document. Raises ValueError with the path of a value of another type."""
    table = load_formats()[name]
    rows = _iterate_rows((("", document),), document, table.rows.split(".") if table.rows else [])
    return _read_selected(table, rows, _CONVERTERS)


def read_csv_rows(name: str, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV table. Raises ValueError for a missing column or a cell that is no number."""
    table = load_formats()[name]
    found = read_csv(lines, [column.at for column in table.columns.values() if not column.optional])
    return _read_selected(table, ((("", line),) for line in found), _CELL_CONVERTERS)


def _read_selected(
    table: SourceFormat, rows: Iterable[Lineage], converters: Mapping[str, Callable[[Any], Any]]
) -> Iterator[dict[str, Any]]:
    for row in rows:
        if all(_find_value(row, path) in among for path, among in table.only.items()) and not any(
            _find_value(row, path) in among for path, among in table.without.items()
        ):
            yield {name: _read_column(row, column, converters[column.kind]) for name, column in table.columns.items()}


def _iterate_rows(lineage: Lineage, value: object, steps: list[str]) -> Iterator[Lineage]:
    if value is None:
        raise ValueError("Expected `object`, got `null`")
    if not steps:
        yield lineage
        return
    step, *rest = steps
    if step == "*":
        for key, item in msgspec.convert(value, dict[str, Any]).items():
            yield from _iterate_rows((*lineage, (key, item)), item, rest)
    elif step == "#":
        for item in msgspec.convert(value, list[Any]):
            yield from _iterate_rows((*lineage, ("", item)), item, rest)
    else:
        yield from _iterate_rows(lineage, _get_field(value, step), rest)


def _get_field(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else msgspec.convert(value, dict[str, Any])


def _find_value(lineage: Lineage, path: str) -> Any:
    """Return None if the value, or an object around it, is missing."""
    if path.startswith("^"):
        return _find_value(lineage[:-1], path[1:])
    key, value = lineage[-1]
    if path == "@":
        return key
    for name in path.split("."):
        value = None if value is None else _get_field(value, name)
    return value


def _read_column(lineage: Lineage, column: SourceColumn, convert: Callable[[Any], Any]) -> Any:
    for path in column.at.split("|"):
        try:
            value = _find_value(lineage, path)
            found = None if value is None else convert(value)
        except ValueError as error:
            raise ValueError(f"{error} - at `$.{path}`") from error
        if found is not None:
            found = found if column.scale is None else found * column.scale
            return found if column.values is None else column.values.get(found, column.default)
    if column.required:
        raise ValueError(f"missing - at `$.{column.at}`")
    return column.default
