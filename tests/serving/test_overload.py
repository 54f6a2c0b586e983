"""More load than a pool can bear: the urgent first, the late told at once, and as many useful answers as before.

Time is virtual: the event loop jumps to its next timer, so minutes of load take a moment and always end alike.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from archwright.engines.client import EngineClient
from archwright.policy.admission import Priority
from archwright.serving.pools import Pool, Replica, Work
from archwright.serving.refusal import Refusal

from .conftest import endpoint

SERVICE_S = 0.5
SLOTS = 8
# What its client waits for an answer at most: beyond it the answer is of no use.
PATIENCE_S = 4.0
CAPACITY_RPS = SLOTS / SERVICE_S


class _Jump(selectors.SelectSelector):
    """Instead of waiting for a timer, it is that time."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if not found and timeout:
            self.now += timeout
        return found


class Virtual(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    loop = Virtual()
    try:
        loop.run_until_complete(cast("Any", scenario()))
    finally:
        loop.close()


def pool(slots: int = SLOTS) -> Pool:
    spec = endpoint(slots=slots, health_path="").pool
    replica = Replica(EngineClient("http://127.0.0.1:9/v1"), spec, "unix:e")
    replica.healthy = True
    return Pool(spec, (replica,), asyncio.get_running_loop().time)


class Load:
    """Open arrivals at a rate for a time; counts what was answered in its client's patience, per class."""

    def __init__(self, served: Pool, rate_rps: float, for_s: float, shares: dict[Priority, float]) -> None:
        self._pool = served
        self._rate_rps, self._for_s = rate_rps, for_s
        self._shares = shares
        self._chance = random.Random(5)
        self._loop = asyncio.get_running_loop()
        self.useful: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.refused_after_s: list[float] = []

    async def run(self) -> float:
        """Useful answers per second."""
        begun, tasks = self._loop.time(), []
        while self._loop.time() < begun + self._for_s:
            (priority,) = self._chance.choices(list(self._shares), list(self._shares.values()))
            tasks.append(asyncio.create_task(self._ask(priority)))
            await asyncio.sleep(self._chance.expovariate(self._rate_rps))
        await asyncio.gather(*tasks)
        return sum(self.useful.values()) / self._for_s

    async def _ask(self, priority: Priority) -> None:
        came = self._loop.time()
        self.asked[priority] += 1
        try:
            lease = await self._pool.take(Work(1, priority=priority, begin_by=came + PATIENCE_S - 2 * SERVICE_S))
        except Refusal as refused:
            assert refused.status == 429 and refused.retry_after_s is not None and refused.retry_after_s >= 1
            self.refused[priority] += 1
            self.refused_after_s.append(self._loop.time() - came)
            return
        await asyncio.sleep(SERVICE_S * self._chance.uniform(0.5, 1.5))
        self._pool.give(lease)
        self.useful[priority] += self._loop.time() <= came + PATIENCE_S


def test_goodput_at_three_times_the_load_is_that_of_the_peak() -> None:
    found: dict[float, float] = {}

    async def scenario() -> None:
        for times in (0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0):
            found[times] = await Load(pool(), times * CAPACITY_RPS, 300.0, {"normal": 1.0}).run()

    run(scenario)
    peak = max(found.values())
    assert peak > 0.95 * CAPACITY_RPS, found
    assert found[3.0] >= 0.9 * peak and found[5.0] >= 0.9 * peak, found


def test_batch_is_shed_first_and_interactive_last() -> None:
    shares: dict[Priority, float] = {"interactive": 0.2, "normal": 0.4, "batch": 0.4}

    async def scenario() -> None:
        load = Load(pool(), 3 * CAPACITY_RPS, 300.0, shares)
        assert await load.run() >= 0.9 * CAPACITY_RPS
        served = {one: load.useful[one] / load.asked[one] for one in shares}
        assert served["interactive"] > 0.99 > served["normal"] > served["batch"], served
        # Most are told at once; who was let in and then overtaken by more urgent ones, when it is too late.
        at_once = sum(after == 0 for after in load.refused_after_s)
        assert at_once >= 0.9 * len(load.refused_after_s)

    run(scenario)


def test_the_urgent_overtake_and_within_a_class_it_is_first_come() -> None:
    async def scenario() -> None:
        served, order = pool(1), []

        async def use(name: str, priority: Priority) -> None:
            lease = await served.take(Work(1, priority=priority))
            order.append(name)
            await asyncio.sleep(1.0)
            served.give(lease)

        asked: list[tuple[str, Priority]] = [("first", "batch"), ("b1", "batch"), ("n1", "normal"), ("b2", "batch")]
        asked += [("i1", "interactive"), ("n2", "normal"), ("i2", "interactive")]
        await asyncio.gather(*(use(name, priority) for name, priority in asked))
        assert order == ["first", "i1", "i2", "n1", "n2", "b1", "b2"]
        assert served.in_flight == 0 and served.wait_s() == 0.0

    run(scenario)


def test_who_waits_past_its_time_is_told_when_a_slot_is_free_or_at_the_next_look() -> None:
    async def scenario() -> None:
        loop, served = asyncio.get_running_loop(), pool(1)
        held = await served.take(Work(1))
        waiting = [asyncio.create_task(served.take(Work(1, begin_by=until))) for until in (2.0, 9.0, math.inf)]
        await asyncio.sleep(3.0)
        served.give(held)
        with pytest.raises(Refusal) as refused:
            await waiting[0]
        assert (refused.value.status, refused.value.openai_code, loop.time()) == (429, "queue_late", 3.0)
        second = await waiting[1]
        late = asyncio.create_task(served.take(Work(1, priority="batch", begin_by=10.0)))
        await asyncio.sleep(8.0)
        await served.check()
        with pytest.raises(Refusal) as refused:
            await late
        assert refused.value.openai_code == "queue_late" and not waiting[2].done()
        served.give(second)
        served.give(await waiting[2])
        assert served.in_flight == 0

    run(scenario)
