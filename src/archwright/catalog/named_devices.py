"""The devices that predictions know by name, by kind: one row for each numbering of processors and machine types.

A numbering is a regular expression in the catalog; here it is spelled with x for a character and SIZE for the size.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.processor_names import (
    NOTED_CORES,
    build_family_row,
    read_machine_types,
    read_processor_families,
    resolve_processor,
)
from archwright.catalog.tables import parsers
from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.records import Accelerator

INSTANCE = "instance"
MAC = "mac"
# Replacements that turn the regular expression of a numbering into words, in this order.
GROUPS = (
    (r"\(\?P<size>(?:[^()]|\([^()]*\))*\)", "SIZE"),
    (r"\\b|[\^$]|\(\?:", ""),
    (r"\([^()]*\)\?", ""),
    (r"\(([^()|]*)[^()]*\)", r"\1"),
    (r"\|.*", ""),
)
CHARACTERS = (
    (r"\[[^\]]*\][*?]", ""),
    (r"\[a-z\]\+?", "x"),
    (r"\[(.)[^\]]*\]", r"\1"),
    (r"\\[wd][*?]|.\?", ""),
    (r"\\[dw]\{(\d).*?\}", "xxx"),
    (r"\\[dw]\+?", "x"),
    (r"\.\*|\\s.?", " "),
    (r"\\", ""),
)


class NamedDevice(NamedTuple):
    """`name` as one writes it after --on; `row` has the facts of a whole processor, also for a machine type."""

    name: str
    kind: str
    row: Accelerator

    @property
    def cores(self) -> int:
        """Return the cores of a processor, 0 for other devices."""
        noted = NOTED_CORES.search(self.row.notes)
        if noted is None:
            return 0
        return int(noted[1])


def list_named_devices(catalog: Catalog) -> Iterator[NamedDevice]:
    """Yield accelerators, graphics processors, Macs, numberings of processors, and machine types of clouds."""
    rows = dict(catalog.accelerators)
    for accelerator in parsers.read_accelerators(DATA, "devices.csv"):
        rows.setdefault(accelerator.id, accelerator)
    for row in rows.values():
        yield NamedDevice(row.id, name_kind(row), row)

    for family in read_processor_families(DATA):
        name = spell_numbering(family.pattern)
        row = build_family_row(name, family)
        yield NamedDevice(name, name_kind(row), row)

    for machine_type in read_machine_types(DATA):
        processor = resolve_processor(machine_type.processor, DATA)
        if processor is not None:
            name = spell_numbering(machine_type.pattern)
            yield NamedDevice(name, INSTANCE, processor)


def name_kind(row: Accelerator) -> str:
    """Return "server", "desktop", "laptop" or "board" of a processor, else the kind of accelerator."""
    if row.kind == "cpu":
        return row.form
    if row.kind == "soc" and row.vendor == "Apple":
        return MAC
    if row.kind == "soc":
        return "integrated"
    if row.form == "laptop":
        return "laptop-gpu"
    return row.kind


def spell_numbering(pattern: str) -> str:
    """Return the words of a regular expression: "epyc 9xx4", "c4-standard-SIZE"."""
    name = pattern
    for part, words in (*GROUPS, *CHARACTERS):
        name = re.sub(part, words, name)
    return " ".join(name.split())
