"""TPOT, TTFT and throughput of a closed loop from exact work (step_work.py) and few fitted coefficients.

Decode step of a worker in seconds (coefficients tpot.*):
  roof = (memory^p + compute^p)^(1/p), memory = bytes / (bandwidth x em), compute = FLOPs / (rate x ec) x format
  step = (roof + layers x (o + o_tp log2 tp + attention kind + routed x width / bandwidth) + seq x requests
         + exchanged / (link x el)) x slower, slower = engine x format x vendor
  routed: bytes that expert routing moves per value of the layer's width, in addition to weights and cache. A fixed
  time instead was worse on left-out devices and models.
Prefill runs between decode steps. With l = requests / output tokens, prompts per step:
  TPOT = step + (l x (FLOPs / (rate x epf) + exchanged / (link x el)) + (1 - e^-l) x layers x opf) x slower
TTFT (coefficients ttft.*) = prefill at its own rates + wait for running steps + wait for earlier prompts + wait for a
slot if more requests are sent than the KV cache holds: (sent / held - 1) x output tokens x TPOT.
Offline throughput = held requests / TPOT. The decode pool of a disaggregated layout runs no prefill.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from archwright.sizing.step_time.step_work import DeviceSpec, ShardedModel

Coefficients = Mapping[str, float]

# Share of the output that a request's KV cache is planned for: engines admit by used cache, not by maximum length.
CACHED_ANSWER_SHARE = 0.75
EPSILON = 1e-9


class ClosedLoopLoad(NamedTuple):
    """Closed loop: `sent` concurrent requests to the whole deployment (None: as many as fit); tokens per request."""

    sent: float | None
    prompt: float
    answer: float


class StepTimeInputs(NamedTuple):
    """Inputs of the coefficients for one deployment: seconds at stated rates, ranks, requests and tokens.

    `sent` and `held` are per attention rank; `slower`: step time of this vendor's devices over the fitted devices'."""

    engine: str
    format: str
    attention: tuple[str, ...]
    layers: int
    sparse: bool
    tp: int
    dp: int
    ep: int
    ranks: int
    requests: float
    sent: float
    held: float
    prompt: float
    answer: float
    memory_s: float
    compute_s: float
    exchange_s: float
    read_trunk_s: float
    read_expert_s: float
    read_attention_s: float
    read_memory_s: float
    read_exchange_s: float
    prefill_ranks: int
    cache_share: float
    routing_s: float
    slower: float = 1.0

    @property
    def read_s(self) -> float:
        return self.read_trunk_s + self.read_expert_s + self.read_attention_s


def build_step_inputs(
    worker: ShardedModel, device: DeviceSpec, engine: str, attention: str, traffic: ClosedLoopLoad
) -> StepTimeInputs:
    layout, context = worker.layout, traffic.prompt + traffic.answer / 2
    held = max(worker.capacity(device.memory, traffic.prompt + CACHED_ANSWER_SHARE * traffic.answer), 1.0)
    ranks = layout.dp * layout.copies * layout.pp
    sent = held if traffic.sent is None else max(traffic.sent / ranks, EPSILON)
    requests = sent if sent < 1 else max(min(sent, held), 1.0)
    if layout.dp == 1:
        requests = max(requests, 1.0)
    pool = layout.prefill
    step = worker.decode(requests, context)
    read = (worker if pool is None else worker._replace(layout=pool)).prefill(traffic.prompt)
    cached = requests * worker.request_cache_bytes(context) * layout.pp
    return StepTimeInputs(
        engine=engine,
        format=worker.number.name,
        attention=tuple(attention.split("+")),
        layers=worker.shape.layers,
        sparse=worker.shape.sparse,
        tp=layout.tp,
        dp=layout.dp,
        ep=layout.ep,
        ranks=ranks,
        requests=requests,
        sent=sent,
        held=held,
        prompt=traffic.prompt,
        answer=max(traffic.answer, 1.0),
        memory_s=step.bytes / device.bandwidth,
        compute_s=step.compute_s(device),
        exchange_s=step.exchanged / device.link,
        read_trunk_s=read.trunk_flops / device.trunk_rate,
        read_expert_s=read.expert_flops / device.expert_rate,
        read_attention_s=read.attention_flops / device.wide_rate,
        read_memory_s=read.bytes / device.bandwidth,
        read_exchange_s=read.exchanged / device.link,
        prefill_ranks=0 if pool is None else pool.dp * pool.copies,
        cache_share=cached / step.bytes,
        routing_s=expert_routing_s(worker, device),
    )


def decode_step_s(case: StepTimeInputs, k: Coefficients) -> float:
    compute = case.compute_s * k.get(f"compute.{case.format}", 1.0) / k["ec"]
    memory = case.memory_s / k["em"]
    roof = math.pow(math.pow(memory, k["p"]) + math.pow(compute, k["p"]), 1 / k["p"])
    layer = layer_overhead_s(k, case.tp, case.attention, case.routing_s)
    plain = roof + case.layers * layer + k["seq"] * case.requests + case.exchange_s / k["el"]
    return plain * _slowdown_factor(case, k)


def expert_routing_s(worker: ShardedModel, device: DeviceSpec) -> float:
    """Return the seconds to move one byte per value of a layer's width; 0 without experts."""
    return worker.shape.hidden / device.bandwidth if worker.shape.sparse else 0.0


