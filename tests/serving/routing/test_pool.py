"""Slots are assigned in order of arrival and always released; no request waits for a dead engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.async_tests import run_async

from archwright.contract.record import replace
from archwright.home import Home
from archwright.http_client.client import EngineClient
from archwright.serving.http.errors import ApiError
from archwright.serving.routing.engine_start import EngineStart, read_start_requests
from archwright.serving.routing.pool import EnginePool, PoolRemovedError, SlotLease
from archwright.serving.routing.replica import Replica, SlotRequest

from ..conftest import endpoint


class Pulse(EngineClient):
    """A client whose health is set by the test. `delay_s`: response time of the health check."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9/v1")
        self.well = True
        self.delay_s = 0.0
        self.asked = 0

    async def healthy(self, path: str = "/health", timeout_s: float = 2.0) -> bool:
        self.asked += 1
        await asyncio.sleep(0)
        return self.well and self.delay_s <= timeout_s


def pool(slots: int = 1, replicas: int = 1, version: str = "") -> tuple[EnginePool, list[Pulse]]:
    pulses = [Pulse() for _ in range(replicas)]
    spec = endpoint(slots=slots, version=version).pool
    engines = tuple(Replica(pulse, spec, f"unix:e{number}") for number, pulse in enumerate(pulses))
    made = EnginePool(spec, engines)
    return made, pulses


@asynccontextmanager
async def lease(served: EnginePool, tokens: int = 1, plain: bool = False) -> AsyncIterator[Replica]:
    taken = await served.acquire(SlotRequest(tokens, plain=plain))
    try:
        yield taken.replica
    finally:
        served.release(taken)


async def use(served: EnginePool, until: asyncio.Event | None = None) -> str:
    """Hold a slot until the event; return the version of the replica."""
    async with lease(served) as replica:
        if until is not None:
            await until.wait()
        return replica.version


async def assert_full(served: EnginePool) -> None:
    with pytest.raises(ApiError) as caught:
        await use(served)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 2)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@run_async
async def test_in_order_of_arrival() -> None:
    made, _ = pool()
    order: list[tuple[int, int]] = []

    async def use(number: int) -> None:
        async with lease(made):
            order.append((number, made.in_flight))
            await asyncio.sleep(0.001)

    await asyncio.gather(*(use(number) for number in range(6)))
    assert order == [(number, 6 - number) for number in range(6)]
    assert made.in_flight == 0


@run_async
async def test_a_full_pool_rejects() -> None:
    made, _ = pool()
    release = asyncio.Event()
    tasks = [asyncio.create_task(use(made, release)) for _ in range(16)]
    await settle()
    await assert_full(made)
    release.set()
    await asyncio.gather(*tasks)


@run_async
async def test_leaving_while_waiting_gives_nothing_away() -> None:
    made, _ = pool()
    async with lease(made):
        gone, stays = asyncio.create_task(use(made)), asyncio.create_task(use(made))
        await settle()
        gone.cancel()
        await settle()
        assert made.in_flight == 2
    await stays
    assert gone.cancelled()
    assert made.in_flight == made.replicas[0].running == made.replicas[0].work_tokens == 0


@run_async
async def test_departed_requests_of_a_waiting_class_are_removed() -> None:
    made, _ = pool()
    await made.check_health()
    async with lease(made):
        urgent = asyncio.create_task(made.acquire(SlotRequest(1, priority="interactive")))
        late = [asyncio.create_task(made.acquire(SlotRequest(1, priority="batch"))) for _ in range(5)]
        await settle()
        for one in late[1:]:
            one.cancel()
        await settle()
        await made.check_health()
        assert len(list(made._queues["batch"])) == 1
    made.release(await urgent)
    made.release(await late[0])
    assert made.in_flight == 0


@run_async
async def test_many_waiting_requests_of_one_tenant_do_not_delay_another() -> None:
    """Two tenants share two slots equally, however many requests wait; a single tenant gets both."""
    made, _ = pool(slots=2)
    await made.check_health()
    served: list[str] = []

    async def use(tenant: str) -> None:
        held = await made.acquire(SlotRequest(1, tenant))
        served.append(tenant)
        await settle()
        made.release(held)

    loud = [asyncio.create_task(use("loud")) for _ in range(12)]
    await settle()
    quiet = [asyncio.create_task(use("quiet")) for _ in range(4)]
    await asyncio.gather(*loud, *quiet)
    assert served.count("quiet") == 4 and served[12:] == ["loud"] * 4
    assert made.in_flight == 0 and made._active_by_tenant == {}


