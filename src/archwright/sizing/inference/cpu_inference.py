"""A text model on a host processor: one embedded engine with all cores, sized by its efficiency row's roofline.

Matrix rate: the cores at the rate work_rates states. Bandwidth: the middle of the catalog's host rows, each divided by
its cores; their spread is the band. A processor that is named has its own row's rates. A place holds a whole context
from the start.
"""

from __future__ import annotations

import math
import re
from statistics import geometric_mean

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, Efficiency, EngineSpec, ModelSpec
from archwright.contract.estimate import Estimate
from archwright.contract.plan import Parallelism
from archwright.sizing.hardware.device_rates import THREADS_A_CORE, host_cores, host_flops
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.hardware.roofline import Hardware, Roofline
from archwright.sizing.hardware.uncertainty import basis_kind, slowdown_factors
from archwright.sizing.inference.engine_instance import EngineInstance, EngineSpeed, RequestLengths
from archwright.sizing.model import numeric_precision
from archwright.sizing.model.engine_memory import compute_engine_memory, fits_memory, weights_bytes
from archwright.sizing.step_time.engine_step_times import RooflineStepTimes
from archwright.sizing.step_time.extrapolation import HOST_KIND

ANY_ISA = "*"
# Places of an engine that shares its cores among requests, and prompt tokens read in a step: small, so that a long
# prompt never stalls running answers.
SLOT_COUNTS = (16, 8, 4, 2, 1)
PREFILL_CHUNK_TOKENS = 64
# Host rows state their cores in words.
_CORES = re.compile(r"(\d+) cores")


def build_host_engine(
    machine: Machine, model: ModelSpec, requests: RequestLengths, catalog: Catalog
) -> EngineInstance | None:
    """None where the model does not fit the machine's memory, or no engine runs on processors."""
    hardware = Hardware(
        name="host processor",
        memory_bytes=int(machine.ram_bytes),
        bandwidth_bytes_per_s=_core_bandwidth(catalog).scaled(float(host_cores(machine))),
        compute_flops_per_s=host_flops(machine, catalog),
    )
    return build_cpu_engine(hardware, model, requests, catalog)


def build_cpu_engine(
    hardware: Hardware, model: ModelSpec, requests: RequestLengths, catalog: Catalog, precision: str = ""
) -> EngineInstance | None:
    """The embedded engine on a processor, None as for `build_host_engine`. `precision`: of the weights as a
    table states it, else the engine's own. Memory that is not stated (0) holds every model."""
    product = next((e for e in catalog.engines.values() if e.embedded and e.kind == HOST_KIND), None)
    if product is None or not product.quantisations:
        return None
    quantisation, bits = _choose_quantisation(precision, product, catalog)
    efficiency = catalog.efficiency(product.id, quantisation, ANY_ISA)
    weights = weights_bytes(model, bits)
    context = requests.context_tokens(model)
    room = hardware.memory_bytes or math.inf
    for slots in SLOT_COUNTS:
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
        chunk=PREFILL_CHUNK_TOKENS,
        parallelism=Parallelism(),
        speed=_estimate_speed(roofline, hardware, efficiency),
        assumptions=(
            f"weights in {quantisation} keep the quality that was reported for the model",
            f"{product.product} gets all cores of a host processor; a file of the model in {quantisation} is at hand",
        ),
    )


def _choose_quantisation(precision: str, product: EngineSpec, catalog: Catalog) -> tuple[str, float]:
    """Name and bits of a weight: the row that the text names, else the format it means."""
    said = precision.lower()
    named = next((name for name in catalog.quantisations if name.lower() in said), None)
    number = numeric_precision.parse_precision(precision, "")
    if named is None and number.stated:
        return number.name, number.expert_bits
    named = named or product.quantisations[0]
    return named, catalog.quantisations[named].bits_per_weight


def build_processor_hardware(accelerator: Accelerator, count: int, catalog: Catalog) -> Hardware:
    """Processors by their own row; cores that it states at the rate which the efficiency rows' shares are of."""
    bandwidth, cores = accelerator.memory_bandwidth_bytes_per_s * count, _CORES.search(accelerator.notes)
    compute = catalog.estimate(accelerator, numeric_precision.matmul_rate(accelerator, "fp32") * count, "FLOP/s")
    if cores is not None:
        threads = THREADS_A_CORE * int(cores[1]) * count
        compute = host_flops(Machine(accelerator.id, None, 0, threads, 0.0), catalog)
    return Hardware(
        name=accelerator.id,
        memory_bytes=accelerator.memory_bytes,
        bandwidth_bytes_per_s=catalog.estimate(accelerator, bandwidth, "bytes/s"),
        compute_flops_per_s=compute,
    )


def _core_bandwidth(catalog: Catalog) -> Estimate:
    """bytes/s of one core when all cores read."""
    each = [
        row.memory_bandwidth_bytes_per_s / int(found.group(1))
        for row in catalog.accelerators.values()
        if row.kind == HOST_KIND and (found := _CORES.search(row.notes))
    ]
    return Estimate(value=geometric_mean(each), low=min(each), high=max(each), unit="bytes/s")


def _estimate_speed(roofline: Roofline, hardware: Hardware, efficiency: Efficiency) -> EngineSpeed:
    """The efficiency row's band and that of the rate which limits a single answer."""
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
