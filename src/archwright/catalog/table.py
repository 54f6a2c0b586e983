"""Reads a CSV table of the catalog; every refusal names file, line and column (AW-CAT-02)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from archwright.catalog.rows import Confidence
from archwright.errors import CatalogError, Where

DATA = Path(__file__).parent / "data"


class Row:
    """One line of a table; empty cells are absent facts."""

    def __init__(self, file: str, line: int, cells: dict[str, str]) -> None:
        self.file = file
        self.line = line
        self.cells = cells

    def broken(self, column: str, what: str) -> CatalogError:
        return CatalogError(
            "AW-CAT-02",
            f"{what} in {column}: {self.cells.get(column)!r}",
            where=Where(self.file, self.line, column),
            hint="reinstall archwright, or correct the row",
        )

    def text(self, column: str) -> str:
        return (self.cells.get(column) or "").strip()

    def name(self, column: str) -> str:
        value = self.text(column)
        if not value:
            raise self.broken(column, "nothing")
        return value

    def one_of(self, column: str, literal: Any) -> Any:
        """The cell, which must be one of the values of a Literal type."""
        value = self.text(column)
        if value not in get_args(literal):
            raise self.broken(column, f"not one of {', '.join(get_args(literal))}")
        return value

    def number(self, column: str, unit: float = 1.0) -> float | None:
        """The cell times `unit` (its size in SI), None when empty."""
        value = self.text(column)
        if not value:
            return None
        try:
            number = float(value)
        except ValueError:
            raise self.broken(column, "not a number") from None
        if not math.isfinite(number) or number < 0:
            raise self.broken(column, "not a finite, positive number")
        return number * unit

    def required(self, column: str, unit: float = 1.0) -> float:
        number = self.number(column, unit)
        if number is None:
            raise self.broken(column, "nothing")
        return number

    def whole(self, column: str, unit: float = 1.0) -> int | None:
        number = self.number(column, unit)
        return None if number is None else round(number)

    def count(self, column: str) -> int:
        """A count; an empty cell is zero."""
        return self.whole(column) or 0


def confidence(as_of: str, stated: str = "high") -> Confidence:
    """The stated confidence, but `recalled` where the source bears no date."""
    if not as_of or "undated" in as_of:
        return "recalled"
    known: tuple[Confidence, ...] = get_args(Confidence)
    return next((level for level in known if level == stated), "recalled")


def read(folder: Path, file: str) -> Iterator[Row]:
    path = folder / file
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            for cells in reader:
                yield Row(file, reader.line_num, cells)
    except FileNotFoundError:
        raise CatalogError(
            "AW-CAT-03", f"the catalog lacks its table {file}", where=Where(str(path)), hint="reinstall archwright"
        ) from None
