"""Quality by kind of work: the floor of a workload that states none, the weights and the languages of benchmarks."""

import functools
from pathlib import Path

from archwright.catalog.tables.csv_table import DATA, read_rows
from archwright.catalog.tables.records import Fact

LANGUAGE = "language"


class QualityDefault(Fact):
    """A floor for the low end of a score. `kind`: a kind of workload, or "agent" for work in several model calls."""

    kind: str
    benchmark: str
    floor: float
    reason: str


class QualityWeight(Fact):
    """The weight of a benchmark in the mean quality for a kind of work; its reason starts with the axis.

    The benchmark LANGUAGE stands for those of the workload's languages.
    """

    kind: str
    benchmark: str
    weight: float
    reason: str


class LanguageBenchmark(Fact):
    """A benchmark whose score holds for some languages (ISO 639-1, separated by spaces), each or their mean."""

    benchmark: str
    languages: str


@functools.cache
def read_quality_defaults(folder: Path = DATA) -> tuple[QualityDefault, ...]:
    """Raises CatalogError AW-CAT-02 for a broken row."""
    return tuple(row.to_record(QualityDefault) for row in read_rows(folder, "quality_defaults.csv"))


@functools.cache
def read_quality_weights(folder: Path = DATA) -> tuple[QualityWeight, ...]:
    """Raises CatalogError AW-CAT-02 for a broken row."""
    return tuple(row.to_record(QualityWeight) for row in read_rows(folder, "quality_weights.csv"))


@functools.cache
def read_language_benchmarks(folder: Path = DATA) -> dict[str, tuple[str, ...]]:
    """Return the benchmarks by language. Raises CatalogError AW-CAT-02 for a broken row."""
    found = dict[str, tuple[str, ...]]()
    for row in read_rows(folder, "language_benchmarks.csv"):
        held = row.to_record(LanguageBenchmark)
        for code in held.languages.split():
            found[code] = (*found.get(code, ()), held.benchmark)
    return found


@functools.cache
def read_fill_in_middle(folder: Path = DATA) -> tuple[str, ...]:
    """Return the models known to be trained to fill in the middle of code, as an editor needs."""
    return tuple(row.required_text("model") for row in read_rows(folder, "fill_in_middle.csv"))
