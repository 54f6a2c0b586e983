"""An engine that is dead, rejects or hangs affects few requests and not the whole pool."""

from __future__ import annotations

import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from tests.async_tests import run_async
from tests.serving.conftest import endpoint, null_engine
from tests.serving.fake_provider import Place, Script, chat_events, standing_in

from archwright.http_client.client import EngineClient
from archwright.policy.circuit_breaker import FIRST_OPEN_S, LEAST_FAILURES, AttemptOutcome
from archwright.serving.routing.pool import EnginePool, SlotLease
from archwright.serving.routing.replica import MIN_SILENT_REQUESTS, Replica, SlotRequest

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

PATIENCE_S = 4.0  # silence limit of a new pool: four times its initial mean of 1 s


class Clock:
    now = 100.0


class Stand:
    """A pool of healthy replicas with a simulated clock."""

    def __init__(self, names: str = "ab", slots: int = 8) -> None:
        spec = endpoint(addresses=tuple(f"unix:{name}" for name in names), slots=slots).pool
        found = [Replica(EngineClient("http://127.0.0.1:9/v1"), spec, address) for address in spec.addresses]
        for replica in found:
            replica.healthy = True
        self.clock = Clock()
        self.pool = EnginePool(spec, tuple(found), lambda: self.clock.now)

    async def ask(self, but: Replica | None = None) -> SlotLease:
        lease = await self.pool.acquire(SlotRequest(1, but=but))
        lease.replica.record_sent(self.clock.now)
        return lease

    def answer(self, lease: SlotLease) -> None:
        self.pool.record_first_response(lease.replica, 0.0)
        lease.replica.record_end("ok", self.clock.now)
        self.pool.release(lease)

    def end(self, replica: Replica, outcome: AttemptOutcome, after_s: float = 0.0) -> None:
        replica.record_sent(self.clock.now)
        self.clock.now += after_s
        replica.record_end(outcome, self.clock.now)

    async def asked(self, count: int) -> str:
        """Return the replicas that get requests which are answered at once."""
        found = ""
        for _ in range(count):
            lease = await self.ask()
            found += lease.replica.address[-1]
            self.answer(lease)
        return found


@run_async
async def test_a_silent_engine_gets_no_requests_until_it_responds() -> None:
    stand = Stand()
    first, second = stand.pool.replicas
    held = [await stand.ask() for _ in range(2 * MIN_SILENT_REQUESTS)]
    assert Counter(lease.replica for lease in held) == {first: MIN_SILENT_REQUESTS, second: MIN_SILENT_REQUESTS}
    for lease in held:
        if lease.replica is second:
            stand.answer(lease)
    stand.clock.now += PATIENCE_S - 0.5
    lease = await stand.ask()
    stand.answer(lease)
    stand.clock.now += 1.0
    assert await stand.asked(10) == "b" * 10
    assert stand.pool.is_usable(stand.clock.now)
    stand.clock.now += FIRST_OPEN_S
    probe = await stand.ask()
    assert probe.replica is first or (await stand.asked(3)).count("a") == 0
    silent = next(lease for lease in held if lease.replica is first)
    stand.answer(silent)
    assert first.is_trusted(stand.clock.now, PATIENCE_S), "a slow engine is not dead"
    assert first.breaker.state == "closed"


@run_async
async def test_silence_is_what_somebody_waits_through() -> None:
    """Only the time that clients waited counts as silence of an engine, not the idle time between."""
    stand = Stand()
    first, _ = stand.pool.replicas

    for _ in range(MIN_SILENT_REQUESTS):
        stand.end(first, "neutral", 0.1)
    stand.clock.now += 100.0
    assert first.is_trusted(stand.clock.now, PATIENCE_S)
    stand.end(first, "neutral", PATIENCE_S / 2)
    assert first.is_trusted(stand.clock.now, PATIENCE_S)
    stand.clock.now += 100.0
    stand.end(first, "neutral", PATIENCE_S / 2)
    assert not first.is_trusted(stand.clock.now, PATIENCE_S)


@run_async
async def test_where_all_are_silent_all_are_asked_and_one_alone_is_never_taken_for_silent() -> None:
    for names in ("ab", "a"):
        stand = Stand(names)
        for _ in range(2 * MIN_SILENT_REQUESTS):
            await stand.ask()
        stand.clock.now += 1_000.0
        assert len({(await stand.ask()).replica for _ in range(2)}) == len(names)
        assert stand.pool.is_usable(stand.clock.now) is (names == "a"), "another pool would be preferred"


