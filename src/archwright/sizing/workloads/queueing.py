"""Highest steady load of c equal servers (devices or groups of cores) within a limit of the p95 latency.

M/G/c queue with utilisation rho, mean service time S in seconds and squared coefficient of variation v:
- mean wait = (1 + v) / 2 x rho^(sqrt(2 (c + 1)) - 1) / (c (1 - rho)) x S (Sakasegawa 1977 with the
  Pollaczek-Khinchine factor); exact for one server;
- a share rho^(sqrt(2 (c + 1)) - 1) of the requests waits, with an exponential wait: p95 over all requests =
  mean / share x ln(share / 0.05);
- p95 latency = p95 of an idle server + p95 of the wait: an upper bound.
Batching: a request waits for the running batch, then runs in its own batch. A group of k cores on one request is k^0.9
times as fast. The first arrangement within the limit that carries at least 90 % of the best one is used.
"""

import math
from functools import partial
from typing import NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.plan import ConstraintViolation, LimitProbability, StatedLimit, assess_limit
from archwright.contract.record import replace
from archwright.sizing.hardware.machine import LimitAssessor, assess_nothing

LATE_SHARE = 0.05
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
THREAD_GROUP_SIZES = (1, 2, 4, 8, 16)
# Measured on two cores: twice the threads make prefill 1.9 times as fast.
THREAD_SCALING_EXPONENT = 0.9
# Share of the running batch that remains at the p95 of the arrivals.
REMAINING_BATCH_SHARE = 0.95
BISECTION_STEPS = 40
# A machine is planned with at least this share of its expected capacity, also if no load keeps the limit for certain.
LEAST_PLANNED_SHARE = 0.1


class ServerStation(NamedTuple):
    """`servers` equal servers: `each_s` server time per request, `idle_p95_s` p95 latency on an idle server."""

    each_s: float
    idle_p95_s: float
    variation: float
    servers: int
    batch: int = 1


class ServiceTimes(NamedTuple):
    """Server seconds: `fixed` per batch, `own` per request with `long` = p95 / mean and squared CV `variation`."""

    fixed: Estimate
    own: Estimate
    long: float = 1.0
    variation: float = 0.0


class CapacityResult(NamedTuple):
    """`requests_per_s`: value at the certainty of the limit, and the interval of the capacity."""

    requests_per_s: Estimate
    latency_p95_s: Estimate
    batch: int
    busy: float
    servers: int
    misses: tuple[ConstraintViolation, ...]
    assess: LimitAssessor = assess_nothing


def wait_p95(station: ServerStation, busy: float) -> float:
    """Return the p95 of the wait in seconds; `busy` (utilisation) must be below 1."""
    waiting = math.pow(busy, math.sqrt(2 * (station.servers + 1)) - 1)
    if waiting <= LATE_SHARE:
        return 0.0
    mean = (1 + station.variation) / 2 * waiting / (station.servers * (1 - busy)) * station.each_s
    return mean / waiting * math.log(waiting / LATE_SHARE)


def max_busy_share(station: ServerStation, limit: float, cap: float) -> float:
    """Return the highest utilisation up to `cap` with p95 latency <= `limit`; 0 if an idle server violates it."""
    if station.idle_p95_s > limit:
        return 0.0
    if station.idle_p95_s + wait_p95(station, cap) <= limit:
        return cap
    low, high = 0.0, cap
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if station.idle_p95_s + wait_p95(station, middle) <= limit else (low, middle)
    return low


class ServiceLimit(NamedTuple):
    """Limits of the p95 latency (None: no limit) and of the utilisation; `name`: constraint id of the latency.

    `certainty`: the probability with which the latency must hold at the planned load.
    """

    name: str
    latency_p95_s: float | None
    busy: float
    certainty: float = 0.5


class ServerArrangement(NamedTuple):
    """A station at its highest load."""

    station: ServerStation
    rate: float
    latency: float
    busy: float


def find_capacity(times: ServiceTimes, servers: int, limit: ServiceLimit, *, batches: bool) -> CapacityResult:
    """Return the highest requests/s within `limit` at its certainty, on devices with batching or on groups of cores.

    The capacity at the certainty c is the 1 - c quantile of the capacity's band. The highest utilisation is room for
    slow machines already, so a machine that it limits may be busy all the time at that speed. If even an idle machine
    violates the latency limit, the result lists the violation and ignores the limit."""
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
    capacity = rates.scaled(1 / cap) if found.busy >= cap else rates
    planned = min(rate, max(capacity.quantile(1 - limit.certainty), rate * LEAST_PLANNED_SHARE))
    assess = assess_nothing
    if bound < math.inf:
        assess = partial(_assess_latency, (limit.name, bound, limit.certainty), capacity, latencies)
    rates = replace(rates, value=planned, low=min(rates.low, planned))
    return CapacityResult(rates, latencies, found.station.batch, found.busy, found.station.servers, misses, assess)


def _assess_latency(
    limit: StatedLimit, capacity: Estimate, latency: Estimate, rate: float
) -> tuple[LimitProbability, ...]:
    """Return the latency limit with the probability that the capacity within it is at least `rate` requests/s."""
    found = assess_limit(limit, latency, basis="the load per machine, against the interval of its capacity")
    return (replace(found, probability=1 - capacity.chance_below(rate)),)


def _candidate_stations(times: ServiceTimes, part: str, servers: int, batches: bool) -> list[ServerStation]:
    """Return a station per batch size or per group size, at one end of the band."""
    fixed, own = (float(getattr(estimate, part)) for estimate in (times.fixed, times.own))
    stations = []
    for group in (1,) if batches else (size for size in THREAD_GROUP_SIZES if size <= servers):
        each = own / group**THREAD_SCALING_EXPONENT
        stations.append(ServerStation(fixed + each, fixed + each * times.long, times.variation, servers // group))
    for size in BATCH_SIZES[1:] if batches else ():
        whole = fixed + size * own
        idle = whole - own + own * times.long + REMAINING_BATCH_SHARE * whole
        stations.append(ServerStation(whole / size, idle, times.variation, servers, size))
    return stations


def _best_arrangement(stations: list[ServerStation], limit: float, cap: float) -> ServerArrangement:
    tried = []
    for station in stations:
        busy = max_busy_share(station, limit, cap)
        latency = station.idle_p95_s + wait_p95(station, busy)
        tried.append(ServerArrangement(station, busy * station.servers / station.each_s, latency, busy))
    most = max(one.rate for one in tried)
    if most <= 0:
        # No station reaches the limit at the slow end of the band: the capacity is 0.
        return min(tried, key=lambda one: one.latency)
    return next(one for one in tried if one.rate >= 0.9 * most)
