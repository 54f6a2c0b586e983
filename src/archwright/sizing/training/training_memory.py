"""Memory of a training run per device in bytes, for a parallel scheme.

With N parameters per stage (parameters / tensor / pipeline) and d data-parallel copies:
- Weights 2 N, gradients 2 N, Adam 12 N (fp32 copy and two moments). ZeRO (arXiv 1910.02054) divides the moments by d at
  stage 1, also the gradients at stage 2, also the weights at stage 3, which gathers two layers and the head at a time.
  A pipeline keeps weights whole and accumulates gradients in fp32 (4 N), with the moments divided by d.
- Activations per layer and token in 16 bits: inputs and outputs of two norms (4 h), query, key, value and attention
  output (2 a + 2 k), feed-forward 3 f if gated, else 2 f + h. This is 34 h for the usual shape, as in arXiv 2205.05198;
  fused attention does not keep the 5 a s / h of attention scores. Sharded over tensor-parallel ranks with sequence
  parallelism. The first pipeline stage holds as many micro-batches as there are stages.
- Recomputation keeps h per layer ("full") or about half ("selective"), and one whole layer during its recomputation.
- Logits: 14 bytes each (16 bits; in 32 bits the logits, their log-softmax and its gradient), sharded over tensor-
  parallel ranks; computed in chunks for adapters. Adapters have gradients and moments only for their own weights.
- Experts are split over the expert ranks, which are data-parallel copies of the rest. QLoRA keeps the base in 4.5 bits.
"""

import math
from functools import cached_property
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.sizing.hardware.device_rates import read_work_rate
from archwright.sizing.model.architecture import head_parameters
from archwright.sizing.model.numeric_precision import WEIGHT_BITS
from archwright.sizing.training.training_flops import lora_parameters

WEIGHT_BYTES, GRADIENT_BYTES, WIDE_GRADIENT_BYTES, MOMENT_BYTES = 2.0, 2.0, 4.0, 12.0
ACTIVATION_BYTES = 2.0
# Selective recomputation drops every second matmul output. The share matches published peak memory.
SELECTIVE_ACTIVATION_SHARE = 0.55
SCORE_BYTES = 14.0
SCORE_CHUNKS = 8
LAYERS_GATHERED = 2
ADAPTER_RANK = 16
RECOMPUTE_SHARES = {"none": 0.0, "selective": 0.25, "full": 1.0}


