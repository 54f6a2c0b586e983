"""Text model on a CPU: one engine on all cores, sized by the roofline of its efficiency row.

Matmul rate: cores x the per-core rate of the work rates; the efficiency row has the shares of each instruction set.
Bandwidth: the stated one of the cores, from a named processor's row or as the geometric mean of the catalog's CPU
rows. An engine draws `host.draw` x (stated / 100 GB/s) ^ `host.draw-growth` / processors ^ `host.draw-processors` of
it: few cores draw more than their part of the channels, many less, and several processors less than one (fitted on
public tables by bench/engine/fit_processors.py). Each slot reserves the KV cache of a whole context.
"""

import math
import re
from statistics import geometric_mean
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.efficiency_lookup import derive_for_engine
from archwright.catalog.tables.records import Accelerator, Efficiency, ModelSpec
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.plan import Parallelism
from archwright.sizing.hardware.device_rates import THREADS_A_CORE, host_cores, host_flops, read_work_rate
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.hardware.roofline import Hardware, Roofline
from archwright.sizing.hardware.uncertainty import basis_kind, slowdown_factors
from archwright.sizing.inference.engine_instance import EngineInstance, EngineSpeed, RequestLengths
from archwright.sizing.model import numeric_precision
from archwright.sizing.model.engine_memory import compute_engine_memory, fits_memory, weights_bytes
from archwright.sizing.step_time.engine_step_times import RooflineStepTimes
from archwright.sizing.step_time.extrapolation import HOST_KIND

ANY_ISA = "*"
# Slot counts of an engine that shares its cores among requests. The prefill chunk is small, so that a long prompt does
# not stall running requests.
SLOT_COUNTS = (16, 8, 4, 2, 1)
PREFILL_CHUNK_TOKENS = 64
SERVER_SLOT_COUNTS = (256, 128, 64, 32, *SLOT_COUNTS)
SERVER_CHUNK_TOKENS = 2048
# CPU rows state their cores in the notes, and their instruction set if an efficiency row has it.
_CORES = re.compile(r"(\d+) cores(?:; ((?:avx|amx|neon)[a-z0-9-]*))?")
DRAW_UNIT = 100e9


def build_host_engine(
    machine: Machine, model: ModelSpec, requests: RequestLengths, catalog: Catalog
) -> EngineInstance | None:
    """Return the engine on a machine's CPU; None if the model does not fit its memory or no engine runs on CPUs."""
    per_core = [
        row.memory_bandwidth_bytes_per_s / int(cores.group(1))
        for row in catalog.accelerators.values()
        if row.kind == HOST_KIND and (cores := _CORES.search(row.notes))
    ]
    hardware = Hardware(
        name="host processor",
        memory_bytes=int(machine.ram_bytes),
        bandwidth_bytes_per_s=_draw_bandwidth(geometric_mean(per_core) * host_cores(machine), 1, catalog),
        compute_flops_per_s=host_flops(machine, catalog),
    )
    return build_cpu_engine(hardware, model, requests, catalog, CpuSetup())


def _draw_bandwidth(stated: float, processors: int, catalog: Catalog) -> Estimate:
    """Return the bandwidth that an engine draws on cores with `stated` bytes/s of several `processors`."""
    growth, spread = (read_work_rate(catalog, f"host.draw-{name}").value for name in ("growth", "processors"))
    scale = (stated / DRAW_UNIT) ** growth * processors**-spread
    return read_work_rate(catalog, "host.draw").scaled(scale)


class CpuSetup(NamedTuple):
    """Statements of a table or a user about an engine on a processor; an empty field is unstated.

    `engine`: family; one without rows for processors means the embedded engine. `precision`: weight format in words.
    `isa`: instruction set."""

    engine: str = ""
    precision: str = ""
    isa: str = ANY_ISA


