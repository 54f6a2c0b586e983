"""Memory of a serving engine on a CPU: weights + overhead + KV cache of a full context for every slot, in bytes.

Overhead: a constant (interpreter, library, vocabulary) + compute buffers for the tokens of a step.

Engines on accelerators: step_time/step_work.py.
"""

from typing import NamedTuple

from archwright.catalog.tables.records import Efficiency, ModelSpec
from archwright.sizing.model.architecture import cache_bytes

# Share of the memory that an engine may use; the rest is for the operating system and fragmentation.
USABLE_SHARE = 0.8
# Compute buffers per token of a step: about four rows of 4-byte values as wide as the feed-forward layer. Fitted on
# models of 135M to 4B: bench/engine/sweep.py.
BUFFER_BYTES_PER_FFN = 16


class EngineMemory(NamedTuple):
    """Bytes of one replica."""

    weights: float
    cache: float
    overhead: float

    @property
    def total(self) -> float:
        return self.weights + self.cache + self.overhead


def weights_bytes(model: ModelSpec, bits_per_weight: float, file_bytes: int | None = None) -> float:
    """Return the size of the model file if there is a file, else parameters x bits / 8."""
    return float(file_bytes) if file_bytes is not None else model.parameters * bits_per_weight / 8


def compute_engine_memory(
    model: ModelSpec, weights: float, efficiency: Efficiency, slots: int, context_tokens: int, batch_tokens: int = 0
) -> EngineMemory:
    """Return the memory of a replica with `slots` requests of up to `context_tokens` each; a step has at most
    `batch_tokens` tokens."""
    width = (model.expert_ffn or 0) * model.experts_active or model.ffn or 4 * model.hidden
    overhead = float(efficiency.memory_overhead_bytes) + batch_tokens * width * BUFFER_BYTES_PER_FFN
    return EngineMemory(weights=weights, cache=slots * cache_bytes(model, context_tokens), overhead=overhead)


def fits_memory(memory_bytes: float, needed: EngineMemory) -> bool:
    return needed.total <= memory_bytes * USABLE_SHARE