@run_async
async def test_a_full_queue_replaces_a_request_of_the_largest_tenant() -> None:
    made, _ = pool()
    await made.check_health()
    held = await made.acquire(SlotRequest(1, "loud"))
    loud = [asyncio.create_task(made.acquire(SlotRequest(1, "loud"))) for _ in range(40)]
    await settle()
    refused = [task for task in loud if task.done()]
    assert refused and all(_status(task) == 429 for task in refused)
    quiet = asyncio.create_task(made.acquire(SlotRequest(1, "quiet", begin_by=asyncio.get_running_loop().time() + 2.5)))
    await settle()
    waiting = [task for task in loud if not task.done()]
    (evicted,) = (task for task in loud if task.done() and task not in refused)
    assert _status(evicted) == 429 and loud.index(evicted) == len(waiting), "the newest admitted request"
    made.release(held)
    for task in (quiet, *waiting):
        made.release(await task)
    assert made.in_flight == 0 and made._active_by_tenant == {}


def _status(task: asyncio.Task[SlotLease]) -> int:
    error = task.exception()
    assert isinstance(error, ApiError) and error.retry_after_s
    return error.status


@run_async
async def test_leaving_in_the_moment_of_being_served_returns_the_slot() -> None:
    made, _ = pool()
    held = await made.acquire(SlotRequest(1))
    waiting = asyncio.create_task(made.acquire(SlotRequest(7)))
    await settle()
    made.release(held)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert made.replicas[0].running == made.replicas[0].work_tokens == 0
    async with lease(made):
        assert made.replicas[0].running == 1


@run_async
async def test_everybody_waiting_is_told_when_the_last_engine_goes() -> None:
    made, pulses = pool()
    async with lease(made) as replica:
        waiting = [asyncio.create_task(use(made)) for _ in range(3)]
        await settle()
        waiting[0].cancel()
        pulses[0].well = False
        await made.handle_failure(replica)
        found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(isinstance(one, ApiError) and one.status == 503 for one in found[1:])
    with pytest.raises(ApiError):
        await use(made)
    pulses[0].well = True
    await use(made)


@run_async
async def test_a_healthy_replica_is_used_and_a_returned_one_serves_the_queue() -> None:
    made, pulses = pool(replicas=2)
    pulses[1].well = False
    async with lease(made) as first:
        assert first is made.replicas[0]
        waiting = asyncio.create_task(made.acquire(SlotRequest(1)))
        await settle()
        assert not waiting.done()
        pulses[1].well = True
        await made.check_health()
        assert (await waiting).replica is made.replicas[1]


@run_async
async def test_callers_at_the_same_time_share_one_look() -> None:
    made, pulses = pool()
    await asyncio.gather(*(made.check_health() for _ in range(10)))
    assert pulses[0].asked == 1


@run_async
async def test_a_busy_engine_is_not_taken_for_dead() -> None:
    made, pulses = pool()

    async def healthy_when(delay_s: float) -> bool:
        pulses[0].delay_s = delay_s
        await made.check_health()
        return made.healthy

    async with lease(made):
        assert await healthy_when(5.0)
        assert not await healthy_when(50.0)
    assert not await healthy_when(5.0)


@run_async
async def test_with_and_without_the_adapter_take_turns() -> None:
    """One kind runs at a time, in order of arrival, so neither kind waits for ever."""
    made, _ = pool(slots=2, version="m@v1")
    order: list[str] = []
    together: set[str] = set()

    async def use(name: str, plain: bool) -> None:
        async with lease(made, 1, plain):
            order.append(name)
            together.add(name[0])
            assert len(together) == 1, "both kinds at once"
            await asyncio.sleep(0.001)
            if made.replicas[0].running == 1:
                together.clear()

    names = ("t1", "t2", "p1", "t3", "p2", "p3", "t4")
    await asyncio.gather(*(use(name, name[0] == "p") for name in names))
    assert order == list(names)


@run_async
async def test_without_an_adapter_both_kinds_share_the_slots() -> None:
    made, _ = pool(slots=2)
    async with lease(made, plain=True) as one, lease(made) as other:
        assert one is other and one.running == 2


@run_async
async def test_new_engines_serve_waiting_requests_and_running_ones_stay() -> None:
    made, _ = pool()
    old = made.replicas[0]
    release = asyncio.Event()
    running, waiting = (asyncio.create_task(use(made, release)) for _ in range(2))
    await settle()
    spec = endpoint(slots=1, version="m@v1").pool
    new = Replica(Pulse(), spec, "unix:new")
    new.healthy = True
    made.replace_replicas(spec, (new,))
    await settle()
    assert (old.running, new.running) == (1, 1)
    late = [asyncio.create_task(use(made, release)) for _ in range(15)]
    await settle()
    assert made.in_flight == 17, "requests on the old engine do not count for new ones"
    await assert_full(made)
    release.set()
    assert await asyncio.gather(running, waiting, *late) == ["m"] + ["m@v1"] * 16
    assert old.running == new.running == made.in_flight == 0


