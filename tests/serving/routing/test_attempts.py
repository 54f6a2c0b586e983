"""Real engine processes behind pools: they die, are busy, time out, are mirrored. What the client gets, and what never
leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from archwright.errors import EngineError
from archwright.home import Home
from archwright.http_client.client import EngineRefused
from archwright.policy.circuit_breaker import RETRY_RESERVE, RETRY_SHARE, RetryBudget
from archwright.serving.http.errors import ApiError
from archwright.serving.requests.model_resolution import ModelDirectory
from archwright.serving.requests.request_validation import GenerationRequest
from archwright.serving.routing.attempts import Attempts
from archwright.serving.routing.pool_registry import PoolRegistry
from archwright.serving.routing.replica import Replica, SlotRequest
from archwright.serving.routing.router import Router
from archwright.serving.routing.shadow_traffic import ShadowComparison, ShadowTraffic
from archwright.serving.settings.config import EnginePoolSpec, GatewayConfig, WeightedTarget, check_config

from ..conftest import Platform, endpoint, null_engine, table

pytestmark = pytest.mark.enable_socket
HELLO = {"messages": [{"role": "user", "content": "Say something."}], "max_tokens": 4, "stream": True, "model": "m"}


@pytest.fixture
def engines(tmp_path: Any) -> Iterator[Platform]:
    """Engines alone: own (slow), other (the stand-in for outside), each says who it is."""
    platform = Platform(Home(tmp_path / "home"), table(endpoint()))
    try:
        platform.start_engine(null_engine("own", slots=2, text="own own own own", tpot_s=0.02))
        platform.start_engine(null_engine("other", slots=8, text="other other other other"))
        yield platform
    finally:
        platform.close()


class Door:
    """What a gateway does with a request, without the gateway: class, order, course."""

    def __init__(self, home: Home, config: GatewayConfig) -> None:
        check_config(config)
        self.fleet = PoolRegistry(config.pools, home)
        self.budget = RetryBudget()
        self.router = Router(self.fleet.pools, config.endpoints, self.budget)
        (spec,) = ModelDirectory(config.pools, config.endpoints).endpoints
        self.question = GenerationRequest(model="m", endpoint=spec, body=HELLO)
        self.sent: list[str] = []

    async def ask(self, number: int = 0, header: str | None = None, within_s: float = 10.0) -> tuple[str, Attempts]:
        """The answer's text and how it came."""
        found = self.router.classify_request(self.question.endpoint, header, self.question.body)
        until = self.router.now() + within_s
        course = Attempts(self.router, self.router.select_pools(self.question, found, f"aw-{number:024x}"), until)

        async def send(replica: Replica) -> str:
            self.sent.append(replica.address)
            pieces: list[str] = []
            async for event in replica.client.stream("/chat/completions", self.question.body):
                course.mark_started()
                pieces += [choice["delta"].get("content") or "" for choice in event["choices"]]
            return "".join(pieces)

        return await course.run(self.router.build_slot_request(self.question, "", found, until), send), course


async def counted(engines: Platform, name: str) -> dict[str, float]:
    return await asyncio.to_thread(engines.engine_metrics, name)


def pool(name: str, **changes: Any) -> EnginePoolSpec:
    return endpoint(pool=name, **{"addresses": (f"unix:{name}",), **changes}).pool


def own(**changes: Any) -> Any:
    return endpoint(pool="own", addresses=("unix:own",), slots=2, **changes)


def through(home: Home, config: GatewayConfig, scenario: Callable[[Door], Awaitable[None]]) -> None:
    async def run() -> None:
        door = Door(home, config)
        async with AsyncExitStack() as stack, asyncio.timeout(60):
            stack.push_async_callback(door.fleet.close)
            await door.fleet.check_health()
            await scenario(door)

    asyncio.run(run())


def test_our_engine_dies_and_the_fallback_answers(engines: Platform) -> None:
    async def scenario(door: Door) -> None:
        text, course = await door.ask()
        assert text.startswith("own") and course.tries == 1
        engines.kill_engine("own")
        text, course = await door.ask()
        assert text.startswith("other") and course.pool.name == "other" and course.tries == 2
        await door.fleet.check_health()
        text, course = await door.ask()
        assert text.startswith("other") and course.tries == 1, "known to be down: not asked first"

    through(engines.home, table(own(fallback=("other",)), more=(pool("other"),)), scenario)


async def _only_own_answer(engines: Platform, door: Door, headers: list[str]) -> None:
    """Data of these classes get no answer once the own engine is dead, before it is known to be and after."""
    engines.kill_engine("own")
    for header in headers:
        with pytest.raises((ApiError, EngineError)):
            await door.ask(header=header)
    await door.fleet.check_health()
    for header in set(headers):
        with pytest.raises(ApiError) as refused:
            await door.ask(header=header)
        assert refused.value.status == 503
    assert "unix:other" not in door.sent
    assert (await counted(engines, "other"))["null:tokens_predicted_total"] == 0


