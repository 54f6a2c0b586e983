"""Text model on a CPU: one engine on all cores, sized by the roofline of its efficiency row.

Matmul rate: cores x the per-core rate of the work rates; the efficiency row has the shares of each instruction set.
Bandwidth: the stated one of the cores, from a named processor's row or as the geometric mean of the catalog's CPU
rows. An engine draws `host.draw` x (stated / 100 GB/s) ^ `host.draw-growth` / processors ^ `host.draw-processors` of
it: few cores draw more than their part of the channels, many less, and several processors less than one (fitted on
public tables by bench/engine/fit_processors.py). Each slot reserves the KV cache of a whole context.
"""

import math
from statistics import geometric_mean
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.efficiency_lookup import derive_for_engine
from archwright.catalog.tables.records import Accelerator, Efficiency, EngineSpec, ModelSpec
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.plan import Parallelism
from archwright.contract.record import replace
from archwright.sizing.hardware.device_rates import THREADS_A_CORE, host_cores, host_flops, read_work_rate
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.hardware.roofline import Hardware, Roofline
from archwright.sizing.hardware.uncertainty import basis_kind, slowdown_factors
from archwright.sizing.inference import processor_servers, processor_speed
from archwright.sizing.inference.engine_instance import EngineInstance, EngineSpeed, RequestLengths
from archwright.sizing.inference.processor_servers import ServerCase, ServerLoad, ServerTimes
from archwright.sizing.inference.processor_speed import EngineWork, ProcessorFacts, describe_work
from archwright.sizing.model import numeric_precision
from archwright.sizing.model.engine_memory import compute_engine_memory, fits_memory, weights_bytes
from archwright.sizing.step_time.engine_step_times import RooflineStepTimes
from archwright.sizing.step_time.extrapolation import HOST_KIND
from archwright.sizing.step_time.fitted_tables import load_table

# Slot counts of an engine that shares its cores among requests. The prefill chunk is small, so that a long prompt does
# not stall running requests.
SLOT_COUNTS = (16, 8, 4, 2, 1)
PREFILL_CHUNK_TOKENS = 64
SERVER_SLOT_COUNTS = (256, 128, 64, 32, *SLOT_COUNTS)
SERVER_CHUNK_TOKENS = 2048
# Requests at a time to which the steps of a server are fitted.
SERVER_BATCH = 16.0
DRAW_UNIT = 100e9


def build_host_engine(
    machine: Machine, model: ModelSpec, requests: RequestLengths, catalog: Catalog
) -> EngineInstance | None:
    """Return the engine on a machine's CPU; None if the model does not fit its memory or no engine runs on CPUs."""
    per_core: list[float] = []
    for row in catalog.accelerators.values():
        cores = processor_speed.count_cores(row)
        if row.kind == HOST_KIND and cores:
            per_core.append(row.memory_bandwidth_bytes_per_s / cores)
    usual = geometric_mean(per_core) * host_cores(machine)
    hardware = Hardware(
        name="host processor",
        memory_bytes=int(machine.ram_bytes),
        bandwidth_bytes_per_s=_draw_bandwidth(usual, 1, catalog),
        compute_flops_per_s=host_flops(machine, catalog),
    )
    return build_cpu_engine(hardware, model, requests, catalog, CpuSetup())


def _draw_bandwidth(stated: float, processors: int, catalog: Catalog) -> Estimate:
    """Return the bandwidth that an engine draws on cores with `stated` bytes/s of several `processors`."""
    growth = read_work_rate(catalog, "host.draw-growth").value
    spread = read_work_rate(catalog, "host.draw-processors").value
    scale = (stated / DRAW_UNIT) ** growth * processors**-spread
    return read_work_rate(catalog, "host.draw").scaled(scale)


class CpuSetup(NamedTuple):
    """Statements of a table or a user about an engine on a processor; an empty field is unstated.

    `engine`: family; one without rows for processors means the embedded engine. `precision`: weight format in words.
    `isa`: instruction set. `processor`: facts for the fit of embedded engines; None: only the efficiency row."""

    engine: str = ""
    precision: str = ""
    isa: str = processor_speed.ANY_ISA
    processor: ProcessorFacts | None = None
    kernels: str = processor_speed.LLAMACPP


def _find_product(family: str, catalog: Catalog) -> EngineSpec | None:
    """Return the engine of the family if it has rows for processors, else the embedded one."""
    if any(row.kind == HOST_KIND and row.engine == family for row in catalog.efficiencies):
        return catalog.engines.get(family)
    for engine in catalog.engines.values():
        if engine.embedded and engine.kind == HOST_KIND:
            return engine
    return None


