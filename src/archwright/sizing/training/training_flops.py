"""What a step of each kind of training computes and holds: pure counts, before any machine comes in.

Left out: the optimiser (a few passes over the trained values), gradients of activations beyond what autograd keeps,
and what an allocator wastes; the measured shares of a catalog row stand for them.
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.tables.records import ModelSpec
from archwright.contract.record import Record
from archwright.sizing.model.architecture import attention_flops, body_parameters, head_parameters

DTYPE_BYTES = {"bf16": 2, "fp32": 4}
# A trained value: weight, gradient and two moments, in 32 bits each.
TRAINED_BYTES = 16
# A base lies on disk in 32 bits, and its file counts as memory while it is read.
FILE_BYTES = 4
# Rows are read, brought into one order, split, and made into numbers. Assumed.
DATA_COPIES = 4
# Backward recomputes the scores and makes four products where forward made two.
ATTENTION_PASSES = 3.5


class StepFlops(NamedTuple):
    """What one step computes. `dense` and `attention` run at shares of their own."""

    dense: float
    attention: float = 0.0


class StepMemory(NamedTuple):
    """Memory without the process itself: what lasts, what the largest step adds, and what loading needs before it."""

    lasting: float
    step: float
    loading: float = 0.0


class LoraStep(Record):
    """Low-rank adapters on the seven projections of every layer of a frozen base.

    FLOPs of a token: 2 P forward and 2 P back through the frozen weights (their gradients are not needed); 6 for each
    trained value; the head, 4 V d, on learned tokens only. Rows are packed into one sequence whose mask keeps them
    apart, but the kernel computes every pair: attention counts the step's whole length for each token.
    Memory: base, adapters with their moments and the rows last; a step adds what autograd keeps of each token and
    layer, and the learned tokens' scores."""

    model: ModelSpec
    ffn: int
    rank: int
    data_bytes: int = 0

    @property
    def layers(self) -> int:
        return self.model.layers

    @property
    def trainable(self) -> int:
        return lora_parameters(self.model, self.ffn, self.rank)

    @property
    def formula(self) -> str:
        return (
            f"step = [n (4 P + 6 A) + 4 n s V d] / share + {ATTENTION_PASSES:g} n a(n) / attention share + fixed per "
            "layer x L; P parameters of the body, A of the adapters, s share learned, a(n) attention to n tokens"
        )

    def flops(self, units: float, learned: float) -> StepFlops:
        body, head = body_parameters(self.model), head_parameters(self.model)
        dense = units * (4 * body + 6 * self.trainable) + 4 * units * learned * head
        return StepFlops(dense, units * ATTENTION_PASSES * attention_flops(self.model, units))

    def memory(self, units: float, learned: float, dtype: str) -> StepMemory:
        width, parameters = DTYPE_BYTES[dtype], self.model.parameters
        # Scores: in the base's format, in 32 bits, and their logarithms or, going back, their gradients.
        scores = units * learned * self.model.vocabulary * (width + 8)
        step = self.layers * units * self._activation_bytes(units, width) + scores
        rows = float(DATA_COPIES * self.data_bytes)
        lasting = rows + width * parameters + TRAINED_BYTES * self.trainable
        return StepMemory(lasting, step, loading=rows + parameters * (FILE_BYTES + width))

    def _activation_bytes(self, units: float, width: int) -> float:
        """Of one token in one layer, counted from what autograd keeps: six inputs of projections and two of norms in
        32 bits, query, key and value widened to all heads and the output in the base's format; of the feed-forward
        three in the base's format and one in 32 bits; a row of the mask."""
        heads = self.model.heads * self.model.head_dim
        hidden = 8 * self.model.hidden * 4 + 4 * heads * width
        return hidden + self.ffn * (3 * width + 4) + units * width


def lora_parameters(model: ModelSpec, ffn: int, rank: int) -> int:
    """A rank r adapter of an a x b projection has r (a + b) values; seven projections a layer."""
    d, own, shared = model.hidden, model.heads * model.head_dim, model.kv_heads * model.head_dim
    return model.layers * rank * (2 * (d + own) + 2 * (d + shared) + 3 * (d + ffn))


class NetworkStep(Record):
    """A small network trained whole: three passes of its forward FLOPs a row; `values` are what a row's forward keeps,
    `data_rows` the rows of the data set, which lie in memory."""

    layers: int
    parameters: int
    forward_flops: float
    values: int
    inputs: int
    data_rows: int

    @property
    def formula(self) -> str:
        return "step = 3 x forward FLOPs x rows / share + fixed + fixed per row x rows"

    def flops(self, units: float, learned: float) -> StepFlops:
        return StepFlops(3 * self.forward_flops * units * learned)

    def memory(self, units: float, learned: float, dtype: str) -> StepMemory:
        lasting = TRAINED_BYTES * self.parameters + DTYPE_BYTES[dtype] * self.data_rows * self.inputs
        return StepMemory(lasting, 2 * DTYPE_BYTES[dtype] * self.values * units * learned)


class BoostedTreesStep(Record):
    """Boosted trees: every round reads each feature of each row once for each tree (one, or one a class)."""

    features: int
    trees_per_round: int
    data_rows: int

    @property
    def layers(self) -> int:
        return self.trees_per_round

    @property
    def formula(self) -> str:
        return "round = rows x features x trees / share + fixed + fixed per tree x trees + fixed per row x rows"

    def flops(self, units: float, learned: float) -> StepFlops:
        return StepFlops(units * learned * self.features * self.trees_per_round)

    def memory(self, units: float, learned: float, dtype: str) -> StepMemory:
        """The rows as numbers and as bins; gradients and scores of each tree."""
        lasting = self.data_rows * self.features * (DTYPE_BYTES[dtype] + 2)
        return StepMemory(lasting, self.data_rows * 12.0 * self.trees_per_round)


def build_convolution_step(
    shape: tuple[int, int, int], channels: tuple[int, ...], labels: int, rows: int
) -> NetworkStep:
    """3 x 3 convolutions that keep height and width, each behind it a pooling that halves them, then one linear layer.

    `shape` is height, width, channels of a picture; a convolution's output is kept before and after it is rectified."""
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
