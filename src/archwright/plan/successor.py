"""What follows a machine at the end of its economic life: the type that does as much for the least.

As much: memory, memory bandwidth and the best matrix rate that both have, each at least the old one's, the rates of
another maker's devices at the speed they were measured to reach. Several are renewed together, so their number need
not be whole, but none is renewed by less than one; a machine of another size does not follow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.cost_rows import Node
from archwright.catalog.facts import Catalog
from archwright.catalog.rows import Accelerator

# Formats that engines compute in, the widest first: the first that both have is compared.
FORMATS = ("bf16", "fp16")
# Of another size: more than so many times what the old one is.
MOST = 2.0


class Successor(NamedTuple):
    """`machines` of the type do what one of the old does."""

    node: Node
    machines: float

    @property
    def usd(self) -> float:
        return self.node.price_usd * self.machines


def successor(node: Node, allowed: Iterable[Node], catalog: Catalog) -> Successor:
    """Itself, where no other is cheaper."""
    own = Successor(node, 1.0)
    others = (_against(node, other, catalog) for other in allowed if other.id != node.id)
    alike = (one for one in others if one is not None and one.machines <= MOST)
    return min([own, *alike], key=lambda one: (one.usd, one.node.id))


def _against(old: Node, new: Node, catalog: Catalog) -> Successor | None:
    before, after = (catalog.accelerators.get(node.accelerator or "") for node in (old, new))
    if before is None and after is None:
        return Successor(new, max(1.0, old.cores / new.cores, old.ram_bytes / new.ram_bytes))
    if before is None or after is None or old.accelerator_count != new.accelerator_count:
        return None
    rates = _rates(before, after, catalog)
    if rates is None:
        return None
    memory = before.memory_bytes / after.memory_bytes
    return Successor(new, max(1.0, memory, *rates))


def _rates(old: Accelerator, new: Accelerator, catalog: Catalog) -> tuple[float, float] | None:
    """Bandwidth and matrix rate, old over new."""
    both = next((name for name in FORMATS if name in old.flops and name in new.flops), None)
    if both is None:
        return None
    pace = _pace(new, catalog) / _pace(old, catalog)
    bandwidth = old.memory_bandwidth_bytes_per_s / new.memory_bandwidth_bytes_per_s
    return bandwidth / pace, old.flops[both] / new.flops[both] / pace


def _pace(device: Accelerator, catalog: Catalog) -> float:
    known = (catalog.work_rates.get(f"serving.{name}") for name in (f"speed-{device.vendor}", f"rate-{device.id}"))
    found = 1.0
    for row in known:
        found *= row.typical if row is not None else 1.0
    return found
