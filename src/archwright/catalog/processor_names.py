"""Resolves the name of a processor or of a cloud's machine type to the facts of its family.

A vendor's numbering states the generation, and with it memory channels, instruction set and usual cores: one rule a
family (processor_families.csv) instead of one row a product. A name that states its cores ("64-Core") means these, as
do the threads of a benchmark row (`benchmark_names.take_cores`); else the family's usual ones, which a plain name of a
server processor does not tell. All figures are recalled, so their band is that of an assumed row.
"""

import re
from functools import cache
from pathlib import Path

from archwright.catalog.tables.csv_table import read_rows
from archwright.catalog.tables.parsers import GIGA
from archwright.catalog.tables.records import Accelerator, Fact
from archwright.contract.record import Record, replace

# Words that vendors and operating systems put around a processor's name.
MARKS = re.compile(r"^cpu:\s*|\((?:r|tm)\)|\bprocessor\b|\bcpu\b(?! @)|\s(?:with|w/)\s.*")
STATED_CORES = re.compile(r"\b(\d{1,3})-cores?\b")
# A product that is sold in pieces: clouds lend part of it, so rates go with the cores. A client's memory is its own.
SERVER = "server"
# Sizes with names, in vCPUs; `2xlarge` has twice those of `xlarge`.
SIZE_VCPUS = {"medium": 1, "large": 2, "xlarge": 4}
NAMED_SIZE = re.compile(r"(\d*)(medium|large|xlarge)")


class ProcessorFamily(Fact):
    """Processors of one numbering, a regular expression. `mem_bw_gbs`: GB/s of all memory channels of one socket."""

    pattern: str
    vendor: str
    arch: str
    form: str
    cores: int
    isa: str
    mem_bw_gbs: float


class MachineProcessor(Record):
    """Machine types of a cloud that run on one processor; `pattern` names their `size`, in vCPUs or by a word.

    `vcpus_per_core`: 2 with hyper-threads."""

    pattern: str
    processor: str
    vcpus_per_core: int


@cache
def read_processor_families(folder: Path) -> tuple[ProcessorFamily, ...]:
    return tuple(row.to_record(ProcessorFamily) for row in read_rows(folder, "processor_families.csv"))


@cache
def read_machine_types(folder: Path) -> tuple[MachineProcessor, ...]:
    return tuple(row.to_record(MachineProcessor) for row in read_rows(folder, "machine_type_processors.csv"))


def resolve_processor(name: str, folder: Path) -> Accelerator | None:
    """Return the row of a processor or machine type, None if no family has the name."""
    machine_type = _find_machine_type(name, folder)
    if machine_type is not None:
        row = resolve_processor(machine_type, folder)
        return row and replace(row, id=name.strip())
    unmarked = MARKS.sub("", name.lower())
    plain = re.sub(r"\s+", " ", unmarked).strip()
    stated_cores = STATED_CORES.search(plain)
    numbering = STATED_CORES.sub("", plain)
    for family in read_processor_families(folder):
        if re.search(family.pattern, numbering):
            return _build_row(name, family, stated_cores)
    return None


def _build_row(name: str, family: ProcessorFamily, stated_cores: re.Match[str] | None) -> Accelerator:
    """Return the row with the stated cores, else the family's usual ones.

    A cloud lends memory channels with the cores, up to all of one socket."""
    notes = [family.isa, "not offered by any plan"]
    if stated_cores is not None:
        cores = int(stated_cores[1])
    else:
        cores = family.cores
        notes.append("cores: usual of the family")
    notes.insert(0, f"{cores} cores")
    bandwidth_bytes_per_s = family.mem_bw_gbs * GIGA
    if family.form == SERVER:
        bandwidth_bytes_per_s *= min(cores / family.cores, 1.0)
    if family.notes:
        notes.append(family.notes)
    unclocked = re.sub(r"\s*@.*", "", name)
    words = re.findall(r"[A-Za-z0-9+]+", MARKS.sub("", unclocked))
    return Accelerator(
        id="-".join(words),
        vendor=family.vendor,
        arch=family.arch,
        form=family.form,
        kind="cpu",
        memory_bytes=0,
        memory_marketing="host RAM",
        memory_bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        memory_kind="DDR",
        flops={},
        source=family.source,
        as_of=family.as_of,
        confidence=family.confidence,
        notes="; ".join(notes),
    )


def _find_machine_type(name: str, folder: Path) -> str | None:
    """Return the processor of a cloud's machine type, with the cores that it has of it."""
    plain = name.strip().lower()
    for machine_type in read_machine_types(folder):
        sized = re.match(machine_type.pattern, plain)
        if sized is not None:
            cores = _count_vcpus(sized["size"]) // machine_type.vcpus_per_core
            return f"{machine_type.processor} {max(cores, 1)}-core"
    return None


def _count_vcpus(size: str) -> int:
    named = NAMED_SIZE.fullmatch(size)
    if named is None:
        return int(size)
    multiple, word = named.groups()
    return int(multiple or 1) * SIZE_VCPUS[word]