def layer_overhead_s(k: Coefficients, tp: int, attention: Iterable[str], routing_s: float) -> float:
    """Return the overhead of a layer in addition to its roofline, in seconds."""
    kinds = sum(k.get(f"attention.{word}", 0.0) for word in attention)
    return k["o"] + k["o_tp"] * math.log2(tp) + kinds + k["routed"] * routing_s


def _slowdown_factor(case: StepTimeInputs, k: Coefficients) -> float:
    return case.slower * k.get(f"engine.{case.engine}", 1.0) * k.get(f"format.{case.format}", 1.0)


def mean_tpot_s(case: StepTimeInputs, k: Coefficients) -> float:
    """Return the mean TPOT in seconds, with the prefill of other requests between the tokens."""
    step = decode_step_s(case, k)
    if case.prefill_ranks:
        return step * k["pool"]
    prompts = case.requests / case.answer
    started = -math.expm1(-prompts) * case.layers * k["opf"]
    return step + prompts * interleaved_prefill_s(case, k) + started * _slowdown_factor(case, k)


def interleaved_prefill_s(case: StepTimeInputs, k: Coefficients) -> float:
    """Return the time that the prefill of one prompt adds to the decode of the running requests."""
    read = case.read_s * k.get(f"compute.{case.format}", 1.0) / k["epf"] + case.read_exchange_s / k["el"]
    return read * _slowdown_factor(case, k)


def ttft_prefill_s(case: StepTimeInputs, k: Coefficients) -> float:
    """Return the prefill time of one prompt by the TTFT coefficients."""
    number = k.get(f"compute.{case.format}", 1.0)
    flops = (case.read_trunk_s * number + case.read_expert_s * number * k["pe"] + case.read_attention_s) / k["epf"]
    return (math.hypot(flops, case.read_memory_s / k["em"]) + case.read_exchange_s / k["elp"]) * case.slower


def mean_ttft_s(case: StepTimeInputs, k: Coefficients, step: float, tpot: float) -> float:
    """Return the mean TTFT of a closed loop, its first burst included; `step` and `tpot` are of the same case."""
    read = ttft_prefill_s(case, k)
    overcommit = max(case.sent / case.held, 1.0) - 1
    if case.prefill_ranks:
        waiting = case.sent * case.ranks / case.prefill_ranks
        return (k["p_t0"] + read * (1 + k["p_kb"] * waiting)) + k["kq"] * overcommit * case.answer * tpot
    scheduling = k["t0"] + k["ks"] * step + k["kb"] * case.requests * read
    return read + k.get(f"engine.{case.engine}", 1.0) * scheduling + k["kq"] * overcommit * case.answer * tpot


def output_throughput(case: StepTimeInputs, tpot: float) -> float:
    """Return the output tokens/s of the whole deployment with every slot in use."""
    return case.requests * case.ranks / max(tpot, EPSILON)
