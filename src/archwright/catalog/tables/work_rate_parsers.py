"""Rates and shares of work other than serving text: training, images, tables, data processing."""

from archwright.catalog.tables import records
from archwright.catalog.tables.csv_table import CsvRow
from archwright.catalog.tables.parsers import read_band, row_parser


class WorkRate(records.Fact):
    """A figure of some kind of work, between the source's low and high; `unit` is SI."""

    id: str
    item: str
    low: float
    typical: float
    high: float
    unit: str

    @property
    def fact(self) -> str:
        """Format the row as a basis quotes it."""
        figures = f"{self.typical:g} [{self.low:g}, {self.high:g}] {self.unit}".rstrip()
        return f"{self.item}: {figures} ({self.source}, {self.as_of or 'undated'}, {self.confidence})"


@row_parser("work_efficiencies.csv")
def read_work_rates(row: CsvRow) -> WorkRate:
    return row.to_record(WorkRate, **read_band(row))
