"""Reads an inventory: a CSV file with the columns name, count and (optional) memory_gb."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from archwright.contract.machine_inventory import InventoryMachine
from archwright.contract.record import replace
from archwright.errors import ErrorLocation, PlanFileError

GIGABYTE = 1e9
REQUIRED_COLUMNS = frozenset({"name", "count"})
MOST_ROWS = 1000
MOST_MACHINES = 1_000_000
MOST_MEMORY_GB = 1e6


def read_inventory(path: Path) -> tuple[InventoryMachine, ...]:
    """Read a CSV file with the columns name, count and (optional) memory_gb.

    Raises PlanFileError AW-FILE-23 with the line of a bad value."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        hint = "give a CSV file with the columns name, count, memory_gb"
        raise PlanFileError("AW-FILE-23", f"{path.name} cannot be read: {error}", hint=hint) from error
    lines = text.splitlines()
    reader = csv.DictReader(lines, skipinitialspace=True)
    missing = REQUIRED_COLUMNS.difference(reader.fieldnames or ())
    if missing:
        listed = ", ".join(sorted(missing))
        raise table_error(path, 1, f"has no column {listed}", hint="name the columns name, count, memory_gb")
    machines = []
    for row in reader:
        machine = _InventoryRow(path, reader.line_num, row).parse()
        machines.append(machine)
    if not machines:
        raise table_error(path, 1, "has no machines", hint="write a line for each kind of machine")
    if len(machines) > MOST_ROWS:
        what = f"has more than {MOST_ROWS:,} rows"
        raise table_error(path, MOST_ROWS + 2, what, hint="write equal machines as one row")
    return tuple(machines)


class _InventoryRow(NamedTuple):
    path: Path
    line: int
    values: Mapping[str, str | None]

    def parse(self) -> InventoryMachine:
        name = self._read_text("name")
        if not name:
            raise table_error(self.path, self.line, "names no machine", hint="write a processor, card or computer")
        count = self._parse_number("count", MOST_MACHINES)
        if count is None:
            count = 1.0
        if not count.is_integer():
            raise table_error(self.path, self.line, f"states a count of {count:g}", hint="write a whole number")
        memory_gb = self._parse_number("memory_gb", MOST_MEMORY_GB)
        machine = InventoryMachine(name=name, count=int(count), line=self.line)
        if memory_gb is None:
            return machine
        return replace(machine, memory_bytes=memory_gb * GIGABYTE)

    def _read_text(self, column: str) -> str:
        stated = self.values.get(column) or ""
        return stated.strip()

    def _parse_number(self, column: str, most: float) -> float | None:
        """Return the number of a column, None if it is empty."""
        text = self._read_text(column)
        number = text.lower().removesuffix("gb")
        if not number:
            return None
        hint = f"write a number above 0, at most {most:,.0f}"
        try:
            value = float(number)
        except ValueError:
            what = f"{column} {text[:40]!r} is not a number"
            raise table_error(self.path, self.line, what, hint=hint) from None
        if not 0 < value <= most:
            what = f"{column} {text[:40]!r} is out of range"
            raise table_error(self.path, self.line, what, hint=hint)
        return value


def table_error(path: Path, line: int, what: str, *, hint: str) -> PlanFileError:
    """Return the error of a line of the file."""
    where = ErrorLocation(file=str(path), line=line)
    return PlanFileError("AW-FILE-23", f"the inventory {what}", where=where, hint=hint)
