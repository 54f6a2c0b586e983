"""Input and report of a refresh: files with their sources, skipped rows with the reason."""

from collections import defaultdict
from typing import Any, NamedTuple

from archwright.catalog.sources.source_records import SourceFacts
from archwright.catalog.tables.metadata_records import RefreshSource
from archwright.contract.record import Record

EXAMPLES = 5


class RefreshInput(NamedTuple):
    """One file: its source, its stated day, its facts, the day of the refresh."""

    source: RefreshSource
    as_of: str
    found: SourceFacts
    brought_on: str = ""

    @property
    def source_label(self) -> str:
        """The `source` of rows from this file."""
        return self.source.origin.partition(", saved as")[0]

    @property
    def provenance(self) -> dict[str, Any]:
        confidence = "medium" if self.as_of else "recalled"
        return {"source": self.source_label, "as_of": self.as_of, "confidence": confidence}


class SkippedRows(Record):
    """Rows that were skipped for one reason; the first few by name."""

    source: str
    reason: str
    rows: int
    examples: tuple[str, ...]


class PriceDisagreement(Record):
    """Two sources state different prices of one model; the first is used, the interval covers both."""

    subject: str
    taken: str
    other: str


class RefreshReportBuilder:
    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.disagreements: list[PriceDisagreement] = []
        self.flags: list[str] = []

    def skip_row(self, source: str, reason: str, subject: str) -> None:
        self._rows[source, reason].append(subject)

    @property
    def skipped_rows(self) -> tuple[SkippedRows, ...]:
        return tuple(
            SkippedRows(source=source, reason=reason, rows=len(found), examples=tuple(found[:EXAMPLES]))
            for (source, reason), found in self._rows.items()
        )
