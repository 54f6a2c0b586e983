"""What machines do beside serving text: rates, shares and habits of training, images, tables and data processing."""

from __future__ import annotations

from pathlib import Path

from archwright.catalog import rows
from archwright.catalog.table import confidence, read


class WorkRate(rows.Fact):
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


def work_rates(folder: Path) -> list[WorkRate]:
    found = []
    for row in read(folder, "work_efficiencies.csv"):
        typical = row.required("typical")
        low, high = row.number("low"), row.number("high")
        found.append(
            WorkRate(
                id=row.name("id"),
                item=row.name("item"),
                low=typical if low is None else low,
                typical=typical,
                high=typical if high is None else high,
                unit=row.text("unit"),
                source=row.name("source"),
                as_of=row.text("as_of"),
                confidence=confidence(row.text("as_of"), row.text("confidence")),
                notes=row.text("notes"),
            )
        )
    return found
