"""More load than a pool can serve: urgent requests first, late requests refused at once, goodput as at the peak.

Time is virtual: the event loop jumps to its next timer, so minutes of load take a moment and always end alike.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from archwright.http_client.client import EngineClient
from archwright.policy.admission import Priority
from archwright.serving.http.errors import ApiError
from archwright.serving.routing.pool import EnginePool
from archwright.serving.routing.replica import Replica, SlotRequest

from .conftest import endpoint

SERVICE_S = 0.5
SLOTS = 8
# A client waits for an answer at most this long; a later answer is of no use.
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


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=Virtual) as runner:
        runner.run(scenario())


def pool(slots: int = SLOTS) -> EnginePool:
    spec = endpoint(slots=slots, health_path="").pool
    replica = Replica(EngineClient("http://127.0.0.1:9/v1"), spec, "unix:e")
    replica.healthy = True
    return EnginePool(spec, (replica,), asyncio.get_running_loop().time)


class Load:
    """Open arrivals at a rate for a time; counts what was answered in its client's patience, per class."""

    def __init__(self, served: EnginePool, rate_rps: float, for_s: float, shares: dict[Priority, float]) -> None:
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
            lease = await self._pool.acquire(
                SlotRequest(1, priority=priority, begin_by=came + PATIENCE_S - 2 * SERVICE_S)
            )
        except ApiError as refused:
            assert refused.status == 429 and refused.retry_after_s is not None and refused.retry_after_s >= 1
            self.refused[priority] += 1
            self.refused_after_s.append(self._loop.time() - came)
            return
        await asyncio.sleep(SERVICE_S * self._chance.uniform(0.5, 1.5))
        self._pool.release(lease)
        self.useful[priority] += self._loop.time() <= came + PATIENCE_S


ALL_LOADS = pytest.param((0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0), 300.0, marks=pytest.mark.nightly)


@pytest.mark.parametrize(("loads", "for_s"), [((0.8, 1.0, 1.5, 3.0, 5.0), 150.0), ALL_LOADS])
def test_goodput_at_three_times_the_load_is_that_of_the_peak(loads: tuple[float, ...], for_s: float) -> None:
    found: dict[float, float] = {}

    async def scenario() -> None:
        for times in loads:
            found[times] = await Load(pool(), times * CAPACITY_RPS, for_s, {"normal": 1.0}).run()

    run(scenario)
    peak = max(found.values())
    assert peak > 0.95 * CAPACITY_RPS, found
    assert found[3.0] >= 0.9 * peak and found[5.0] >= 0.9 * peak, found


class Leaving(Load):
    """Clients that disconnect after a time of their own, which the pool does not know."""

    def __init__(
        self, served: EnginePool, rate_rps: float, for_s: float, patience_s: Callable[[random.Random], float]
    ) -> None:
        super().__init__(served, rate_rps, for_s, {"interactive": 0.2, "normal": 0.4, "batch": 0.4})
        self._patience_s = patience_s
        self.order: list[float] = []
        self.service_s = SLOTS / CAPACITY_RPS

    async def _ask(self, priority: Priority) -> None:
        came = self._loop.time()
        self.asked[priority] += 1
        try:
            async with asyncio.timeout(self._patience_s(self._chance)):
                lease = await self._pool.acquire(SlotRequest(1, priority=priority))
                self.order.append(came)
                left = True
                try:
                    await asyncio.sleep(self.service_s * self._chance.uniform(0.8, 1.2))
                    left = False
                finally:
                    self._pool.release(lease, left=left)
        except ApiError:
            self.refused[priority] += 1
        except TimeoutError:
            pass
        else:
            self.useful[priority] += 1


PATIENCE: dict[str, Callable[[random.Random], float]] = {
    "all leave after four times the service": lambda _chance: 2.0,
    "some bear thrice as much as others": lambda chance: chance.uniform(1.0, 4.0),
    "as long as the clients of radioactive decay": lambda chance: chance.expovariate(1 / 3.0),
    "half of them for ever": lambda chance: chance.choice([2.0, 600.0]),
}


