"""Builds of machine types: two JSON forms without prices, and CSV lists with prices in two dialects of columns."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import msgspec

from archwright.catalog.sources.document_fields import REQUIRED, FieldTable, read_fields, require_type
from archwright.catalog.sources.file_formats import read_csv_rows
from archwright.catalog.sources.source_records import FileContext, InstancePrice, InstanceSpec, SourceFacts

MIB, GIB = 2**20, 2**30
GIGA = 1e9
MEBI_IN_GIBI = 1024
ACTIVE = "active"
OBJECTS = require_type(list[dict[str, Any]], ())
MACHINE_FIELDS: FieldTable = {
    "vcpu": ("VCpuInfo.DefaultVCpus", require_type(int, REQUIRED)),
    "memory": ("MemoryInfo", require_type(dict[str, Any], REQUIRED)),
    "ram_bytes": ("MemoryInfo.SizeInMiB", require_type(int, 0, unit=MIB)),
    "architectures": ("ProcessorInfo.SupportedArchitectures", require_type(list[str], ())),
    "gpus": ("GpuInfo.Gpus", OBJECTS),
    "neurons": ("NeuronInfo.NeuronDevices", OBJECTS),
    "inference": ("InferenceAcceleratorInfo.Accelerators", OBJECTS),
    "disk_gb": ("InstanceStorageInfo.TotalSizeInGB", require_type(int, 0)),
    "performance": ("NetworkInfo.NetworkPerformance", require_type(str, "")),
    "cards": ("NetworkInfo.NetworkCards", OBJECTS),
}
DEVICE_FIELDS: FieldTable = {
    "name": ("Name", require_type(str, REQUIRED)),
    "count": ("Count", require_type(int, 0)),
    "logical": ("LogicalGpuCount", require_type(int, 0)),
    "share": ("GpuPartitionSize", require_type(float, 1.0)),
    "memory_mib": ("MemoryInfo.SizeInMiB", require_type(int, 0)),
}
NO_DEVICE: dict[str, Any] = {"name": "", "count": 0, "logical": 0, "share": 1.0, "memory_mib": 0}
CARD_FIELDS: FieldTable = {"peak_gbps": ("PeakBandwidthInGbps", require_type(float, 0.0))}

LIST_COLUMNS = {"InstanceType", "AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "Price", "Region"}
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


class _Server(msgspec.Struct):
    vendor_id: str
    api_reference: str
    vcpus: int
    memory_amount: int
    status: str = ACTIVE
    cpu_architecture: str = ""
    gpu_count: float = 0.0
    gpu_model: str | None = None
    gpu_memory_min: int | None = None
    storage_size: float | None = None


def read_machine_dump(data: bytes, _file: FileContext) -> SourceFacts:
    """A provider's own list of machine types in one JSON object."""
    machines = msgspec.json.decode(data, type=dict[str, dict[str, Any]])
    return SourceFacts(builds=tuple(_to_dumped_build(name, machine) for name, machine in machines.items()))


def _to_dumped_build(name: str, machine: dict[str, Any]) -> InstanceSpec:
    """A slice of a device counts as one device of that share."""
    stated = read_fields(machine, MACHINE_FIELDS)
    devices = [*stated["gpus"], *stated["neurons"], *stated["inference"]]
    first, *_ = [*(read_fields(device, DEVICE_FIELDS) for device in devices), NO_DEVICE]
    peak = sum(read_fields(card, CARD_FIELDS)["peak_gbps"] for card in stated["cards"])
    return InstanceSpec(
        instance_type=name,
        accelerator=first["name"],
        accelerator_count=first["count"] or first["logical"],
        accelerator_share=first["share"],
        memory_gib=first["memory_mib"] / MEBI_IN_GIBI if first["memory_mib"] else None,
        vcpu=stated["vcpu"],
        ram_bytes=stated["ram_bytes"],
        arch=next(iter(stated["architectures"]), ""),
        local_nvme_bytes=round(stated["disk_gb"] * GIGA),
        network_bytes_per_s=peak * GIGA / 8 if peak else None,
        network_note="up to" if stated["performance"].lower().startswith("up to") else "",
    )


def read_machine_record(data: bytes, _file: FileContext) -> SourceFacts:
    """One machine type per JSON file, below a folder of its provider's. Nothing for a type that is offered no more."""
    server = msgspec.json.decode(data, type=_Server)
    if server.status.lower() != ACTIVE:
        return SourceFacts()
    build = InstanceSpec(
        instance_type=server.api_reference,
        accelerator=server.gpu_model or "",
        # A part of a device counts as one device of that share.
        accelerator_count=max(1, round(server.gpu_count)) if server.gpu_count else 0,
        accelerator_share=server.gpu_count if 0 < server.gpu_count < 1 else 1.0,
        memory_gib=server.gpu_memory_min / MEBI_IN_GIBI if server.gpu_memory_min else None,
        vcpu=server.vcpus,
        ram_bytes=server.memory_amount * MIB,
        arch=server.cpu_architecture.lower(),
        local_nvme_bytes=None if server.storage_size is None else round(server.storage_size * GIGA),
    )
    return SourceFacts(parts=((server.vendor_id, SourceFacts(builds=(build,))),))


def read_machine_list(data: bytes, _file: FileContext) -> SourceFacts:
    """CSV with builds and prices, one line per zone or region.

    List prices are equal over the zones of a region; the median of the spot prices stands for it. A spot price at or
    above the list price means that the zone has no spot market.
    """
    return _collect_instances(read_csv_rows(data, LIST_COLUMNS))


def read_machine_catalogue(data: bytes, file: FileContext) -> SourceFacts:
    """The second dialect; the file's name says whose machines they are."""
    provider = PROVIDER.search(PurePath(file.name).name)
    if provider is None:
        raise ValueError("its name does not end with the provider, as in -NAME.csv")
    lines = map(_translate_columns, read_csv_rows(data, CATALOGUE_NEEDED))
    return SourceFacts(parts=((provider[1], _collect_instances(lines)),))


def _translate_columns(line: dict[str, str]) -> dict[str, str]:
    spot = line["spot"].lower() == "true"
    return {
        **{name: line.get(column) or "" for name, column in CATALOGUE_COLUMNS.items()},
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
        builds.setdefault(name, _to_listed_build(name, line))
        if line["Price"]:
            listed.setdefault(key, float(line["Price"]))
        spots[key].append(float(line.get("SpotPrice") or 0.0))
    prices = []
    for key, price in listed.items():
        below = [spot for spot in spots[key] if 0 < spot < price]
        prices.append(InstancePrice(*key, price, statistics.median(below) if below else None))
    return SourceFacts(builds=tuple(builds.values()), prices=tuple(prices))


def _to_listed_build(name: str, line: dict[str, str]) -> InstanceSpec:
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
