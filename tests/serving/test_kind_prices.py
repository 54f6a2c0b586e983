"""A provider that charges caches, reasoning, long prompts, images and requests at their own prices: what is booked."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from tests.serving.conftest import free_port, starting
from tests.serving.fake_provider import (
    Script,
    chat_events,
    message_end,
    message_events,
    message_start,
    standing_in,
    whole,
    words,
)

from archwright.api.budget_conformance import ConformanceOptions, conformance
from archwright.monitor.usage import UsageRow, read_usage
from archwright.serving.settings.prices import LongContextPrice, OtherPrices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.serving.conftest import Platform, Reply
    from tests.serving.fake_provider import Place

pytestmark = pytest.mark.enable_socket
IN_USD, OUT_USD = 3e-6, 15e-6
PRICE = {"price_in_usd": IN_USD, "price_out_usd": OUT_USD}
CACHES = OtherPrices(cache_read=0.1 * IN_USD, cache_write=1.25 * IN_USD, cache_write_1h=2 * IN_USD)
TEXT = "The same long text. " * 100
HOUR = {"type": "ephemeral", "ttl": "1h"}
OUTPUT = 4


@pytest.fixture(scope="module")
def place(processes: None) -> Iterator[Place]:
    with standing_in() as made:
        yield made


@pytest.fixture(scope="module")
def platform(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Model claude of a provider with Anthropic's protocol has prices of its cache; model plain has none. Model m is of
    a provider with OpenAI's protocol and has a price of each kind."""
    tier = LongContextPrice(above=1_000, input=6e-6, output=22.5e-6)
    other = OtherPrices(
        cache_read=0.3e-6,
        cache_write=3.75e-6,
        reasoning=30e-6,
        audio=40e-6,
        image=0.002,
        request=0.01,
        long_context=(tier,),
    )
    shared: dict[str, Any] = {**PRICE, "addresses": (place.url,), "health_path": "", "context_tokens": 50_000}
    marked = {**shared, "protocol": "anthropic"}
    models = {"claude": {**marked, "other_prices": CACHES}, "plain": marked}
    named = [{**fields, "model": name, "workload": name, "pool": name} for name, fields in models.items()]
    kinds = {**shared, "vision": True, "image_tokens": 100, "other_prices": other}
    with starting(tmp_path_factory.mktemp("kinds")) as start:
        yield start([kinds, *named], [], workers=2, admin_port=free_port())


def send(platform: Platform, key: str, mark: dict[str, str] | None, model: str = "claude") -> Reply:
    block = {"type": "text", "text": TEXT, **({} if mark is None else {"cache_control": mark})}
    body = {"model": model, "max_tokens": OUTPUT, "messages": [{"role": "user", "content": [block]}]}
    return platform.ask("POST", "/v1/messages", body, key=key)


def script(**usage: Any) -> Script:
    return Script(message_events(message_start(**usage), *words(0, "Yes."), *message_end("max_tokens", OUTPUT)))


def booked(reply: Reply) -> float:
    return float(reply.headers["x-archwright-cost-usd"])


@pytest.mark.parametrize(
    ("mark", "usage", "usd"),
    [
        ({"type": "ephemeral"}, {"cache_creation_input_tokens": 500}, 500 * 1.25),
        (HOUR, {"cache_creation_input_tokens": 500}, 500 * 2.0),
        (HOUR, {"cache_creation_input_tokens": 500, "cache_creation": {"ephemeral_1h_input_tokens": 200}}, 775.0),
        (HOUR, {"cache_read_input_tokens": 500}, 500 * 0.1),
        (None, {}, 0.0),
    ],
    ids=["5 minutes", "1 hour", "both", "read", "no mark"],
)
def test_caches_are_booked_as_the_provider_charges_them(
    platform: Platform, place: Place, mark: dict[str, str] | None, usage: dict[str, Any], usd: float
) -> None:
    place.script = script(input_tokens=10, **usage)
    expected = (10 + usd) * IN_USD + OUTPUT * OUT_USD
    assert booked(send(platform, platform.made_key("acme"), mark)) == pytest.approx(expected, abs=1e-9)
    limited = platform.made_key("acme", budget_usd=1.0)
    assert booked(send(platform, limited, mark)) == pytest.approx(expected, abs=1e-9), "the worst case holds it"


def test_writes_for_an_hour_never_overdraw_a_budget(platform: Platform, place: Place) -> None:
    """The provider writes all that it can: the input of the worst case at twice the price, stated or not."""
    for model in ("claude", "plain"):
        body_tokens = 2_500  # less than the bytes of a body
        place.script = script(input_tokens=0, cache_creation_input_tokens=body_tokens)
        spent = body_tokens * 2 * IN_USD + OUTPUT * OUT_USD
        budget = 3.5 * spent
        key = platform.made_key("edge", budget_usd=budget)
        replies = [send(platform, key, HOUR, model) for _ in range(6)]
        served = [reply for reply in replies if reply.status == 200]
        assert replies[-1].status == 429 and served, "the edge was reached"
        assert len(served) * spent <= budget, "the provider charged more than the budget"
        assert sum(map(booked, served)) == pytest.approx(len(served) * spent)