class Sleeping:
    """A pool whose engine does not run, with the supervisor's side of its start."""

    def __init__(self, home: Home, start_s: float = 60.0) -> None:
        woken, (self.pulse,) = pool(slots=2)
        self.home, self.spec, self.replicas = home, woken.spec, woken.replicas
        self.now, self.start = 0.0, EngineStart(home, "e0")
        asleep = replace(self.spec, start_s=start_s)
        self.pool = EnginePool(asleep, (), lambda: self.now, self.start)

    def ask(self) -> asyncio.Task[str]:
        return asyncio.create_task(use(self.pool))

    def wake(self) -> None:
        self.start.end()
        self.replicas[0].healthy = True
        self.pool.replace_replicas(self.spec, self.replicas)


@run_async
async def test_requests_wait_while_their_engine_starts(tmp_path: Path) -> None:
    stage = Sleeping(Home(tmp_path))
    assert read_start_requests(stage.home) == set()
    leaves, *stay = [stage.ask() for _ in range(4)]
    await asyncio.sleep(0)
    assert read_start_requests(stage.home) == {"e0"}
    leaves.cancel()
    await stage.pool.check_health()
    stage.wake()
    assert await asyncio.gather(*stay) == ["m"] * 3
    assert stage.pool.in_flight == 0 and read_start_requests(stage.home) == set()


@run_async
async def test_a_start_that_fails_or_takes_too_long_refuses_its_requests(tmp_path: Path) -> None:
    stage = Sleeping(Home(tmp_path), start_s=5.0)
    for fails in (True, False):
        asked = stage.ask()
        await asyncio.sleep(0)
        stage.now += 4.0
        await stage.pool.check_health()
        assert not asked.done(), "an earlier failure does not count"
        if fails:
            stage.start.end(failed=True)
        else:
            stage.now += 2.0
        await stage.pool.check_health()
        with pytest.raises(ApiError) as refused:
            await asked
        assert (refused.value.status, refused.value.openai_code) == (503, "model_not_loaded")
        assert refused.value.retry_after_s == 5 and stage.pool.in_flight == 0


@run_async
async def test_requests_leave_a_removed_pool_and_ask_again_for_an_engine_that_left(tmp_path: Path) -> None:
    stage = Sleeping(Home(tmp_path))
    stage.wake()
    async with lease(stage.pool), lease(stage.pool):
        waits = stage.ask()
        await asyncio.sleep(0)
        stage.pool.replace_replicas(replace(stage.spec, start_s=60.0), ())
        assert read_start_requests(stage.home) == {"e0"}
        stage.pool.give_up_start()
        with pytest.raises(PoolRemovedError):
            await waits


@run_async
async def test_a_tenant_leaves_a_slot_free_for_a_tenant_of_the_last_minutes() -> None:
    """Four requests of the loud tenant hold three slots, so the quiet one begins at once; alone they hold four."""
    made, _ = pool(slots=4)
    await made.check_health()
    alone = [await made.acquire(SlotRequest(1, "loud")) for _ in range(4)]
    for held in alone:
        made.release(held)
    made.release(await made.acquire(SlotRequest(1, "quiet")))
    loud = [asyncio.create_task(made.acquire(SlotRequest(1, "loud"))) for _ in range(4)]
    await settle()
    assert [task.done() for task in loud] == [True] * 3 + [False]
    quiet = asyncio.create_task(made.acquire(SlotRequest(1, "quiet")))
    await settle()
    assert quiet.done(), "its slot was kept, whoever waits before it"
    made.release(await loud[0])
    await settle()
    assert loud[3].done()
    for task in (*loud[1:], quiet):
        made.release(await task)
    assert made.in_flight == 0


@run_async
async def test_a_slot_that_one_class_must_leave_free_serves_another_class() -> None:
    made, _ = pool(slots=2)
    await made.check_health()
    made.release(await made.acquire(SlotRequest(1, "quiet")))
    held = await made.acquire(SlotRequest(1, "loud"))
    waits = asyncio.create_task(made.acquire(SlotRequest(1, "loud", priority="interactive")))
    await settle()
    assert not waits.done()
    batch = await made.acquire(SlotRequest(1, "quiet", priority="batch"))
    made.release(held)
    await settle()
    assert waits.done()
    made.release(batch)
    made.release(await waits)
