"""A machine as sizing sees it, and what one machine does for a workload: steady load it carries, batch work it does.

The planner multiplies these by machines and prices; it never looks inside.
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.tables.records import Accelerator
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Basis
from archwright.contract.plan import ConstraintViolation, Parallelism


class Machine(NamedTuple):
    """One machine, rented, bought or at hand. `cores` are hardware threads as a provider counts vCPUs."""

    id: str
    accelerator: Accelerator | None
    accelerator_count: int
    cores: int
    ram_bytes: float
    network_bytes_per_s: float | None = None


class SteadyCapacity(NamedTuple):
    """The most of a steady load that one machine carries with every limit held: `requests_per_s` (with its band), and
    the latencies at that load. A machine runs `engines` equal engines of `devices` accelerators each (0 on a host
    processor). `slots` and `context_tokens` are one engine's. `misses` names the limits that even an idle machine
    breaks; its capacity is then what it does without them. `busy_w` is the draw at that load.
    """

    model: str
    requests_per_s: Estimate
    latency_p95_s: Estimate
    ttft_p95_s: Estimate | None
    tpot_p95_s: Estimate | None
    engine: str
    quantisation: str
    engines: int
    devices: int
    parallelism: Parallelism
    slots: int
    context_tokens: int
    busy_w: float
    bases: tuple[Basis, ...]
    misses: tuple[ConstraintViolation, ...] = ()
    assumptions: tuple[str, ...] = ()


class BatchWork(NamedTuple):
    """Work with an end: one run takes `machine_hours` on one machine, `least` to `most` machines at once, each further
    machine at `scaling` of the first (1 is perfect). `misses` says why it does not fit at all. `unstated` names the
    machine where nobody states the network that several of them would work over.
    """

    model: str
    machine_hours: Estimate
    least: int
    most: int
    scaling: float
    busy_w: float
    bases: tuple[Basis, ...]
    misses: tuple[ConstraintViolation, ...] = ()
    assumptions: tuple[str, ...] = ()
    unstated: str = ""

    def hours(self, machines: int) -> float:
        """Wall-clock hours of one run on so many machines, at the estimate's value."""
        used = max(self.least, min(machines, self.most))
        return self.machine_hours.value / (1 + (used - 1) * self.scaling)