class ParallelScheme(NamedTuple):
    """Parallelism of a run: ranks per kind, ZeRO `stage`, recomputation ("none", "selective", "full").

    `micro`: sequences per micro-batch; `rounds`: micro-batches per step (gradient accumulation); `expert`: ranks among
    which the experts are split."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    stage: int = 3
    micro: int = 1
    rounds: int = 1
    recompute: str = "none"
    expert: int = 1

    @property
    def devices(self) -> int:
        return self.tensor * self.pipeline * self.data

    @property
    def layout_text(self) -> str:
        """Return the text that `predict training --layout` accepts."""
        kind = "FSDP" if self.stage == 3 and self.data > 1 else "DP"
        recompute = "" if self.recompute == "none" else f" {self.recompute}"
        expert = f" EP{self.expert}" if self.expert > 1 else ""
        return f"{kind}{self.data} TP{self.tensor} PP{self.pipeline}{expert} MBS{self.micro} GA{self.rounds}{recompute}"


class TrainableModel:
    """The trained model: all of `model`, or LoRA adapters of it. Counts are cached for the search of schemes."""

    def __init__(self, model: ModelSpec, sequence: float, adapters: bool = False, packed: bool = False) -> None:
        self.model = model
        self.sequence = sequence
        self.adapters = adapters
        self.packed = packed
        self.weight_bytes = WEIGHT_BITS["int4"] / 8 if packed else WEIGHT_BYTES

    @cached_property
    def trained_parameters(self) -> float:
        if not self.adapters:
            return float(self.model.parameters)
        return float(lora_parameters(self.model, feed_forward_width(self.model), ADAPTER_RANK))

    @cached_property
    def layer_activation_bytes(self) -> float:
        return count_activation_bytes(self.model)


class MemoryBreakdown(NamedTuple):
    """Bytes on the device with the highest use."""

    weights: float
    gradients: float
    moments: float
    gathered: float
    activations: float
    scores: float

    @property
    def total(self) -> float:
        return sum(self)


def count_expert_parameters(model: ModelSpec, parameters: float, active: float) -> float:
    """Return the parameters of all experts, from the counts of all and of active parameters."""
    idle = model.experts - model.experts_active
    return (parameters - active) / idle * model.experts if idle > 0 else 0.0


def expert_ranks(model: ModelSpec, copies: int) -> int:
    """Return the most expert ranks, a power of two, that `copies` and the experts allow, as in published runs."""
    return math.gcd(copies, 2 ** int(math.log2(model.experts))) if model.experts else 1


def feed_forward_width(model: ModelSpec) -> int:
    """Return the feed-forward width; for MoE the sum over the experts of one token."""
    if model.experts and model.expert_ffn:
        return model.expert_ffn * (model.experts_active + model.shared_experts)
    return model.ffn or 4 * model.hidden


def is_gated(model: ModelSpec) -> bool:
    """True if the feed-forward has three matrices: that parameter count is then nearer to the stated one than two."""
    if model.experts:
        return True
    attention = 2 * model.hidden * model.head_dim * (model.heads + model.kv_heads)
    width = feed_forward_width(model)
    two, three = (model.layers * (attention + n * model.hidden * width) + head_parameters(model) for n in (2, 3))
    return abs(three - model.parameters) <= abs(two - model.parameters)


def count_activation_bytes(model: ModelSpec) -> float:
    """Return the activation bytes of one token in one layer without recomputation."""
    width = feed_forward_width(model)
    inner = 3 * width if is_gated(model) else 2 * width + model.hidden
    attention = 2 * model.head_dim * (model.heads + model.kv_heads)
    return ACTIVATION_BYTES * (4 * model.hidden + attention + inner)


def break_down_memory(subject: TrainableModel, scheme: ParallelScheme) -> MemoryBreakdown:
    model = subject.model
    split = scheme.tensor * scheme.pipeline
    experts = count_expert_parameters(model, model.parameters, model.active_parameters)
    held = (model.parameters - experts * (1 - 1 / scheme.expert)) / split
    own, trained = model.parameters / split, subject.trained_parameters / split
    copies, whole = scheme.data, scheme.pipeline > 1
    gradient = (WIDE_GRADIENT_BYTES if whole else GRADIENT_BYTES) * min(trained, held)
    sharded = scheme.stage == 3 and not whole and copies > 1
    gathered = LAYERS_GATHERED * held / model.layers + head_parameters(model) / scheme.tensor if sharded else 0.0
    scores = SCORE_BYTES * scheme.micro * subject.sequence * model.vocabulary / scheme.tensor
    return MemoryBreakdown(
        weights=subject.weight_bytes * (own / copies if sharded else held),
        gradients=gradient / (copies if scheme.stage >= 2 and not whole else 1),
        moments=MOMENT_BYTES * trained / (copies if scheme.stage >= 1 else 1),
        gathered=WEIGHT_BYTES * gathered,
        activations=stored_activation_bytes(subject, scheme),
        scores=scores / SCORE_CHUNKS if subject.adapters else scores,
    )


def stored_activation_bytes(subject: TrainableModel, scheme: ParallelScheme) -> float:
    """Return the activation bytes between forward and backward pass."""
    tokens = scheme.micro * subject.sequence / scheme.tensor
    layers = subject.model.layers / scheme.pipeline
    waiting = min(scheme.pipeline, scheme.rounds)
    one = subject.layer_activation_bytes * tokens
    if scheme.recompute == "none":
        return one * layers * waiting
    if scheme.recompute == "selective":
        return one * (layers * waiting * SELECTIVE_ACTIVATION_SHARE + 1)
    # During the recomputation of a layer, its activations and their gradients are in memory.
    return ACTIVATION_BYTES * subject.model.hidden * tokens * layers * waiting + 2 * one


def device_memory_budget(accelerator: Accelerator, catalog: Catalog) -> float:
    """Return the counted bytes for which a device has space, allocator waste included.

    Usable memory over the geometric mean of the usual and the highest measured / counted ratio. A CPU row states no
    memory: no limit."""
    if not accelerator.memory_bytes:
        return math.inf
    usable = accelerator.memory_bytes - read_work_rate(catalog, "training.workspace").value
    over = read_work_rate(catalog, "training.memory")
    return usable / math.sqrt(over.value * over.high)


def fit_recompute(
    subject: TrainableModel, scheme: ParallelScheme, space: float
) -> tuple[ParallelScheme, MemoryBreakdown] | None:
    """Return the scheme with the least recomputation that fits `space` bytes, and its memory; None if none fits."""
    memory = break_down_memory(subject, scheme)
    free = space - (memory.total - memory.activations)
    for recompute in RECOMPUTE_SHARES if free > 0 else ():
        tried = scheme._replace(recompute=recompute)
        activations = stored_activation_bytes(subject, tried)
        if activations <= free:
            return tried, memory._replace(activations=activations)
    return None


def checkpoint_bytes(subject: TrainableModel) -> float:
    return (WEIGHT_BYTES + MOMENT_BYTES) * subject.trained_parameters
