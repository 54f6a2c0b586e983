"""Records of one machine, its steady load and its batch work; the planner multiplies them by counts and prices."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from archwright.catalog.tables.records import Accelerator
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Basis
from archwright.contract.plan import ConstraintViolation, EngineOptions, LimitProbability, Parallelism

# The limits of a load at a rate of one machine in requests/s, with their probabilities.
LimitAssessor = Callable[[float], tuple[LimitProbability, ...]]


def assess_nothing(rate: float) -> tuple[LimitProbability, ...]:
    return ()


class Machine(NamedTuple):
    """One machine: rented, bought or already owned. `cores` are hardware threads (vCPUs)."""

    id: str
    accelerator: Accelerator | None
    accelerator_count: int
    cores: int
    ram_bytes: float
    network_bytes_per_s: float | None = None


class SteadyCapacity(NamedTuple):
    """Highest steady load of one machine within every limit at the certainty of its workload; p95 latencies at it.

    `requests_per_s`: its value is the planned load, its interval that of the capacity. `assess`: the limits at
    any load. `doubts`: limits that hold with less than the certainty even at it.
    The machine runs `engines` equal engines on `devices` accelerators each (0: on the CPU). `slots` and
    `context_tokens` are per engine; `busy_w` is the draw at that load. `misses`: limits that even an idle machine
    violates and that were ignored."""

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
    assess: LimitAssessor = assess_nothing
    doubts: int = 0
    options: EngineOptions = EngineOptions()

    @property
    def weakness(self) -> float:
        """Return the number of broken limits; limits that hold with too little certainty count a hundredth each."""
        return len(self.misses) + self.doubts / 100


class BatchWork(NamedTuple):
    """Batch work: a run takes `machine_hours` on one machine and may use `least` to `most` machines at once.

    Each further machine adds `scaling` of the first machine's speed. A `curve` states machines and hours of a run from
    `least` to `most` instead; counts between are interpolated. `misses`: reasons why the work does not fit; `unstated`:
    id of the machine if its network rate is unknown."""

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
    curve: tuple[tuple[int, float], ...] = ()

    def hours(self, machines: int) -> float:
        """Return the wall-clock hours of one run on `machines` machines, at the estimate's value."""
        used = max(self.least, min(machines, self.most))
        for (few, slow), (many, fast) in pairwise(self.curve):
            if used <= many:
                return float(slow * (fast / slow) ** (math.log(used / few) / math.log(many / few)))
        return self.machine_hours.value / (1 + (used - 1) * self.scaling)
