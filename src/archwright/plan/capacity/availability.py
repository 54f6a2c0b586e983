"""How often enough machines are up and the place they stand in with them, and how many spares a promise needs.

One machine is up a share `a` of the time, failures independent. With n needed and k spare, they hold when at most k of
n + k are down: sum over i <= k of C(n + k, i) (1 - a)^i a^(n + k - i). Power, cooling and the line of a place take all
of them at once, whatever k is: what is promised is that share times the place's own.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from typing import NamedTuple

from archwright.contract.estimate import Estimate

MACHINE_AVAILABILITY = 0.995
MACHINE_AVAILABILITY_LOW = 0.98
SPARE_REQUIRED_ABOVE = 0.99
MAX_SPARES = 64
# Of the time that a target allows to be down, the half is the machines'; the other is left to their place.
MACHINE_DOWNTIME_SHARE = 0.5
ROUNDING = 1e-12
# What the parts that a solver leaves each type may be short of the load together.
SOLVER_TOLERANCE = 1e-6
# What a house is where the needs do not say: concurrently maintainable.
DEFAULT_TIER = 3
# So many machines of each type, and the share of the load that one of them carries.
LoadSharing = tuple[tuple[int, float], ...]


class FailureDomain(NamedTuple):
    """What all machines have in common: how often it is `up`, and what a promise `beyond` it takes."""

    said: str
    up: Estimate
    beyond: str


class RedundancyRequirement(NamedTuple):
    """Machines that must run and the spares beside them; `place` None: its outages are nobody's here. `among`: who
    shares the load, in each year, where several types do.
    """

    needed: int
    spares: int
    place: FailureDomain | None = None
    among: tuple[LoadSharing, ...] = ()

    def machine_availability(self, machine: float = MACHINE_AVAILABILITY) -> float:
        """The share of time that enough of them are up, in the worst year."""
        if not self.among:
            return compute_availability(self.needed, self.spares, machine)
        return min(compute_shared_availability(one, machine) for one in self.among)

    def estimate_availability(self, basis: str = "") -> Estimate:
        """Of the time; at best nothing is ever down."""
        at, low = (1.0, 1.0) if self.place is None else (self.place.up.value, self.place.up.low)
        value = at * self.machine_availability()
        lowest = min(value, low * self.machine_availability(MACHINE_AVAILABILITY_LOW))
        return Estimate(value=value, low=lowest, high=1.0, unit="share", basis=basis)

    def is_limited_by_place(self, target: float) -> bool:
        """Whether no number of spares would hold it: the place breaks it alone."""
        return self.place is not None and self.place.up.value * compute_availability(self.needed, MAX_SPARES) < target


def compute_availability(needed: int, spares: int, machine: float = MACHINE_AVAILABILITY) -> float:
    total = needed + spares
    return min(1.0, math.fsum(math.exp(_log_binomial_probability(total, down, machine)) for down in range(spares + 1)))


def _log_binomial_probability(total: int, down: int, machine: float) -> float:
    """Log of the probability that exactly `down` of `total` are down: in logs, because C(n, i) outgrows a float."""
    ways = math.lgamma(total + 1) - math.lgamma(down + 1) - math.lgamma(total - down + 1)
    return ways + down * math.log(1 - machine) + (total - down) * math.log(machine)


@functools.cache
def count_spares(needed: int, target: float | None, machine: float = MACHINE_AVAILABILITY) -> int:
    """The fewest spares that keep half of the allowed downtime; at least one above 0.99, none without a target."""
    if target is None:
        return 0
    least, goal = 1 if target > SPARE_REQUIRED_ABOVE else 0, 1 - (1 - target) * MACHINE_DOWNTIME_SHARE - ROUNDING
    # One spare more never holds less often.
    held = range(least, MAX_SPARES)
    return least + bisect_left(held, True, key=lambda spare: compute_availability(needed, spare, machine) >= goal)


def compute_shared_availability(machines: LoadSharing, machine: float = MACHINE_AVAILABILITY) -> float:
    """The same where a load is shared among types: service holds while those that are up carry all of it."""
    lost = sum(count * carried for count, carried in machines) - 1 + SOLVER_TOLERANCE
    found = [(0.0, 1.0)]
    for count, carried in machines:
        downs = range(min(count, MAX_SPARES, math.floor(max(0.0, lost) / carried)) + 1)
        found = [
            (gone + down * carried, share * math.exp(_log_binomial_probability(count, down, machine)))
            for gone, share in found
            for down in downs
            if gone + down * carried <= lost
        ]
    return min(1.0, math.fsum(share for _, share in found))