def build_cpu_engine(
    hardware: Hardware, model: ModelSpec, requests: RequestLengths, catalog: Catalog, setup: CpuSetup
) -> EngineInstance | None:
    """Return an engine on a processor, None as for `build_host_engine`. Unstated memory (0) holds every model."""
    product = _find_product(setup.engine, catalog)
    if product is None or not product.quantisations:
        return None
    quantisation, bits = find_quantisation(setup.precision, product.quantisations[0], catalog)
    efficiency = derive_for_engine(catalog.efficiency(product.id, quantisation, setup.isa), None, threads=0)
    weights = weights_bytes(model, bits)
    context = requests.context_tokens(model)
    room = hardware.memory_bytes or math.inf
    for slots in SLOT_COUNTS if product.embedded else SERVER_SLOT_COUNTS:
        if fits_memory(room, compute_engine_memory(model, weights, efficiency, slots, context)):
            break
    else:
        return None
    speed = None
    if setup.processor is not None and product.embedded:
        fitted = _predict_request(setup.processor, model, requests, weights=weights, kernels=setup.kernels)
        efficiency = _fit_efficiency(efficiency, hardware, fitted)
        speed = _quote_fit(fitted, setup.processor)
    elif setup.processor is not None and processor_servers.is_fitted(product.id):
        server = _predict_server(setup.processor, model, requests, weights=weights)
        efficiency = _fit_server_efficiency(efficiency, hardware, server)
        speed = server.quote(setup.processor)
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
        speed=speed or _estimate_speed(roofline, hardware, efficiency),
        assumptions=(
            f"weights in {quantisation} keep the quality that was reported for the model",
            f"{product.product} uses all cores of the processor; a file of the model in {quantisation} is available",
        ),
    )


class RequestSpeed(NamedTuple):
    """Seconds of a prompt token and of an answer token of a mean request, by the fit of processors.

    `arithmetic_s`: the part of the answer token that grows with requests at once."""

    prompt: EngineWork
    answer: EngineWork
    prompt_s: Estimate
    answer_s: Estimate
    arithmetic_s: float


def _predict_request(
    facts: ProcessorFacts, model: ModelSpec, requests: RequestLengths, *, weights: float, kernels: str
) -> RequestSpeed:
    fit = load_table(processor_speed.TABLE)
    read = requests.reads.mean
    prompt = describe_work("prefill", model, weights, context=read / 2, kernels=kernels)
    answered = read + requests.writes.mean / 2
    answer = describe_work("decode", model, weights, context=answered, kernels=kernels)
    answer_s = processor_speed.predict_token_s(facts, answer, fit)
    parts = processor_speed.compute_step_parts(facts, answer, fit.coefficients["decode"])
    prompt_s = processor_speed.predict_token_s(facts, prompt, fit)
    arithmetic_s = answer_s.value * parts.compute_s / parts.total_s
    return RequestSpeed(prompt, answer, prompt_s, answer_s, arithmetic_s)


def _fit_efficiency(row: Efficiency, hardware: Hardware, speed: RequestSpeed) -> Efficiency:
    """Return `row` with the shares at which the roofline takes the fit's times for one request.

    Steps of several requests keep the row's ratio of batched to prompt speed."""
    compute = hardware.compute_flops_per_s.value
    bandwidth = hardware.bandwidth_bytes_per_s.value
    prompt_share = speed.prompt.flops / speed.prompt_s.value / compute
    batched_ratio = row.decode_share_of_matmul_batched / row.prefill_share_of_matmul
    return replace(
        row,
        prefill_share_of_matmul=prompt_share,
        decode_share_of_matmul=speed.answer.flops / speed.arithmetic_s / compute,
        decode_share_of_matmul_batched=prompt_share * batched_ratio,
        decode_share_of_bandwidth=speed.answer.bytes_read / speed.answer_s.value / bandwidth,
        most_flops_per_s=0.0,
    )


def _quote_fit(speed: RequestSpeed, facts: ProcessorFacts) -> EngineSpeed:
    """Return the bands of the fit for answers and for prompts, and where they come from."""
    steps = speed.answer_s.scaled(1 / speed.answer_s.value, unit="")
    first = speed.prompt_s.scaled(1 / speed.prompt_s.value, unit="")
    stratum = processor_speed.name_stratum(facts, speed.answer.parameters)
    citation = load_table(processor_speed.TABLE).provenance.citation
    return EngineSpeed(steps, first, f"host processor, fit of {stratum}", (facts.describe_rates(), citation))


