"""CSV lists of machines with builds and prices, one line per zone or region, in two dialects of columns.

List prices are equal over the zones of a region; spot prices are not, so their median stands for the region. A spot
price at or above the list price means that the zone has no spot market.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePath

from archwright.catalog.sources import csv_lines
from archwright.catalog.sources.source_records import FileContext, InstancePrice, InstanceSpec, SourceFacts

GIB = 2**30
MEBI_IN_GIBI = 1024
NEEDED = {"InstanceType", "AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "Price", "Region"}
# The second dialect's columns by the first one's names; its spot prices have lines of their own.
CATALOGUE_COLUMNS = {
    "InstanceType": "instance_name",
    "AcceleratorName": "gpu_name",
    "AcceleratorCount": "gpu_count",
    "vCPUs": "cpu",
    "MemoryGiB": "memory",
    "DeviceGiB": "gpu_memory",
    "Arch": "cpu_arch",
}
CATALOGUE_NEEDED = {*CATALOGUE_COLUMNS.values(), "location", "price", "spot"} - {"cpu_arch"}
# The first memory in the column is that of one device; a total comes after it.
DEVICE_MEMORY = re.compile(r"'MemoryInfo':\s*\{'SizeInMiB':\s*(\d+)")
ZONE = re.compile(r"(-[a-z]+-?[a-z]+\d)-[a-z]$")
# `NAME-PROVIDER.csv`, a day between or behind.
PROVIDER = re.compile(r"-([a-z][a-z0-9]+)(?:-\d{4}-\d{2}-\d{2})?\.csv$")


def read(data: bytes, _file: FileContext) -> SourceFacts:
    return _collect_instances(csv_lines.read_csv_rows(data, NEEDED))


def read_catalogue(data: bytes, file: FileContext) -> SourceFacts:
    """The second dialect; the file's name says whose machines they are."""
    provider = PROVIDER.search(PurePath(file.name).name)
    if provider is None:
        raise ValueError("its name does not end with the provider, as in -NAME.csv")
    return SourceFacts(
        parts=(
            (provider[1], _collect_instances(map(_translate_columns, csv_lines.read_csv_rows(data, CATALOGUE_NEEDED)))),
        )
    )


def _translate_columns(line: dict[str, str]) -> dict[str, str]:
    cells = {name: line.get(column) or "" for name, column in CATALOGUE_COLUMNS.items()}
    spot = line["spot"].lower() == "true"
    return {
        **cells,
        "Region": ZONE.sub(r"\1", line["location"] or ""),
        "Price": "" if spot else line["price"],
        "SpotPrice": line["price"] if spot else "",
    }


def _collect_instances(lines: Iterable[dict[str, str]]) -> SourceFacts:
    builds: dict[str, InstanceSpec] = {}
    listed: dict[tuple[str, str], float] = {}
    spots: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in lines:
        name, key = line["InstanceType"], (line["Region"], line["InstanceType"])
        if not name:
            continue
        builds.setdefault(name, _to_instance_spec(name, line))
        if line["Price"]:
            listed.setdefault(key, float(line["Price"]))
        spots[key].append(float(line.get("SpotPrice") or 0.0))
    return SourceFacts(
        builds=tuple(builds.values()),
        prices=tuple(InstancePrice(*key, price, _median_spot(spots[key], price)) for key, price in listed.items()),
    )


def _median_spot(spots: list[float], listed: float) -> float | None:
    below = [spot for spot in spots if 0 < spot < listed]
    return statistics.median(below) if below else None


def _to_instance_spec(name: str, line: dict[str, str]) -> InstanceSpec:
    memory = DEVICE_MEMORY.search(line.get("GpuInfo") or "")
    stated = line.get("DeviceGiB")
    return InstanceSpec(
        instance_type=name,
        accelerator=line["AcceleratorName"],
        accelerator_count=round(float(line["AcceleratorCount"] or 0)),
        accelerator_share=1.0,
        memory_gib=float(stated) if stated else int(memory[1]) / MEBI_IN_GIBI if memory else None,
        vcpu=round(float(line["vCPUs"] or 0)),
        ram_bytes=round(float(line["MemoryGiB"] or 0) * GIB),
        arch=line.get("Arch") or "",
    )