@pytest.mark.parametrize(
    "patience_s",
    [
        pytest.param(draw, id=name, marks=() if name == "half of them for ever" else pytest.mark.nightly)
        for name, draw in PATIENCE.items()
    ],
)
def test_goodput_holds_where_clients_leave_without_a_stated_timeout(
    patience_s: Callable[[random.Random], float],
) -> None:
    found: dict[float, float] = {}

    async def scenario() -> None:
        for times in (1.0, 1.2, 2.0, 3.0, 5.0):
            load = Leaving(pool(), times * CAPACITY_RPS, 150.0, patience_s)
            found[times] = await load.run()
            if times <= 2.0:
                assert load.useful["interactive"] > 0.75 * load.asked["interactive"], "the urgent first, as ever"

    run(scenario)
    peak = max(found.values())
    assert found[3.0] >= 0.9 * peak and found[5.0] >= 0.9 * peak, found


MANY = pytest.param(64, 10.0, marks=pytest.mark.nightly)  # five seconds for what sixteen show in one


@pytest.mark.parametrize(("slots", "service_s"), [(1, 20.0), (16, 10.0), MANY])
def test_it_holds_for_one_slow_slot_and_for_many(slots: int, service_s: float) -> None:
    found: dict[float, float] = {}

    async def scenario() -> None:
        for times in (1.0, 2.0, 3.0):
            load = Leaving(pool(slots), times * slots / service_s, 100 * service_s, lambda _chance: 2.0 * service_s)
            load.service_s = service_s
            found[times] = await load.run()

    run(scenario)
    assert found[3.0] >= 0.9 * max(found.values()), found


async def serve_patient_batch(served: EnginePool) -> Leaving:
    """A little too much load of clients that do not leave; nobody is left without an answer."""
    load = Leaving(served, 1.05 * CAPACITY_RPS, 300.0, lambda _chance: 600.0)
    load._shares = {"batch": 1.0}
    await load.run()
    assert load.useful["batch"] + load.refused["batch"] == load.asked["batch"]
    assert load.useful["batch"] > 0.93 * load.asked["batch"]
    return load


def test_the_patient_are_served_as_if_nothing_were_learned() -> None:
    """At a little too much load: in order of arrival within their class, and refused only where the queue is full."""

    async def scenario() -> None:
        load = await serve_patient_batch(pool())
        assert load.order == sorted(load.order)

    run(scenario)


def test_a_program_that_is_killed_with_its_requests_keeps_no_patient_one_from_being_served() -> None:
    async def scenario() -> None:
        served, loop = pool(), asyncio.get_running_loop()
        killed = [asyncio.create_task(served.acquire(SlotRequest(1, priority="batch"))) for _ in range(24)]
        for number in range(2 * SLOTS):
            lease = await killed[number]
            loop.call_later(1.0 + number // SLOTS, partial(served.release, lease, left=True))
        for task in killed:
            task.cancel()
        await asyncio.gather(*killed, return_exceptions=True)
        assert served.in_flight == SLOTS
        await serve_patient_batch(served)

    run(scenario)


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
            lease = await served.acquire(SlotRequest(1, priority=priority))
            order.append(name)
            await asyncio.sleep(1.0)
            served.release(lease)

        asked: list[tuple[str, Priority]] = [("first", "batch"), ("b1", "batch"), ("n1", "normal"), ("b2", "batch")]
        asked += [("i1", "interactive"), ("n2", "normal"), ("i2", "interactive")]
        await asyncio.gather(*(use(name, priority) for name, priority in asked))
        assert order == ["first", "i1", "i2", "n1", "n2", "b1", "b2"]
        assert served.in_flight == 0 and served.estimated_wait_s() == 0.0

    run(scenario)


def test_who_waits_past_its_time_is_told_when_a_slot_is_free_or_at_the_next_look() -> None:
    async def scenario() -> None:
        loop, served = asyncio.get_running_loop(), pool(1)
        held = await served.acquire(SlotRequest(1))
        waiting = [
            asyncio.create_task(served.acquire(SlotRequest(1, begin_by=until))) for until in (2.0, 9.0, math.inf)
        ]
        await asyncio.sleep(3.0)
        served.release(held)
        with pytest.raises(ApiError) as refused:
            await waiting[0]
        assert (refused.value.status, refused.value.openai_code, loop.time()) == (429, "queue_late", 3.0)
        second = await waiting[1]
        late = asyncio.create_task(served.acquire(SlotRequest(1, priority="batch", begin_by=10.0)))
        await asyncio.sleep(8.0)
        await served.check_health()
        with pytest.raises(ApiError) as refused:
            await late
        assert refused.value.openai_code == "queue_late" and not waiting[2].done()
        served.release(second)
        served.release(await waiting[2])
        assert served.in_flight == 0

    run(scenario)
