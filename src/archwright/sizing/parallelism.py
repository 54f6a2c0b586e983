"""How one replica is spread over the accelerators of a machine: tensor parallelism, powers of two.

Every device takes an equal share of the attention heads, so their number must divide the model's.
"""

from __future__ import annotations

from archwright.catalog.rows import Efficiency, ModelSpec
from archwright.sizing.memory import CacheDemand, engine_memory, holds


def divides(model: ModelSpec, count: int) -> bool:
    """Whether `count` devices can share the model."""
    return count == 1 or model.heads % count == 0


def least_count(
    model: ModelSpec, weights: float, efficiency: Efficiency, demand: CacheDemand, device_bytes: int, most: int
) -> int | None:
    """The smallest power of two, at most `most`, of devices whose memory holds weights and cache; None without."""
    count = 1
    while count <= most:
        needed = engine_memory(model, weights, efficiency, demand, count)
        if divides(model, count) and holds("gpu", float(device_bytes * count), needed):
            return count
        count *= 2
    return None
