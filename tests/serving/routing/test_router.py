"""The order of pools by weight, health, wait and data class, never outside the residency."""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.http_client.client import EngineClient
from archwright.policy.circuit_breaker import FIRST_OPEN_S, LEAST_FAILURES, RetryBudget
from archwright.policy.residency import CLASSES, RESIDENCY_BOUND_CLASSES, DataClass
from archwright.serving.http.errors import ApiError
from archwright.serving.requests.model_resolution import ModelDirectory
from archwright.serving.requests.request_validation import GenerationRequest
from archwright.serving.routing import router as router_module
from archwright.serving.routing.pool import EnginePool, SlotLease
from archwright.serving.routing.replica import Replica, SlotRequest
from archwright.serving.routing.router import Router, hash_prefix
from archwright.serving.settings.config import EnginePoolSpec, WeightedTarget, check_config

from ..conftest import Entry, endpoint, table

HELLO = [{"role": "user", "content": "Say something."}]


class Stand:
    """A router over pools with healthy engines and a simulated clock."""

    def __init__(self, entry: Entry, *more: EnginePoolSpec) -> None:
        self.now = 0.0
        self.config = table(entry, more=more)
        check_config(self.config)
        self.pools = {spec.name: self._pool(spec) for spec in self.config.pools}
        (self.spec,) = ModelDirectory(self.config.pools, self.config.endpoints).endpoints
        self.router = Router(self.pools, self.config.endpoints, RetryBudget(), lambda: self.now)

    def _pool(self, spec: EnginePoolSpec) -> EnginePool:
        replicas = tuple(Replica(EngineClient("http://127.0.0.1:9/v1"), spec, address) for address in spec.addresses)
        for replica in replicas:
            replica.healthy = True
        return EnginePool(spec, replicas, lambda: self.now)

    def question(self, **body: Any) -> GenerationRequest:
        return GenerationRequest(model="m", endpoint=self.spec, body={"messages": HELLO, **body})

    def order(self, data_class: DataClass = "internal", request_id: str = "aw-1") -> list[str]:
        return [pool.name for pool in self.router.select_pools(self.question(), data_class, request_id)]

    def fail(self, name: str, times: int = LEAST_FAILURES) -> None:
        for _ in range(times):
            for replica in self.pools[name].replicas:
                replica.record_sent(self.now)
                replica.record_end("failed", self.now)

    def down(self, *names: str) -> None:
        for name in names:
            for replica in self.pools[name].replicas:
                replica.healthy = False

    def busy(self, name: str, count: int) -> list[SlotLease]:
        async def taken() -> list[SlotLease]:
            return [await self.pools[name].acquire(SlotRequest(1)) for _ in range(count)]

        return asyncio.run(taken())


def pool(name: str, **changes: Any) -> EnginePoolSpec:
    return endpoint(pool=name, **{"addresses": (f"unix:{name}",), **changes}).pool


def weighted(*weights: float) -> tuple[WeightedTarget, ...]:
    return tuple(WeightedTarget(pool=name, weight=weight) for name, weight in zip("pqr", weights, strict=False))


def test_weights_within_statistics_and_the_others_stand_behind() -> None:
    stand = Stand(endpoint(targets=weighted(0.9, 0.1), fallback=("f",)), pool("q"), pool("f"))
    orders = [stand.order(request_id=f"aw-{number:024x}") for number in range(5000)]
    assert sum(order[0] == "q" for order in orders) == pytest.approx(500, abs=5 * math.sqrt(500))
    assert {tuple(order) for order in orders} == {("p", "q", "f"), ("q", "p", "f")}
    assert orders == [stand.order(request_id=f"aw-{number:024x}") for number in range(5000)], "deterministic"


def test_a_weight_of_zero_only_stands_in() -> None:
    stand = Stand(endpoint(targets=weighted(1.0, 0.0)), pool("q"))
    assert all(stand.order(request_id=str(number)) == ["p", "q"] for number in range(100))
    stand.down("p")
    assert stand.order() == ["q"]


