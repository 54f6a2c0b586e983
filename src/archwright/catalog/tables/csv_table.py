"""Reads a CSV table of the catalog; every error names file, line and column (AW-CAT-02)."""

import csv
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from archwright.catalog.tables.records import Confidence
from archwright.contract.record import Record
from archwright.errors import CatalogError, ErrorLocation
from archwright.specfile import read_packaged_yaml

R = TypeVar("R", bound=Record)
T = TypeVar("T")
CellReader = Callable[..., object]
DATA = Path(__file__).parents[1] / "data"


class CsvRow:
    """One line of a table; an empty cell is an unknown fact."""

    def __init__(self, file: str, line: int, cells: dict[str, str]) -> None:
        self.file = file
        self.line = line
        self.cells = cells

    def cell_error(self, column: str, what: str) -> CatalogError:
        message, where = f"{what} in {column}: {self.cells.get(column)!r}", ErrorLocation(self.file, self.line, column)
        return CatalogError("AW-CAT-02", message, where=where, hint="correct the row, or reinstall archwright")

    def text(self, column: str) -> str:
        return (self.cells.get(column) or "").strip()

    def required_text(self, column: str) -> str:
        value = self.text(column)
        if not value:
            raise self.cell_error(column, "no value")
        return value

    def one_of(self, column: str, literal: Any) -> Any:
        """Return the cell, which must be one of the values of a Literal type."""
        value = self.text(column)
        if value not in get_args(literal):
            raise self.cell_error(column, f"not one of {', '.join(get_args(literal))}")
        return value

    def number(self, column: str, unit: float = 1.0) -> float | None:
        """Return the cell times `unit` (its size in SI), None if empty."""
        value = self.text(column)
        if not value:
            return None
        try:
            number = float(value)
        except ValueError:
            raise self.cell_error(column, "not a number") from None
        if not math.isfinite(number) or number < 0:
            raise self.cell_error(column, "not a finite, positive number")
        return number * unit

    def required_number(self, column: str, unit: float = 1.0) -> float:
        number = self.number(column, unit)
        if number is None:
            raise self.cell_error(column, "no value")
        return number

    def whole_number(self, column: str, unit: float = 1.0) -> int | None:
        number = self.number(column, unit)
        return None if number is None else round(number)

    def count(self, column: str, unit: float | None = None) -> int:
        """Return a count, 0 if empty; a number with a `unit` is required."""
        return (self.whole_number(column) or 0) if unit is None else round(self.required_number(column, unit))

    def to_record(self, kind: type[R], **given: object) -> R:
        """Convert the row by the record's schema (table_schemas.yaml); `given` are fields without a column.

        Texts without a default are required, unless they are optional; so are numbers that cannot be None.
        """
        found: dict[str, object] = {}
        schema, cells = schema_of(kind), self.cells
        for name, column, reader in _field_readers(kind):  # type: ignore[arg-type]
            optional = name in schema.optional
            absent = reader is CsvRow.text and not optional and column[0] not in cells and name not in cells
            if name in given or absent:
                continue
            found[name] = self.text(column[0]) if optional else reader(self, *column)
        if "confidence" not in given and "as_of" in found:
            stated = self.text("confidence") if "confidence" in self.cells else schema.confidence
            found["confidence"] = effective_confidence(str(found["as_of"]), stated)
        return kind(**(found | given))


class TableSchema(Record):
    """The table of a record class; table_schemas.yaml describes the fields."""

    columns: dict[str, str | tuple[str, float]] = {}
    optional: tuple[str, ...] = ()
    confidence: Confidence = "high"
    name: tuple[str, ...] = ()
    ages_as: str = ""


PLAIN_SCHEMA = TableSchema()


@functools.cache
def table_schemas() -> dict[str, TableSchema]:
    return read_packaged_yaml(Path(__file__).parent / "table_schemas.yaml", dict[str, TableSchema])


def schema_of(kind: type[Record]) -> TableSchema:
    return table_schemas().get(kind.__name__, PLAIN_SCHEMA)


@functools.cache
def _field_readers(kind: type[Record]) -> tuple[tuple[str, tuple[Any, ...], CellReader], ...]:
    """Return name, column (with its unit, if any) and reader of each field that a cell can state."""
    plain: dict[object, CellReader] = {
        float: CsvRow.required_number,
        float | None: CsvRow.number,
        int: CsvRow.count,
        int | None: CsvRow.whole_number,
        str | None: lambda row, column: row.text(column) or None,
        tuple[str, ...]: lambda row, column: tuple(row.required_text(column).split()),
    }
    found: list[tuple[str, CellReader]] = []
    for field in msgspec.structs.fields(kind):  # type: ignore[arg-type]
        if field.type is str:
            found.append((field.name, CsvRow.required_text if field.required else CsvRow.text))
        elif field.type in plain:
            found.append((field.name, plain[field.type]))
        elif field.required and get_origin(field.type) is Literal:
            found.append((field.name, functools.partial(CsvRow.one_of, literal=field.type)))
    columns = schema_of(kind).columns
    stated = ((name, columns.get(name, name), reader) for name, reader in found)
    return tuple((name, (at,) if isinstance(at, str) else tuple(at), reader) for name, at, reader in stated)


def effective_confidence(as_of: str, stated: str = "high") -> Confidence:
    """Return the stated confidence, or `recalled` if the source has no date."""
    if not as_of or "undated" in as_of:
        return "recalled"
    known: tuple[Confidence, ...] = get_args(Confidence)
    return next((level for level in known if level == stated), "recalled")


def table_reader(kind: type[R], *files: str) -> Callable[[Path], list[R]]:
    """Return the reader of a table whose columns give all fields; rows of several files are joined."""
    return lambda folder: [row.to_record(kind) for file in files for row in read_rows(folder, file)]


def read_shipped_once(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Share what a reader makes of the shipped tables among the catalogs of this process. Nobody may change it."""
    read_shipped = functools.cache(lambda: read(DATA))

    @functools.wraps(read)
    def read_table(folder: Path) -> T:
        return read_shipped() if folder == DATA else read(folder)

    return read_table


def read_rows(folder: Path, file: str) -> Iterator[CsvRow]:
    path = folder / file
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            for cells in reader:
                row = CsvRow(file, reader.line_num, cells)
                if cells.pop(None, None) is not None:
                    raise row.cell_error(str(reader.fieldnames[-1] if reader.fieldnames else ""), "a comma too many")
                yield row
    except FileNotFoundError:
        message, where = f"the catalog has no table {file}", ErrorLocation(str(path))
        raise CatalogError("AW-CAT-03", message, where=where, hint="reinstall archwright") from None
