"""Every decision on a key leaves an audit record before the reply, every answer the model it came from; every request
leaves its measurements."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from archwright.access.audit_log import check_chain
from archwright.contract.evidence import Query
from archwright.contract.served import request_received_at
from archwright.monitor.metrics.observations import evaluate_query
from archwright.monitor.wal.compaction import read_served

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.serving.conftest import Platform, Reply, Start

pytestmark = pytest.mark.enable_socket


def test_allow_and_deny_are_written_down(null: Platform) -> None:
    second = null.made_key("second")
    cases = [
        (null.get("/v1/models", key=second), "allow", "second", "", "models.read"),
        (null.chat(), "allow", "acme", "", "inference.invoke"),
        (null.get("/v1/models"), "allow", "acme", "", "models.read"),
        (null.get("/metrics"), "deny", "acme", "not permitted to this role", "metrics.read"),
        (null.get("/nope"), "deny", "acme", "no such route", "none"),
        (null.ask("DELETE", "/v1/models"), "deny", "acme", "no such route", "none"),
        (null.chat(model="nobody"), "allow", "acme", "", "inference.invoke"),
    ]
    for reply, effect, tenant, reason, permission in cases:
        (entry,) = null.audited(reply.headers["x-request-id"])
        assert (entry.effect, entry.tenant, entry.reason, entry.permission) == (effect, tenant, reason, permission)
        assert entry.key_id and entry.outcome == ("admitted" if effect == "allow" else "refused")
    assert check_chain(null.store, null.home).broken is None
    for path in ("/healthz", "/readyz"):
        assert null.audited(null.get(path, key=None).headers["x-request-id"]) == [], "a probe is no decision"


def test_content_is_never_written_down(null: Platform) -> None:
    marker = "a-secret-nobody-else-writes"
    null.ask("POST", "/v1/completions", {"model": "m", "prompt": marker})
    null.ask("GET", f"/v1/models?q={marker}", key=marker)
    null.ask("POST", "/v1/completions", {"model": "m", "prompt": marker, marker: 1})
    for path in null.home.root.rglob("*"):
        if path.is_file() and path.suffix in (".db", ".log", ".db-wal"):
            assert marker.encode() not in path.read_bytes(), path


def test_a_finished_request_is_measured(null: Platform) -> None:
    labels = 'model="slow",pool="slow",workload="slow"'
    before, answered = null.metrics(), null.requests("ok", "slow")
    began = time.time()
    reply = null.chat(model="slow", max_tokens=4, stream=True)
    took_s = time.time() - began
    assert reply.status == 200
    after = null.metrics()

    def added(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    for name, count in (("ttft_seconds_count", 1), ("output_tokens_total", 4), ("input_tokens_total", 2)):
        assert added(f"archwright_{name}{{{labels}}}") == count
    assert null.requests("ok", "slow") == answered + 1
    # The engine's times are lower bounds, what the client saw is an upper one: no busy machine is outside of them. The
    # pieces may be read later than they came, so one alone may seem short, all together never.
    ttft_s, tpot_s = (added(f"archwright_{name}_seconds_sum{{{labels}}}") for name in ("ttft", "tpot"))
    assert ttft_s >= 0.05 and tpot_s > 0
    assert 0.2 - 0.001 <= ttft_s + 3 * tpot_s <= added(f"archwright_request_seconds_sum{{{labels}}}") + 1e-6
    assert added(f"archwright_request_seconds_sum{{{labels}}}") <= took_s + 0.001
    assert after['archwright_requests_in_flight{pool="slow"}'] == 0
    query = Query(metric="ttft_s", labels={"workload": "slow"}, statistic="p50", window_s=time.time() - began)
    found = evaluate_query(null.store, query, time.time(), home=null.home)
    assert found is not None and found.samples == 1


def test_one_token_has_no_tpot(null: Platform) -> None:
    name = 'archwright_tpot_seconds_count{model="m",pool="p",workload="night"}'
    before = null.metrics().get(name, 0.0)
    assert null.chat(model="night", max_tokens=1).status == 200
    assert null.metrics().get(name, 0.0) == before


def test_overhead_is_reported(null: Platform) -> None:
    for limit_us, fields in ((1_000_000, {}), (1_000_000, {"stream": True}), (200_000, {"model": "slow"})):
        assert 0 < int(null.chat(max_tokens=8, **fields).headers["x-archwright-overhead-us"]) < limit_us


def test_every_answer_leaves_the_model_it_came_from(null: Platform) -> None:
    completion = {"model": "m", "prompt": "x"}
    answers = [null.chat(), null.chat(stream=True), null.ask("POST", "/v1/completions", completion)]
    for reply in answers:
        assert reply.status == 200 and reply.headers["x-archwright-model"] == "m"
        (one,) = null.served(reply.headers["x-request-id"])
        assert (one.version, one.status, one.tenant) == ("m", "ok", "acme")
        assert one.key_id and one.input_tokens and one.output_tokens == 16
        began = request_received_at(one.request_id)
        assert began is not None and began <= one.at <= began + one.latency_s + 0.1
    others = [null.get("/v1/models"), null.chat(model="nobody"), null.chat(max_tokens=0)]
    for reply in others:
        assert "x-archwright-model" not in reply.headers
        assert null.served(reply.headers["x-request-id"]) == []


def test_a_request_is_in_the_books_when_its_last_byte_is_here_and_stays_there(start: Start) -> None:
    """kill -9 of the gateway the moment the client has its answer; the next gateway folds what is left."""
    platform = start([{}], [{}])
    answers = [platform.chat(stream=bool(number % 2)).headers["x-request-id"] for number in range(5)]
    platform.master.kill()
    platform.master.wait()

    def once() -> None:
        assert [len(platform.served(name)) for name in answers] == [1] * 5
        assert [len(platform.audited(name)) for name in answers] == [1] * 5
        assert check_chain(platform.store, platform.home).broken is None

    once()
    if platform.master.stdin is not None:
        platform.master.stdin.close()
    platform.start_gateway()
    platform.until(lambda: len(list(read_served(platform.store, None))) == 5)
    once()


def test_a_record_has_the_status_that_the_client_got(null: Platform) -> None:
    replies = [null.chat(), null.chat(stream=True), null.chat(max_tokens=1, messages=[])]
    found = [null.served(reply.headers["x-request-id"]) for reply in replies]
    assert [reply.status for reply in replies] == [200, 200, 400]
    assert [[one.http_status for one in records] for records in found] == [[200], [200], []]


def test_a_refusal_before_any_model_counts_by_route_and_status(null: Platform) -> None:
    def count(route: str, status: int) -> float:
        return null.metrics().get(f'archwright_refusals_total{{http_status="{status}",route="{route}"}}', 0.0)

    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    cases: list[tuple[Callable[[], Reply], str, int]] = [
        (lambda: null.chat(messages=[]), "/v1/chat/completions", 400),
        (lambda: null.chat(model="nobody"), "/v1/chat/completions", 404),
        (lambda: null.ask("POST", "/v1/chat/completions", body, key="aw_none"), "/v1/chat/completions", 401),
        (lambda: null.get("/v1/models/nobody"), "/v1/models/{}", 404),
        (lambda: null.get("/metrics"), "/metrics", 403),
        (lambda: null.get("/v1/nobody-has-this"), "other", 404),
        (lambda: null.ask("POST", "/v1/completions", {"prompt": "x" * 5_000_000}), "/v1/completions", 413),
    ]
    for send, route, status in cases:
        before = count(route, status)
        assert send().status == status, route
        assert count(route, status) == before + 1, (route, status)
