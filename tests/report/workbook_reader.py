"""Reads the sheets of a workbook from its XML."""

from __future__ import annotations

import io
import string
import xml.etree.ElementTree as ElementTree
import zipfile
from typing import NamedTuple

NS = {"m": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}


class Cell(NamedTuple):
    text: str
    formula: str | None
    number: float | None


class Workbook:
    """Sheets by name, cells by place."""

    def __init__(self, data: bytes) -> None:
        self._zip = zipfile.ZipFile(io.BytesIO(data))
        shared = ElementTree.fromstring(self._zip.read("xl/sharedStrings.xml"))
        self._shared = ["".join(t.text or "" for t in si.iter(f"{{{NS['m']}}}t")) for si in shared]
        book = ElementTree.fromstring(self._zip.read("xl/workbook.xml"))
        self.names = [sheet.get("name", "") for sheet in book.iterfind("m:sheets/m:sheet", NS)]
        self.core = self._zip.read("docProps/core.xml").decode()

    def cells(self, name: str) -> dict[str, Cell]:
        number = self.names.index(name) + 1
        root = ElementTree.fromstring(self._zip.read(f"xl/worksheets/sheet{number}.xml"))
        return {cell.get("r", ""): self._cell(cell) for cell in root.iter(f"{{{NS['m']}}}c")}

    def _cell(self, cell: ElementTree.Element) -> Cell:
        value, formula = cell.findtext("m:v", None, NS), cell.findtext("m:f", None, NS)
        if cell.get("t") == "s":
            return Cell(self._shared[int(value or 0)], formula, None)
        return Cell("", formula, None if value is None else float(value))

    def list_lines(self, name: str) -> list[str]:
        """Return the rows of a sheet, cells with tabs between them; the value of a formula stands before it."""
        rows: dict[int, list[str]] = {}
        for place, cell in self.cells(name).items():
            number = int(place.lstrip(string.ascii_uppercase))
            rows.setdefault(number, []).append(describe_cell(cell))
        return ["\t".join(row) for row in rows.values()]


def describe_cell(cell: Cell) -> str:
    value = cell.text if cell.number is None else f"{cell.number:.6g}"
    return f"{value} ={cell.formula}" if cell.formula else value
