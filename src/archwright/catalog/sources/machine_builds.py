"""Builds of machine types: two JSON forms without prices, and CSV lists with prices in two dialects."""

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from archwright.catalog.sources.row_reader import read_rows, select_rows
from archwright.catalog.sources.source_records import FileContext, InstancePrice, InstanceSpec, SourceFacts

GIB = 2**30
GIGA = 1e9
MEBI_IN_GIBI = 1024
NO_DEVICE: dict[str, Any] = {"name": "", "count": 0, "logical": 0, "share": 1.0, "memory_mib": 0}

# The first memory in the column is the memory of one device; a total follows.
DEVICE_MEMORY = re.compile(r"'MemoryInfo':\s*\{'SizeInMiB':\s*(\d+)")
ZONE = re.compile(r"(-[a-z]+-?[a-z]+\d)-[a-z]$")
# `NAME-PROVIDER.csv`, with an optional day after the provider.
PROVIDER = re.compile(r"-([a-z][a-z0-9]+)(?:-\d{4}-\d{2}-\d{2})?\.csv$")


def read_machine_dump(data: bytes, _file: FileContext) -> SourceFacts:
    """Read a provider's own list of machine types from one JSON object."""
    return SourceFacts(builds=tuple(map(_to_dumped_build, read_rows("machine-dump", data))))


def _to_dumped_build(row: dict[str, Any]) -> InstanceSpec:
    """Convert a row. A slice of a device counts as one device of that share."""
    devices = select_rows("machine-dump.devices", [*row["gpus"], *row["neurons"], *row["inference"]])
    first, *_ = [*devices, NO_DEVICE]
    peak_gbps = sum(card["peak_gbps"] for card in select_rows("machine-dump.cards", row["cards"]))
    return InstanceSpec(
        **{name: row[name] for name in ("instance_type", "vcpu", "ram_bytes")},
        accelerator=first["name"],
        accelerator_count=first["count"] or first["logical"],
        accelerator_share=first["share"],
        memory_gib=first["memory_mib"] / MEBI_IN_GIBI if first["memory_mib"] else None,
        arch=next(iter(row["architectures"]), ""),
        local_nvme_bytes=round(row["disk_gb"] * GIGA),
        network_bytes_per_s=peak_gbps * GIGA / 8 if peak_gbps else None,
        network_note="up to" if row["performance"].lower().startswith("up to") else "",
    )


def read_machine_record(data: bytes, _file: FileContext) -> SourceFacts:
    """Read one machine type per JSON file. A type that is no longer offered gives no facts."""
    (row,) = read_rows("machine-record", data)
    if row["status"].lower() != "active":
        return SourceFacts()
    gpus = row["gpus"]
    build = InstanceSpec(
        **{name: row[name] for name in ("instance_type", "accelerator", "vcpu", "ram_bytes")},
        # A part of a device counts as one device of that share.
        accelerator_count=max(1, round(gpus)) if gpus else 0,
        accelerator_share=gpus if 0 < gpus < 1 else 1.0,
        memory_gib=row["memory_mib"] / MEBI_IN_GIBI if row["memory_mib"] else None,
        arch=row["arch"].lower(),
        local_nvme_bytes=None if row["disk_gb"] is None else round(row["disk_gb"] * GIGA),
    )
    return SourceFacts(parts=((row["provider"], SourceFacts(builds=(build,))),))


def read_machine_list(data: bytes, _file: FileContext) -> SourceFacts:
    """Read CSV with builds and prices, one line per zone or region.

    All zones of a region have the same list price. The median of their spot prices counts for the region. A spot price
    at or above the list price means that the zone has no spot market.
    """
    rows = []
    for row in read_rows("machine-list", data):
        memory = DEVICE_MEMORY.search(row.pop("devices"))
        rows.append(row | {"memory_gib": int(memory[1]) / MEBI_IN_GIBI if memory else None, "arch": ""})
    return _collect_instances(rows)


def read_machine_catalogue(data: bytes, file: FileContext) -> SourceFacts:
    """Read the second dialect: the file's name ends with the provider, spot prices have their own lines."""
    provider = PROVIDER.search(PurePath(file.name).name)
    if provider is None:
        raise ValueError("the file name must end with the provider, as in -NAME.csv")
    rows = []
    for row in read_rows("machine-catalogue", data):
        is_spot = row["is_spot"].lower() == "true"
        prices = {"price": "" if is_spot else row["price"], "spot": float(row["price"] or 0.0) if is_spot else 0.0}
        rows.append(row | prices | {"region": ZONE.sub(r"\1", row["region"])})
    return SourceFacts(parts=((provider[1], _collect_instances(rows)),))


def _collect_instances(rows: Iterable[dict[str, Any]]) -> SourceFacts:
    builds: dict[str, InstanceSpec] = {}
    listed: dict[tuple[str, str], float] = {}
    spots: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        key = (row["region"], row["instance_type"])
        build = InstanceSpec(
            **{name: row[name] for name in ("instance_type", "accelerator", "memory_gib", "arch")},
            accelerator_count=round(row["accelerator_count"]),
            accelerator_share=1.0,
            vcpu=round(row["vcpu"]),
            ram_bytes=round(row["ram_gib"] * GIB),
        )
        builds.setdefault(build.instance_type, build)
        if row["price"]:
            listed.setdefault(key, float(row["price"]))
        spots[key].append(row["spot"])
    prices = []
    for key, price in listed.items():
        below = [spot for spot in spots[key] if 0 < spot < price]
        prices.append(InstancePrice(*key, price, statistics.median(below) if below else None))
    return SourceFacts(builds=tuple(builds.values()), prices=tuple(prices))
