"""Limits, budgets and charges over two workers of one gateway with real clients."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.serving.conftest import endpoint, free_port, starting
from tests.serving.fake_provider import Script, chat_events, whole

from archwright.api.budget_conformance import ConformanceOptions, conformance
from archwright.monitor.usage import read_usage
from archwright.policy.usage_limits import UsageLimits, worst_input_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.serving.conftest import Platform, Reply, Start
    from tests.serving.fake_provider import Place

pytestmark = pytest.mark.enable_socket
IN_USD, OUT_USD = 1e-6, 2e-6
PRICED = {"price_in_usd": IN_USD, "price_out_usd": OUT_USD}
LENGTH = 8


@pytest.fixture(scope="module")
def two(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Model m has a price and half a second for eight words, model e makes vectors, a token of model h costs half
    nano-dollars, model q is quick, model free has no price."""
    priced: dict[str, Any] = {**PRICED, "cache": "deterministic"}
    vectors = {**priced, "model": "e", "workload": "e", "pool": "e", "addresses": ("unix:vectors",)}
    vectors |= {"embeddings": True, "rerank": True}
    halves = {**priced, "model": "h", "workload": "h", "pool": "h", "price_in_usd": 3.75e-8, "price_out_usd": 1.25e-8}
    quick = {**priced, "model": "q", "workload": "q", "pool": "q", "addresses": ("unix:vectors",), "cache": "off"}
    free = {"model": "free", "workload": "free", "pool": "free", "addresses": ("unix:null",), "slots": 64}
    with starting(tmp_path_factory.mktemp("two")) as start:
        yield start(
            [{**priced, "slots": 64}, vectors, {**halves, "addresses": ("unix:null",), "cache": "off"}, free, quick],
            [{"ttft_s": 0.3, "tpot_s": 0.05, "slots": 64}, {"name": "vectors", "embeddings": True, "rerank": True}],
            workers=2,
            admin_port=free_port(),
        )


