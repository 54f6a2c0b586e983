"""A budget is used to its end: usual instead of longest output is reserved, and a reply ends where the budget does.

The provider of these tests generates all that it may, and charges it.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from tests.serving.conftest import starting
from tests.serving.fake_provider import Script, message_end, message_events, message_start, standing_in, whole, words

from archwright.monitor.usage import read_usage
from archwright.serving.admission.output_lengths import LEAST_SEEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.serving.conftest import Platform, Reply
    from tests.serving.fake_provider import Place

pytestmark = pytest.mark.enable_socket
IN_USD, OUT_USD = 1e-9, 1e-6
PRICE = {"price_in_usd": IN_USD, "price_out_usd": OUT_USD}
USUAL, LONGEST = 6, 1_000
STOP = {"stop": "words"}  # of the null engine's text, after USUAL tokens
PROMPT_TOKENS = 4
USUAL_USD = PROMPT_TOKENS * IN_USD + USUAL * OUT_USD
INPUT_USD = 1_000 * IN_USD  # more than the worst case of an input here


class Provider:
    """Replies of `USUAL` tokens, or of all that are allowed."""

    def __init__(self) -> None:
        self.greedy = False
        self.charged_usd = 0.0

    def choose(self, body: Any) -> Script:
        length = body.get("max_tokens") or body["max_output_tokens"]
        tokens = length if self.greedy else min(USUAL, length)
        self.charged_usd += PROMPT_TOKENS * IN_USD + tokens * OUT_USD
        if "thinking" in body:
            said = (*words(0, "Yes."), *message_end("max_tokens", tokens))
            return Script(message_events(message_start(input_tokens=PROMPT_TOKENS), *said))
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens}
        choice = {"index": 0, "message": {"role": "assistant", "content": "Yes. " * tokens}, "finish_reason": "stop"}
        return whole({"choices": [choice], "usage": usage})


@pytest.fixture(scope="module")
def provider() -> Provider:
    return Provider()


@pytest.fixture(scope="module")
def place(processes: None, provider: Provider) -> Iterator[Place]:
    with standing_in() as made:
        made.choose = provider.choose
        yield made


@pytest.fixture(scope="module")
def platforms(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Platform]]:
    """One worker and two workers before an own engine (model m), a provider (far) and Anthropic's protocol (claude)."""
    shared: dict[str, Any] = {**PRICE, "addresses": (place.url,), "health_path": ""}
    claude = {**shared, "protocol": "anthropic", "context_tokens": 20_000}
    models = {"far": shared, "claude": claude, "kept": {**shared, "cache": "deterministic"}}
    named = [{**fields, "model": name, "workload": name, "pool": name} for name, fields in models.items()]
    own = {**PRICE, "slots": 64}
    engine = {"tpot_s": 0.0005, "slots": 64}
    with starting(tmp_path_factory.mktemp("edge")) as start:
        yield [start([own, *named], [engine], workers=workers) for workers in (1, 2)]


@pytest.fixture(scope="module")
def one(platforms: list[Platform]) -> Platform:
    return platforms[0]


@pytest.fixture(scope="module")
def two(platforms: list[Platform]) -> Platform:
    return platforms[1]


def ask(platform: Platform, key: str, model: str = "m", **fields: Any) -> Reply:
    return platform.chat(key, model=model, **{"max_tokens": LONGEST, **(STOP if model == "m" else {}), **fields})


def teach(platform: Platform, tenant: str, model: str = "m", requests: int = LEAST_SEEN) -> None:
    key = platform.made_key(tenant)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: ask(platform, key, model), range(requests)))
    assert {reply.status for reply in replies} == {200}


def spent_usd(platform: Platform, tenant: str) -> float:
    with closing(platform.store) as store:
        return sum(line.cost_usd for line in read_usage(store, platform.home, tenant=tenant, by="tenant"))


def booked(reply: Reply) -> float:
    return float(reply.headers["x-archwright-cost-usd"])


@pytest.mark.parametrize("model", ["m", "far"])
def test_twenty_requests_one_after_another_use_the_budget(one: Platform, model: str) -> None:
    teach(one, f"steady-{model}", model)
    budget = 20 * USUAL_USD
    key = one.made_key(f"steady-{model}", budget_usd=budget)
    replies = [ask(one, key, model) for _ in range(20)]
    used = sum(booked(reply) for reply in replies if reply.status == 200)
    assert 0.9 * budget <= used <= budget, Counter(reply.status for reply in replies)


def test_until_enough_is_seen_the_worst_case_is_reserved(one: Platform) -> None:
    key = one.made_key("new", budget_usd=20 * USUAL_USD)
    assert ask(one, key).error["code"] == ask(one, key, "far").error["code"] == "insufficient_quota"


@pytest.mark.parametrize("stream", [True, False])
def test_a_reply_of_an_own_engine_ends_where_the_budget_does(one: Platform, stream: bool) -> None:
    tenant = "edge-streams" if stream else "edge-replies"
    teach(one, tenant)
    budget = 100 * OUT_USD + INPUT_USD
    before, cancelled = spent_usd(one, tenant), one.engine_metrics()["null:requests_cancelled_total"]
    key = one.made_key(tenant, budget_usd=budget)
    reply = ask(one, key, stop=None, stream=stream)
    spent = spent_usd(one, tenant) - before
    assert reply.status == 200 and 100 * OUT_USD < spent <= budget
    if stream:
        choices = [event["choices"][0] for event in reply.events if event != "[DONE]" and event["choices"]]
        delivered = sum(bool(choice["delta"].get("content")) for choice in choices)
        assert choices[-1]["finish_reason"] == "length" and reply.events[-1] == "[DONE]"
    else:
        (choice,) = reply.json["choices"]
        delivered = len(choice["message"]["content"].split())
        assert choice["finish_reason"] == "length" and int(reply.headers["x-archwright-max-tokens"]) == delivered
    (line,) = one.served(reply.headers["x-request-id"])
    assert line.output_tokens == delivered < LONGEST, "booked is what was delivered"
    assert line.cost_usd == pytest.approx(line.input_tokens * IN_USD + delivered * OUT_USD, abs=1e-9)
    one.until(lambda: one.engine_metrics()["null:requests_cancelled_total"] > cancelled)
    assert ask(one, key).error["code"] == "insufficient_quota"


