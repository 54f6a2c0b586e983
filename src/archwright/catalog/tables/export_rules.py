"""Countries to which advanced accelerators may be sold under a licence alone, or not at all."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from archwright.catalog.tables.csv_table import DATA, read_rows
from archwright.catalog.tables.records import Fact


class ExportRule(Fact):
    """`groups` are those of the rule's text. `denied`: under embargo, so no licence can be expected."""

    country: str
    groups: str
    outcome: Literal["licence", "denied"]


@functools.cache
def read_export_rules(folder: Path = DATA) -> Mapping[str, ExportRule]:
    """Raises CatalogError AW-CAT-02 for a broken row."""
    return {row.required_text("country"): row.to_record(ExportRule) for row in read_rows(folder, "exports.csv")}
