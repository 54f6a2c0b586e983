"""TPOT, TTFT and throughput from exact work (step_work.py) and few fitted coefficients.

Decode step of a worker in seconds (coefficients tpot.*):
  memory = bytes / (bandwidth x em), compute = FLOPs / (rate x ec) x format: their sum fits better than their maximum
  step = (memory + compute + layers x (o + o_tp log2 tp + attention kind + routed x width / bandwidth)
         + fixed + seq x requests + exchanged / (link x el)) x slower, slower = engine x format x device class
  routed: bytes that expert routing moves per value of the layer's width, in addition to weights and cache. A fixed
  time instead was worse on left-out devices and models. `o_tp` and `el` differ for devices without a link of their own.
Prefill runs between decode steps, except for a single stream. With l = requests / output tokens, prompts per step:
  TPOT = step + (l x (FLOPs / (rate x epf) + exchanged / (link x el)) + (1 - e^-l) x layers x opf) x slower
TTFT = prefill at its own rates + wait for running steps + wait for earlier prompts + wait for a slot if more requests
are sent than the engine holds: (sent / held - 1) x output tokens x TPOT. Closed loops have their own coefficients
(ttft.closed), because their requests come in bursts; ttft.server holds for every other load.
Throughput = held requests / TPOT. The decode pool of a disaggregated layout runs no prefill.

The formulas also work on arrays: bench/sizing stacks the inputs of many rows.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from archwright.sizing.step_time.step_work import DeviceSpec, ShardedModel

Coefficients = Mapping[str, float]

# Share of the output that a request's KV cache is planned for: engines admit by used cache, not by maximum length.
CACHED_ANSWER_SHARE = 0.75
EPSILON = 1e-9
# Prompt tokens that a pipeline stage takes at a time: the batch of the engine whose stages were measured.
PIPELINE_CHUNK_TOKENS = 512


# How the requests come: a closed loop in a steady state or in a short run that mostly is its first burst; a request
# rate; one request at a time, on a server or on a bare engine; a fixed batch; as many as the engine takes.
CLOSED, BURST, OPEN, SINGLE, BARE, STATIC, OFFLINE = "closed", "burst", "open", "single", "bare", "static", "offline"
ALONE, LOOPS = frozenset({SINGLE, BARE}), frozenset({CLOSED, BURST})


class RequestLoad(NamedTuple):
    """`sent` concurrent requests to the whole deployment (None: as many as fit); tokens per request.

    `first`: share of the requests of a run that start together; `most`: slots of one engine."""

    sent: float | None
    prompt: float
    answer: float
    kind: str = CLOSED
    first: float = 0.1
    most: float = math.inf


class StepTimeInputs(NamedTuple):
    """Inputs of the coefficients for one deployment: seconds at stated rates, ranks, requests and tokens.

    `sent` and `held` are per attention rank. `others`: requests beside the own one; `excess`: requests that wait for a
    slot, over those in slots; `between`: 0 if no prompt is read between the steps."""

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
    load: str
    device: str
    link: str
    doublings: float
    others: float
    excess: float
    between: float
    first: float

    @property
    def read_s(self) -> float:
        return self.read_trunk_s + self.read_expert_s + self.read_attention_s


def build_step_inputs(
    worker: ShardedModel, device: DeviceSpec, engine: str, attention: str, traffic: RequestLoad
) -> StepTimeInputs:
    layout, context = worker.layout, traffic.prompt + traffic.answer / 2
    fitting = worker.capacity(device.memory, traffic.prompt + CACHED_ANSWER_SHARE * traffic.answer)
    held = min(max(fitting, 1.0), traffic.most)
    ranks = layout.dp * layout.copies * layout.pp
    sent = held if traffic.sent is None else max(traffic.sent / ranks, EPSILON)
    if traffic.kind == OPEN:
        # Requests in flight under a rate were served, so the engine held them.
        held = max(held, sent)
    requests = sent if sent < 1 else max(min(sent, held), 1.0)
    if layout.dp == 1:
        requests = max(requests, 1.0)
    pool = layout.prefill
    step = worker.decode(requests, context)
    read = (worker if pool is None else worker._replace(layout=pool)).prefill(traffic.prompt)
    stages = _pipelined_share(layout.pp, traffic.prompt)
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
        read_trunk_s=read.trunk_flops / device.trunk_rate * stages,
        read_expert_s=read.expert_flops / device.expert_rate * stages,
        read_attention_s=read.attention_flops / device.wide_rate * stages,
        read_memory_s=read.bytes / device.bandwidth,
        read_exchange_s=read.exchanged / device.link,
        prefill_ranks=0 if pool is None else pool.dp * pool.copies,
        cache_share=cached / step.bytes,
        routing_s=expert_routing_s(worker, device),
        # Rows of separate prefill workers are closed loops.
        load=traffic.kind if pool is None or traffic.kind in LOOPS else CLOSED,
        device=device.device_class,
        link=device.link_kind,
        doublings=math.log2(layout.tp),
        others=max(requests - 1, 0.0),
        excess=max(sent / held, 1.0) - 1,
        between=0.0 if traffic.kind in ALONE else 1.0,
        first=traffic.first,
    )


def _pipelined_share(stages: int, prompt: float) -> float:
    """Return the time of a prompt on pipeline stages over the time of one device with all its chunks."""
    chunks = math.ceil(max(prompt, 1.0) / PIPELINE_CHUNK_TOKENS)
    return (chunks + stages - 1) / (chunks * stages)


def decode_step_s(case: StepTimeInputs, k: Coefficients) -> float:
    compute = case.compute_s * k.get(f"compute.{case.format}", 1.0) / k["ec"]
    memory = case.memory_s / (k["em"] * k.get(f"em.{case.engine}", 1.0))
    own = DeviceKey(case.engine, case.device, case.link)
    layer = layer_overhead_s(k, own, case.doublings, case.attention, case.routing_s)
    shared = k["fixed"] + k["seq"] * case.requests + case.exchange_s / k[f"el.{case.link}"]
    return (memory + compute + case.layers * layer + shared) * slowdown_factor(k, case.engine, case.format, case.device)


def expert_routing_s(worker: ShardedModel, device: DeviceSpec) -> float:
    """Return the seconds to move one byte per value of a layer's width; 0 without experts."""
    return worker.shape.hidden / device.bandwidth if worker.shape.sparse else 0.0


