"""Memory of a serving engine on a CPU: weights + overhead + KV cache of a full context for every slot, in bytes.

Engines on accelerators: step_time/step_work.py.
"""

from typing import NamedTuple

from archwright.catalog.tables.records import Efficiency, ModelSpec
from archwright.sizing.model.architecture import cache_bytes

# Share of the memory that an engine may use; the rest is for the operating system and fragmentation.
USABLE_SHARE = 0.8


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
    model: ModelSpec, weights: float, efficiency: Efficiency, slots: int, context_tokens: int
) -> EngineMemory:
    """Return the memory of a replica with `slots` requests of up to `context_tokens` each."""
    cache = slots * cache_bytes(model, context_tokens)
    return EngineMemory(weights=weights, cache=cache, overhead=float(efficiency.memory_overhead_bytes))


def fits_memory(memory_bytes: float, needed: EngineMemory) -> bool:
    return needed.total <= memory_bytes * USABLE_SHARE