@pytest.mark.parametrize("stream", [False, True])
def test_kinds_of_an_openai_reply_are_priced(platform: Platform, place: Place, stream: bool) -> None:
    details = {"cached_tokens": 400, "cache_write_tokens": 100}
    usage = {"prompt_tokens": 900, "completion_tokens": OUTPUT, "prompt_tokens_details": details}
    usage["completion_tokens_details"] = {"reasoning_tokens": 3}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
    reply = {"choices": [{**choice, "message": {"role": "assistant", "content": "Yes."}}], "usage": usage}
    place.script = whole(reply)
    if stream:
        place.script = Script(chat_events({"choices": [{**choice, "delta": {"content": "Yes."}}], "usage": usage}))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    content = [{"type": "text", "text": "What is it?" * 60}, image, image]
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "max_tokens": OUTPUT}
    if stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    answer = platform.chat(platform.made_key("acme", budget_usd=1.0), **fields)
    tokens = 400 * 3e-6 + 400 * 0.3e-6 + 100 * 3.75e-6 + 3 * 30e-6 + 1 * 15e-6
    usd = answer.events[-2]["usage"]["cost_usd"] if stream else booked(answer)
    assert usd == pytest.approx(tokens + 2 * 0.002 + 0.01, abs=1e-9)


def test_a_long_prompt_costs_the_price_of_long_prompts(platform: Platform, place: Place) -> None:
    message = {"role": "assistant", "content": "Yes."}
    usage = {"prompt_tokens": 1_001, "completion_tokens": 2}
    place.script = whole({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})
    key = platform.made_key("acme", budget_usd=1.0)
    answer = platform.chat(key, messages=[{"role": "user", "content": TEXT}], max_tokens=OUTPUT)
    assert booked(answer) == pytest.approx(1_001 * 6e-6 + 2 * 22.5e-6 + 0.01, abs=1e-9)


class CachingProvider:
    """Writes what a request marks to its cache, a token for four characters, and reads it again from there."""

    def __init__(self) -> None:
        self.cached: set[str] = set()

    def choose(self, body: Any) -> Script:
        content = body["messages"][0]["content"]
        blocks = content if isinstance(content, list) else []
        usage: dict[str, Any] = {"input_tokens": 20}
        for block in blocks:
            if "cache_control" in block:
                kind = "read" if block["text"] in self.cached else "creation"
                self.cached.add(block["text"])
                usage[f"cache_{kind}_input_tokens"] = len(block["text"]) // 4
        return script(**usage)


def test_the_conformance_suite_finds_the_prices_of_a_cache_kept(
    platform: Platform, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWNER_KEY", platform.owner)
    place.choose = CachingProvider().choose
    admin = f"http://127.0.0.1:{platform.config.admin_port}/admin"
    options = ConformanceOptions(
        key_env="OWNER_KEY", price="3:15", admin=admin, model="claude", cache_price="0.3:3.75:6", requests=4
    )
    try:
        report = conformance(f"http://127.0.0.1:{platform.config.port}/v1", options=options)
    finally:
        place.choose = None
    verdicts = {case.case: case.verdict for case in report.cases}
    assert {name: verdict for name, verdict in verdicts.items() if "cache" in name} == {
        "cache writes": "ok",
        "cache writes for an hour": "ok",
        "cache reads": "ok",
    }
    assert report.overspent_usd == 0


def test_a_marked_prompt_without_a_usage_counts_as_written(platform: Platform, place: Place) -> None:
    place.script = Script(message_events(message_start(), *words(0, "Yes.")))  # it breaks off
    body = {"model": "claude", "max_tokens": OUTPUT, "stream": True}
    block = {"type": "text", "text": TEXT, "cache_control": HOUR}
    secret = platform.made_key("left", budget_usd=1.0)
    platform.key, before = secret, platform.key
    plain = platform.open_request("/v1/messages", {**body, "messages": [{"role": "user", "content": [block]}]})
    platform.key = before
    said = b""
    while b"Yes." not in said:
        said += plain.recv(4096)
    platform.until(lambda: bool(list_usage(platform, "left")))
    (line,) = list_usage(platform, "left")
    assert line.input_tokens * 4 >= len(TEXT) and line.output_tokens >= 1
    assert line.cost_usd >= line.input_tokens * 2 * IN_USD + OUT_USD - 1e-9


def list_usage(platform: Platform, tenant: str) -> tuple[UsageRow, ...]:
    with closing(platform.store) as store:
        return read_usage(store, platform.home, tenant=tenant, by="tenant")


def test_a_refused_request_costs_nothing(platform: Platform, place: Place) -> None:
    place.script = whole({"error": {"message": "no"}}, 400)
    key = platform.made_key("refused", budget_usd=1.0)
    refused = platform.chat(key, max_tokens=OUTPUT)
    assert refused.status == 400 and platform.served(refused.headers["x-request-id"])[0].cost_usd == 0.0
