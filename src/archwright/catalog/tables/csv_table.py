"""Reads a CSV table of the catalog; every refusal names file, line and column (AW-CAT-02)."""

from __future__ import annotations

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

R = TypeVar("R", bound=Record)
CellReader = Callable[["CsvRow", str], object]
DATA = Path(__file__).parents[1] / "data"


class CsvRow:
    """One line of a table; empty cells are absent facts."""

    def __init__(self, file: str, line: int, cells: dict[str, str]) -> None:
        self.file = file
        self.line = line
        self.cells = cells

    def cell_error(self, column: str, what: str) -> CatalogError:
        message, where = f"{what} in {column}: {self.cells.get(column)!r}", ErrorLocation(self.file, self.line, column)
        return CatalogError("AW-CAT-02", message, where=where, hint="reinstall archwright, or correct the row")

    def text(self, column: str) -> str:
        return (self.cells.get(column) or "").strip()

    def required_text(self, column: str) -> str:
        value = self.text(column)
        if not value:
            raise self.cell_error(column, "nothing")
        return value

    def one_of(self, column: str, literal: Any) -> Any:
        """The cell, which must be one of the values of a Literal type."""
        value = self.text(column)
        if value not in get_args(literal):
            raise self.cell_error(column, f"not one of {', '.join(get_args(literal))}")
        return value

    def number(self, column: str, unit: float = 1.0) -> float | None:
        """The cell times `unit` (its size in SI), None when empty."""
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
            raise self.cell_error(column, "nothing")
        return number

    def whole_number(self, column: str, unit: float = 1.0) -> int | None:
        number = self.number(column, unit)
        return None if number is None else round(number)

    def count(self, column: str) -> int:
        """A count; an empty cell is zero."""
        return self.whole_number(column) or 0

    def to_record(self, kind: type[R], *, optional: tuple[str, ...] = (), **given: object) -> R:
        """The row as a record; `given` are the fields that the table has in other words or units.

        Words without a default must be there, unless `optional` names the field, as must numbers that cannot be absent.
        """
        found = {
            name: self.text(name) if name in optional else reader(self, name)
            for name, reader in _field_readers(kind)  # type: ignore[arg-type]
            if name not in given and (name in self.cells or name in optional or reader is not CsvRow.text)
        }
        if "confidence" not in given and "as_of" in found:
            stated = self.text("confidence") if "confidence" in self.cells else "high"
            found["confidence"] = effective_confidence(str(found["as_of"]), stated)
        return kind(**(found | given))


def _literal_reader(literal: object) -> CellReader:
    return lambda row, name: row.one_of(name, literal)


def _split_cell(row: CsvRow, name: str) -> tuple[str, ...]:
    return tuple(row.required_text(name).split())


@functools.cache
def _field_readers(kind: type[Record]) -> tuple[tuple[str, CellReader], ...]:
    plain: dict[object, CellReader] = {
        float: CsvRow.required_number,
        float | None: CsvRow.number,
        int: CsvRow.count,
        int | None: CsvRow.whole_number,
        tuple[str, ...]: _split_cell,
    }
    found: list[tuple[str, CellReader]] = []
    for field in msgspec.structs.fields(kind):  # type: ignore[arg-type]
        if field.type is str:
            found.append((field.name, CsvRow.required_text if field.required else CsvRow.text))
        elif field.type in plain:
            found.append((field.name, plain[field.type]))
        elif field.required and get_origin(field.type) is Literal:
            found.append((field.name, _literal_reader(field.type)))
    return tuple(found)


def effective_confidence(as_of: str, stated: str = "high") -> Confidence:
    """The stated confidence, but `recalled` where the source bears no date."""
    if not as_of or "undated" in as_of:
        return "recalled"
    known: tuple[Confidence, ...] = get_args(Confidence)
    return next((level for level in known if level == stated), "recalled")


def table_reader(kind: type[R], file: str) -> Callable[[Path], list[R]]:
    """The reader of a table whose columns have the names of the record's fields."""
    return lambda folder: [row.to_record(kind) for row in read_rows(folder, file)]


def read_rows(folder: Path, file: str) -> Iterator[CsvRow]:
    path = folder / file
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            for cells in reader:
                yield CsvRow(file, reader.line_num, cells)
    except FileNotFoundError:
        message, where = f"the catalog lacks its table {file}", ErrorLocation(str(path))
        raise CatalogError("AW-CAT-03", message, where=where, hint="reinstall archwright") from None
