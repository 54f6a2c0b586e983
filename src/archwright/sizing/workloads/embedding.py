"""Capacity of text embedding and reranking: one forward pass over the input by an encoder or a decoder, without decode.

  FLOPs of a text of n tokens = 2 x body x n + attention (4 h w n per layer and token; half of that if causal)
  seconds = launch + texts x FLOPs / (share x rate) on a device; request + FLOPs / (share x cores) on the CPU
The body excludes the embedding table, which is looked up and not multiplied. A rerank request is a batch of pairs of a
query and a chunk, PIECE_TOKENS tokens together; its input tokens count all pairs.
"""

from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.estimate import multiply_estimates
from archwright.contract.evidence import Basis
from archwright.contract.needs import SLO, TokenLength
from archwright.contract.record import replace
from archwright.sizing.hardware import device_rates
from archwright.sizing.hardware.device_rates import has_devices, host_cores, quote_work_rates, read_work_rate
from archwright.sizing.hardware.machine import BatchWork, Machine, SteadyCapacity
from archwright.sizing.model.architecture import attention_flops, body_parameters
from archwright.sizing.step_time.step_work import USABLE_MEMORY_SHARE, WORKSPACE_BYTES
from archwright.sizing.workloads.queueing import ServiceLimit, ServiceTimes, find_capacity
from archwright.sizing.workloads.vision import build_steady_capacity

BIDIRECTIONAL = "bidirectional"
BYTES_ON_DEVICE, BYTES_ON_HOST = 2.0, 4.0
LARGEST_SHARE_OF_RAM = 0.7
# Chunk length of documents in batch embedding.
PIECE_TOKENS = 512.0
HOUR_S = 3600.0
NORMAL_95 = 1.645
ENGINE = "text-embedding"
# Utilisation of batch work, which has its own queue and no latency limit.
BULK_UTILISATION = 0.95


def text_flops(model: ModelSpec, tokens: float) -> float:
    """Return the FLOPs of one text; a token of a causal model attends to half of it on average."""
    seen = tokens if model.attention == BIDIRECTIONAL else tokens / 2
    return tokens * (2 * body_parameters(model) + attention_flops(model, seen))


def fits_machine(machine: Machine, model: ModelSpec) -> bool:
    """True if each device, or the host, holds a whole copy of the model."""
    if machine.accelerator is not None and has_devices(machine):
        space = machine.accelerator.memory_bytes * USABLE_MEMORY_SHARE - WORKSPACE_BYTES
        return model.parameters * BYTES_ON_DEVICE <= space
    return model.parameters * BYTES_ON_HOST <= machine.ram_bytes * LARGEST_SHARE_OF_RAM


def size_embedding_serving(
    machine: Machine, model: ModelSpec, workload: str, input_tokens: TokenLength, slo: SLO, catalog: Catalog
) -> SteadyCapacity | None:
    """Size one machine; None if the model does not fit. Texts longer than the context are truncated."""
    most = float(model.context_tokens or input_tokens.p95)
    mean, long = min(input_tokens.mean, most), min(input_tokens.p95, most)
    request = ForwardPass(mean, text_flops(model, mean), text_flops(model, long))
    return _size_serving(machine, model, workload, request, slo, catalog)


def size_rerank_serving(
    machine: Machine, model: ModelSpec, workload: str, input_tokens: TokenLength, slo: SLO, catalog: Catalog
) -> SteadyCapacity | None:
    """Size one machine for requests of `input_tokens` over all pairs; None if the model does not fit."""
    pair = min(PIECE_TOKENS, input_tokens.mean)
    mean, long = (tokens / pair * text_flops(model, pair) for tokens in (input_tokens.mean, input_tokens.p95))
    found = _size_serving(machine, model, workload, ForwardPass(pair, mean, long), slo, catalog)
    pairs = f"a request has {input_tokens.mean / pair:,.3g} pairs of a query and a chunk, {pair:,.0f} tokens each"
    return found and found._replace(assumptions=(*found.assumptions, pairs))