def together(two: Platform, key: str, count: int, **fields: Any) -> list[Reply]:
    """`count` clients at the same moment, each with a connection of its own."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: two.chat(key, max_tokens=LENGTH, **fields), range(count)))


def text_of(streamed: Reply) -> str:
    choices = [choice for event in streamed.events if event != "[DONE]" for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def cost_of(reply: Reply) -> float:
    return float(reply.headers["x-archwright-cost-usd"])


def worst_usd(two: Platform) -> float:
    body = {"model": "m", "messages": [{"role": "user", "content": "Say something."}], "max_tokens": LENGTH}
    tokens = worst_input_tokens(len(json.dumps(body)), two.config.pools[0].context_tokens)
    return tokens * IN_USD + LENGTH * OUT_USD


def spent_usd(two: Platform, tenant: str) -> float:
    with closing(two.store) as store:
        return sum(line.cost_usd for line in read_usage(store, two.home, tenant=tenant, by="tenant"))


def test_the_edge_of_a_budget_admits_exactly_what_fits(two: Platform) -> None:
    worst, fit = worst_usd(two), 5
    budget = fit * worst
    key = two.made_key("edge", budget_usd=budget)
    replies = together(two, key, 20)
    assert Counter(reply.status for reply in replies) == {200: fit, 429: 15}
    refused = next(reply for reply in replies if reply.status == 429)
    assert (refused.error["code"], refused.error["type"]) == ("insufficient_quota", "insufficient_quota")
    cost = 0.0
    for _ in range(4):
        served = [reply for reply in replies if reply.status == 200]
        assert len(served) == fit, "what was given back can be spent, and no more than that"
        cost += sum(cost_of(reply) for reply in served)
        fit = int((budget - cost) / worst)
        replies = together(two, key, 8)
    cost += sum(cost_of(reply) for reply in replies if reply.status == 200)
    assert spent_usd(two, "edge") == pytest.approx(cost)


def test_a_rate_admits_its_burst_and_says_when_to_come_again(two: Platform) -> None:
    key = two.made_key("burst", rpm=5)
    replies = together(two, key, 12)
    assert Counter(reply.status for reply in replies) == {200: 5, 429: 7}
    refused = next(reply for reply in replies if reply.status == 429)
    assert refused.error["code"] == "rate_limit_exceeded" and 1 <= int(refused.headers["retry-after"]) <= 12


def test_a_budget_needs_a_price(two: Platform) -> None:
    key = two.made_key("priced", budget_usd=1.0)
    reply = two.chat(key, model="free")
    assert (reply.status, reply.error["code"]) == (403, "model_not_priced")
    free = two.chat(two.made_key("open"), model="free", max_tokens=1)
    assert free.status == 200 and "x-archwright-cost-usd" not in free.headers


def test_a_reply_says_what_it_was_and_cost(two: Platform) -> None:
    reply = two.chat(max_tokens=2)
    used = reply.json["usage"]
    cost = used["prompt_tokens"] * IN_USD + used["completion_tokens"] * OUT_USD
    assert reply.headers["x-archwright-route"] == "p" and reply.headers["x-archwright-cache"] == "off"
    assert cost_of(reply) == pytest.approx(cost)
    assert int(reply.headers["x-archwright-overhead-us"]) >= 0
    streamed = two.chat(max_tokens=2, stream=True, stream_options={"include_usage": True})
    assert streamed.headers["x-archwright-cache"] == "off"
    assert streamed.events[-2]["usage"]["cost_usd"] == pytest.approx(cost)
    (one,) = two.served(streamed.headers["x-request-id"])
    assert one.cost_usd == pytest.approx(cost) and (one.route, one.cache) == ("p", "off")


def test_what_replies_say_they_cost_is_the_bill_to_the_nano_dollar(two: Platform) -> None:
    key, told = two.made_key("halves"), 0
    for words in range(12):
        messages = [{"role": "user", "content": "so " * words}]
        asked: dict[str, Any] = {"model": "h", "max_tokens": 1, "messages": messages}
        told += round(cost_of(two.chat(key, **asked)) * 1e9)
        streamed = two.chat(key, **asked, stream=True, stream_options={"include_usage": True})
        told += round(streamed.events[-2]["usage"]["cost_usd"] * 1e9)
    assert round(spent_usd(two, "halves") * 1e9) == told


def test_a_stream_that_is_left_is_billed_for_what_came_once(two: Platform) -> None:
    key = two.made_key("left", budget_usd=1.0)
    two.key, before = key, two.key
    plain = two.open_chat(stream=True, max_tokens=16)
    two.key = before
    said = b""
    while said.count(b"data:") < 4:
        said += plain.recv(4096)
    plain.close()
    two.until(lambda: spent_usd(two, "left") > 0)
    with closing(two.store) as store:
        (line,) = read_usage(store, two.home, tenant="left", by="tenant")
    assert line.requests == 1 and 1 <= line.output_tokens <= 6 and line.input_tokens > 0
    assert line.cost_usd == pytest.approx(line.input_tokens * IN_USD + line.output_tokens * OUT_USD)
    with two.keys() as keys:
        (record,) = keys.list("left")
        keys.set_limits("key", "", record.id, limits=UsageLimits(budget_usd=line.cost_usd + worst_usd(two)))
    assert two.chat(key, max_tokens=LENGTH).status == 200, "nothing of its reservation is left"


@pytest.mark.parametrize(("act", "code"), [("revoke", "invalid_api_key"), ("lower", "insufficient_quota")])
def test_a_stream_ends_when_its_key_or_budget_is_taken(start: Start, act: str, code: str) -> None:
    two = start([PRICED], [{"tpot_s": 0.1, "text": "word " * 100}], workers=2)
    two.key = two.made_key("taken", budget_usd=1.0)
    plain = two.open_chat(stream=True, max_tokens=100)
    said = plain.recv(4096)
    with two.keys() as keys:
        (record,) = keys.list("taken")
        if act == "revoke":
            keys.revoke(record.id)
        else:
            keys.set_limits("key", "", record.id, limits=UsageLimits(budget_usd=0.0))
    while not said.endswith(b"0\r\n\r\n"):
        said += plain.recv(4096)
    last = said.rpartition(b"data: ")[2].partition(b"\n")[0]
    assert json.loads(last)["error"]["code"] == code


def test_a_revoked_key_is_refused_by_every_worker_within_a_second(two: Platform) -> None:
    key = two.made_key("gone")
    assert {two.ask("GET", "/v1/models", key=key).status for _ in range(20)} == {200}
    with two.keys() as keys:
        keys.revoke(keys.list("gone")[0].id)
    two.until(lambda: {two.ask("GET", "/v1/models", key=key).status for _ in range(20)} == {401})
    assert {two.ask("GET", "/v1/models", key=key).status for _ in range(40)} == {401}


def test_an_answer_is_given_again_to_its_tenant_alone(two: Platform) -> None:
    ours, theirs = two.made_key("ours", budget_usd=1.0), two.made_key("theirs")
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": LENGTH}
    first = two.chat(ours, **asked)
    before = two.engine_metrics()["null:prompt_tokens_total"]
    again = [two.chat(ours, **asked) for _ in range(8)]  # by either worker
    assert first.headers["x-archwright-cache"] == "miss"
    assert {reply.headers["x-archwright-cache"] for reply in again} == {"hit"}
    assert {reply.body for reply in again} == {first.body}
    assert again[0].headers["x-archwright-cost-usd"] == "0.000000000"
    streamed = two.chat(ours, **asked, stream=True, stream_options={"include_usage": True})
    assert streamed.headers["x-archwright-cache"] == "hit" and streamed.events[-1] == "[DONE]"
    assert streamed.events[-2]["usage"] == {**first.json["usage"], "cost_usd": 0.0}
    assert text_of(streamed) == first.json["choices"][0]["message"]["content"]
    assert two.engine_metrics()["null:prompt_tokens_total"] == before, "no engine was asked"
    assert two.chat(theirs, **asked).headers["x-archwright-cache"] == "miss"
    for headers in ({"cache-control": "no-store"}, {"cache-control": "no-cache"}):
        assert two.chat(ours, headers, **asked).headers["x-archwright-cache"] == "off"
    with closing(two.store) as store:
        (line,) = read_usage(store, two.home, tenant="ours", by="tenant")
    cost = cost_of(first)
    assert line.hits == 9 and [line.saved_usd, line.cost_usd] == pytest.approx([9 * cost, 3 * cost])
    filling, filled = two.chat(seed=7, max_tokens=LENGTH, stream=True), two.chat(seed=7, max_tokens=LENGTH)
    assert [reply.headers["x-archwright-cache"] for reply in (filling, filled)] == ["miss", "hit"]
    assert filled.json["choices"][0]["message"]["content"] == text_of(filling), "a stream fills it as a reply does"


@pytest.mark.parametrize("stream", [False, True])
def test_no_count_of_an_engine_overdraws_a_budget(start: Start, place: Place, stream: bool) -> None:
    """The engine sends one letter and reports four thousand million tokens."""
    used = {"prompt_tokens": 2**31 - 1, "completion_tokens": 2**31 - 1}
    said = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}], "usage": used}
    place.script = Script(chat_events(said))
    platform = start([{"addresses": (place.url,), **PRICED}], [])
    key = platform.made_key("liar", budget_usd=0.01)
    for _ in range(40):
        platform.chat(key, stream=stream, max_tokens=LENGTH)
    assert 0 < spent_usd(platform, "liar") <= 0.01
    rated = platform.made_key("rated", tpm=1000)
    assert platform.chat(rated, stream=stream, max_tokens=LENGTH).status == 200
    refused = platform.chat(rated, stream=stream, max_tokens=LENGTH)
    assert int(refused.headers["retry-after"]) <= 60, "not for years"


def test_who_has_no_budget_pays_what_a_pool_takes_beside_one_without_a_price(start: Start, place: Place) -> None:
    """If one pool has no price, no cost is reserved, so the reservation bounds neither the charge nor the response."""
    said = {"choices": [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}]}
    reply = {**said, "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    place.script = whole(reply)
    other = endpoint(pool="o", addresses=("unix:null",)).pool
    platform = start([{"addresses": (place.url,), **PRICED, "fallback": ("o",)}], [{}], more=(other,))
    answer = platform.chat(platform.made_key("rated", rpm=99), max_tokens=LENGTH)
    assert answer.status == 200, answer.error
    assert cost_of(answer) == pytest.approx(9 * IN_USD + 2 * OUT_USD)


def test_embeddings_are_billed_and_kept(two: Platform) -> None:
    def ask() -> Reply:
        return two.ask("POST", "/v1/embeddings", {"model": "e", "input": ["one two three"]})

    first, again = ask(), ask()
    assert (first.headers["x-archwright-cache"], again.headers["x-archwright-cache"]) == ("miss", "hit")
    assert all(int(reply.headers["x-archwright-overhead-us"]) > 0 for reply in (first, again))
    cost = first.json["usage"]["prompt_tokens"] * IN_USD
    assert cost_of(first) == pytest.approx(cost) and first.body == again.body


def test_reranks_are_billed_with_the_query_of_each_document_and_kept(two: Platform) -> None:
    documents = ["the sea", {"text": "ships at sea"}, "tax"]
    body = {"model": "e", "query": "ships sea", "documents": documents}

    def ask(key: str = "", **more: object) -> Reply:
        return two.ask("POST", "/v1/rerank", {**body, **more}, key=key)

    first, again, best, shown = ask(), ask(), ask(top_n=1), ask(top_n=2, return_documents=True)
    found = [(one["index"], one["relevance_score"]) for one in first.json["results"]]
    assert found == [(1, 1.0), (0, 0.5), (2, 0.0)] and first.json["model"] == "e" and again.body == first.body
    assert [reply.headers["x-archwright-cache"] for reply in (first, again, best, shown)] == [
        "miss",
        "hit",
        *["miss"] * 2,
    ]
    assert best.json["results"] == first.json["results"][:1]
    assert [one["document"] for one in shown.json["results"]] == [{"text": "ships at sea"}, {"text": "the sea"}]
    assert first.json["usage"] == {"prompt_tokens": 12, "total_tokens": 12} and cost_of(first) == pytest.approx(
        12 * IN_USD
    )
    (record,) = two.served(first.headers["x-request-id"])
    assert (record.operation, record.input_tokens, record.output_tokens) == ("rerank", 12, 0)
    long, many = "sea " * 100, ["x"] * 40
    poor = two.made_key("ranked", budget_usd=(len(long) + 8_000) * IN_USD)
    assert ask(poor, query=long, documents=many).error["code"] == "insufficient_quota"
    assert ask(poor, query=long, documents=many[:1]).status == 200
    assert two.ask("POST", "/v1/rerank", {**body, "model": "m"}).error["code"] == "unsupported_model"


def test_token_ids_reserve_their_number_and_are_kept_as_what_they_are(two: Platform) -> None:
    def ask(given: object, key: str = "") -> Reply:
        return two.ask("POST", "/v1/embeddings", {"model": "e", "input": given}, key=key)

    asked = [[1, 2, 3]], [1, 2, 3], ["1 2 3"], [[1], [2], [3]], [[1, 2], [3]], "[1,2,3]"
    kept = [ask(given).headers["x-archwright-cache"] for given in asked]
    assert kept == ["miss", "hit", "miss", "miss", "miss", "miss"]
    poor = two.made_key("poor", budget_usd=4 * IN_USD)
    assert ask([1, 2, 3, 4, 5], poor).error["code"] == "insufficient_quota"
    assert ask([4, 3, 2, 1], poor).status == 200
    assert ask([9], poor).error["code"] == "insufficient_quota"


def test_each_text_of_many_may_fill_the_context(two: Platform) -> None:
    """As many tokens as the model's context are the most that one text can be, not what a list of them can be."""
    context = next(pool for pool in two.config.pools if pool.name == "e").context_tokens
    poor = two.made_key("several", budget_usd=1.5 * context * IN_USD)
    texts = ["a " * (context // 2)] * 4
    body = {"model": "e", "input": texts}
    assert two.ask("POST", "/v1/embeddings", body, key=poor).error["code"] == "insufficient_quota"
    assert two.ask("POST", "/v1/embeddings", {**body, "input": texts[:1]}, key=poor).status == 200
    assert spent_usd(two, "several") <= 1.5 * context * IN_USD
    assert two.ask("POST", "/v1/embeddings", body, key=two.made_key("rich", budget_usd=1.0)).status == 200


@pytest.mark.parametrize(
    "requests", [8, pytest.param(64, marks=pytest.mark.nightly)], ids=["few at once", "many at once"]
)
def test_budgets_hold_from_outside(two: Platform, requests: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite that judges other gateways passes over two workers."""
    monkeypatch.setenv("OWNER_KEY", two.owner)
    options = ConformanceOptions(
        key_env="OWNER_KEY",
        admin=f"http://127.0.0.1:{two.config.admin_port}/admin",
        price="1:2",
        model="q",
        embeddings="e=1",
        requests=requests,
    )
    report = conformance(f"http://127.0.0.1:{two.config.port}/v1", options=options)
    verdicts = {case.case: case.verdict for case in report.cases}
    # tests/serving/test_kind_prices.py has a provider with a cache.
    assert all(verdict == ("skipped" if "cache" in name else "ok") for name, verdict in verdicts.items()), verdicts
    assert report.overspent_usd == 0
    assert all(0 < case.answered < case.sent for case in report.cases[:6])


@pytest.mark.nightly
def test_many_requests_of_one_tenant_do_not_hold_up_another(start: Start) -> None:
    """With two slots, a tenant with two requests waits for two rounds, however many requests another tenant queued."""
    one = start([{"slots": 2}], [{"ttft_s": 0.3, "tpot_s": 0.0, "slots": 2}])
    loud, quiet = one.made_key("loud"), one.made_key("quiet")
    done: list[str] = []

    def ask(name: str, key: str) -> None:
        assert one.chat(key, max_tokens=1).status == 200
        done.append(name)

    with ThreadPoolExecutor(14) as pool:
        asked = [pool.submit(ask, "loud", loud) for _ in range(12)]
        one.until(lambda: one.in_flight() == 12)
        asked += [pool.submit(ask, "quiet", quiet) for _ in range(2)]
        for each in asked:
            each.result()
    assert done[-4:] == ["loud"] * 4 and done.count("quiet") == 2


def test_headers_say_what_is_left_of_the_rates(two: Platform) -> None:
    """Of two limited accounts the one with the least room counts; a caller without limits gets no such header."""
    key = two.made_key("shown", rpm=3, tpm=100_000)
    names = ("limit", "remaining", "reset")
    found = []
    for stream in (False, True, False, False):
        reply = two.chat(key, max_tokens=5, stream=stream)
        requests, tokens = (
            [reply.headers[f"x-ratelimit-{name}-{kind}"] for name in names] for kind in ("requests", "tokens")
        )
        found.append((reply.status, requests[0], requests[1]))
        assert tokens[0] == "100000" and 90_000 < int(tokens[1]) <= 100_000
        assert 0 <= float(tokens[2].removesuffix("s")) < 10 and 0 < float(requests[2].removesuffix("s")) <= 60
    assert found == [(200, "3", "2"), (200, "3", "1"), (200, "3", "0"), (429, "3", "0")]
    message = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    refused = two.ask("POST", "/v1/messages", message, key=key)
    assert (refused.status, refused.headers["anthropic-ratelimit-requests-limit"]) == (429, "3")
    reset = datetime.fromisoformat(refused.headers["anthropic-ratelimit-requests-reset"])
    assert timedelta(0) < reset - datetime.now(UTC) < timedelta(seconds=61)
    assert not [name for name in two.chat(max_tokens=5).headers if "ratelimit" in name.lower()]
