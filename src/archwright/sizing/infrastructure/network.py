"""Network traffic of a platform: front end, collectives of a training cluster, ports and switches.

Bytes through one machine's network per training step, for n machines and P parameters:
- data parallel, sharded: two all-gathers of the weights and one reduce-scatter of the gradients, 3 x 2 P (n - 1) / n
- adapters: only the all-reduce of A adapter gradients, 2 x 4 A (n - 1) / n
- pipeline: the activations at one stage boundary, forward and backward, 2 x 2 d tokens
- tensor parallel over machines: four all-reduces per layer (forward and backward), 4 x 2 (n - 1) / n x 2 d tokens L
Waiting share of a step: w / (w + c), w = (1 - overlap) bytes / bandwidth, c = FLOPs / (rate x MFU), in seconds.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.needs import TEXT_KINDS, Workload
from archwright.sizing.infrastructure.storage import GIB
from archwright.sizing.model.numeric_precision import matmul_rate

GIGABIT = 1e9 / 8
STANDARD_PORT_BYTES_PER_S = 100 * GIGABIT
FAST_PORT_BYTES_PER_S = 400 * GIGABIT
# A faster network is chosen if a job waits longer than this share: at 10 %, even the fastest network would save at most
# 10 % of the machines.
MAX_WAIT_SHARE = 0.1
# Most network cards of a machine.
MOST_PORTS = 8
SWITCH_PORTS = 64
BF16_BYTES, FP32_BYTES = 2, 4


class NetworkJob(NamedTuple):
    """Training on `machines` machines with `devices` devices of `rate` FLOP/s; `trained`: parameters with gradients."""

    workload: str
    parameters: float
    trained: float
    machines: int
    devices: int
    rate: float

    @property
    def remote_share(self) -> float:
        """Return (n - 1) / n, the share of evenly sharded data on other machines."""
        return (self.machines - 1) / self.machines

    @property
    def exchanged_bytes(self) -> float:
        """Return the bytes through one machine's network per step, data parallel over the machines."""
        if self.trained < self.parameters:
            return 2 * FP32_BYTES * self.trained * self.remote_share
        return 3 * BF16_BYTES * self.parameters * self.remote_share

    def compute_s(self, catalog: Catalog) -> float:
        flops = (4 * self.parameters + 2 * self.trained) * catalog.parameter("training.batch").value
        return flops / (self.rate * catalog.parameter("training.mfu").value)


class Fabric(NamedTuple):
    """Network between the machines of a job; `ports` 0: the front-end port of the machine is sufficient.

    `waits_plain` and `waits`: waiting share with the front-end port and with the chosen ports."""

    job: NetworkJob
    ports: int
    waits_plain: float
    waits: float


def network_wait_share(exchanged: float, computes_s: float, bandwidth: float, overlap: float) -> float:
    waits = (1 - overlap) * exchanged / bandwidth
    return waits / (waits + computes_s)


def choose_fabric(job: NetworkJob, catalog: Catalog) -> Fabric:
    """Return the fewest fast ports per machine with which the job waits at most MAX_WAIT_SHARE of its time."""
    overlap, computes = catalog.parameter("collective.overlap").value, job.compute_s(catalog)

    def share(bandwidth: float) -> float:
        return network_wait_share(job.exchanged_bytes, computes, bandwidth, overlap)

    plain = share(STANDARD_PORT_BYTES_PER_S)
    if plain <= MAX_WAIT_SHARE:
        return Fabric(job, 0, plain, plain)
    tried = (1, 2, 4, MOST_PORTS)
    ports = next((count for count in tried if share(count * FAST_PORT_BYTES_PER_S) <= MAX_WAIT_SHARE), MOST_PORTS)
    return Fabric(job, ports, plain, share(ports * FAST_PORT_BYTES_PER_S))


def build_network_job(
    workload: str, counts: tuple[float, float], machines: int, devices: int, accelerator: Accelerator | None
) -> NetworkJob | None:
    """Return the job; None on one machine or without known parameters. `counts`: parameters, trained parameters."""
    if machines < 2 or accelerator is None or min(counts) <= 0:
        return None
    return NetworkJob(workload, *counts, machines, max(devices, 1), matmul_rate(accelerator, "bf16"))


def cross_machine_bytes(model: ModelSpec, tokens: float, machines: int) -> tuple[float, float]:
    """Return the bytes that an engine over several machines sends per step of `tokens`: with TP, with PP.

    TP: two all-reduces per layer; PP: one stage boundary. Design: therefore an engine stays inside a machine."""
    hidden = BF16_BYTES * model.hidden * tokens
    return 2 * 2 * hidden * model.layers * (machines - 1) / machines, hidden


class SwitchTopology(NamedTuple):
    """Non-blocking network of `ports` ports: one switch, or leaf and spine switches."""

    ports: int
    switches: int
    links: int


def plan_switches(ports: int) -> SwitchTopology:
    if ports <= SWITCH_PORTS:
        return SwitchTopology(ports, 1 if ports else 0, ports)
    leaves = math.ceil(ports / (SWITCH_PORTS / 2))
    return SwitchTopology(ports, leaves + math.ceil(leaves / 2), 2 * ports)


class MessageSize(NamedTuple):
    """Mean bytes of a request and of its response on the wire; `facts`: catalog parts behind the response."""

    request: float
    answer: float
    facts: tuple[str, ...]


def estimate_message_size(workload: Workload, catalog: Catalog) -> MessageSize:
    """Return the message sizes: streamed tokens, embedding vectors, uploaded images and audio, or feature rows."""
    traffic = workload.traffic
    record = catalog.parameter("answer.record").value
    if traffic is None:
        return MessageSize(0.0, 0.0, ())
    tokens = (traffic.input_tokens.mean if traffic.input_tokens else 0.0) * catalog.parameter("text.bytes").value
    image = (traffic.image_pixels or 0.0) * catalog.parameter("picture.bytes").value
    if workload.kind in TEXT_KINDS and traffic.output_tokens is not None:
        answer = traffic.output_tokens.mean * catalog.parameter("answer.token").value
        return MessageSize(tokens + image, answer, ("answer.token",))
    if workload.kind == "embedding":
        return MessageSize(tokens, catalog.parameter("vector.dimensions").value * FP32_BYTES, ("vector.dimensions",))
    audio = (traffic.audio_s or 0.0) * catalog.parameter("audio.bytes").value
    return MessageSize(tokens + image + audio + (traffic.features or 0) * FP32_BYTES, record, ("answer.record",))


def front_end_bandwidth(workloads: Iterable[Workload], catalog: Catalog, growth: float = 1.0) -> float:
    """Return the peak bytes/s of all workloads, in and out together, x `growth`."""
    found = 0.0
    for workload in workloads:
        if workload.rate is not None:
            message = estimate_message_size(workload, catalog)
            found += workload.rate.peak * (message.request + message.answer)
    return found * growth


def monthly_ingest_bytes(workload: Workload) -> float:
    traffic = workload.traffic
    return 0.0 if traffic is None or traffic.gib_per_day is None else traffic.gib_per_day * GIB * 730 / 24