class DeviceKey(NamedTuple):
    """Names of the coefficients of an engine family, a device class and a kind of link."""

    engine: str
    device: str
    link: str


def layer_overhead_s(
    k: Coefficients, own: DeviceKey, doublings: float, attention: Iterable[str], routing_s: float
) -> float:
    """Return the overhead of a layer in addition to its roofline, in seconds; `doublings`: log2 of the TP degree."""
    kinds = sum(k.get(f"attention.{word}", 0.0) for word in attention)
    launched = k["o"] * k.get(f"o.{own.engine}", 1.0) * k.get(f"launch.{own.device}", 1.0)
    return launched + k[f"o_tp.{own.link}"] * doublings + kinds + k["routed"] * routing_s


def slowdown_factor(k: Coefficients, engine: str, number: str, device: str) -> float:
    """Return the factor on every step time of an engine family, a number format and a device class."""
    return k.get(f"engine.{engine}", 1.0) * k.get(f"format.{number}", 1.0) * k.get(f"device.{device}", 1.0)


def mean_tpot_s(case: StepTimeInputs, k: Coefficients) -> float:
    """Return the mean TPOT in seconds, with the prefill of other requests between the tokens."""
    step = decode_step_s(case, k)
    if case.prefill_ranks:
        return step * k["pool"]
    prompts = case.requests / case.answer
    started: float = (1 - math.e**-prompts) * case.layers * k["opf"]
    started *= slowdown_factor(k, case.engine, case.format, case.device)
    return step + case.between * (prompts * interleaved_prefill_s(case, k) + started)


def interleaved_prefill_s(case: StepTimeInputs, k: Coefficients) -> float:
    """Return the time that the prefill of one prompt adds to the decode of the running requests."""
    rate = k["epf"] * k.get(f"epf.{case.engine}", 1.0)
    read = case.read_s * k.get(f"compute.{case.format}", 1.0) / rate + case.read_exchange_s / k[f"el.{case.link}"]
    return read * slowdown_factor(k, case.engine, case.format, case.device)


def ttft_prefill_s(case: StepTimeInputs, k: Coefficients) -> float:
    """Return the prefill time of one prompt by the TTFT coefficients."""
    number = k.get(f"compute.{case.format}", 1.0)
    flops = case.read_trunk_s * number + case.read_expert_s * number * k["pe"] + case.read_attention_s
    flops = flops / prefill_efficiency(k, case.engine, case.device)
    roof: float = (flops**2 + (case.read_memory_s / k["em"]) ** 2) ** 0.5
    launched = roof + case.layers * k["launch"]
    return (launched + case.read_exchange_s / k[f"elp.{case.link}"]) * k.get(f"device.{case.device}", 1.0)


def prefill_efficiency(k: Coefficients, engine: str, device: str) -> float:
    """Return the share of the stated rate; an engine with kernels of its own may have a share per device class."""
    return k["epf"] * k.get(f"epf.{engine}", 1.0) * k.get(f"epf.{engine}.{device}", 1.0)


def mean_ttft_s(case: StepTimeInputs, k: Coefficients, step: float, tpot: float) -> float:
    """Return the mean TTFT, the first burst of a closed loop included; `step` and `tpot` are of the same case."""
    read = ttft_prefill_s(case, k)
    if case.prefill_ranks:
        waiting = case.sent * case.ranks / case.prefill_ranks
        return (k["p_t0"] + read * (1 + k["p_kb"] * waiting)) + k["kq"] * case.excess * case.answer * tpot
    scheduling = k[f"t0.{case.load}"] + k[f"ks.{case.load}"] * step + earlier_share(case, k) * case.others * read
    return read + k.get(f"engine.{case.engine}", 1.0) * scheduling + k["kq"] * case.excess * case.answer * tpot


def earlier_share(case: StepTimeInputs, k: Coefficients) -> float:
    """Return the share of the other requests whose prompts are read before a request's own, in the mean."""
    return k.get(f"kb.{case.load}", 0.0) + k.get("burst", 0.0) * case.first


def select_ttft(load: str) -> str:
    """Return the name of the TTFT coefficients of a kind of load."""
    return "ttft.closed" if load in LOOPS else "ttft.server"
