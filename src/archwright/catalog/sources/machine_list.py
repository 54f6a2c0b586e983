"""A CSV list of machines with builds and prices, one line per zone or region.

List prices are equal over the zones of a region; spot prices are not, so their median stands for the region. A spot
price at or above the list price means that the zone has no spot market.
"""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections import defaultdict
from datetime import date

from archwright.catalog.sources.found import Build, Found, Price

GIB = 2**30
MOST_LINE = 100_000
MEBI_IN_GIBI = 1024
NEEDED = {"InstanceType", "AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "Price", "Region"}
# The first memory in the column is that of one device; a total comes after it.
DEVICE_MEMORY = re.compile(r"'MemoryInfo':\s*\{'SizeInMiB':\s*(\d+)")


def read(data: bytes, _today: date) -> Found:
    text = data.decode("utf-8")
    if any(len(line) > MOST_LINE for line in text.splitlines()):
        # Not left to the reader's own limit: other readers of the process move it.
        raise ValueError(f"not a list of machines: a line of more than {MOST_LINE} characters")
    try:
        return _found(csv.DictReader(io.StringIO(text)))
    except (csv.Error, OverflowError) as error:
        raise ValueError(f"not a list of machines: {error}") from error


def _found(lines: csv.DictReader[str]) -> Found:
    missing = NEEDED - set(lines.fieldnames or ())
    if missing:
        raise ValueError(f"lacks the columns {', '.join(sorted(missing))}")
    builds: dict[str, Build] = {}
    listed: dict[tuple[str, str], float] = {}
    spots: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in lines:
        name, region = line["InstanceType"], line["Region"]
        if name:
            builds.setdefault(name, _build(name, line))
        if not name or not line["Price"]:
            continue
        price = listed.setdefault((region, name), float(line["Price"]))
        spot = float(line.get("SpotPrice") or 0.0)
        if 0 < spot < price:
            spots[region, name].append(spot)
    return Found(
        builds=tuple(builds.values()),
        prices=tuple(
            Price(region, name, price, statistics.median(spots[region, name]) if (region, name) in spots else None)
            for (region, name), price in listed.items()
        ),
    )


def _build(name: str, line: dict[str, str]) -> Build:
    memory = DEVICE_MEMORY.search(line.get("GpuInfo") or "")
    return Build(
        instance_type=name,
        accelerator=line["AcceleratorName"],
        accelerator_count=round(float(line["AcceleratorCount"] or 0)),
        accelerator_share=1.0,
        memory_gib=int(memory[1]) / MEBI_IN_GIBI if memory else None,
        vcpu=round(float(line["vCPUs"] or 0)),
        ram_bytes=round(float(line["MemoryGiB"] or 0) * GIB),
        arch=line.get("Arch") or "",
    )