def test_a_pool_that_fails_is_passed_over_and_comes_back_by_one_request() -> None:
    stand = Stand(endpoint(fallback=("f",)), pool("f"))
    stand.fail("p")
    assert stand.order() == ["f"]
    stand.now += FIRST_OPEN_S
    assert stand.order() == ["p", "f"]
    (replica,) = stand.pools["p"].replicas
    replica.record_sent(stand.now)
    assert stand.order() == ["f"], "one at a time"
    for _ in range(2):
        replica.record_end("ok", stand.now)
    assert stand.order() == ["p", "f"]


def test_where_nothing_works_one_is_asked_all_the_same() -> None:
    stand = Stand(endpoint(fallback=("f",)), pool("f"))
    stand.fail("p")
    stand.fail("f")
    assert stand.order() == ["p"]
    alone = Stand(endpoint())
    alone.fail("p")
    alone.down("p")
    assert alone.order() == ["p"]


def test_our_own_first_and_outside_only_when_the_queue_is_too_long() -> None:
    stand = Stand(endpoint(slots=1, overflow=("o",), overflow_wait_s=2.5, fallback=("f",)), pool("o"), pool("f"))
    assert stand.order() == ["p", "o", "f"]
    held = stand.busy("p", 1)
    assert stand.order() == ["p", "o", "f"], "a wait of 1 s is within the limit"

    async def queue_up() -> None:
        waiting = [asyncio.ensure_future(stand.pools["p"].acquire(SlotRequest(1))) for _ in range(2)]
        await asyncio.sleep(0)
        assert stand.pools["p"].estimated_wait_s() == 3.0
        assert stand.order() == ["o", "p", "f"]
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(queue_up())
    assert stand.order() == ["p", "o", "f"]
    stand.pools["p"].release(held[0])
    stand.down("p")
    assert stand.order() == ["o", "f"]


PLACES = st.sampled_from([("", True), ("DE", True), ("DE", False), ("US", False), ("", False)])


@given(
    data_class=st.sampled_from(CLASSES),
    places=st.lists(PLACES, min_size=4, max_size=4),
    residency=st.sampled_from([(), ("DE",), ("FR", "DE"), ("US",)]),
    down=st.sets(st.sampled_from("pqof")),
    failing=st.sets(st.sampled_from("pqof")),
)
def test_sensitive_data_reach_no_pool_beyond_the_residency_whatever_fails(
    data_class: DataClass,
    places: list[tuple[str, bool]],
    residency: tuple[str, ...],
    down: set[str],
    failing: set[str],
) -> None:
    names = dict(zip("pqof", places, strict=True))
    first, *more = (pool(name, place=place, own=own) for name, (place, own) in names.items())
    pools: dict[str, Any] = {"targets": weighted(1.0, 1.0), "overflow": ("o",), "fallback": ("f",)}
    stand = Stand(Entry(first, endpoint(**pools, residency=residency, overflow_wait_s=0.0).spec), *more)
    stand.down(*down)
    for name in failing:
        stand.fail(name)
    free = data_class not in RESIDENCY_BOUND_CLASSES
    inside = {name for name, (place, own) in names.items() if free or (own and not place) or place in residency}
    try:
        found = stand.order(data_class)
    except ApiError as refused:
        assert refused.status == 403 and not inside
    else:
        assert found and set(found) <= inside


def test_the_403_names_the_setting_if_no_residency_is_stated() -> None:
    spec = pool("p", own=False, place="DE")

    def stand(**changes: Any) -> Stand:
        return Stand(Entry(spec, endpoint(data_class="personal", residency=("any",), **changes).spec))

    assert stand().order("personal") == ["p"]
    with pytest.raises(ApiError) as refused:
        stand().order("health")
    assert (refused.value.status, refused.value.openai_code) == (403, "data_class_not_served")
    assert "residency_of.health" in str(refused.value) and "needs" in str(refused.value)
    assert stand(residency_of={"health": ("DE",)}).order("health") == ["p"]
    with pytest.raises(ApiError) as refused:
        stand(residency_of={"health": ("FR",)}).order("health")
    assert refused.value.status == 403 and "residency_of" not in str(refused.value), "a residency is stated"


