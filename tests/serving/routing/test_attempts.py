"""Attempts against real engines that die, are busy, time out or get shadow traffic; sensitive data stay inside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.async_tests import run_async
from tests.tools.checks import WAIT_S, until_async

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
from archwright.serving.settings.config import EnginePoolSpec, GatewayConfig, check_config

from ..conftest import Platform, endpoint, null_engine, table

pytestmark = pytest.mark.enable_socket
HELLO = {"messages": [{"role": "user", "content": "Say something."}], "max_tokens": 4, "stream": True, "model": "m"}


@pytest.fixture
def engines(tmp_path: Any) -> Iterator[Platform]:
    """Two engines without a gateway, own (slow) and other (outside); each replies with its name."""
    platform = Platform(Home(tmp_path / "home"), table(endpoint()))
    try:
        platform.start_engine(null_engine("own", slots=2, text="own own own own", tpot_s=0.02))
        platform.start_engine(null_engine("other", slots=8, text="other other other other"))
        yield platform
    finally:
        platform.close()


class SmallGateway:
    """The routing of a gateway without its HTTP server: data class, order of pools, attempts."""

    def __init__(self, home: Home, config: GatewayConfig) -> None:
        check_config(config)
        self.registry = PoolRegistry(config.pools, home)
        self.budget = RetryBudget()
        self.router = Router(self.registry.pools, config.endpoints, self.budget)
        (spec,) = ModelDirectory(config.pools, config.endpoints).endpoints
        self.request = GenerationRequest(model="m", endpoint=spec, body=HELLO)
        self.sent: list[str] = []

    def attempts(self, within_s: float = WAIT_S) -> Attempts:
        order = self.router.select_pools(self.request, "internal", "aw-1")
        return Attempts(self.router, order, self.router.now() + within_s)

    async def ask(self, header: str | None = None, within_s: float = WAIT_S) -> tuple[str, Attempts]:
        """Return the text of the reply and its attempts."""
        found = self.router.classify_request(self.request.endpoint, header, self.request.body)
        until = self.router.now() + within_s
        attempts = Attempts(self.router, self.router.select_pools(self.request, found, "aw-1"), until)

        async def send(replica: Replica) -> str:
            self.sent.append(replica.address)
            pieces: list[str] = []
            async for event in replica.client.stream("/chat/completions", self.request.body):
                attempts.mark_started()
                pieces += [choice["delta"].get("content") or "" for choice in event["choices"]]
            return "".join(pieces)

        return await attempts.run(self.router.build_slot_request(self.request, "", found, until), send), attempts


def pool(name: str, **changes: Any) -> EnginePoolSpec:
    return endpoint(pool=name, **{"addresses": (f"unix:{name}",), **changes}).pool


def own(**changes: Any) -> Any:
    return endpoint(pool="own", addresses=("unix:own",), slots=2, **changes)


@asynccontextmanager
async def opened(home: Home, config: GatewayConfig) -> AsyncIterator[SmallGateway]:
    gateway = SmallGateway(home, config)
    try:
        await gateway.registry.check_health()
        yield gateway
    finally:
        await gateway.registry.close()


@run_async
async def test_our_engine_dies_and_the_fallback_answers(engines: Platform) -> None:
    async with opened(engines.home, table(own(fallback=("other",)), more=(pool("other"),))) as gateway:
        text, attempts = await gateway.ask()
        assert text.startswith("own") and attempts.tries == 1
        engines.kill_engine("own")
        text, attempts = await gateway.ask()
        assert text.startswith("other") and attempts.pool.name == "other" and attempts.tries == 2
        await gateway.registry.check_health()
        text, attempts = await gateway.ask()
        assert text.startswith("other") and attempts.tries == 1, "skipped because it is down"


async def _only_own_answer(engines: Platform, gateway: SmallGateway, headers: list[str]) -> None:
    """Requests with these data classes fail once the own engine is dead, before and after the health check."""
    engines.kill_engine("own")
    for header in headers:
        with pytest.raises((ApiError, EngineError)):
            await gateway.ask(header)
    await gateway.registry.check_health()
    for header in set(headers):
        with pytest.raises(ApiError) as refused:
            await gateway.ask(header)
        assert refused.value.status == 503
    assert "unix:other" not in gateway.sent
    counts = await asyncio.to_thread(engines.engine_metrics, "other")
    assert counts["null:tokens_predicted_total"] == 0


@pytest.mark.parametrize(
    ("place", "stated", "inside", "outside"),
    [
        ("US", {"residency": ("DE",)}, ["personal"] * 20, [None]),
        # Personal data may go anywhere, but no residency is stated for stricter classes.
        ("DE", {"data_class": "personal", "residency": ("any",)}, ["health", "payment"], ["personal", None]),
    ],
)
@run_async
async def test_sensitive_data_stay_on_our_engines_even_if_all_are_dead(
    engines: Platform, place: str, stated: dict[str, Any], inside: list[str], outside: list[str | None]
) -> None:
    config = table(own(fallback=("other",), **stated), more=(pool("other", own=False, place=place),))
    async with opened(engines.home, config) as gateway:
        assert (await gateway.ask("health"))[0].startswith("own")
        await _only_own_answer(engines, gateway, inside)
        for header in outside:
            assert (await gateway.ask(header))[0].startswith("other"), "data of other classes may go"


@run_async
async def test_a_client_that_leaves_before_any_output_counts_as_abandoned(engines: Platform) -> None:
    async with opened(engines.home, table(own())) as gateway:
        (pool,) = gateway.registry.pools.values()
        until = gateway.router.now() + 10.0
        work = gateway.router.build_slot_request(gateway.request, "", "internal", until)

        async def waits_and_leaves(heard: bool) -> bool:
            held = [await pool.acquire(work) for _ in range(pool.slots)]
            attempts, sent = Attempts(gateway.router, (pool,), until), asyncio.Event()

            async def send(_replica: Replica) -> None:
                if heard:
                    attempts.mark_started()
                sent.set()
                await asyncio.Event().wait()

            asked = asyncio.create_task(attempts.run(work, send))
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


@run_async
async def test_in_a_total_outage_tries_are_requests_and_a_share(engines: Platform) -> None:
    """Engines that pass health checks but reject everything: attempts are bounded by the budget, then the breaker."""
    broken = endpoint(pool="own", addresses=("unix:own",), fallback=("other",))
    async with opened(engines.home, table(broken, more=(pool("other"),))) as gateway:

        async def send(replica: Replica) -> str:
            gateway.sent.append(replica.address)
            raise EngineRefused(500, {"error": "boom"}, where=None)  # type: ignore[arg-type]

        requests = 200
        for _ in range(requests):
            with pytest.raises(EngineRefused):
                await gateway.attempts().run(SlotRequest(1), send)
        assert requests <= len(gateway.sent) <= requests + RETRY_RESERVE + RETRY_SHARE * requests
        assert not any(served.is_usable(gateway.router.now()) for served in gateway.registry.pools.values())


@run_async
async def test_the_time_left_bounds_every_try(engines: Platform) -> None:
    engines.start_engine(null_engine("asleep", ttft_s=2 * WAIT_S))
    asleep = endpoint(pool="asleep", addresses=("unix:asleep",), first_token_s=0.3, fallback=("other",))

    async def is_idle(name: str) -> bool:
        counts = await asyncio.to_thread(engines.engine_metrics, name)
        return counts["null:requests_processing"] == 0

    async with opened(engines.home, table(asleep, more=(pool("other"),))) as gateway:
        begun = time.monotonic()
        text, attempts = await gateway.ask()
        assert text.startswith("other") and attempts.tries == 2 and time.monotonic() - begun >= 0.3
        with pytest.raises(ApiError) as refused:
            await gateway.ask(within_s=0.2)
        assert refused.value.status == 504
        # Abandoned work is cancelled.
        await until_async(lambda: is_idle("asleep"))


@run_async
async def test_the_clients_own_mistake_is_asked_once(engines: Platform) -> None:
    async with opened(engines.home, table(own(fallback=("other",)), more=(pool("other"),))) as gateway:
        attempts = gateway.attempts()

        async def send(replica: Replica) -> object:
            return await replica.client.post("/chat/completions", {"messages": 7})

        with pytest.raises(EngineRefused) as refused:
            await attempts.run(SlotRequest(1), send)
        assert refused.value.status == 400 and attempts.tries == 1


@pytest.mark.parametrize(
    ("times", "state", "tries"),
    [(0, "healthy", 1), (1, "healthy", 2), (2, "healthy", 2), (1, "killed", 1), (1, "begun", 1)],
)
@run_async
async def test_a_broken_request_is_retried_once_unless_the_reply_began_or_no_engine_is_left(
    engines: Platform, times: int, state: str, tries: int
) -> None:
    config = table(own(fallback=("other",)), more=(pool("other"),)) if state == "begun" else table(own())
    async with opened(engines.home, config) as gateway:
        attempts = gateway.attempts()

        async def send(_replica: Replica) -> str:
            if state == "begun":
                attempts.mark_started()
            if attempts.tries <= times:
                if state == "killed":
                    engines.kill_engine("own")
                raise EngineError("AW-ENG-02", "the engine disconnected")
            return "answered"

        if tries > times:
            assert await attempts.run(SlotRequest(1), send) == "answered"
        else:
            with pytest.raises(EngineError):
                await attempts.run(SlotRequest(1), send)
        assert attempts.tries == tries


def choose_no_fields(_replica: Replica, _tenant: str) -> dict[str, object]:
    return {}


@run_async
async def test_a_shadow_that_speaks_nonsense_has_failed(tmp_path: Path) -> None:
    said = b'data: {"choices": [{"delta": "x"}]}\n\ndata: [DONE]\n\n'
    found: list[ShadowComparison] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))
        await writer.drain()
        writer.close()

    home = Home(tmp_path)
    registry = PoolRegistry((pool("twin"),), home)
    twin = registry.pools["twin"]
    twin.replicas[0].healthy = True
    async with await asyncio.start_unix_server(speak, home.socket("twin")):
        shadows = ShadowTraffic(time.monotonic, found.append, choose_no_fields)
        assert shadows.mirror("aw-1", twin, SlotRequest(4), ("/chat/completions", {})) is not None
        await asyncio.gather(*shadows._running)
    assert [(one.verdict, twin.in_flight) for one in found] == [("failed", 0)]
    await registry.close()


@run_async
async def test_a_shadow_is_compared_and_delays_nobody(engines: Platform) -> None:
    engines.start_engine(null_engine("twin", text="own own own own"))
    found: list[ShadowComparison] = []

    async def mirrored(gateway: SmallGateway, name: str) -> None:
        shadows = ShadowTraffic(gateway.router.now, found.append, choose_no_fields)
        answer = shadows.mirror(
            "aw-1", gateway.registry.pools[name], SlotRequest(4), ("/chat/completions", gateway.request.body)
        )
        text, _ = await gateway.ask()
        assert answer is not None
        answer.set_result(text)
        await until_async(lambda: not shadows._running)
        await shadows.close()

    more = (pool("twin"), pool("other"))
    async with opened(engines.home, table(own(shadow="twin", shadow_share=1.0), more=more)) as gateway:
        for name in ("twin", "other"):
            await mirrored(gateway, name)
        engines.kill_engine("other")
        await mirrored(gateway, "other")
        assert [(one.pool, one.verdict, one.similarity) for one in found] == [
            ("twin", "same", 1.0),
            ("other", "different", 0.0),
            ("other", "failed", 0.0),
        ]
        assert all(address == "unix:own" for address in gateway.sent)
