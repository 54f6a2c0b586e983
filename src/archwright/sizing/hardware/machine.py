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
    """The most steady load that one machine carries within every limit, and the p95 latencies at that load.

    A machine runs `engines` equal engines of `devices` accelerators each (0: host processor); `slots` and
    `context_tokens` are one engine's, `busy_w` the draw at that load. `misses`: limits that an idle machine
    breaks and that were dropped."""

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
    """Work with an end: a run takes `machine_hours` on one machine, `least` to `most` machines at once, each
    further one worth `scaling` of the first. `misses`: why it does not fit; `unstated`: the machine, if its
    network's rate is unknown."""

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