class ServerSpeed(NamedTuple):
    """Median times of a server engine by its fit: of one request, and of `SERVER_BATCH` requests at a time."""

    alone: ServerCase
    loaded: ServerCase
    alone_s: ServerTimes
    loaded_s: ServerTimes

    def quote(self, facts: ProcessorFacts) -> EngineSpeed:
        """Return the bands of the fit for request rates, and where they come from."""
        fit = load_table(processor_servers.TABLE)
        steps = processor_servers.quote_band(self.loaded, "tpot_s", fit)
        first = processor_servers.quote_band(self.loaded, "ttft_s", fit)
        stratum = processor_servers.name_server_stratum(self.loaded)
        rates = facts.describe_rates()
        citation = fit.provenance.citation
        return EngineSpeed(steps, first, f"host processor, fit of {stratum}", (rates, citation))


def _predict_server(
    facts: ProcessorFacts, model: ModelSpec, requests: RequestLengths, *, weights: float
) -> ServerSpeed:
    fit = load_table(processor_servers.TABLE)
    prompt = max(requests.reads.mean, 1.0)
    answer = max(requests.writes.mean, 1.0)
    single = ServerLoad(processor_servers.SINGLE, 1.0, prompt, answer)
    crowd = ServerLoad(processor_servers.OPEN, SERVER_BATCH, prompt, answer)
    alone = processor_servers.describe_case(facts, model, weights, load=single)
    loaded = processor_servers.describe_case(facts, model, weights, load=crowd)
    alone_s = processor_servers.predict_times(alone, fit)
    loaded_s = processor_servers.predict_times(loaded, fit)
    return ServerSpeed(alone, loaded, alone_s, loaded_s)


def _fit_server_efficiency(row: Efficiency, hardware: Hardware, speed: ServerSpeed) -> Efficiency:
    """Return `row` with the shares at which the roofline takes the fit's times for one and for `SERVER_BATCH` requests.

    The roofline reads the weights before a prompt, which the fit's first token includes."""
    compute = hardware.compute_flops_per_s.value
    bandwidth = hardware.bandwidth_bytes_per_s.value
    alone = speed.alone
    tpot_s, ttft_s, _ = speed.alone_s
    bytes_read = alone.weights_bytes + alone.cache_bytes
    prompt_s = max(ttft_s - tpot_s, ttft_s / 2)
    prompt_rate = alone.prompt_flops / prompt_s
    batch_flops = SERVER_BATCH * speed.loaded.answer_flops
    batch_rate = batch_flops / speed.loaded_s.tpot_s
    batched_share = batch_rate / compute
    attention_share = max(batched_share, row.attention_share_of_matmul)
    bandwidth_drawn = bytes_read / tpot_s
    return replace(
        row,
        prefill_share_of_matmul=prompt_rate / compute,
        decode_share_of_matmul=batched_share,
        decode_share_of_matmul_batched=batched_share,
        attention_share_of_matmul=attention_share,
        decode_share_of_bandwidth=bandwidth_drawn / bandwidth,
        most_flops_per_s=0.0,
    )


def find_quantisation(precision: str, usual: str, catalog: Catalog) -> tuple[str, float]:
    """Return name and bits per weight of the row that the text names, of the number format it means, or `usual`."""
    named = next((name for name in catalog.quantisations if name.lower() in precision.lower()), None)
    number = numeric_precision.parse_precision(precision, "")
    if named is None and number.stated:
        return number.name, number.expert_bits
    quantisation = named or usual
    return quantisation, catalog.quantisations[quantisation].bits_per_weight


def build_processor_hardware(accelerator: Accelerator, count: int, catalog: Catalog) -> Hardware:
    """Return the rates of `count` processors from their own row.

    If the row states cores, compute is cores x the per-core rate that the efficiency rows' shares refer to; its
    `scale_up_domain` counts processors. The bands of the efficiency rows hold the error of an unmeasured processor."""
    bandwidth = accelerator.memory_bandwidth_bytes_per_s * count
    cores = processor_speed.count_cores(accelerator)
    if cores == 0:
        stated_rate = numeric_precision.matmul_rate(accelerator, "fp32") * count
        compute = catalog.estimate(accelerator, stated_rate, "FLOP/s")
    else:
        threads = THREADS_A_CORE * cores * count
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
    bound = hardware.bandwidth_bytes_per_s
    if roofline.bound == "compute":
        bound = hardware.compute_flops_per_s
    fast, slow = slowdown_factors(efficiency, bound, 2)
    band = Estimate(value=1.0, low=fast, high=slow, unit="")
    compute = hardware.compute_flops_per_s.value / 1e9
    memory = hardware.bandwidth_bytes_per_s.value / 1e9
    rates = f"{compute:.0f} GFLOP/s and {memory:.0f} GB/s on all cores"
    confidence = f"{efficiency.as_of or 'undated'}, {efficiency.confidence}"
    row = f"{efficiency.engine} {efficiency.quantisation}: {efficiency.source} ({confidence})"
    return EngineSpeed(band, band, f"host processor, {basis_kind(efficiency)} row", (rates, row))
