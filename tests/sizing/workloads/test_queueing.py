"""Wait for a server, against a simulation of the same arrivals."""

from __future__ import annotations

import heapq
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.contract.estimate import Estimate, exact_estimate, within_factor
from archwright.sizing.workloads.queueing import (
    ServerStation,
    ServiceLimit,
    ServiceTimes,
    find_capacity,
    max_busy_share,
    wait_p95,
)

ARRIVALS = 40_000
NO_LIMIT = ServiceLimit("w.latency_p95_s", None, 0.7)


def simulated_p95(station: ServerStation, busy: float, seed: int) -> float:
    """First come, first served; service is constant, or exponential where the variation is 1."""
    chance = random.Random(seed)
    rate = busy * station.servers / station.each_s
    free, now, waits = [0.0] * station.servers, 0.0, []
    for _ in range(ARRIVALS):
        now += chance.expovariate(rate)
        start = max(now, heapq.heappop(free))
        waits.append(start - now)
        service = station.each_s if station.variation == 0 else chance.expovariate(1 / station.each_s)
        heapq.heappush(free, start + service)
    return sorted(waits)[int(0.95 * len(waits))]


@pytest.mark.parametrize("servers", [1, 8])
@pytest.mark.parametrize("variation", [0.0, 1.0])
@pytest.mark.parametrize("busy", [0.5, 0.7, 0.9])
def test_the_wait_is_that_of_a_simulation(servers: int, variation: float, busy: float) -> None:
    station = ServerStation(0.01, 0.01, variation, servers)
    found, made = wait_p95(station, busy), simulated_p95(station, busy, seed=servers)
    assert made * 0.8 - 0.001 <= found <= made * 1.5 + 0.004


def test_the_load_holds_its_limit() -> None:
    station = ServerStation(0.01, 0.01, 0.0, 4)
    busy = max_busy_share(station, 0.015, 0.95)
    assert 0 < busy < 0.95
    assert 0.01 + wait_p95(station, busy) == pytest.approx(0.015, rel=1e-3)
    assert max_busy_share(station, 1.0, 0.7) == 0.7
    assert max_busy_share(station, 0.005, 0.7) == 0.0
    assert wait_p95(station._replace(servers=64), 0.3) == 0.0, "few requests wait at many idle servers"


def times(fixed: float, own: float, factor: float = 1.0) -> ServiceTimes:
    return ServiceTimes(
        within_factor(fixed, factor, "s") if fixed else exact_estimate(0.0, "s"), within_factor(own, factor, "s")
    )


def test_one_at_a_time_carries_the_busy_share_of_the_servers_rate() -> None:
    found = find_capacity(times(0.001, 0.009, 1.5), 4, NO_LIMIT, batches=False)
    assert found.requests_per_s.value == pytest.approx(0.7 * 4 / 0.01)
    assert found.requests_per_s.low == pytest.approx(0.7 * 4 / 0.01 / 1.5)
    assert found.requests_per_s.high == pytest.approx(0.7 * 4 / 0.01 * 1.5)
    assert found.latency_p95_s.low <= 0.01 < found.latency_p95_s.value <= found.latency_p95_s.high
    assert (found.batch, found.misses) == (1, ())


def test_batches_share_the_fixed_part() -> None:
    single = find_capacity(times(0.002, 0.0001), 1, NO_LIMIT, batches=False)
    together = find_capacity(times(0.002, 0.0001), 1, NO_LIMIT, batches=True)
    tight = find_capacity(times(0.002, 0.0001), 1, ServiceLimit("w.latency_p95_s", 0.006, 0.7), batches=True)
    assert together.batch > tight.batch > 1
    assert together.requests_per_s.value > tight.requests_per_s.value > single.requests_per_s.value
    assert tight.latency_p95_s.value <= 0.006


def test_cores_work_together_where_one_alone_is_too_slow() -> None:
    alone = find_capacity(times(0.0, 1.0), 16, NO_LIMIT, batches=False)
    crew = find_capacity(times(0.0, 1.0), 16, ServiceLimit("w.latency_p95_s", 0.5, 0.7), batches=False)
    assert (alone.servers, crew.servers) == (16, 4)
    assert crew.latency_p95_s.value <= 0.5
    assert crew.requests_per_s.value < alone.requests_per_s.value
    assert crew.misses == ()


def test_a_limit_that_nothing_holds_is_a_miss_with_the_figures_without_it() -> None:
    found = find_capacity(times(0.0, 0.5), 2, ServiceLimit("w.latency_p95_s", 0.1, 0.7), batches=False)
    (miss,) = found.misses
    assert (miss.constraint, miss.limit) == ("w.latency_p95_s", 0.1)
    assert miss.value == pytest.approx(0.5 / 2**0.9)
    assert found.requests_per_s.value == pytest.approx(0.7 * 2 / 0.5)


def test_at_the_slow_end_nothing_may_be_left() -> None:
    found = find_capacity(times(0.0, 0.09, 2.0), 1, ServiceLimit("w.latency_p95_s", 0.1, 0.7), batches=False)
    assert found.misses == ()
    assert found.requests_per_s.low == 0.0
    assert found.requests_per_s.value > 0.0


@settings(max_examples=60, deadline=None)
@given(
    own=st.floats(1e-4, 1.0),
    fixed=st.floats(1e-4, 0.1),
    limit=st.floats(1e-3, 10.0),
    servers=st.integers(1, 64),
    batches=st.booleans(),
)
def test_laws(own: float, fixed: float, limit: float, servers: int, batches: bool) -> None:
    """More servers, a looser limit or faster work never carry less; the figures of a result hold its limit."""

    def rate(scale: float = 1.0, bound: float = limit, count: int = servers) -> tuple[Estimate, bool, float]:
        found = find_capacity(
            times(fixed * scale, own * scale, 1.3), count, ServiceLimit("l", bound, 0.7), batches=batches
        )
        return found.requests_per_s, bool(found.misses), found.latency_p95_s.value

    plain, missed, latency = rate()
    if missed:
        return
    assert latency <= limit * 1.001
    # The first arrangement within 10 % of the best rate is used.
    slack = 0.9
    assert rate(bound=limit * 2)[0].value >= slack * plain.value * (1 - 1e-9)
    assert rate(count=servers * 2)[0].value >= slack * plain.value * (1 - 1e-9)
    assert rate(scale=0.5)[0].value >= slack * plain.value * (1 - 1e-9)
    assert math.isfinite(plain.high)
