"""Engines that always reply with one JSON object: clients that request a stream get a stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from tests.serving.fake_provider import Place, Script, chat_events
from tests.tools.checks import WAIT_S

from archwright.serving.http.client_limits import ClientLimits

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"n":1}'}}
MESSAGE = {"role": "assistant", "content": "It rains.", "reasoning_content": "hm", "tool_calls": [CALL]}
USED = {"prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 39}
PRICED = {"price_in_usd": 1e-6, "price_out_usd": 1e-5}
COST = 30 * 1e-6 + 9 * 1e-5
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def whole(*choices: dict[str, Any], usage: object = USED, after_s: float = 0.0) -> Script:
    reply = {"id": "vendor", "object": "chat.completion", "choices": list(choices), "usage": usage}
    data = json.dumps(reply).encode()
    return Script([data[:7], data[7:]], kind="application/json", after_s=after_s)


def one(**said: Any) -> dict[str, Any]:
    return {"index": 0, "message": {**MESSAGE, **said}, "finish_reason": "tool_calls"}


@pytest.fixture
def platform(start: Start, place: Place) -> Platform:
    return start([{"addresses": (place.url,), "cache": "all", **PRICED}], [])


def test_a_stream_is_made_of_a_reply_that_came_whole(platform: Platform, place: Place) -> None:
    """Read with the official client; charged once, by the engine's count."""
    place.script = whole(one())
    asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Weather?"}], "tools": [TOOL]}
    with openai.OpenAI(base_url=platform.url, api_key=platform.key, max_retries=0) as client:
        opened = client.chat.completions.with_raw_response.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(opened.parse())
        assert place.last.body["stream"] is True and len(place.asked) == 1
        deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
        assert deltas[0].role == "assistant"
        assert "".join(delta.content or "" for delta in deltas) == "It rains."
        (call,) = [call for delta in deltas for call in delta.tool_calls or ()]
        assert call.function is not None
        assert (call.index, call.id, call.function.arguments) == (0, "c1", '{"n":1}')
        assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "tool_calls"
        used: Any = chunks[-1].usage
        assert (used.prompt_tokens, used.completion_tokens, used.cost_usd) == (30, 9, pytest.approx(COST))
        (record,) = platform.served(opened.headers["x-request-id"])
        assert (record.status, record.input_tokens, record.output_tokens) == ("ok", 30, 9)
        assert record.cost_usd == pytest.approx(COST)
        assert record.ttft_s is None and record.tpot_s is None, "token times are unknown"
        again = client.chat.completions.with_raw_response.create(**asked, stream=True)
        assert again.headers["x-archwright-cache"] == "hit", "cached like other replies"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in again.parse()) == "It rains."
    assert len(place.asked) == 1


def test_in_every_form_a_client_may_want(platform: Platform, place: Place) -> None:
    place.script = whole(one(tool_calls=None) | {"finish_reason": "stop"})
    asked = {"model": "m", "max_tokens": 50, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    reply = platform.ask("POST", "/v1/messages", asked)
    kinds = [line.removeprefix("event: ") for line in reply.body.decode().split("\n") if line.startswith("event: ")]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert b'"text_delta","text":"It rains."' in reply.body and b'"thinking_delta","thinking":"hm"' in reply.body
    assert b'"stop_reason":"end_turn"' in reply.body and b'"output_tokens":9' in reply.body
    place.script = whole({"index": 0, "text": "x" * 40, "finish_reason": "stop"}, usage=None)
    reply = platform.ask("POST", "/v1/completions", {"model": "m", "prompt": "p", "stream": True})
    assert "".join(event["choices"][0]["text"] for event in reply.events[:-1]) == "x" * 40
    (record,) = platform.served(reply.headers["x-request-id"])
    assert record.output_tokens == 10, "without usage, by its characters"
    place.script = whole(*({"index": n, "message": {"content": str(n)}, "finish_reason": "stop"} for n in (1, 0)))
    events = platform.chat(n=2, stream=True).events[:-1]
    said = [(one["index"], one["delta"]["content"]) for event in events for one in event["choices"] if one["delta"]]
    assert [pair for pair in said if pair[1]] == [(0, "0"), (1, "1")]


def test_what_is_no_whole_answer_is_none(platform: Platform, place: Place) -> None:
    for broken in (
        Script([b'{"choices": '], kind="application/json"),
        whole({"index": 0, "message": {"content": "a"}}),
        whole(),
        Script([b"<html>hello</html>"], kind="text/html"),
        Script([b"  "], kind="application/json"),
    ):
        place.script = broken
        reply = platform.chat(stream=True)
        assert reply.status in (502, 503) and reply.headers["content-type"] == "application/json", broken
    place.script = whole(one(), usage={"prompt_tokens": 3, "completion_tokens": 900_000})
    reply = platform.chat(platform.made_key("bounded", tpm=1_000_000), stream=True, max_tokens=10)
    assert (reply.status, reply.error["code"]) == (429, "insufficient_quota"), "exceeds the reservation"
    (record,) = platform.served(reply.headers["x-request-id"])
    assert (record.status, record.output_tokens) == ("rejected", 10)


def test_a_stream_under_another_content_type_is_one(platform: Platform, place: Place) -> None:
    events = chat_events({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]})
    place.script = Script([b"\n", *events], kind="application/json")
    for stream in (False, True):
        assert b'"content":"a"' in platform.chat(stream=stream).body


def test_where_a_stream_is_asked_for_a_whole_reply(start: Start, place: Place) -> None:
    """With several engines the gateway requests a stream; a complete reply is accepted too."""
    platform = start([{"addresses": (place.url, place.url + "/"), **PRICED}], [])
    place.script = whole(one())
    reply = platform.chat()
    assert place.last.body["stream"] is True
    assert (reply.status, reply.json["choices"][0]["message"]["content"]) == (200, "It rains.")
    assert reply.headers["x-archwright-cost-usd"] == f"{COST:.9f}"


def test_an_engine_that_hangs_is_not_waited_for_as_long_as_a_request_may_take(start: Start, place: Place) -> None:
    """The timeout is the first-token timeout plus the time of all requested tokens."""
    limits = ClientLimits(first_token_s=0.5, token_s=0.1, request_s=600)
    platform = start([{"addresses": (place.url,)}], [], limits=limits)
    place.script = Script(kind="application/json", hangs=True)
    reply = platform.chat(max_tokens=4, n=2)
    assert "stream" not in place.last.body
    assert (reply.status, reply.error["code"]) == (504, "timeout")
    assert place.gone.wait(WAIT_S), "the engine's work is cancelled"
    (record,) = platform.served(reply.headers["x-request-id"])
    assert (record.status, record.output_tokens) == ("ended", 8), "a provider bills what comes too late"
    place.script = whole(one(), after_s=2.0)
    assert platform.chat(max_tokens=400).status == 200, "more tokens, longer timeout"


def test_the_time_for_a_whole_answer() -> None:
    limits = ClientLimits()
    assert limits.complete_reply_timeout_s(16) == limits.first_token_s + 16 * limits.token_s < limits.request_s
    assert limits.complete_reply_timeout_s(100_000) == limits.request_s
