"""How much of a steady load a few equal servers carry while the latency's 95th percentile holds a limit.

Requests come at random (Poisson). With c servers, share busy rho, mean time S and squared variation v of it:
- mean wait = (1 + v) / 2 x rho^(sqrt(2 (c + 1)) - 1) / (c (1 - rho)) x S (Sakasegawa 1977 for many servers, with
  the Pollaczek-Khinchine factor); exact for one server;
- those who wait at all: rho^(sqrt(2 (c + 1)) - 1); among them the wait is taken as exponential, so its 95th
  percentile over all is mean / waiting x ln(waiting / 0.05);
- latency p95 = p95 of an idle server + p95 of the wait: no less than the true one.
Servers that take several requests at once: a request waits for the batch before its own, then runs in its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.plan import Miss

LATE = 0.05
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
# Of the batch before one's own, that much is still to come at the 95th percentile.
STILL_TO_COME = 0.95
STEPS = 40


class Station(NamedTuple):
    """`each_s` of server time a request takes, `idle_p95_s` its latency when nothing else runs."""

    each_s: float
    idle_p95_s: float
    variation: float
    servers: int


class Times(NamedTuple):
    """Seconds of a server: once a batch, and for each request in it; `long` is the 95th percentile over the mean
    of a request's own, `variation` its squared coefficient of variation.
    """

    fixed: Estimate
    own: Estimate
    long: float = 1.0
    variation: float = 0.0


class Carried(NamedTuple):
    requests_per_s: Estimate
    latency_p95_s: Estimate
    batch: int
    busy: float
    misses: tuple[Miss, ...]


def wait_p95(station: Station, busy: float) -> float:
    """Seconds; `busy` below 1."""
    waiting = math.pow(busy, math.sqrt(2 * (station.servers + 1)) - 1)
    if waiting <= LATE:
        return 0.0
    mean = (1 + station.variation) / 2 * waiting / (station.servers * (1 - busy)) * station.each_s
    return mean / waiting * math.log(waiting / LATE)


def most_busy(station: Station, limit: float, cap: float) -> float:
    """The largest busy share up to `cap` whose latency holds `limit`; 0 where an idle server breaks it."""
    if station.idle_p95_s > limit:
        return 0.0
    if station.idle_p95_s + wait_p95(station, cap) <= limit:
        return cap
    low, high = 0.0, cap
    for _ in range(STEPS):
        middle = (low + high) / 2
        held = station.idle_p95_s + wait_p95(station, middle) <= limit
        low, high = (middle, high) if held else (low, middle)
    return low


class Limit(NamedTuple):
    """Of the latency's 95th percentile, if any, and of the busy share; `name` is how a miss calls the first."""

    name: str
    latency_p95_s: float | None
    busy: float


def carried(times: Times, servers: int, limit: Limit, *, batches: bool) -> Carried:
    """The most requests/s with the limit held. Where even an idle machine breaks it, a miss says so and the figures
    are those without it.
    """
    middle, slow, fast = (_pick(times, part, servers, batches) for part in ("value", "high", "low"))
    bound, cap = math.inf if limit.latency_p95_s is None else limit.latency_p95_s, limit.busy
    misses: tuple[Miss, ...] = ()
    idle = min(station.idle_p95_s for station, _ in middle)
    if idle > bound:
        misses = (Miss(constraint=limit.name, value=idle, limit=bound),)
        bound = math.inf
    rate, latency, batch, busy = _best(middle, bound, cap)
    lower, slower, *_ = _best(slow, bound, cap)
    upper, *_ = _best(fast, bound, cap)
    quickest = min(latency, *(station.idle_p95_s for station, _ in fast))
    return Carried(
        Estimate(value=rate, low=min(lower, rate), high=max(upper, rate), unit="requests/s"),
        Estimate(value=latency, low=quickest, high=max(slower, latency), unit="s"),
        batch,
        busy,
        misses,
    )


def _pick(times: Times, part: str, servers: int, batches: bool) -> list[tuple[Station, int]]:
    """A station for each size of batch, at one end of the band."""
    fixed, own = (float(getattr(estimate, part)) for estimate in (times.fixed, times.own))
    found = []
    for size in BATCHES if batches else (1,):
        whole = fixed + size * own
        longest = fixed + (size - 1) * own + own * times.long
        idle = longest if size == 1 else longest + STILL_TO_COME * whole
        found.append((Station(whole / size, idle, times.variation, servers), size))
    return found


def _best(stations: list[tuple[Station, int]], limit: float, cap: float) -> tuple[float, float, int, float]:
    """Requests/s, latency, batch, busy share. Without a limit the smallest batch within a tenth of the best rate."""
    tried = []
    for station, size in stations:
        busy = most_busy(station, limit, cap)
        tried.append(
            (busy * station.servers / station.each_s, station.idle_p95_s + wait_p95(station, busy), size, busy)
        )
    most = max(rate for rate, *_ in tried)
    if most <= 0:
        # At the slow end of the band the limit is out of reach: what is left is nothing.
        return (0.0, *min(tried, key=_latency)[1:])
    return next(one for one in tried if one[0] >= 0.9 * most)


def _latency(tried: tuple[float, float, int, float]) -> float:
    return tried[1]