def test_personal_data_never_reach_the_outside_also_when_everything_own_is_dead(engines: Platform) -> None:
    outside = pool("other", own=False, place="US")
    config = table(own(fallback=("other",), residency=("DE",)), more=(outside,))

    async def scenario(door: Door) -> None:
        assert (await door.ask(header="health"))[0].startswith("own")
        await _only_own_answer(engines, door, ["personal"] * 20)
        assert (await door.ask())[0].startswith("other"), "others' data may go"

    through(engines.home, config, scenario)


def test_a_stricter_class_than_was_planned_for_stays_in_the_house_with_every_engine_there_dead(
    engines: Platform,
) -> None:
    """The endpoint is planned for personal data that may go anywhere; of health data nobody said so."""
    outside = pool("other", own=False, place="DE")
    config = table(own(fallback=("other",), data_class="personal", residency=("any",)), more=(outside,))

    async def scenario(door: Door) -> None:
        assert (await door.ask(header="health"))[0].startswith("own")
        await _only_own_answer(engines, door, ["health", "payment"])
        assert (await door.ask(header="personal"))[0].startswith("other"), "what was planned for may go"
        assert (await door.ask())[0].startswith("other")

    through(engines.home, config, scenario)


def test_who_waited_and_left_before_a_word_is_remembered_and_who_heard_one_is_not(engines: Platform) -> None:
    async def scenario(door: Door) -> None:
        (pool,) = door.fleet.pools.values()
        until = door.router.now() + 10.0
        work = door.router.build_slot_request(door.question, "", "internal", until)

        async def waits_and_leaves(heard: bool) -> bool:
            held = [await pool.acquire(work) for _ in range(pool.slots)]
            course, sent = Attempts(door.router, (pool,), until), asyncio.Event()

            async def send(_replica: Replica) -> None:
                if heard:
                    course.mark_started()
                sent.set()
                await asyncio.Event().wait()

            asked = asyncio.create_task(course.run(work, send))
            await asyncio.sleep(0)
            pool.release(held.pop())
            await sent.wait()
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            pool.release(held.pop())
            return pool._queues["normal"].abandonment.active

        assert not await waits_and_leaves(heard=True)
        assert await waits_and_leaves(heard=False)
        assert pool.in_flight == 0

    through(engines.home, table(own()), scenario)


def test_our_own_is_busy_and_what_is_too_much_overflows(engines: Platform) -> None:
    config = table(own(overflow=("other",), overflow_wait_s=0.1), more=(pool("other", own=False),))

    async def scenario(door: Door) -> None:
        assert (await door.ask())[0].startswith("own"), "our own first"
        found = await asyncio.gather(*(door.ask(number) for number in range(12)))
        said = [text.split()[0] for text, _ in found]
        assert said[:2] == ["own", "own"] and said.count("other") >= 8
        assert (await door.ask())[0].startswith("own")

    through(engines.home, config, scenario)


def test_in_a_total_outage_tries_are_requests_and_a_share(engines: Platform) -> None:
    """Engines that refuse everything, yet look well: tries are bounded by the budget and soon by the breaker."""
    broken = endpoint(pool="own", addresses=("unix:own",), fallback=("other",))

    async def scenario(door: Door) -> None:
        tries = 0

        async def send(_replica: Replica) -> str:
            nonlocal tries
            tries += 1
            raise EngineRefused(500, {"error": "boom"}, where=None)  # type: ignore[arg-type]

        requests = 200
        for number in range(requests):
            order = door.router.select_pools(door.question, "internal", str(number))
            with pytest.raises(EngineRefused):
                await Attempts(door.router, order, door.router.now() + 5).run(SlotRequest(1), send)
        assert requests <= tries <= requests + RETRY_RESERVE + RETRY_SHARE * requests
        assert not any(served.is_usable(door.router.now()) for served in door.fleet.pools.values())

    through(engines.home, table(broken, more=(pool("other"),)), scenario)


def test_the_time_left_bounds_every_try(engines: Platform) -> None:
    engines.start_engine(null_engine("asleep", ttft_s=30.0))
    asleep = endpoint(pool="asleep", addresses=("unix:asleep",), first_token_s=0.3, fallback=("other",))

    async def scenario(door: Door) -> None:
        begun = time.monotonic()
        text, course = await door.ask()
        assert text.startswith("other") and course.tries == 2 and time.monotonic() - begun >= 0.3
        with pytest.raises(ApiError) as refused:
            await door.ask(within_s=0.2)
        assert refused.value.status == 504
        assert (await counted(engines, "asleep"))["null:requests_processing"] == 0, "what was given up is cancelled"

    through(engines.home, table(asleep, more=(pool("other"),)), scenario)


