"""FLOPs and memory of one training step per kind of training, independent of the machine.

Not counted: the optimiser (a few passes over the trained values), gradients of activations beyond what autograd keeps,
and allocator waste. The measured shares of a catalog row include them.
"""

from typing import ClassVar, NamedTuple

from archwright.catalog.tables.records import ModelSpec
from archwright.contract.record import Record
from archwright.sizing.model.architecture import attention_flops, body_parameters, head_parameters

DTYPE_BYTES = {"bf16": 2, "fp32": 4}
# Per trained value: weight, gradient and two moments, in 32 bits each.
TRAINED_BYTES = 16
# A base model is stored in 32 bits; its file counts as memory while it is read.
FILE_BYTES = 4
# Copies of the rows in memory: read, sorted, split, encoded as numbers. Assumed.
DATA_COPIES = 4
# The backward pass recomputes the scores and makes four matmuls for two of the forward pass.
ATTENTION_PASSES = 3.5


class StepFlops(NamedTuple):
    """FLOPs of one step; `dense` and `attention` run at different shares of the matmul rate."""

    dense: float
    attention: float = 0.0


class StepMemory(NamedTuple):
    """Bytes without the process itself: `lasting` during the run, added by the largest `step`, during `loading`."""

    lasting: float
    step: float
    loading: float = 0.0


class LoraStep(Record):
    """LoRA adapters on the seven projections of every layer of a frozen base model.

    FLOPs per token: 2 P forward and 2 P backward through the frozen weights (without their gradients); 6 per trained
    value; 4 V d of the head on learned tokens only. Rows are packed into one sequence with a block mask, but the kernel
    computes every pair, so attention counts the whole step length for each token.
    Memory: base, adapters with moments, and rows for the whole run; a step adds what autograd keeps per token and
    layer, and the logits of the learned tokens."""

    model: ModelSpec
    ffn: int
    rank: int
    data_bytes: int = 0
    formula: ClassVar[str] = (
        f"step = [n (4 P + 6 A) + 4 n s V d] / share + {ATTENTION_PASSES:g} n a(n) / attention share + fixed per "
        "layer x L. P: body parameters, A: adapter parameters, s: share of learned tokens, a(n): attention over n"
    )

    @property
    def layers(self) -> int:
        return self.model.layers

    @property
    def trainable(self) -> int:
        return lora_parameters(self.model, self.ffn, self.rank)

    def flops(self, units: float, learned: float) -> StepFlops:
        body, head = body_parameters(self.model), head_parameters(self.model)
        dense = units * (4 * body + 6 * self.trainable) + 4 * units * learned * head
        return StepFlops(dense, units * ATTENTION_PASSES * attention_flops(self.model, units))

    def memory(self, units: float, learned: float, dtype: str) -> StepMemory:
        width, parameters = DTYPE_BYTES[dtype], self.model.parameters
        # Logits: in the base's format, in 32 bits, and their log-softmax or, in the backward pass, their gradients.
        logits = units * learned * self.model.vocabulary * (width + 8)
        step = self.layers * units * self._activation_bytes(units, width) + logits
        rows = float(DATA_COPIES * self.data_bytes)
        lasting = rows + width * parameters + TRAINED_BYTES * self.trainable
        return StepMemory(lasting, step, loading=rows + parameters * (FILE_BYTES + width))

    def _activation_bytes(self, units: float, width: int) -> float:
        """Return the bytes that autograd keeps of one token in one layer.

        In 32 bits: six projection inputs and two norm inputs. In the base's format: query, key and value expanded to
        all heads, and the output. Feed-forward: three in the base's format, one in 32 bits. One row of the mask."""
        heads = self.model.heads * self.model.head_dim
        hidden = 8 * self.model.hidden * 4 + 4 * heads * width
        return hidden + self.ffn * (3 * width + 4) + units * width


def lora_parameters(model: ModelSpec, ffn: int, rank: int) -> int:
    """Return the adapter parameters: r (a + b) for rank r on an a x b projection, seven projections per layer."""
    d, own, shared = model.hidden, model.heads * model.head_dim, model.kv_heads * model.head_dim
    return model.layers * rank * (2 * (d + own) + 2 * (d + shared) + 3 * (d + ffn))


class NetworkStep(Record):
    """Full training of a small network: three times its forward FLOPs per row.

    `values`: activations kept per row; `data_rows`: rows of the data set, which is held in memory."""

    layers: int
    parameters: int
    forward_flops: float
    values: int
    inputs: int
    data_rows: int
    formula: ClassVar[str] = "step = 3 x forward FLOPs x rows / share + fixed + fixed per row x rows"

    def flops(self, units: float, learned: float) -> StepFlops:
        return StepFlops(3 * self.forward_flops * units * learned)

    def memory(self, units: float, learned: float, dtype: str) -> StepMemory:
        lasting = TRAINED_BYTES * self.parameters + DTYPE_BYTES[dtype] * self.data_rows * self.inputs
        return StepMemory(lasting, 2 * DTYPE_BYTES[dtype] * self.values * units * learned)


class BoostedTreesStep(Record):
    """Boosted trees: each round reads every feature of every row once per tree (one tree, or one per class)."""

    features: int
    trees_per_round: int
    data_rows: int
    formula: ClassVar[str] = (
        "round = rows x features x trees / share + fixed + fixed per tree x trees + fixed per row x rows"
    )

    @property
    def layers(self) -> int:
        return self.trees_per_round

    def flops(self, units: float, learned: float) -> StepFlops:
        return StepFlops(units * learned * self.features * self.trees_per_round)

    def memory(self, units: float, learned: float, dtype: str) -> StepMemory:
        """Return the bytes of the rows as numbers and as bins, and of gradients and scores per tree."""
        lasting = self.data_rows * self.features * (DTYPE_BYTES[dtype] + 2)
        return StepMemory(lasting, self.data_rows * 12.0 * self.trees_per_round)


def build_convolution_step(
    shape: tuple[int, int, int], channels: tuple[int, ...], labels: int, rows: int
) -> NetworkStep:
    """Return a network of 3 x 3 convolutions, each followed by 2 x 2 pooling, and one linear layer.

    `shape`: height, width, channels of an image. A convolution's output is kept before and after its ReLU."""
    height, width, inputs = shape
    flops, parameters, values = 0, 0, height * width * inputs
    for outputs in channels:
        flops += 2 * 9 * inputs * outputs * height * width
        parameters += (9 * inputs + 1) * outputs
        values += 2 * height * width * outputs
        height, width, inputs = height // min(2, height), width // min(2, width), outputs
    last = height * width * inputs
    return NetworkStep(
        layers=len(channels) + 1,
        parameters=parameters + (last + 1) * labels,
        forward_flops=float(flops + 2 * last * labels),
        values=values + last + labels,
        inputs=shape[0] * shape[1] * shape[2],
        data_rows=rows,
    )