def test_a_longer_reply_than_usual_is_complete_if_the_budget_pays_it(one: Platform) -> None:
    teach(one, "longer")
    key = one.made_key("longer", budget_usd=(LONGEST + 10) * OUT_USD + INPUT_USD)
    reply = ask(one, key, stop=None)
    assert reply.json["usage"]["completion_tokens"] == LONGEST and "x-archwright-max-tokens" not in reply.headers
    assert booked(reply) == pytest.approx(LONGEST * OUT_USD, rel=1e-3)


def test_a_provider_gets_the_length_that_the_rest_of_the_budget_pays(
    one: Platform, place: Place, provider: Provider
) -> None:
    teach(one, "rest", "far")
    paid = 50
    key = one.made_key("rest", budget_usd=paid * OUT_USD + INPUT_USD)
    provider.greedy, provider.charged_usd = True, 0.0
    try:
        reply = ask(one, key, "far")
        refused = ask(one, key, "far")
    finally:
        provider.greedy = False
    length = place.last.body["max_tokens"]
    assert reply.status == 200 and paid <= length <= paid + 1 and refused.status == 429
    assert int(reply.headers["x-archwright-max-tokens"]) == length
    assert booked(reply) == pytest.approx(provider.charged_usd) and provider.charged_usd <= paid * OUT_USD + INPUT_USD


def test_the_budget_of_reasoning_is_lowered_with_the_length(one: Platform, place: Place) -> None:
    def message(key: str, budget_tokens: int) -> Reply:
        thinking = {"type": "enabled", "budget_tokens": budget_tokens}
        body = {"model": "claude", "max_tokens": 8_000, "messages": [{"role": "user", "content": "Why?"}]}
        return one.ask("POST", "/v1/messages", {**body, "thinking": thinking}, key=key)

    free = one.made_key("thinker")
    assert {message(free, 4_000).status for _ in range(LEAST_SEEN)} == {200}
    reply = message(one.made_key("thinker", budget_usd=4_000 * OUT_USD + INPUT_USD), 4_000)
    sent = place.last.body
    assert reply.status == 200 and int(reply.headers["x-archwright-max-tokens"]) == sent["max_tokens"]
    assert 4_000 <= sent["max_tokens"] <= 4_001 and sent["thinking"]["budget_tokens"] == sent["max_tokens"] // 2
    poor = message(one.made_key("thinker", budget_usd=1_000 * OUT_USD + INPUT_USD), 4_000)
    assert poor.error["type"] == "rate_limit_error", "a provider takes at least 1,024 tokens of reasoning"


def test_choices_are_reserved_at_their_worst_case(one: Platform) -> None:
    teach(one, "choices", "far")
    key = one.made_key("choices", budget_usd=100 * USUAL_USD)
    assert ask(one, key, "far", n=2).error["code"] == "insufficient_quota"


def test_a_shortened_reply_is_no_cached_reply_of_the_longer_request(one: Platform, place: Place) -> None:
    teach(one, "cached", "kept")
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Only once."}], "seed": 1}
    poor = ask(one, one.made_key("cached", budget_usd=50 * OUT_USD + INPUT_USD), "kept", **asked)
    assert poor.status == 200 and poor.headers["x-archwright-cache"] == "miss" and place.last.body["max_tokens"] <= 51
    rich = ask(one, one.made_key("cached"), "kept", **asked)
    assert rich.headers["x-archwright-cache"] == "miss" and place.last.body["max_tokens"] == LONGEST


@pytest.mark.parametrize("model", ["m", "far"])
def test_many_at_once_never_spend_more_than_the_budget(
    two: Platform, provider: Provider, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    """Each reply is as long as it may be, over two workers."""
    tenant = f"crowd-{model}"
    teach(two, tenant, model, 4 * LEAST_SEEN)
    before = spent_usd(two, tenant)
    budget = 16.5 * USUAL_USD
    key = two.made_key(tenant, budget_usd=budget)
    provider.greedy, provider.charged_usd = True, 0.0
    try:
        with ThreadPoolExecutor(32) as pool:
            replies = list(pool.map(lambda _: ask(two, key, model, stop=None), range(32)))
            replies += list(pool.map(lambda _: ask(two, key, model, stop=None), range(32)))
    finally:
        provider.greedy = False
    served = [reply for reply in replies if reply.status == 200]
    spent = spent_usd(two, tenant) - before
    at_once = sum(reply.status == 200 for reply in replies[:32])
    with capsys.disabled():
        print(f" [{model}: {at_once} of 32 at once, 16.5 fit; {spent / budget:.0%} used] ", end="")
    assert {reply.status for reply in replies} == {200, 429} and 0.0 < spent <= budget
    assert spent == pytest.approx(sum(map(booked, served)))
    if model == "far":
        assert provider.charged_usd == pytest.approx(spent)