def test_a_shadow_outside_the_residency_gets_no_data() -> None:
    entry = endpoint(shadow="s", shadow_share=0.25, residency=("DE",))
    stand = Stand(entry, pool("s", place="US", own=False, slots=2))
    ids = [f"aw-{number:024x}" for number in range(4000)]

    def mirrored(data_class: DataClass) -> int:
        return sum(stand.router.select_shadow(stand.question(), data_class, one) is not None for one in ids)

    assert mirrored("internal") == pytest.approx(1000, abs=5 * math.sqrt(1000))
    assert mirrored("personal") == 0
    held = stand.busy("s", 1)
    assert mirrored("internal") == 0, "dropped, because half of the slots are in use"
    stand.pools["s"].release(held[0])
    stand.fail("s")
    assert mirrored("internal") == 0
    assert stand.order() == ["p"], "a shadow pool serves no client"


OUTSIDE = pool("cloud", own=False, place="US")
MAIL = {"messages": [{"role": "user", "content": "Write to anna.schmidt@example.de, please."}]}
CARD = {"prompt": "Charge 4111 1111 1111 1111 now"}


@pytest.mark.parametrize(
    ("of_endpoint", "header", "body", "expected"),
    [
        ("", None, {}, "internal"),
        ("public", None, {}, "public"),
        ("public", "internal", {}, "internal"),
        ("health", "public", {}, "health"),
        ("health", "payment", {}, "health"),
        ("", "health", {}, "health"),
        ("", None, MAIL, "personal"),
        ("", "public", MAIL, "personal"),
        ("", "health", MAIL, "health"),
        ("public", None, CARD, "payment"),
    ],
)
def test_the_strictest_of_endpoint_caller_and_text(
    of_endpoint: str, header: str | None, body: dict[str, Any], expected: str
) -> None:
    more = () if of_endpoint == "health" else (OUTSIDE,)
    fallback = tuple(one.name for one in more)
    stand = Stand(endpoint(data_class=of_endpoint, fallback=fallback), *more)
    assert stand.router.classify_request(stand.spec, header, body) == expected


@pytest.mark.parametrize("word", ["", "Personal", "secret", "health "])
def test_a_word_that_is_no_class_is_refused(word: str) -> None:
    stand = Stand(endpoint())
    with pytest.raises(ApiError) as refused:
        stand.router.classify_request(stand.spec, word, {})
    assert refused.value.status == 400 and "health" in refused.value.message


def test_text_is_read_only_where_it_matters_or_where_it_is_asked_for() -> None:
    for changes, more, expected in (
        ({}, (), "internal"),
        ({"detect": True}, (), "personal"),
        ({"fallback": ("cloud",)}, (OUTSIDE,), "personal"),
        ({"fallback": ("cloud",), "detect": False}, (OUTSIDE,), "internal"),
        ({"fallback": ("cloud",), "residency": ("US",)}, (OUTSIDE,), "internal"),
        ({"shadow": "cloud", "shadow_share": 0.1}, (OUTSIDE,), "personal"),
    ):
        stand = Stand(endpoint(**changes), *more)
        assert stand.router.classify_request(stand.spec, None, MAIL) == expected, changes
    # Personal data may go where a card may not, so the text is searched for a card.
    stand = Stand(endpoint(fallback=("cloud",), residency_of={"personal": ("any",)}), OUTSIDE)
    assert stand.router.classify_request(stand.spec, None, CARD) == "payment"
    assert stand.order("payment") == ["p"] and stand.order("personal") == ["p", "cloud"]


