"""Exact memory of a serving engine: weights, key-value cache, overhead; and whether it fits.

Engine = weights + overhead + cache. An engine on a processor reserves a full context for every slot when it starts;
one on accelerators pages its cache, so it needs what the running requests hold, and at least one full context.
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.rows import Efficiency, ModelSpec
from archwright.sizing.architecture import cache_bytes

# What is left to the operating system and to fragmentation.
USABLE_SHARE = {"cpu": 0.8, "gpu": 0.92}


class EngineMemory(NamedTuple):
    """Bytes of one replica, over all its accelerators."""

    weights: float
    cache: float
    overhead: float

    @property
    def total(self) -> float:
        return self.weights + self.cache + self.overhead


class CacheDemand(NamedTuple):
    """What the cache must hold: `slots` requests of up to `context_tokens`, typically `held_tokens` each."""

    slots: int
    context_tokens: int
    held_tokens: float


def weights_bytes(model: ModelSpec, bits_per_weight: float, file_bytes: int | None = None) -> float:
    """The file's size where there is a file, else parameters x bits / 8."""
    return float(file_bytes) if file_bytes is not None else model.parameters * bits_per_weight / 8


def engine_memory(
    model: ModelSpec, weights: float, efficiency: Efficiency, demand: CacheDemand, count: int = 1
) -> EngineMemory:
    """Memory of a replica spread over `count` accelerators; the overhead is paid on each."""
    whole = cache_bytes(model, demand.context_tokens)
    if efficiency.kind == "cpu":
        cache = demand.slots * whole
    else:
        cache = max(whole, demand.slots * cache_bytes(model, demand.held_tokens))
    return EngineMemory(weights=weights, cache=cache, overhead=float(efficiency.memory_overhead_bytes * count))


def holds(kind: str, memory_bytes: float, needed: EngineMemory) -> bool:
    """Whether hardware of `kind` ("cpu" or "gpu") with `memory_bytes` in all has room."""
    return needed.total <= memory_bytes * USABLE_SHARE[kind]