@run_async
async def test_one_that_fails_does_not_take_the_pool_with_it() -> None:
    stand = Stand()
    first, second = stand.pool.replicas
    for _ in range(LEAST_FAILURES):
        stand.end(first, "failed")
    assert stand.pool.is_usable(stand.clock.now)
    assert await stand.asked(5) == "bbbbb"
    assert (await stand.ask(but=second)).replica is second, "a last resort"
    stand.clock.now += FIRST_OPEN_S
    probe = await stand.ask(but=second)
    assert probe.replica is first
    assert await stand.asked(3) == "bbb", "one at a time"
    stand.answer(probe)
    stand.answer(await stand.ask(but=second))
    assert set(await stand.asked(4)) <= {"a", "b"} and first.breaker.state == "closed"


# --- real processes


def texts(platform: Platform, count: int, clients: int) -> list[str]:
    """Return the first letter of each reply, or the status of an error."""

    def one(number: int) -> str:
        # Different beginnings, so prefix affinity prefers no engine.
        reply = platform.chat(max_tokens=2, messages=[{"role": "user", "content": f"{number}, say something."}])
        said: str = reply.json["choices"][0]["message"]["content"] if reply.status == 200 else str(reply.status)
        return said[:1] if reply.status == 200 else said

    with ThreadPoolExecutor(clients) as threads:
        return list(threads.map(one, range(count)))


@pytest.fixture
def pair(start: Start) -> Platform:
    """Two engines, a and b, of one pool without a health path."""
    spec = {"addresses": ("unix:a", "unix:b"), "health_path": ""}
    engines = [{"name": name, "text": f"{name} {name} {name}", "ttft_s": 0.02} for name in "ab"]
    return start([spec], engines)


@pytest.mark.enable_socket
def test_a_dead_engine_costs_nobody_an_answer(pair: Platform) -> None:
    assert set(texts(pair, 40, 8)) == {"a", "b"}
    pair.kill_engine("a")
    assert texts(pair, 100, 8) == ["b"] * 100
    assert pair.requests("ok") == 140
    pair.start_engine(null_engine("a", text="a a a", ttft_s=0.02))
    pair.until(lambda: "a" in texts(pair, 8, 8))


@pytest.mark.enable_socket
def test_an_engine_that_hangs_keeps_a_few_waiting(pair: Platform) -> None:
    """A stopped engine accepts connections and sends nothing; its clients time out."""
    assert set(texts(pair, 60, 8)) == {"a", "b"}
    pair.engines["a"].send_signal(signal.SIGSTOP)
    try:
        suffered = sum(left(pair, 10) for _ in range(4))
    finally:
        pair.engines["a"].send_signal(signal.SIGCONT)
    assert 1 <= suffered <= 9, "half of the first ten, then single probes"
    pair.until(lambda: "a" in texts(pair, 8, 8))


def left(platform: Platform, count: int) -> int:
    """Send `count` requests at once; return how many have no reply after the engines' silence limit.

    All others have a reply, because engine b is idle and the gateway waits only for those without.
    """
    asked = [[{"role": "user", "content": f"{number}, say something."}] for number in range(count)]
    opened = [platform.open_chat(max_tokens=2, messages=messages) for messages in asked]

    def silent() -> list[socket.socket]:
        readable, _, _ = select.select(opened, [], [], 0.0)
        return [connection for connection in opened if connection not in readable]

    def is_settled() -> bool:
        idle = platform.engine_metrics("b")["null:requests_processing"] == 0
        return idle and platform.in_flight() == len(silent())

    platform.until(is_settled)
    if silent():
        time.sleep(PATIENCE_S)
        platform.until(is_settled)
    unanswered = silent()
    for connection in opened:
        if connection not in unanswered:
            assert b" 200 OK" in connection.recv(4096)
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    return len(unanswered)


@pytest.fixture
def places() -> Iterator[tuple[Place, Place]]:
    with standing_in() as one, standing_in() as other:
        yield one, other


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    "status",
    [307, 401, 429, 503, *(pytest.param(status, marks=pytest.mark.nightly) for status in (402, 405, 410, 500))],
)
def test_an_engine_that_refuses_costs_nobody_an_answer(start: Start, places: tuple[Place, Place], status: int) -> None:
    bad, well = places
    bad.script = Script([b'{"error": {"message": "no"}}'], status, "application/json")
    well.script = Script(chat_events({"choices": [{"delta": {"content": "b"}, "finish_reason": "stop"}]}))
    platform = start([{"addresses": (bad.url, well.url), "health_path": "", "slots": 64}], [])
    assert texts(platform, 60, 2) == ["b"] * 60
    assert 1 <= len(bad.asked) <= LEAST_FAILURES + 8, "then it gets only probes"
    assert len(well.asked) == 60
