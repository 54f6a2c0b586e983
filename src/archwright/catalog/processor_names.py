"""Resolves the name of a processor or of a cloud's machine type to the facts of its family.

A vendor's numbering states the generation, and with it memory channels, instruction set and usual cores: one rule a
family (processor_families.csv) instead of one row a product. A name that states its cores ("64-Core") means a product
that has these, with all memory channels; else the family's usual ones, which a plain name of a server processor does
not tell. A machine type, and a benchmark row with its threads, has a part of a processor (`take_cores`). All figures
are recalled, so their band is that of an assumed row.
"""

import math
import re
from functools import cache
from pathlib import Path

from archwright.catalog.tables.csv_table import read_rows
from archwright.catalog.tables.parsers import GIGA
from archwright.catalog.tables.records import Accelerator, Fact
from archwright.contract.record import Record, replace

# Words that vendors and operating systems put around a processor's name.
MARKS = re.compile(r"^cpu:\s*|\((?:r|tm)\)|\bprocessor\b|\bcpu\b(?! @)|\s(?:with|w/)\s.*", re.IGNORECASE)
STATED_CORES = re.compile(r"\b([1-9]\d{0,2})-cores?\b")
# How notes of a processor's row state its cores.
NOTED_CORES = re.compile(r"(\d+) cores")
# Processors that are not lent in parts.
CLIENT_FORMS = ("desktop", "laptop", "board")
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
    plain = name.strip().lower()
    for machine_type in read_machine_types(folder):
        sized = re.match(machine_type.pattern, plain)
        if sized is None:
            continue
        processor = _find_processor(machine_type.processor, folder)
        cores = _count_vcpus(sized["size"]) // machine_type.vcpus_per_core
        return processor and replace(take_cores(processor, max(cores, 1)), id=name.strip())
    return _find_processor(name, folder)


def take_cores(processor: Accelerator, cores: int) -> Accelerator:
    """Return `processor` with `cores` of its cores, or as many equal processors as have them.

    Clouds divide a processor and its memory channels among machines, so stated rates are in proportion to cores; the
    memory of a client's processor is its own. The bandwidth that an engine draws is not proportional
    (sizing/inference/cpu_inference.py)."""
    noted = NOTED_CORES.search(processor.notes)
    if noted is None:
        return processor
    notes = NOTED_CORES.sub(f"{cores} cores", processor.notes, count=1)
    if processor.form in CLIENT_FORMS:
        return replace(processor, notes=notes)
    share = cores / int(noted[1])
    return replace(
        processor,
        memory_bandwidth_bytes_per_s=processor.memory_bandwidth_bytes_per_s * share,
        flops={dtype: rate * share for dtype, rate in processor.flops.items()},
        scale_up_domain=math.ceil(share) * processor.scale_up_domain,
        notes=notes,
    )


def _find_processor(name: str, folder: Path) -> Accelerator | None:
    unmarked = MARKS.sub("", name.lower())
    plain = re.sub(r"\s+", " ", unmarked).strip()
    stated_cores = STATED_CORES.search(plain)
    numbering = STATED_CORES.sub("", plain)
    for family in read_processor_families(folder):
        if re.search(family.pattern, numbering):
            return _build_row(name, family, stated_cores)
    return None


def build_family_row(name: str, family: ProcessorFamily) -> Accelerator:
    """Return the row of a processor of `family` with its usual cores."""
    return _build_row(name, family, None)


def _build_row(name: str, family: ProcessorFamily, stated_cores: re.Match[str] | None) -> Accelerator:
    notes = [family.isa, "not offered by any plan"]
    if stated_cores is not None:
        cores = int(stated_cores[1])
    else:
        cores = family.cores
        notes.append("cores: usual of the family")
    notes.insert(0, f"{cores} cores")
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
        memory_bandwidth_bytes_per_s=family.mem_bw_gbs * GIGA,
        memory_kind="DDR",
        flops={},
        source=family.source,
        as_of=family.as_of,
        confidence=family.confidence,
        notes="; ".join(notes),
    )


def _count_vcpus(size: str) -> int:
    named = NAMED_SIZE.fullmatch(size)
    if named is None:
        return int(size)
    multiple, word = named.groups()
    return int(multiple or 1) * SIZE_VCPUS[word]
