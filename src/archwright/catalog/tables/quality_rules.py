"""Quality by kind of work: the floor of a workload that states none, and the weights of benchmarks."""

import functools
from pathlib import Path

from archwright.catalog.tables.csv_table import DATA, read_rows
from archwright.catalog.tables.records import Fact


class QualityDefault(Fact):
    """A floor for the low end of a score. `kind`: a kind of workload, or "agent" for work in several model calls."""

    kind: str
    benchmark: str
    floor: float
    reason: str


class QualityWeight(Fact):
    """The weight of a benchmark in the mean quality for a kind of work; its reason starts with the axis."""

    kind: str
    benchmark: str
    weight: float
    reason: str


@functools.cache
def read_quality_defaults(folder: Path = DATA) -> tuple[QualityDefault, ...]:
    """Raises CatalogError AW-CAT-02 for a broken row."""
    return tuple(row.to_record(QualityDefault) for row in read_rows(folder, "quality_defaults.csv"))


@functools.cache
def read_quality_weights(folder: Path = DATA) -> tuple[QualityWeight, ...]:
    """Raises CatalogError AW-CAT-02 for a broken row."""
    return tuple(row.to_record(QualityWeight) for row in read_rows(folder, "quality_weights.csv"))
