"""Input that is not text counts by the number of images or as the context, so a budget holds."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from tests.serving.fake_provider import Place, Script, chat_events, message_end, message_events, message_start, words

from archwright.policy.image_hosts import ImageUrl
from archwright.serving.http.errors import ApiError
from archwright.serving.requests.multimodal import TEXT_ONLY, MultimodalParts, count_parts

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket
IN_USD, OUT_USD = 1e-6, 2e-6
IMAGE_TOKENS, LENGTH = 5_000, 8
URL, DATA = "https://example.org/x.png", "data:image/png;base64,aGVsbG8="
AT = ImageUrl("https", "example.org", 443, "/x.png")
PICTURE = {"type": "image_url", "image_url": {"url": DATA}}
LINKED = {"type": "image_url", "image_url": {"url": URL}}
SHOWN = {"type": "image", "source": {"type": "url", "url": URL}}
PASTED = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
TEXT = {"type": "text", "text": "what?"}
FUNCTION = {"type": "function", "function": {"name": "f"}}
BOUNDLESS = MultimodalParts(boundless=True)


def said(*content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "first"}, {"role": "user", "content": list(content)}], **more}


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None}]}, TEXT_ONLY),
        (said(TEXT, {"type": "refusal", "refusal": "no"}, {"type": "thinking", "thinking": "x"}), TEXT_ONLY),
        (said(TEXT, PICTURE, PICTURE), MultimodalParts(2, 2 * len(DATA))),
        (said(PASTED, {"type": "tool_use", "input": {"url": URL}}), MultimodalParts(1, 4)),
        (said({"type": "tool_result", "tool_use_id": "a", "content": [TEXT, PASTED]}), MultimodalParts(1, 4)),
        *(
            (said({"type": "tool_result", "tool_use_id": "a", **content}), TEXT_ONLY)
            for content in ({"content": "x"}, {})
        ),
        (said({"type": "tool_result", "content": {"a": 1}}), BOUNDLESS),
        (said({"type": "image_url", "image_url": URL}, {"type": "image", "source": {"a": "f"}}), MultimodalParts(2)),
        (said({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": URL}}), BOUNDLESS),
        (said({"type": "input_audio", "input_audio": {"data": "x"}}, PICTURE), MultimodalParts(1, len(DATA), True)),
        (said("word", 5, {"type": 7}), BOUNDLESS),
        (said(TEXT, tools=[FUNCTION, {"type": "custom"}, {"name": "f", "input_schema": {}}]), TEXT_ONLY),
        (said(TEXT, tools=[FUNCTION, {"type": "web_search_20250305"}]), BOUNDLESS),
        ({"messages": ["x", {"content": [PICTURE]}]}, MultimodalParts(1, len(DATA))),
    ],
    ids=str,
)
def test_what_a_conversation_holds(fields: dict[str, Any], parts: MultimodalParts) -> None:
    assert count_parts(fields) == parts


def test_the_urls_of_allowed_hosts_are_found_and_replaced() -> None:
    found = count_parts(chat := deepcopy(said(LINKED, PICTURE)), ["example.org"])
    assert (found.images, found.data_bytes) == (2, len(URL) + len(DATA))
    assert [(one.at, one.url) for one in found.urls] == [("messages[1].content[0].image_url.url", AT)]
    found.urls[0].insert("image/png", "aGVsbG8=")
    assert chat == said(PICTURE, PICTURE)
    turns = deepcopy(said(SHOWN, {"type": "tool_result", "tool_use_id": "a", "content": [TEXT, SHOWN]}))
    places = ["messages.1.content.0.source.url", "messages.1.content.1.content.1.source.url"]
    found = count_parts(turns, ["*.org.example", "example.org"])
    assert [one.at for one in found.urls] == places
    for one in found.urls:
        one.insert("image/png", "aGk=")
    assert turns == said(PASTED, {"type": "tool_result", "tool_use_id": "a", "content": [TEXT, PASTED]})
    with pytest.raises(ApiError, match="more than 8"):
        count_parts(deepcopy(said(*[LINKED] * 9)), ["example.org"])


@pytest.fixture
def platform(start: Start, place: Place) -> Platform:
    """A model with 4,900 tokens per image and a limit of 5,000; `speaks` is the same in Messages."""
    spec = {"addresses": (place.url,), "health_path": "/models", "slots": 64, "context_tokens": 50_000}
    spec |= {"vision": True, "image_tokens": IMAGE_TOKENS, "price_in_usd": IN_USD, "price_out_usd": OUT_USD}
    speaks = {**spec, "model": "speaks", "workload": "speaks", "pool": "s", "protocol": "anthropic"}
    return start([spec, speaks], [], workers=2)


def counted(tokens: int) -> Script:
    used = {"prompt_tokens": tokens, "completion_tokens": 2, "total_tokens": tokens + 2} if tokens else None
    return Script(chat_events({"choices": [{"delta": {"content": "a cat"}, "finish_reason": "stop"}], "usage": used}))


def test_a_budget_is_not_overdrawn_by_images(platform: Platform, place: Place) -> None:
    """Twenty concurrent requests have two images each; only those that the budget covers are admitted."""
    place.script = counted(2 * 4_900)
    fit, budget = 3, 3 * (2 * IMAGE_TOKENS + 1_000) * IN_USD
    key = platform.made_key("seeing", budget_usd=budget)
    messages = [{"role": "user", "content": [TEXT, PICTURE, PICTURE]}]
    with ThreadPoolExecutor(20) as threads:
        replies = list(threads.map(lambda _: platform.chat(key, messages=messages, max_tokens=LENGTH), range(20)))
    while (reply := platform.chat(key, messages=messages, max_tokens=LENGTH)).status == 200:
        replies.append(reply)
    found = Counter(reply.status for reply in replies)
    cost = sum(float(reply.headers["x-archwright-cost-usd"]) for reply in replies if reply.status == 200)
    assert found[200] == fit and 2 * fit * 4_900 * IN_USD <= cost <= budget
    assert reply.error["code"] == "insufficient_quota"


def test_an_image_of_many_bytes_is_no_text(platform: Platform, place: Place) -> None:
    """200 kB of base64 are one image, not 50,000 tokens of text."""
    place.script = counted(4_900)
    key = platform.made_key("large", tpm=IMAGE_TOKENS + 2_000)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 200_000}}
    reply = platform.chat(key, messages=[{"role": "user", "content": [TEXT, picture]}], max_tokens=LENGTH)
    assert reply.status == 200 and reply.json["usage"]["prompt_tokens"] == 4_900


def test_what_nothing_bounds_needs_room_for_the_whole_context(platform: Platform, place: Place) -> None:
    start = message_start(input_tokens=40_000, output_tokens=1)
    place.script = Script(message_events(start, *words(0, "read"), *message_end("end_turn", 1)))
    document = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}}
    body = {"model": "speaks", "max_tokens": LENGTH, "messages": [{"role": "user", "content": [document]}]}
    poor, rich = (platform.made_key(f"t{tokens}", budget_usd=tokens * IN_USD) for tokens in (49_999, 51_000))
    assert platform.ask("POST", "/v1/messages", body, key=poor).status == 429
    reply = platform.ask("POST", "/v1/messages", body, key=rich)
    assert reply.status == 200 and float(reply.headers["x-archwright-cost-usd"]) == pytest.approx(40_001e-6 + 1e-6)


def test_an_engine_that_counts_nothing_is_paid_for_its_images(platform: Platform, place: Place) -> None:
    place.script = counted(0)
    reply = platform.chat(messages=[{"role": "user", "content": [TEXT, PICTURE]}], max_tokens=LENGTH)
    assert float(reply.headers["x-archwright-cost-usd"]) == pytest.approx((2 + 1_105) * IN_USD + OUT_USD)
