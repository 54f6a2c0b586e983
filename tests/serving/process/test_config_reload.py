"""Other endpoints under a running gateway: what it serves follows the file, and its note says what it let go of."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.serving.events.test_complete_reply import one, whole
from tests.serving.fake_provider import standing_in

from archwright.contract.record import replace
from archwright.home import Home, write_atomic
from archwright.serving.process.config_reload import read_served_revision
from archwright.serving.routing.pool_registry import PoolRegistry
from archwright.serving.settings.config import EnginePoolSpec

from ..conftest import Entry, Platform, Reply, endpoint, free_port, null_engine, running, table

pytestmark = pytest.mark.enable_socket
OLD = endpoint(addresses=("unix:old",), slots=4)
TUNED = endpoint(addresses=("unix:new",), slots=4, version="m@v1")
MARK = "a" * 12


def change(platform: Platform, *endpoints: Entry, wait: bool = True) -> None:
    """Write the complete file with the next revision, as the supervisor does."""
    entries, revision = table(*endpoints), platform.config.revision + 1
    platform.config = replace(platform.config, pools=entries.pools, endpoints=entries.endpoints, revision=revision)
    write_atomic(platform.home.config("gateway"), msgspec.json.encode(platform.config))
    if wait:
        platform.until(lambda: noted(platform)[0] == revision)


def noted(platform: Platform) -> tuple[int, tuple[str, ...]]:
    """(revision, addresses that still work for an earlier one) of the gateway that runs."""
    note = read_served_revision(platform.home)
    return (note.revision, note.leaving) if note and note.pid == platform.master.pid else (-1, ())


def version(platform: Platform, **fields: Any) -> str:
    reply = platform.chat(**fields)
    assert reply.status == 200, reply.body
    return reply.headers["x-archwright-model"]


@contextmanager
def requested(platform: Platform, count: int, **fields: Any) -> Iterator[list[Reply]]:
    """`count` chats that are in flight when the block begins; the list has all replies when the block has ended."""
    replies: list[Reply] = []
    with ThreadPoolExecutor(count) as pool:
        sent = [pool.submit(platform.chat, **fields) for _ in range(count)]
        platform.until(lambda: platform.in_flight() == count)
        yield replies
        replies += [each.result() for each in sent]


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """An engine with an adapter beside one without; the gateway begins with the second."""
    home = Home(tmp_path_factory.mktemp("changing"))
    home.model("a" * 64).touch()
    tuned = replace(null_engine("new", slots=4), adapter_sha256="a" * 64)
    plain = null_engine("old", slots=4, tpot_s=0.05)
    with running(home, table(OLD, port=free_port()), plain, tuned) as platform:
        yield platform


def test_who_runs_stays_and_who_comes_gets_the_new_one(changing: Platform) -> None:
    change(changing, OLD)
    with requested(changing, 2, max_tokens=40) as said:
        change(changing, TUNED)
        assert noted(changing) == (changing.config.revision, ("unix:old",))
        new = changing.chat(model="desk", stream=True)
        assert new.headers["x-archwright-model"] == "m@v1" and MARK in new.body.decode()
    assert [reply.headers["x-archwright-model"] for reply in said] == ["m", "m"]
    assert not any(MARK in reply.body.decode() for reply in said)
    changing.until(lambda: noted(changing) == (changing.config.revision, ()))
    plain = changing.chat(model="m")
    assert plain.headers["x-archwright-model"] == "m" and MARK not in plain.body.decode()


def test_a_new_engine_that_does_not_answer_is_not_changed_to(changing: Platform) -> None:
    change(changing, OLD)
    change(changing, endpoint(addresses=("unix:nobody",), slots=4, version="m@v2"), wait=False)
    before = changing.config.revision - 1
    for _ in range(3):
        assert version(changing) == "m" and noted(changing)[0] == before
    change(changing, TUNED)
    assert version(changing, model="desk") == "m@v1"


def test_endpoints_come_and_go(changing: Platform) -> None:
    change(changing, OLD)
    night = endpoint(workload="night", pool="p/night", addresses=("unix:new",), version="night@v1", slots=4)
    change(changing, OLD, night)
    assert [version(changing, model=name) for name in ("night", "desk", "m")] == ["night@v1", "m", "m"]
    assert [model["id"] for model in changing.get("/v1/models").json["data"]] == ["m", "desk", "night"]
    assert changing.get("/readyz", key=None).json["pools"] == {"ready": 2, "total": 2}
    change(changing, OLD)
    assert changing.chat(model="night").status == 404
    assert changing.get("/readyz", key=None).json["pools"] == {"ready": 1, "total": 1}


def test_a_file_that_cannot_be_read_changes_nothing_and_is_reported_once(changing: Platform) -> None:
    change(changing, OLD)
    write_atomic(changing.home.config("gateway"), b"{")
    log = changing.home.log("gateway")
    changing.until(lambda: "change failed" in log.read_text())
    for _ in range(3):
        assert version(changing) == "m"
    change(changing, TUNED)
    assert log.read_text().count("change failed") == 1
    assert version(changing, model="desk") == "m@v1"


def test_a_gateway_killed_and_started_again_serves_the_newest(changing: Platform) -> None:
    change(changing, OLD)
    change(changing, TUNED)
    os.kill(changing.master.pid, signal.SIGKILL)
    changing.master.wait()
    if changing.master.stdin is not None:
        changing.master.stdin.close()
    assert read_served_revision(changing.home) is not None
    changing.start_gateway()
    changing.until(lambda: noted(changing) == (changing.config.revision, ()))
    assert version(changing, model="desk") == "m@v1"


def test_embeddings_are_never_silently_those_of_an_adapter(changing: Platform) -> None:
    """An engine cannot leave its adapter out of embeddings: who names the base is refused, who names the workload
    is told which version made them."""
    vectors = replace(null_engine("vectors", embeddings=True), adapter_sha256="a" * 64)
    changing.start_engine(vectors)
    change(changing, endpoint(addresses=("unix:vectors",), embeddings=True, version="m@v1"))
    refused = changing.ask("POST", "/v1/embeddings", {"model": "m", "input": "x"})
    assert refused.status == 400 and "'desk'" in refused.error["message"]
    made = changing.ask("POST", "/v1/embeddings", {"model": "desk", "input": "x"})
    assert made.status == 200 and made.headers["x-archwright-model"] == "m@v1"


def test_a_note_that_is_none(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert read_served_revision(home) is None
    (home.folder("run") / "gateway.note.json").write_bytes(b'{"pid": "x"}')
    assert read_served_revision(home) is None


@pytest.fixture
def cheap(tmp_path: Path) -> Iterator[Platform]:
    """Two workers before an engine with a price, of which four requests at once are wanted."""
    config = table(priced(1e-6), port=free_port(), workers=2)
    with running(Home(tmp_path), config, null_engine(slots=64, tpot_s=0.02)) as platform:
        platform.until(lambda: len(platform.workers) == 2)
        yield platform


def test_two_pools_at_one_engine_keep_their_own_slots_and_prices(tmp_path: Path) -> None:
    """A change made them one: what was left of their slots and the price of one of them held for both."""

    def at_one(**of_first: Any) -> tuple[EnginePoolSpec, ...]:
        first = endpoint(pool="a", addresses=("http://127.0.0.1:9/v1",), own=False, **of_first).pool
        return first, replace(first, name="b", slots=2, price_in_usd=None, price_out_usd=None)

    async def seen() -> None:
        fleet = PoolRegistry(at_one(price_in_usd=1e-6, price_out_usd=1e-6), Home(tmp_path))
        first, second = (fleet.pools[name].replicas[0] for name in "ab")
        assert await fleet.replace_pools(at_one(price_in_usd=3e-6, price_out_usd=5e-6))
        assert (fleet.pools["a"].replicas, fleet.pools["b"].replicas) == ((first,), (second,))
        assert first.prices is not None and first.prices.base[:2] == (3e-6, 5e-6)
        assert first.slots == 8, "and what changed of them is in force"
        assert (second.slots, second.prices) == (2, None)
        await fleet.close()

    asyncio.run(seen())


def priced(usd: float, slots: int = 4) -> Entry:
    return endpoint(slots=slots, price_in_usd=usd, price_out_usd=usd)


def test_a_price_that_changed_is_billed_from_the_next_request_on(cheap: Platform) -> None:
    def cost() -> float:
        return float(cheap.chat(max_tokens=4).headers["x-archwright-cost-usd"])

    before = cost()
    change(cheap, priced(1e-3))
    assert cost() == pytest.approx(1000 * before)
    change(cheap, priced(0.0))
    assert cost() == 0.0


@pytest.mark.nightly
def test_who_takes_a_dead_workers_place_begins_with_the_newest(cheap: Platform) -> None:
    before = float(cheap.chat(max_tokens=4).headers["x-archwright-cost-usd"])
    change(cheap, priced(1e-3))
    for _ in range(3):
        dead = cheap.workers
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
        said = [cheap.open_chat(max_tokens=4) for _ in range(4)]  # the first that the new ones take
        for connection in said:
            head = connection.recv(65_536).decode().lower()
            assert f"x-archwright-cost-usd: {1000 * before:.9f}" in head
        cheap.until(lambda: len(set(cheap.workers)) == 2)


def test_who_waits_through_a_rise_in_price_pays_what_was_reserved(cheap: Platform) -> None:
    change(cheap, priced(1e-6, slots=2))
    key = cheap.made_key("frugal", budget_usd=0.01)
    with requested(cheap, 6, key=key, max_tokens=60) as said:
        change(cheap, priced(1.0, slots=2))
    assert [reply.status for reply in said] == [200] * 6
    assert max(float(reply.headers["x-archwright-cost-usd"]) for reply in said) < 1e-4


@pytest.mark.nightly
def test_slots_that_changed_are_divided_among_the_workers(cheap: Platform) -> None:
    change(cheap, priced(1e-6, slots=6))
    with requested(cheap, 24, max_tokens=100):
        assert 3 <= cheap.engine_metrics()["null:requests_processing"] <= 6


def test_what_an_engine_calls_its_model_may_change(cheap: Platform) -> None:
    """The address stays: only how it is asked is another."""
    assert cheap.chat(max_tokens=1).status == 200
    with standing_in() as place:
        place.script = whole(one())
        elsewhere: Any = {"addresses": (place.url,), "health_path": "", "own": False}
        for name in ("one", "two"):
            change(cheap, endpoint(engine_model=name, **elsewhere))
            assert cheap.chat(max_tokens=1).status == 200
            assert place.last.body["model"] == name
