"""How often enough machines are up, and how many spares a promise needs.

One machine is up a share `a` of the time, failures independent (a zone or provider outage takes all and is not
in here: the assumption says so). With n needed and k spare, service holds when at most k of n + k are down:
sum over i <= k of C(n + k, i) (1 - a)^i a^(n + k - i).
"""

from __future__ import annotations

import functools
import math

ONE_MACHINE = 0.995
ONE_MACHINE_LOW = 0.98
SPARE_ABOVE = 0.99
MOST_SPARES = 64


def holds(needed: int, spares: int, machine: float = ONE_MACHINE) -> float:
    total = needed + spares
    return min(1.0, math.fsum(math.exp(_log_share(total, down, machine)) for down in range(spares + 1)))


def _log_share(total: int, down: int, machine: float) -> float:
    """Log of the probability that exactly `down` of `total` are down: in logs, because C(n, i) outgrows a float."""
    ways = math.lgamma(total + 1) - math.lgamma(down + 1) - math.lgamma(total - down + 1)
    return ways + down * math.log(1 - machine) + (total - down) * math.log(machine)


@functools.cache
def spares_for(needed: int, target: float | None, machine: float = ONE_MACHINE) -> int:
    """None asked, none kept. The fewest that hold the target; above 0.99 at least one."""
    if target is None:
        return 0
    least = 1 if target > SPARE_ABOVE else 0
    return next((spare for spare in range(least, MOST_SPARES) if holds(needed, spare, machine) >= target), MOST_SPARES)
