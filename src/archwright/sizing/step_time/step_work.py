"""The exact part of a serving prediction: bytes, FLOPs and exchanged bytes of one device, per phase.

One decode step of a worker with b requests per attention rank at context c, B = b x dp:
- bytes = trunk/tp + head/tp + experts touched by B tokens/(expert ranks) + b x cache(c)/min(tp, cache splits)
- FLOPs = 2 (trunk + head) b/tp + 2 k experts B/(expert ranks) + 4 width L b seen(c)/tp
- exchanged = 2 all-reduces of b x d per layer over tp, and with several expert ranks the experts' inputs and outputs
A prompt of s tokens the same with s tokens at once and the causal half of attention.
Pipeline stages pass B/pp at a time: a token waits for all stages, and each holds 1/pp of weights and cache.
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.tables.records import Accelerator
from archwright.sizing.model.numeric_precision import NumericPrecision, matmul_rate
from archwright.sizing.model.parallel_layout import ParallelLayout
from archwright.sizing.model.weight_groups import WeightGroups

# Of a device's memory an engine leaves to the run time, to activations and to fragmentation.
USABLE_MEMORY_SHARE = 0.92
WORKSPACE_BYTES = 3e9
HEAD_BITS = 16.0
ACTIVATION_BYTES = 2.0
# A link nobody states: a host bus of the fourth generation, 16 lanes, one way.
BUS_BYTES_PER_S = 25e9


class DeviceSpec(NamedTuple):
    """What one accelerator gives a worker, in a number format."""

    memory: float
    bandwidth: float
    trunk_rate: float
    expert_rate: float
    wide_rate: float
    link: float


class DeviceStepWork(NamedTuple):
    """Work of one device."""

    bytes: float
    trunk_flops: float
    expert_flops: float
    attention_flops: float
    exchanged: float

    def compute_s(self, device: DeviceSpec) -> float:
        """At the device's stated rates."""
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
    )


class ShardedModel(NamedTuple):
    """One engine: a shape in a format over a layout."""

    shape: WeightGroups
    number: NumericPrecision
    layout: ParallelLayout

    @property
    def expert_ranks(self) -> int:
        return max(self.layout.moe_tp * self.layout.ep, self.layout.tp * self.layout.dp)

    def weight_bytes(self) -> float:
        """Bytes on one device."""
        shape, number, layout = self
        trunk = shape.trunk * number.trunk_bits(shape.sparse) / 8 / layout.tp
        wide = (shape.head + shape.embedding) * HEAD_BITS / 8 / layout.tp
        experts = shape.expert * shape.experts * number.expert_bits / 8 / self.expert_ranks
        return (trunk + wide + experts) / layout.pp

    def request_cache_bytes(self, context: float) -> float:
        """Cache bytes one request keeps on one device of its attention rank."""
        shape, number, layout = self
        split = min(layout.tp, shape.cache_splits)
        return shape.cache_value_count(context) * number.cache_bits / 8 / split / layout.pp

    def capacity(self, memory: float, context: float) -> float:
        """Requests per attention rank whose cache fits beside the weights; below 1 the model does not fit."""
        room = memory * USABLE_MEMORY_SHARE - WORKSPACE_BYTES - self.weight_bytes()
        return max(room, 0.0) / max(self.request_cache_bytes(context), 1.0)

    def decode(self, requests: float, context: float) -> DeviceStepWork:
        """One step for `requests` per attention rank (per pipeline stage)."""
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
        """One prompt on one attention rank; the other ranks read theirs at the same time."""
        shape, _, layout = self
        return DeviceStepWork(
            bytes=self._weights_read(prompt * layout.dp),
            trunk_flops=2 * (shape.trunk * prompt + shape.head) / layout.tp,
            expert_flops=2 * shape.expert * shape.chosen * prompt * layout.dp / self.expert_ranks,
            attention_flops=4 * shape.prefill_width * shape.layers * shape.prompt_attention_pairs(prompt) / layout.tp,
            exchanged=self._exchanged_bytes(prompt),
        )

    def _weights_read(self, tokens: float) -> float:
        """Bytes of trunk, head and the experts that `tokens` tokens of all ranks touch."""
        shape, number, layout = self
        touched = shape.touched_expert_parameters(tokens) * number.expert_bits / 8 / self.expert_ranks
        trunk = (shape.trunk * number.trunk_bits(shape.sparse) + shape.head * HEAD_BITS) / 8 / layout.tp
        return trunk + touched

    def _exchanged_bytes(self, tokens: float) -> float:
        """Bytes one device sends for `tokens` tokens of its attention rank."""
        shape, _, layout = self
        hidden = tokens * shape.hidden * ACTIVATION_BYTES * shape.layers
        reduced = 2 * hidden * 2 * (layout.tp - 1) / layout.tp
        if shape.sparse and layout.ep > 1 and layout.dp > 1:
            spread = min(shape.chosen, layout.ep)
            reduced += 2 * hidden * spread * (layout.ep - 1) / layout.ep / layout.tp
        return reduced
