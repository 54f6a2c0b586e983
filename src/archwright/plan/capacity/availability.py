"""Availability of redundant machines and of their site, and the spares that a target needs.

One machine is available a share `a` of the time; failures are independent. With n needed and k spare machines, the
service is available if at most k of n + k are down: sum over i <= k of C(n + k, i) (1 - a)^i a^(n + k - i).
Power, cooling and the uplink of a site affect all machines at once, so the result is multiplied by the site's
availability.
"""

import functools
import math
from bisect import bisect_left
from typing import NamedTuple

from archwright.contract.estimate import Estimate

MACHINE_AVAILABILITY = 0.995
MACHINE_AVAILABILITY_LOW = 0.98
SPARE_REQUIRED_ABOVE = 0.99
MAX_SPARES = 64
# Machines may use half of the downtime that a target allows; the other half is reserved for the site.
MACHINE_DOWNTIME_SHARE = 0.5
ROUNDING = 1e-12
# Rounding error of a solver's shares of a load, summed over machine types.
SOLVER_TOLERANCE = 1e-6
# Data centre tier if the needs state none: concurrently maintainable.
DEFAULT_TIER = 3
# Machines of each type, and the share of the load that one machine of the type carries.
LoadSharing = tuple[tuple[int, float], ...]


class FailureDomain(NamedTuple):
    """The site or zone that all machines share: its availability `up`, and the remedy if a target exceeds it."""

    said: str
    up: Estimate
    remedy: str


class RedundancyRequirement(NamedTuple):
    """Machines that must run, and their spares.

    `place` None: outages of the site do not count. `among`: the machine types that share the load, for each year.
    """

    needed: int
    spares: int
    place: FailureDomain | None = None
    among: tuple[LoadSharing, ...] = ()

    def machine_availability(self, machine: float = MACHINE_AVAILABILITY) -> float:
        """Return the share of time in which enough machines are available, in the worst year."""
        if not self.among:
            return compute_availability(self.needed, self.spares, machine)
        return min(compute_shared_availability(one, machine) for one in self.among)

    def estimate_availability(self, basis: str = "") -> Estimate:
        """Return the available share of time, site included; the upper end is 1."""
        at, low = (1.0, 1.0) if self.place is None else (self.place.up.value, self.place.up.low)
        value = at * self.machine_availability()
        lowest = min(value, low * self.machine_availability(MACHINE_AVAILABILITY_LOW))
        return Estimate(value=value, low=lowest, high=1.0, unit="share", basis=basis)

    def is_limited_by_place(self, target: float) -> bool:
        """True if no number of spares meets the target because of the site."""
        return self.place is not None and self.place.up.value * compute_availability(self.needed, MAX_SPARES) < target


def compute_availability(needed: int, spares: int, machine: float = MACHINE_AVAILABILITY) -> float:
    total = needed + spares
    return min(1.0, math.fsum(math.exp(_log_binomial_probability(total, down, machine)) for down in range(spares + 1)))


def _log_binomial_probability(total: int, down: int, machine: float) -> float:
    """Log probability that exactly `down` of `total` machines are down; logs, because C(n, i) overflows a float."""
    combinations = math.lgamma(total + 1) - math.lgamma(down + 1) - math.lgamma(total - down + 1)
    return combinations + down * math.log(1 - machine) + (total - down) * math.log(machine)


@functools.cache
def count_spares(needed: int, target: float | None, machine: float = MACHINE_AVAILABILITY) -> int:
    """Return the fewest spares for half of the allowed downtime: at least 1 above 0.99, 0 without a target."""
    if target is None:
        return 0
    minimum = int(target > SPARE_REQUIRED_ABOVE)
    goal = 1 - (1 - target) * MACHINE_DOWNTIME_SHARE - ROUNDING

    def is_enough(spares: int) -> bool:
        return compute_availability(needed, spares, machine) >= goal

    # Availability never falls with one more spare.
    counts = range(minimum, MAX_SPARES)
    further = bisect_left(counts, True, key=is_enough)
    return minimum + further


def compute_shared_availability(machines: LoadSharing, machine: float = MACHINE_AVAILABILITY) -> float:
    """Return the availability of a load shared among types: the machines that are up must carry all of it."""
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
