"""One machine type per JSON file, below a folder of its provider's: builds without prices."""

from __future__ import annotations

import msgspec

from archwright.catalog.sources.source_records import FileContext, InstanceSpec, SourceFacts

MIB = 2**20
GIGA = 1e9
MEBI_IN_GIBI = 1024
ACTIVE = "active"


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


def read(data: bytes, _file: FileContext) -> SourceFacts:
    """Nothing for a type that is offered no more."""
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