def test_the_clients_own_mistake_is_asked_once(engines: Platform) -> None:
    async def scenario(door: Door) -> None:
        tries = 0

        async def send(replica: Replica) -> object:
            nonlocal tries
            tries += 1
            return await replica.client.post("/chat/completions", {"messages": 7})

        order = door.router.select_pools(door.question, "internal", "x")
        with pytest.raises(EngineRefused) as refused:
            await Attempts(door.router, order, door.router.now() + 5).run(SlotRequest(1), send)
        assert refused.value.status == 400 and tries == 1

    through(engines.home, table(own(fallback=("other",)), more=(pool("other"),)), scenario)


@pytest.mark.parametrize(("times", "healthy", "tries"), [(0, True, 1), (1, True, 2), (2, True, 2), (1, False, 1)])
def test_what_broke_off_is_asked_once_more_where_an_engine_is_left(
    engines: Platform, times: int, healthy: bool, tries: int
) -> None:
    async def scenario(door: Door) -> None:
        course = Attempts(door.router, door.router.select_pools(door.question, "internal", "x"), door.router.now() + 5)

        async def send(_replica: Replica) -> str:
            if course.tries <= times:
                if not healthy:
                    engines.kill_engine("own")
                raise EngineError("AW-ENG-02", "the engine disconnected")
            return "answered"

        if tries > times:
            assert await course.run(SlotRequest(1), send) == "answered"
        else:
            with pytest.raises(EngineError):
                await course.run(SlotRequest(1), send)
        assert course.tries == tries

    through(engines.home, table(own()), scenario)


def test_nothing_is_asked_again_once_the_answer_began(engines: Platform) -> None:
    async def scenario(door: Door) -> None:
        order = door.router.select_pools(door.question, "internal", "x")
        course = Attempts(door.router, order, door.router.now() + 5)

        async def send(_replica: Replica) -> str:
            course.mark_started()
            raise EngineError("AW-ENG-02", "the engine disconnected")

        with pytest.raises(EngineError):
            await course.run(SlotRequest(1), send)
        assert course.tries == 1

    through(engines.home, table(own(fallback=("other",)), more=(pool("other"),)), scenario)


def test_a_canary_gets_its_share_and_its_version_answers(engines: Platform) -> None:
    targets = (WeightedTarget(pool="own", weight=0.8), WeightedTarget(pool="other", weight=0.2))
    config = table(own(targets=targets, version="m@v1"), more=(pool("other", version="m@v2"),))

    async def scenario(door: Door) -> None:
        found = [(await door.ask(number))[1].pool.spec.serves for number in range(100)]
        assert 5 <= found.count("m@v2") <= 40 and found.count("m@v1") == 100 - found.count("m@v2")

    through(engines.home, config, scenario)


def test_a_shadow_that_speaks_nonsense_has_failed(tmp_path: Path) -> None:
    said = b'data: {"choices": [{"delta": "x"}]}\n\ndata: [DONE]\n\n'
    found: list[ShadowComparison] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))
        await writer.drain()
        writer.close()

    async def scenario() -> None:
        home = Home(tmp_path)
        fleet = PoolRegistry((pool("twin"),), home)
        twin = fleet.pools["twin"]
        twin.replicas[0].healthy = True
        async with await asyncio.start_unix_server(speak, home.socket("twin")):
            shadows = ShadowTraffic(time.monotonic, found.append)
            assert shadows.mirror("aw-1", twin, SlotRequest(4), ("/chat/completions", {})) is not None
            await asyncio.gather(*shadows._running)
        assert [(one.verdict, twin.in_flight) for one in found] == [("failed", 0)]
        await fleet.close()

    asyncio.run(scenario())


def test_a_shadow_is_compared_and_delays_nobody(engines: Platform) -> None:
    engines.start_engine(null_engine("twin", text="own own own own"))
    found: list[ShadowComparison] = []

    async def mirrored(door: Door, name: str) -> None:
        shadows = ShadowTraffic(door.router.now, found.append)
        answer = shadows.mirror(
            "aw-1", door.fleet.pools[name], SlotRequest(4), ("/chat/completions", door.question.body)
        )
        text, _ = await door.ask()
        assert answer is not None
        answer.set_result(text)
        async with asyncio.timeout(10):
            while len(shadows._running):
                await asyncio.sleep(0.01)
        await shadows.close()

    async def scenario(door: Door) -> None:
        for name in ("twin", "other"):
            await mirrored(door, name)
        engines.kill_engine("other")
        await mirrored(door, "other")
        assert [(one.pool, one.verdict, one.similarity) for one in found] == [
            ("twin", "same", 1.0),
            ("other", "different", 0.0),
            ("other", "failed", 0.0),
        ]
        assert all(address == "unix:own" for address in door.sent)

    more = (pool("twin"), pool("other"))
    through(engines.home, table(own(shadow="twin", shadow_share=1.0), more=more), scenario)