def test_turns_of_a_conversation_share_a_prefix() -> None:
    system = {"role": "system", "content": "You are a clerk."}
    turn = [system, {"role": "user", "content": "First?"}]
    later = [*turn, {"role": "assistant", "content": "One."}, {"role": "user", "content": "And then?"}]
    assert hash_prefix({"messages": turn}) == hash_prefix({"messages": later})
    assert hash_prefix({"messages": turn}) != hash_prefix({"messages": [system, {"role": "user", "content": "Other?"}]})
    parts = [{"role": "user", "content": [{"type": "text", "text": "First?"}]}]
    assert hash_prefix({"messages": parts}) == hash_prefix({"messages": parts * 2})
    long = "x" * 10_000
    assert hash_prefix({"prompt": long + "a"}) == hash_prefix({"prompt": long + "b"}) != hash_prefix({"prompt": "x"})


def test_work_carries_urgency_deadline_and_prefix() -> None:
    stand = Stand(endpoint(addresses=("unix:a", "unix:b"), priority="batch", wait_s=5.0))
    stand.now = 10.0
    work = stand.router.build_slot_request(stand.question(), "", "internal", 100.0)
    assert (work.priority, work.begin_by, work.prefix) == ("batch", 15.0, hash_prefix({"messages": HELLO}))
    assert stand.router.build_slot_request(stand.question(), "", "internal", 12.0).begin_by == 12.0
    alone = Stand(endpoint())
    work = alone.router.build_slot_request(alone.question(), "", "internal", 7.0)
    assert (work.priority, work.begin_by, work.prefix, work.but) == ("normal", 7.0, None, None)


def test_conversations_stay_with_a_replica_until_it_is_clearly_busier() -> None:
    stand = Stand(endpoint(addresses=("unix:a", "unix:b", "unix:c"), slots=4))
    (served,) = stand.pools.values()

    async def scenario() -> None:
        for prefix, _ in itertools.product(range(20), range(3)):
            lease = await served.acquire(SlotRequest(10, prefix=prefix))
            first = homes.setdefault(prefix, lease.replica.address)
            assert lease.replica.address == first
            served.release(lease)
        leases = [await served.acquire(SlotRequest(10, prefix=7)) for _ in range(12)]
        assert leases[0].replica.address == homes[7]
        assert [replica.running for replica in served.replicas] == [4, 4, 4]

    homes: dict[int, str] = {}
    asyncio.run(scenario())
    assert len(set(homes.values())) == 3


def test_a_request_of_an_alias_follows_it_to_another_model() -> None:
    """The request was read before the alias meant another model, or before it was removed."""
    before, after, removed = Stand(endpoint()), Stand(endpoint(pool="q", model="n")), Stand(endpoint(workload="other"))
    asked = before.question()
    assert after.router.classify_request(asked.endpoint, "personal", asked.body) == "personal"
    assert [pool.name for pool in after.router.select_pools(asked, "internal")] == ["q"]
    before.router.set_successor(after.router)
    assert [pool.name for pool in before.router.select_pools_now(asked, "internal", "aw-1")] == ["q"]
    after.router.set_successor(removed.router)
    with pytest.raises(ApiError) as refused:
        before.router.select_pools_now(asked, "internal", "aw-1")
    assert (refused.value.status, refused.value.openai_code) == (503, "model_unavailable")


def test_a_text_whose_search_exceeds_its_processor_time_counts_as_the_strictest_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its search ends there, so it holds up no other tenant; a text within the limit is classified as it is."""
    stand = Stand(endpoint(detect=True))
    body = {"messages": [{"role": "user", "content": "plain words " * 20_000}]}
    assert asyncio.run(stand.router.classify_large_request(stand.spec, None, body, "acme")) == "internal"
    monkeypatch.setattr(router_module, "SEARCH_CPU_S", 0.0)
    assert asyncio.run(stand.router.classify_large_request(stand.spec, None, body, "acme")) == "payment"
