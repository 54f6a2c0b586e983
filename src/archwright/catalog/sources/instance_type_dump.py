"""A dump of a provider's own list of machine types (JSON): builds without prices."""

from __future__ import annotations

import msgspec

from archwright.catalog.sources.source_records import FileContext, InstanceSpec, SourceFacts

MIB = 2**20
GIGA = 1e9
MEBI_IN_GIBI = 1024


class _Memory(msgspec.Struct):
    size: int = msgspec.field(name="SizeInMiB", default=0)


class _Device(msgspec.Struct):
    name: str = msgspec.field(name="Name")
    count: int = msgspec.field(name="Count", default=0)
    logical: int = msgspec.field(name="LogicalGpuCount", default=0)
    part: float = msgspec.field(name="GpuPartitionSize", default=1.0)
    memory: _Memory = msgspec.field(name="MemoryInfo", default_factory=_Memory)


class _Gpus(msgspec.Struct):
    devices: list[_Device] = msgspec.field(name="Gpus", default_factory=list)


class _Neurons(msgspec.Struct):
    devices: list[_Device] = msgspec.field(name="NeuronDevices", default_factory=list)


class _Inference(msgspec.Struct):
    devices: list[_Device] = msgspec.field(name="Accelerators", default_factory=list)


class _Cores(msgspec.Struct):
    count: int = msgspec.field(name="DefaultVCpus")


class _Processor(msgspec.Struct):
    architectures: list[str] = msgspec.field(name="SupportedArchitectures", default_factory=list)


class _Disks(msgspec.Struct):
    total_gb: int = msgspec.field(name="TotalSizeInGB", default=0)


class _Card(msgspec.Struct):
    peak_gbps: float = msgspec.field(name="PeakBandwidthInGbps", default=0.0)


class _Network(msgspec.Struct):
    performance: str = msgspec.field(name="NetworkPerformance", default="")
    cards: list[_Card] = msgspec.field(name="NetworkCards", default_factory=list)


class _Machine(msgspec.Struct):
    cores: _Cores = msgspec.field(name="VCpuInfo")
    memory: _Memory = msgspec.field(name="MemoryInfo")
    processor: _Processor = msgspec.field(name="ProcessorInfo", default_factory=_Processor)
    gpus: _Gpus = msgspec.field(name="GpuInfo", default_factory=_Gpus)
    neurons: _Neurons = msgspec.field(name="NeuronInfo", default_factory=_Neurons)
    inference: _Inference = msgspec.field(name="InferenceAcceleratorInfo", default_factory=_Inference)
    disks: _Disks = msgspec.field(name="InstanceStorageInfo", default_factory=_Disks)
    network: _Network = msgspec.field(name="NetworkInfo", default_factory=_Network)


def read(data: bytes, _file: FileContext) -> SourceFacts:
    machines = msgspec.json.decode(data, type=dict[str, _Machine])
    return SourceFacts(builds=tuple(_to_instance_spec(name, machine) for name, machine in machines.items()))


def _to_instance_spec(name: str, machine: _Machine) -> InstanceSpec:
    """A slice of a device counts as one device of that share."""
    devices = [*machine.gpus.devices, *machine.neurons.devices, *machine.inference.devices]
    first = devices[0] if devices else None
    peak = sum(card.peak_gbps for card in machine.network.cards)
    return InstanceSpec(
        instance_type=name,
        accelerator=first.name if first else "",
        accelerator_count=(first.count or first.logical) if first else 0,
        accelerator_share=first.part if first else 1.0,
        memory_gib=first.memory.size / MEBI_IN_GIBI if first and first.memory.size else None,
        vcpu=machine.cores.count,
        ram_bytes=machine.memory.size * MIB,
        arch=machine.processor.architectures[0] if machine.processor.architectures else "",
        local_nvme_bytes=round(machine.disks.total_gb * GIGA),
        network_bytes_per_s=peak * GIGA / 8 if peak else None,
        network_note="up to" if machine.network.performance.lower().startswith("up to") else "",
    )
