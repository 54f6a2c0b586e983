"""Exact work of one device per engine step: bytes read, FLOPs, and bytes exchanged with other devices.

Decode step of a worker with b requests per attention rank at context c, B = b x dp:
- bytes = trunk/tp + head/tp + experts read by B tokens/(expert ranks) + b x cache(c)/min(tp, cache splits)
- FLOPs = 2 (trunk + head) b/tp + 2 k experts B/(expert ranks) + 4 width L b attended(c)/tp
- exchanged = 2 all-reduces of b x d per layer over tp; with several expert ranks also the experts' inputs and outputs
Prefill of a prompt of s tokens: the same with s tokens at once and the causal half of attention.
Pipeline stages process B/pp at a time: a token passes all stages; each stage holds 1/pp of weights and cache.
"""

from typing import NamedTuple

from archwright.catalog.tables.records import Accelerator
from archwright.sizing.model.numeric_precision import NumericPrecision, matmul_rate
from archwright.sizing.model.parallel_layout import ParallelLayout
from archwright.sizing.model.weight_groups import WeightGroups

# Share of the device memory that an engine uses; the rest is for the runtime, activations and fragmentation.
USABLE_MEMORY_SHARE = 0.92
WORKSPACE_BYTES = 3e9
HEAD_BITS = 16.0
ACTIVATION_BYTES = 2.0
# Interconnect of a device without a stated link: PCIe 4.0 x16, one direction.
BUS_BYTES_PER_S = 25e9
OWN_LINK, BUS = "own", "bus"


class DeviceSpec(NamedTuple):
    """Memory in bytes and rates in bytes/s and FLOP/s of one accelerator, for one number format.

    `device_class`: generation and memory ("Hopper HBM"); devices of one class share fitted coefficients."""

    memory: float
    bandwidth: float
    trunk_rate: float
    expert_rate: float
    wide_rate: float
    link: float
    device_class: str = ""
    link_kind: str = OWN_LINK


class DeviceStepWork(NamedTuple):
    bytes: float
    trunk_flops: float
    expert_flops: float
    attention_flops: float
    exchanged: float

    def compute_s(self, device: DeviceSpec) -> float:
        matmul = self.trunk_flops / device.trunk_rate + self.expert_flops / device.expert_rate
        return matmul + self.attention_flops / device.wide_rate


def build_device_spec(accelerator: Accelerator, number: NumericPrecision, sparse: bool) -> DeviceSpec:
    trunk = "bf16" if sparse and number.trunk_bits(sparse) > 8 else number.name
    return DeviceSpec(
        memory=float(accelerator.memory_bytes),
        bandwidth=accelerator.memory_bandwidth_bytes_per_s,
        trunk_rate=matmul_rate(accelerator, trunk),
        expert_rate=matmul_rate(accelerator, number.name),
        wide_rate=matmul_rate(accelerator, "bf16"),
        link=accelerator.scale_up_bytes_per_s or BUS_BYTES_PER_S,
        device_class=f"{accelerator.arch.split()[0]} {accelerator.memory_kind}" if accelerator.arch else "",
        link_kind=OWN_LINK if accelerator.scale_up_bytes_per_s else BUS,
    )


class ShardedModel(NamedTuple):
    """One engine: weight groups in a number format, sharded over a layout."""

    shape: WeightGroups
    number: NumericPrecision
    layout: ParallelLayout

    @property
    def expert_ranks(self) -> int:
        return max(self.layout.moe_tp * self.layout.ep, self.layout.tp * self.layout.dp)

    def weight_bytes(self) -> float:
        """Return the weight bytes on one device."""
        shape, number, layout = self
        trunk = shape.trunk * number.trunk_bits(shape.sparse) / 8 / layout.tp
        wide = (shape.head + shape.embedding) * HEAD_BITS / 8 / layout.tp
        experts = shape.expert * shape.experts * number.expert_bits / 8 / self.expert_ranks
        return (trunk + wide + experts) / layout.pp

    def request_cache_bytes(self, context: float) -> float:
        """Return the KV cache bytes of one request on one device of its attention rank."""
        shape, number, layout = self
        split = min(layout.tp, shape.cache_splits)
        return shape.cache_value_count(context) * number.cache_bits / 8 / split / layout.pp

    def capacity(self, memory: float, context: float, reserved: float = 0.0) -> float:
        """Return the requests per attention rank whose KV cache fits beside the weights; < 1: the model does not fit.

        `memory` and `reserved` (adapters, a draft, a shared prefix) are bytes of one device, `context` tokens per
        request."""
        room = memory * USABLE_MEMORY_SHARE - WORKSPACE_BYTES - self.weight_bytes() - reserved
        return max(room, 0.0) / max(self.request_cache_bytes(context), 1.0)

    def decode(self, requests: float, context: float) -> DeviceStepWork:
        """Return the work of a decode step for `requests` per attention rank and pipeline stage."""
        shape, _, layout = self
        everyone = requests * layout.dp
        attention = 4 * shape.decode_width * shape.layers * requests * shape.mean_attended_tokens(context)
        return DeviceStepWork(
            bytes=self._weights_read(everyone) + requests * self.request_cache_bytes(context) * layout.pp,
            trunk_flops=2 * (shape.trunk + shape.head) * requests / layout.tp,
            expert_flops=2 * shape.expert * shape.chosen * everyone / self.expert_ranks,
            attention_flops=attention / layout.tp,
            exchanged=self._exchanged_bytes(requests),
        )

    def prefill(self, prompt: float) -> DeviceStepWork:
        """Return the work of prefilling one prompt per attention rank, all ranks at the same time."""
        shape, _, layout = self
        return DeviceStepWork(
            bytes=self._weights_read(prompt * layout.dp),
            trunk_flops=2 * (shape.trunk * prompt + shape.head) / layout.tp,
            expert_flops=2 * shape.expert * shape.chosen * prompt * layout.dp / self.expert_ranks,
            attention_flops=4 * shape.prefill_width * shape.layers * shape.prompt_attention_pairs(prompt) / layout.tp,
            exchanged=self._exchanged_bytes(prompt),
        )

    def _weights_read(self, tokens: float) -> float:
        """Return the bytes of trunk, head and the experts that `tokens` tokens of all ranks are routed to."""
        shape, number, layout = self
        touched = shape.touched_expert_parameters(tokens) * number.expert_bits / 8 / self.expert_ranks
        trunk = (shape.trunk * number.trunk_bits(shape.sparse) + shape.head * HEAD_BITS) / 8 / layout.tp
        return trunk + touched

    def _exchanged_bytes(self, tokens: float) -> float:
        """Return the bytes that one device sends for `tokens` tokens of its attention rank."""
        shape, _, layout = self
        hidden = tokens * shape.hidden * ACTIVATION_BYTES * shape.layers
        reduced = 2 * hidden * 2 * (layout.tp - 1) / layout.tp
        if shape.sparse and layout.ep > 1 and layout.dp > 1:
            spread = min(shape.chosen, layout.ep)
            reduced += 2 * hidden * spread * (layout.ep - 1) / layout.ep / layout.tp
        return reduced
