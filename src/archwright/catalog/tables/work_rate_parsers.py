"""What machines do beside serving text: rates, shares and habits of training, images, tables and data processing."""

from __future__ import annotations

from pathlib import Path

from archwright.catalog.tables import records
from archwright.catalog.tables.cost_parsers import read_band
from archwright.catalog.tables.csv_table import read_rows


class WorkRate(records.Fact):
    """A figure of some work, between the source's low and high; `unit` is SI."""

    id: str
    item: str
    low: float
    typical: float
    high: float
    unit: str

    @property
    def fact(self) -> str:
        """As a basis quotes it."""
        figures = f"{self.typical:g} [{self.low:g}, {self.high:g}] {self.unit}".rstrip()
        return f"{self.item}: {figures} ({self.source}, {self.as_of or 'undated'}, {self.confidence})"


def read_work_rates(folder: Path) -> list[WorkRate]:
    return [
        row.to_record(WorkRate, unit=row.text("unit"), **read_band(row))
        for row in read_rows(folder, "work_efficiencies.csv")
    ]