class ForwardPass(NamedTuple):
    """FLOPs of a mean and of a p95 request, whose texts have `tokens` tokens."""

    tokens: float
    mean_flops: float
    long_flops: float


def _size_serving(
    machine: Machine, model: ModelSpec, workload: str, request: ForwardPass, slo: SLO, catalog: Catalog
) -> SteadyCapacity | None:
    if not fits_machine(machine, model):
        return None
    on_device = has_devices(machine)
    speed, used = device_rates.estimate_flops_rate("embedding", machine, catalog)
    own = multiply_estimates([speed.divide_amount(1.0, "s/FLOP")], "s").scaled(request.mean_flops, unit="s")
    launch = "embedding.launch" if on_device else "request.host"
    ratio = request.long_flops / request.mean_flops
    # Squared CV of log-normal lengths whose p95 is `ratio` times the mean.
    variation = (max(ratio, 1.0) - 1) ** 2 / NORMAL_95**2
    times = ServiceTimes(read_work_rate(catalog, launch), own, long=ratio, variation=variation)
    servers = machine.accelerator_count if on_device else host_cores(machine)
    most = read_work_rate(catalog, "load.most").value
    limit = ServiceLimit(f"{workload}.latency_p95_s", slo.latency_p95_s, most, slo.certainty)
    found = find_capacity(times, servers, limit, batches=on_device)
    quotes = quote_work_rates(catalog, *used, launch, "load.most")
    basis = _build_basis(f"{workload}.{machine.id}.capacity", model, request, quotes)
    capacity = build_steady_capacity(machine, catalog, found, basis, (model.id, ENGINE))
    return capacity._replace(context_tokens=model.context_tokens or round(request.tokens))


def size_embedding_batch(
    machine: Machine, model: ModelSpec, workload: str, tokens_per_run: float, catalog: Catalog
) -> BatchWork | None:
    """Size the batch embedding of `tokens_per_run` tokens, shared evenly by any number of machines."""
    if not fits_machine(machine, model):
        return None
    piece = min(PIECE_TOKENS, float(model.context_tokens or PIECE_TOKENS))
    speed, used = device_rates.estimate_flops_rate("embedding", machine, catalog)
    servers = machine.accelerator_count if has_devices(machine) else host_cores(machine)
    flops = text_flops(model, piece)
    whole = ForwardPass(piece, flops, flops)
    each = flops / piece * tokens_per_run / servers / BULK_UTILISATION / HOUR_S
    basis = _build_basis(f"{workload}.{machine.id}.work", model, whole, quote_work_rates(catalog, *used))
    definition = "hours of one machine for all tokens of a run, with a queue that is never empty"
    return BatchWork(
        model=model.id,
        machine_hours=speed.divide_amount(1.0, "s/FLOP").scaled(each, unit="h", basis=basis.id),
        least=1,
        most=max(1, int(tokens_per_run / piece / servers)),
        scaling=1.0,
        busy_w=device_rates.busy_power_w(machine, catalog, accelerated=has_devices(machine)),
        bases=(replace(basis, definition=definition),),
        assumptions=(f"documents are embedded in chunks of {piece:.0f} tokens",),
    )


def _build_basis(name: str, model: ModelSpec, request: ForwardPass, quotes: tuple[str, ...]) -> Basis:
    work = f"texts of {request.tokens:,.0f} tokens, {request.mean_flops / 1e9:,.0f} GFLOP per request"
    return Basis(
        id=name,
        kind="calibrated",
        stratum="published encoders on other devices",
        definition="highest requests/s of one machine within the p95 latency limit; latency from arrival to response",
        formula="launch + texts x (2 body n + attention) / (share x rate); wait: sizing/workloads/queueing.py",
        facts=(f"{model.id}, {work} ({model.source})", *quotes),
    )
