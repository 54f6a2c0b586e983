"""Routing through the gateway with real engines: pools, residency of data, records."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from archwright.serving.settings.config import EnginePoolSpec, WeightedTarget

from .conftest import endpoint, null_engine

if TYPE_CHECKING:
    from .conftest import Platform, Reply, Start

pytestmark = pytest.mark.enable_socket
CLASS = "x-archwright-data-class"
OWN = {"name": "null", "text": "own own own own"}
OTHER = {"name": "other", "text": "other other other other"}
MAIL = [{"role": "user", "content": "Write to anna.schmidt@example.de"}]


def other(**changes: Any) -> EnginePoolSpec:
    return endpoint(pool="o", **{"addresses": ("unix:other",), **changes}).pool


def asked(platform: Platform, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    return platform.chat(headers=headers, **{"max_tokens": 4, **fields})


def test_what_is_inside_stays_inside_and_everything_else_goes_on(start: Start) -> None:
    platform = start([{"fallback": ("o",), "residency": ("DE",)}], [OWN, OTHER], more=(other(own=False, place="US"),))
    reply = asked(platform)
    assert (reply.status, reply.headers["x-archwright-route"]) == (200, "p")
    (one,) = platform.served(reply.headers["x-request-id"])
    assert (one.pool, one.data_class, one.tries) == ("p", "internal", 1)
    refused = asked(platform, {CLASS: "secret"})
    assert refused.status == 400 and "x-archwright-route" not in refused.headers
    platform.kill_engine("null")
    for stream in (False, True):
        gone = asked(platform, stream=stream)
        assert gone.status == 200 and gone.headers["x-archwright-route"] == "o" and b"other" in gone.body
    used = platform.engine_metrics("other")["null:tokens_predicted_total"]
    for headers, fields in (
        ({CLASS: "personal"}, {}),
        ({CLASS: "health"}, {"stream": True}),
        ({}, {"messages": MAIL}),
        ({}, {"messages": [{"role": "user", "content": "data: anna.schmidt@example.de"}]}),
        ({}, {"messages": [{"role": "user", "content": '{"note": "her card:\\n4111111111111111"}'}]}),
        ({CLASS: "public"}, {"messages": MAIL, "stream": True}),
    ):
        kept = asked(platform, headers, **fields)
        assert kept.status == 503 and int(kept.headers["retry-after"]) >= 1, (headers, fields)
    message = {"model": "m", "max_tokens": 4, "system": "anna.schmidt@example.de"}
    message["messages"] = [{"role": "user", "content": "hi"}]
    assert platform.ask("POST", "/v1/messages", message).status in (503, 529)
    assert platform.engine_metrics("other")["null:tokens_predicted_total"] == used, "not one token went out"
    platform.start_engine(null_engine("null", text="own own own own"))
    platform.until(lambda: asked(platform, {CLASS: "health"}).status == 200)
    reply = asked(platform, {CLASS: "health"})
    (one,) = platform.served(reply.headers["x-request-id"])
    assert (one.pool, one.data_class) == ("p", "health")


def test_token_ids_stay_where_the_strictest_text_would(start: Start) -> None:
    vectors = {"embeddings": True, "rerank": True}
    residency: dict[str, Any] = {"residency": ("DE",), "residency_of": {"personal": ("any",)}}
    platform = start(
        [{"fallback": ("o",), **vectors, **residency}],
        [{**OWN, **vectors}, {**OTHER, **vectors}],
        more=(other(own=False, place="US"),),
    )

    def embedded(given: object, **headers: str) -> Reply:
        return platform.ask("POST", "/v1/embeddings", {"model": "m", "input": given}, headers=headers)

    def ranked(document: str) -> Reply:
        return platform.ask("POST", "/v1/rerank", {"model": "m", "query": "x", "documents": [document]})

    assert embedded([5, 6]).headers["x-archwright-route"] == "p"
    platform.kill_engine("null")
    for given in ("a form", "anna.schmidt@example.de"):
        assert embedded(given).headers["x-archwright-route"] == "o"
    assert ranked("a form").headers["x-archwright-route"] == "o"
    assert ranked("card 4111 1111 1111 1111").status == 503
    for ids in ([5, 6], [[5], [6]]):
        assert embedded(ids).status == 503
        assert embedded(ids, **{CLASS: "public"}).status == 503
    assert embedded([5, 6], **{CLASS: "personal"}).headers["x-archwright-route"] == "o", "who says what it is"


def test_too_much_for_our_own_overflows_and_comes_back(start: Start) -> None:
    platform = start(
        [{"slots": 1, "overflow": ("o",), "overflow_wait_s": 0.05}],
        [{**OWN, "slots": 1, "tpot_s": 0.05}, OTHER],
        more=(other(own=False),),
    )
    assert asked(platform).headers["x-archwright-route"] == "p"
    with ThreadPoolExecutor(10) as threads:
        routes = [reply.headers["x-archwright-route"] for reply in threads.map(lambda _: asked(platform), range(10))]
    assert routes.count("p") >= 1 and routes.count("o") >= 5
    assert asked(platform).headers["x-archwright-route"] == "p"


def test_a_canary_by_version(start: Start) -> None:
    targets = (WeightedTarget(pool="p", weight=0.7), WeightedTarget(pool="o", weight=0.3))
    platform = start(
        [{"targets": targets, "version": "m@v1", "adapter": False}], [OWN, OTHER], more=(other(version="m@v2"),)
    )
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda _: asked(platform, model="desk"), range(100)))
    found = [(reply.headers["x-archwright-model"], reply.headers["x-archwright-route"]) for reply in replies]
    assert set(found) == {("m@v1", "p"), ("m@v2", "o")}
    assert 10 <= found.count(("m@v2", "o")) <= 55


def test_a_shadow_is_compared_and_neither_seen_nor_billed_nor_waited_for(start: Start) -> None:
    platform = start([{"shadow": "o", "shadow_share": 1.0}], [OWN, {**OTHER, "ttft_s": 4.0}], more=(other(),))
    key = 'archwright_shadows_total{pool="o",verdict="different"}'
    replies = [asked(platform)]
    assert platform.metrics().get(key, 0.0) == 0.0, "it was answered before its shadow ended"
    response = {"model": "m", "input": "Say something.", "max_output_tokens": 8}
    replies += [asked(platform, stream=True), platform.ask("POST", "/v1/responses", response)]
    assert all(reply.status == 200 and b"other" not in reply.body for reply in replies)
    platform.until(lambda: platform.metrics().get(key) == 3.0)
    log = platform.home.log("gateway").read_text()
    noted = [json.loads(line) for line in log.splitlines() if '"shadow"' in line]
    assert {one["request_id"] for one in noted} == {reply.headers["x-request-id"] for reply in replies}
    assert "other other" not in log and all(one["similarity"] == 0.0 for one in noted)
    for reply in replies:
        (one,) = platform.served(reply.headers["x-request-id"])
        assert one.pool == "p" and not one.shadow
    platform.kill_engine("other")
    assert asked(platform).status == 200


def test_batch_is_shed_before_interactive(start: Start) -> None:
    platform = start(
        [{"slots": 1, "priority": "batch"}, {"workload": "now", "slots": 1, "priority": "interactive"}],
        [{**OWN, "slots": 1, "ttft_s": 0.2}],
    )
    with ThreadPoolExecutor(30) as threads:
        batch = [threads.submit(asked, platform, model="desk") for _ in range(24)]
        platform.until(lambda: platform.in_flight() >= 8)
        urgent = [threads.submit(asked, platform, model="now") for _ in range(6)]
        assert [one.result().status for one in urgent] == [200] * 6
        statuses = [one.result().status for one in batch]
    assert set(statuses) == {200, 429} and statuses.count(429) >= 10