def build_cpu_engine(
    hardware: Hardware, model: ModelSpec, requests: RequestLengths, catalog: Catalog, setup: CpuSetup
) -> EngineInstance | None:
    """Return an engine on a processor, None as for `build_host_engine`. Unstated memory (0) holds every model."""
    precision, served = setup.precision, {row.engine for row in catalog.efficiencies if row.kind == HOST_KIND}
    embedded = next((e for e in catalog.engines.values() if e.embedded and e.kind == HOST_KIND), None)
    product = catalog.engines.get(setup.engine) if setup.engine in served else embedded
    if product is None or not product.quantisations:
        return None
    # The row that the text names, else the number format that it means, else the engine's first one.
    named = next((name for name in catalog.quantisations if name.lower() in precision.lower()), None)
    number = numeric_precision.parse_precision(precision, "")
    if named is None and number.stated:
        quantisation, bits = number.name, number.expert_bits
    else:
        quantisation = named or product.quantisations[0]
        bits = catalog.quantisations[quantisation].bits_per_weight
    efficiency = derive_for_engine(catalog.efficiency(product.id, quantisation, setup.isa), None, threads=0)
    weights = weights_bytes(model, bits)
    context = requests.context_tokens(model)
    room = hardware.memory_bytes or math.inf
    for slots in SLOT_COUNTS if product.embedded else SERVER_SLOT_COUNTS:
        if fits_memory(room, compute_engine_memory(model, weights, efficiency, slots, context)):
            break
    else:
        return None
    roofline = Roofline(model, weights, efficiency, hardware)
    return EngineInstance(
        product=product,
        quantisation=quantisation,
        devices=0,
        copies=1,
        pace=RooflineStepTimes(roofline),
        slots=slots,
        context_tokens=context,
        chunk=PREFILL_CHUNK_TOKENS if product.embedded else SERVER_CHUNK_TOKENS,
        parallelism=Parallelism(),
        speed=_estimate_speed(roofline, hardware, efficiency),
        assumptions=(
            f"weights in {quantisation} keep the quality that was reported for the model",
            f"{product.product} uses all cores of the processor; a file of the model in {quantisation} is available",
        ),
    )


def read_instruction_set(accelerator: Accelerator) -> str:
    stated = _CORES.search(accelerator.notes)
    return (stated and stated[2]) or ANY_ISA


def build_processor_hardware(accelerator: Accelerator, count: int, catalog: Catalog) -> Hardware:
    """Return the rates of `count` processors from their own row.

    If the row states cores, compute is cores x the per-core rate that the efficiency rows' shares refer to; its
    `scale_up_domain` counts processors. The bands of the efficiency rows hold the error of an unmeasured processor."""
    bandwidth, cores = accelerator.memory_bandwidth_bytes_per_s * count, _CORES.search(accelerator.notes)
    if cores is None:
        stated_rate = numeric_precision.matmul_rate(accelerator, "fp32") * count
        compute = catalog.estimate(accelerator, stated_rate, "FLOP/s")
    else:
        threads = THREADS_A_CORE * int(cores[1]) * count
        compute = host_flops(Machine(accelerator.id, None, 0, threads, 0.0), catalog)
    return Hardware(
        name=accelerator.id,
        memory_bytes=accelerator.memory_bytes,
        bandwidth_bytes_per_s=exact_estimate(
            _draw_bandwidth(bandwidth, accelerator.scale_up_domain * count, catalog).value, "bytes/s"
        ),
        compute_flops_per_s=exact_estimate(compute.value, "FLOP/s"),
    )


def _estimate_speed(roofline: Roofline, hardware: Hardware, efficiency: Efficiency) -> EngineSpeed:
    """Combine the band of the efficiency row with the band of the rate that limits decode at batch 1."""
    bound = hardware.compute_flops_per_s if roofline.bound == "compute" else hardware.bandwidth_bytes_per_s
    fast, slow = slowdown_factors(efficiency, bound, 2)
    band = Estimate(value=1.0, low=fast, high=slow, unit="")
    compute, memory = hardware.compute_flops_per_s.value, hardware.bandwidth_bytes_per_s.value
    facts = (
        f"{compute / 1e9:.0f} GFLOP/s and {memory / 1e9:.0f} GB/s on all cores",
        f"{efficiency.engine} {efficiency.quantisation}: {efficiency.source} "
        f"({efficiency.as_of or 'undated'}, {efficiency.confidence})",
    )
    return EngineSpeed(band, band, f"host processor, {basis_kind(efficiency)} row", facts)
