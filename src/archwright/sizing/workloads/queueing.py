"""How much of a steady load a few equal servers carry while the latency's 95th percentile holds a limit.

Poisson requests. With c servers, share busy rho, mean time S and squared variation v of it:
- mean wait = (1 + v) / 2 x rho^(sqrt(2 (c + 1)) - 1) / (c (1 - rho)) x S (Sakasegawa 1977 for many servers, with
  the Pollaczek-Khinchine factor); exact for one server;
- share that waits: rho^(sqrt(2 (c + 1)) - 1), its wait taken as exponential: p95 over all = mean / waiting x
  ln(waiting / 0.05);
- latency p95 = p95 of an idle server + p95 of the wait: no less than the true one.
Batches: a request waits for the batch before its own, then runs in its own. Crews of k cores on one request are k^0.9
times as fast. Taken: the first of the arrangements that hold the limit and carry within a tenth of the most.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.plan import ConstraintViolation

LATE_SHARE = 0.05
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
THREAD_GROUP_SIZES = (1, 2, 4, 8, 16)
# Measured on two cores: twice the threads read prompts 1.9 times as fast.
THREAD_SCALING_EXPONENT = 0.9
# Of the batch before one's own, that much is still to come at the 95th percentile.
REMAINING_BATCH_SHARE = 0.95
BISECTION_STEPS = 40


class ServerStation(NamedTuple):
    """`each_s` of server time a request takes, `idle_p95_s` its latency alone; servers take `batch` at once."""

    each_s: float
    idle_p95_s: float
    variation: float
    servers: int
    batch: int = 1


class ServiceTimes(NamedTuple):
    """Seconds of a server: once a batch, and for each request in it. `long`: p95 over mean of a request's own time;
    `variation`: its squared coefficient of variation."""

    fixed: Estimate
    own: Estimate
    long: float = 1.0
    variation: float = 0.0


class CapacityResult(NamedTuple):
    requests_per_s: Estimate
    latency_p95_s: Estimate
    batch: int
    busy: float
    servers: int
    misses: tuple[ConstraintViolation, ...]


def wait_p95(station: ServerStation, busy: float) -> float:
    """Seconds; `busy` below 1."""
    waiting = math.pow(busy, math.sqrt(2 * (station.servers + 1)) - 1)
    if waiting <= LATE_SHARE:
        return 0.0
    mean = (1 + station.variation) / 2 * waiting / (station.servers * (1 - busy)) * station.each_s
    return mean / waiting * math.log(waiting / LATE_SHARE)


def max_busy_share(station: ServerStation, limit: float, cap: float) -> float:
    """The largest busy share up to `cap` whose latency holds `limit`; 0 where an idle server breaks it."""
    if station.idle_p95_s > limit:
        return 0.0
    if station.idle_p95_s + wait_p95(station, cap) <= limit:
        return cap
    low, high = 0.0, cap
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        held = station.idle_p95_s + wait_p95(station, middle) <= limit
        low, high = (middle, high) if held else (low, middle)
    return low


class ServiceLimit(NamedTuple):
    """Of the latency's 95th percentile, if any, and of the busy share; `name` is how a miss calls the first."""

    name: str
    latency_p95_s: float | None
    busy: float


class ServerArrangement(NamedTuple):
    """One arrangement at the most it carries."""

    station: ServerStation
    rate: float
    latency: float
    busy: float


def find_capacity(times: ServiceTimes, servers: int, limit: ServiceLimit, *, batches: bool) -> CapacityResult:
    """The most requests/s within the limit, by devices that take batches or by cores that form crews. If even an idle
    machine breaks the limit, a miss says so and the figures ignore the limit."""
    middle, slow, fast = (_candidate_stations(times, part, servers, batches) for part in ("value", "high", "low"))
    bound, cap = math.inf if limit.latency_p95_s is None else limit.latency_p95_s, limit.busy
    misses: tuple[ConstraintViolation, ...] = ()
    idle = min(station.idle_p95_s for station in middle)
    if idle > bound:
        misses = (ConstraintViolation(constraint=limit.name, value=idle, limit=bound),)
        bound = math.inf
    found, lower, upper = (_best_arrangement(stations, bound, cap) for stations in (middle, slow, fast))
    quickest = min(found.latency, *(station.idle_p95_s for station in fast))
    rate, latency = found.rate, found.latency
    rates = Estimate(value=rate, low=min(lower.rate, rate), high=max(upper.rate, rate), unit="requests/s")
    latencies = Estimate(value=latency, low=quickest, high=max(lower.latency, latency), unit="s")
    return CapacityResult(rates, latencies, found.station.batch, found.busy, found.station.servers, misses)


def _candidate_stations(times: ServiceTimes, part: str, servers: int, batches: bool) -> list[ServerStation]:
    """A station for each size of batch, or of crew, at one end of the band."""
    fixed, own = (float(getattr(estimate, part)) for estimate in (times.fixed, times.own))
    found = []
    for crew in (1,) if batches else (size for size in THREAD_GROUP_SIZES if size <= servers):
        each = own / crew**THREAD_SCALING_EXPONENT
        found.append(ServerStation(fixed + each, fixed + each * times.long, times.variation, servers // crew))
    for size in BATCH_SIZES[1:] if batches else ():
        whole = fixed + size * own
        idle = whole - own + own * times.long + REMAINING_BATCH_SHARE * whole
        found.append(ServerStation(whole / size, idle, times.variation, servers, size))
    return found


def _best_arrangement(stations: list[ServerStation], limit: float, cap: float) -> ServerArrangement:
    tried = []
    for station in stations:
        busy = max_busy_share(station, limit, cap)
        latency = station.idle_p95_s + wait_p95(station, busy)
        tried.append(ServerArrangement(station, busy * station.servers / station.each_s, latency, busy))
    most = max(one.rate for one in tried)
    if most <= 0:
        # At the slow end of the band the limit is out of reach: what is left is nothing.
        return min(tried, key=lambda one: one.latency)
    return next(one for one in tried if one.rate >= 0.9 * most)
