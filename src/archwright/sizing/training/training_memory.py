"""Bytes a training run holds on each device, by what is split over how many of them.

With N parameters of a stage (parameters / tensor / pipeline) and d data-parallel copies:
- weights 2 N, gradients 2 N, and for Adam 12 N (a 32-bit copy and two moments): ZeRO (arXiv 1910.02054) divides the
  moments by d at stage 1, gradients too at 2, weights too at 3, which gathers two layers and the head at a time. A
  pipeline keeps weights whole and sums gradients in 32 bits (4 N), the moments divided by d.
- activations of a layer and token, in 16 bits: two norms' inputs and outputs (4 h), query, key, value and attention's
  output (2 a + 2 k), feed-forward 3 f when gated, else 2 f + h; 34 h for the usual shape, as in arXiv 2205.05198 (fused
  attention does not keep its 5 a s / h of scores). Split over tensor-parallel ranks, sequence parallelism included.
  Stage one of a pipeline holds as many micro-batches as it has stages.
- recomputation keeps h at each layer ("full") or about half ("selective"), and one layer whole while it is made again.
- scores of the vocabulary: 14 bytes each (16 bits; in 32 bits themselves, their logarithm and its gradient), split
  over tensor-parallel ranks; for adapters made in chunks. Adapters have gradients and moments of their own alone.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from archwright.catalog.tables.records import ModelSpec
from archwright.sizing.model.architecture import head_parameters
from archwright.sizing.training.training_flops import lora_parameters

WEIGHT_BYTES, GRADIENT_BYTES, WIDE_GRADIENT_BYTES, MOMENT_BYTES = 2.0, 2.0, 4.0, 12.0
ACTIVATION_BYTES = 2.0
# Selective recomputation drops every other product's output; measured against published peaks.
SELECTIVE_ACTIVATION_SHARE = 0.55
SCORE_BYTES = 14.0
SCORE_CHUNKS = 8
LAYERS_GATHERED = 2
ADAPTER_RANK = 16


class ParallelScheme(NamedTuple):
    """How a run is split: ranks of each kind, ZeRO `stage`, sequences of a micro-batch, micro-batches of a
    step, and what is computed again ("none", "selective", "full")."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    stage: int = 3
    micro: int = 1
    rounds: int = 1
    recompute: str = "none"

    @property
    def devices(self) -> int:
        return self.tensor * self.pipeline * self.data

    @property
    def layout_text(self) -> str:
        """As `predict training --layout` takes it."""
        kind = "FSDP" if self.stage == 3 and self.data > 1 else "DP"
        again = "" if self.recompute == "none" else f" {self.recompute}"
        return f"{kind}{self.data} TP{self.tensor} PP{self.pipeline} MBS{self.micro} GA{self.rounds}{again}"


class TrainableModel:
    """What is trained: all of `model`, or adapters of it. Counts are made once: a search asks for them often."""

    def __init__(self, model: ModelSpec, sequence: float, adapters: bool = False) -> None:
        self.model = model
        self.sequence = sequence
        self.adapters = adapters

    @cached_property
    def trained_parameters(self) -> float:
        if not self.adapters:
            return float(self.model.parameters)
        return float(lora_parameters(self.model, feed_forward_width(self.model), ADAPTER_RANK))

    @cached_property
    def layer_activation_bytes(self) -> float:
        """Activations of one token in one layer."""
        return count_activation_bytes(self.model)


class MemoryBreakdown(NamedTuple):
    """Bytes on one device, the fullest."""

    weights: float
    gradients: float
    moments: float
    gathered: float
    activations: float
    scores: float

    @property
    def total(self) -> float:
        return sum(self)


def feed_forward_width(model: ModelSpec) -> int:
    """Its width; where experts are chosen, of those a token passes."""
    if model.experts and model.expert_ffn:
        return model.expert_ffn * (model.experts_active + model.shared_experts)
    return model.ffn or 4 * model.hidden


def is_gated(model: ModelSpec) -> bool:
    """Whether its feed-forward has three matrices: which count of parameters comes nearer to the stated one."""
    if model.experts:
        return True
    attention = 2 * model.hidden * model.head_dim * (model.heads + model.kv_heads)
    width = feed_forward_width(model)
    two, three = (model.layers * (attention + n * model.hidden * width) + head_parameters(model) for n in (2, 3))
    return abs(three - model.parameters) <= abs(two - model.parameters)


def count_activation_bytes(model: ModelSpec) -> float:
    """Activations that one token leaves in one layer when nothing is computed again."""
    width = feed_forward_width(model)
    inner = 3 * width if is_gated(model) else 2 * width + model.hidden
    attention = 2 * model.head_dim * (model.heads + model.kv_heads)
    return ACTIVATION_BYTES * (4 * model.hidden + attention + inner)


def break_down_memory(subject: TrainableModel, scheme: ParallelScheme) -> MemoryBreakdown:
    model = subject.model
    split = scheme.tensor * scheme.pipeline
    own, trained = model.parameters / split, subject.trained_parameters / split
    copies, whole = scheme.data, scheme.pipeline > 1
    gradient = (WIDE_GRADIENT_BYTES if whole else GRADIENT_BYTES) * trained
    sharded = scheme.stage == 3 and not whole and copies > 1
    gathered = LAYERS_GATHERED * own / model.layers + head_parameters(model) / scheme.tensor if sharded else 0.0
    scores = SCORE_BYTES * scheme.micro * subject.sequence * model.vocabulary / scheme.tensor
    return MemoryBreakdown(
        weights=WEIGHT_BYTES * own / (copies if sharded else 1),
        gradients=gradient / (copies if scheme.stage >= 2 and not whole else 1),
        moments=MOMENT_BYTES * trained / (copies if scheme.stage >= 1 else 1),
        gathered=WEIGHT_BYTES * gathered,
        activations=stored_activation_bytes(subject, scheme),
        scores=scores / SCORE_CHUNKS if subject.adapters else scores,
    )


def stored_activation_bytes(subject: TrainableModel, scheme: ParallelScheme) -> float:
    """Bytes that a step keeps between forward and backward."""
    tokens = scheme.micro * subject.sequence / scheme.tensor
    layers = subject.model.layers / scheme.pipeline
    waiting = min(scheme.pipeline, scheme.rounds)
    one = subject.layer_activation_bytes * tokens
    if scheme.recompute == "none":
        return one * layers * waiting
    if scheme.recompute == "selective":
        return one * (layers * waiting * SELECTIVE_ACTIVATION_SHARE + 1)
    # While a layer is made again, its activations and their gradients are there.
    return ACTIVATION_BYTES * subject.model.hidden * tokens * layers * waiting + 2 * one


def checkpoint_bytes(subject: TrainableModel) -> float:
    """What must be written to go on: trained weights and their moments."""
    return (WEIGHT_BYTES + MOMENT_BYTES) * subject.trained_parameters
