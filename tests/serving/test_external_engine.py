"""An engine at a URL that we do not run, well and badly behaved: a real HTTP server with scripted replies."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest
from tests.serving.fake_provider import (
    Place,
    Script,
    chat_events,
    message_end,
    message_events,
    message_start,
    whole,
    words,
)

from archwright.monitor.wal.compaction import read_served

from .official_clients import HELLO, anthropic_client, openai_client

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Reply, Start

pytestmark = pytest.mark.enable_socket

STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None, **more}], "timings": {"x": 1}}


def choices(*found: Any, **more: Any) -> Script:
    return whole({"choices": list(found), **more})


def message(content: Any, **more: Any) -> dict[str, Any]:
    return {"message": {"content": content}, "finish_reason": "stop", **more}


@pytest.fixture
def platform(start: Start, place: Place, monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("VENDOR_KEY", "sk-vendor")
    spec = {"addresses": (place.url,), "key": "env:VENDOR_KEY", "engine_model": "vendor/model-7b", "embeddings": True}
    spec["rerank"] = True
    return start([{**spec, "health_path": "/models"}], [])


def test_everything_an_engine_may_say(platform: Platform, place: Place) -> None:
    """One platform, many scripts: starting it anew for each would cost a second each."""
    _well(platform, place)
    _whole(platform, place)
    _badly_before_anything_was_said(platform, place)
    _in_its_own_word_for_the_length(platform, place)
    _badly_in_mid_stream(platform, place)
    _embeddings(platform, place)
    _rerank(platform, place)
    assert platform.get("/readyz", key=None).status == 200
    log = platform.home.log("gateway").read_text()
    assert "sk-vendor" not in log
    assert "AW-INT" not in log


def _in_its_own_word_for_the_length(platform: Platform, place: Place) -> None:
    """As OpenAI's models that reason refuse: {"param": "max_tokens", "code": "unsupported_parameter"}."""
    body, before = {"choices": [message("a")]}, len(place.asked)
    place.script = whole(body, only_length="max_completion_tokens")
    for _ in range(2):
        assert platform.chat(max_tokens=7).json["choices"][0]["message"]["content"] == "a"
    sent = [asked.body for asked in place.asked[before:]]
    lengths = [{name: value for name, value in body.items() if "max" in name} for body in sent]
    assert lengths == [{"max_tokens": 7}, {"max_completion_tokens": 7}, {"max_completion_tokens": 7}]
    place.script = whole(body, only_length="nothing")
    assert platform.chat(max_tokens=7).status == 400
    assert len(place.asked) == before + 4


def _well(platform: Platform, place: Place) -> None:
    place.script = Script(chat_events({"choices": []}, said("a"), said("b", logprobs={"content": []}), STOP))
    reply = platform.chat()
    assert (reply.status, reply.json["choices"][0]["message"]["content"], reply.json["usage"]) == (200, "ab", None)
    assert reply.json["model"] == "m"
    assert b"timings" not in reply.body
    assert place.last.headers["authorization"] == "Bearer sk-vendor"
    assert place.last.body["model"] == "vendor/model-7b"
    assert "stream" not in place.last.body, "as the client asks; this one streams all the same, and is read"
    streamed = platform.chat(stream=True, stream_options={"include_usage": True})
    assert place.last.body["stream"] is True
    assert place.last.body["stream_options"] == {"include_usage": True}
    assert streamed.events[-1] == "[DONE]"
    assert b"timings" not in streamed.body
    assert b"vendor" not in streamed.body


def _whole(platform: Platform, place: Place) -> None:
    """A reply that comes in one piece says what a stream would have said."""
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": f'{{"n":{n}}}'}} for n in (1, 2)
    ]
    said = {"role": "assistant", "content": "ab", "reasoning_content": "hm", "tool_calls": calls, "audio": None}
    used = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12, "vendor": 1}
    choice = {"index": 0, "message": said, "finish_reason": "tool_calls", "logprobs": None, "vendor": 1}
    place.script = choices(choice, id="vendor-1", usage=used, timings={})
    reply = platform.chat()
    assert reply.status == 200 and b"vendor" not in reply.body and b"timings" not in reply.body
    told = reply.json["choices"][0]
    assert (told["message"]["content"], told["message"]["reasoning_content"]) == ("ab", "hm")
    assert told["message"]["tool_calls"] == calls and told["finish_reason"] == "tool_calls"
    assert reply.json["usage"] == {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    place.script = choices({"text": "x" * 40, "finish_reason": "stop"})
    reply = platform.ask("POST", "/v1/completions", {"model": "m", "prompt": "p"})
    assert (reply.status, reply.json["choices"][0]["text"], reply.json["usage"]) == (200, "x" * 40, None)
    two = [message(str(n), index=n) for n in (1, 0)]
    place.script = choices(*two)
    assert [one["message"]["content"] for one in platform.chat(n=2).json["choices"]] == ["0", "1"]
    for broken in ([], [{"message": {"content": "a"}}], two, [{"message": 7, "finish_reason": "stop"}], 7):
        place.script = whole({"choices": broken})
        assert platform.chat().status in (502, 503), broken
    place.script = whole({"error": {"code": 500, "message": "out of memory at /opt"}})
    assert platform.chat().status == 502
    usage = [one for one in read_served(platform.store, platform.home) if one.status == "ok"][-3:]
    assert [one.output_tokens for one in usage] == [9, 10, 2], "where nothing is counted, by its characters"
    assert all(one.ttft_s is None and one.tpot_s is None for one in usage), "nothing is known of its tokens' times"
    limited = platform.made_key("bounded", tpm=1_000_000)
    place.script = choices(message("x"), usage={"prompt_tokens": 3, "completion_tokens": 900_000})
    reply = platform.chat(limited, max_tokens=10)
    assert (reply.status, reply.error["code"]) == (429, "insufficient_quota"), "more than was reserved"
    (one,) = platform.served(reply.headers["x-request-id"])
    assert (one.status, one.output_tokens) == ("rejected", 10), "billed as a stream that was cut there"
    _content_in_parts(platform, place)


def _content_in_parts(platform: Platform, place: Place) -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
        {"type": "reference", "reference_ids": [1]},
    ]
    place.script = choices(message(parts))
    told = platform.chat().json["choices"][0]["message"]
    assert (told["content"], told["reasoning_content"]) == ("ab", "hm")
    place.script = Script(chat_events({"choices": [{"delta": {"content": parts}}]}, STOP))
    deltas = [one["choices"][0]["delta"] for one in platform.chat(stream=True).events[:-1]]
    assert [one["content"] for one in deltas if one.get("content")] == ["ab"]


def _badly_before_anything_was_said(platform: Platform, place: Place) -> None:
    scripts = [
        (whole({"error": {"message": "bad key sk-vendor"}}, 401), 502),
        (whole({"error": "boom"}, 500), 502),
        (whole({"error": {"message": "Loading model"}}, 503), 503),
        (whole({"error": {"message": "slow down"}}, 429), 429),
        (whole({"error": {"message": "no /etc/x"}}, 400), 400),
        (whole([1, 2]), 502),
        (Script(chat_events()), 503),
        (Script(chat_events({"choices": 7}, {"choices": [3]}, {"nothing": 1})), 502),
        (Script(chat_events({"error": {"code": 500, "message": "out of memory at /opt"}})), 502),
    ]
    for script, status in scripts:
        for streamed in (False, True):
            place.script = script
            reply = platform.chat(stream=streamed)
            assert reply.status == status, (script, reply)
            assert b"sk-vendor" not in reply.body
            assert b"/etc" not in reply.body


def _badly_in_mid_stream(platform: Platform, place: Place) -> None:
    for script in (
        Script(chat_events(said("a"))[:-1]),
        Script(chat_events(said("a"))),
        Script(chat_events(said("a"), {"error": {"code": 500, "message": "x"}})),
        Script(chat_events(said("a"), "no object")),
    ):
        place.script = script
        assert platform.chat().status in (502, 503)
        streamed = platform.chat(stream=True)
        assert streamed.status == 200
        assert "error" in streamed.events[-1]
        assert b"[DONE]" not in streamed.body


def _embeddings(platform: Platform, place: Place) -> None:
    def ask() -> int:
        return platform.ask("POST", "/v1/embeddings", {"model": "m", "input": ["x", "y"]}).status

    def vectors(*found: Any) -> Script:
        return whole({"data": list(found)})

    place.script = vectors({"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]})
    reply = platform.ask("POST", "/v1/embeddings", {"model": "m", "input": ["x", "y"], "encoding_format": "float"})
    assert [item["embedding"] for item in reply.json["data"]] == [[2.0], [1.0]]
    assert reply.json["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    for broken in (
        vectors({"index": 0, "embedding": [1.0]}),
        vectors(1, 2),
        vectors({"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}),
        vectors({"index": [0], "embedding": [1.0]}, {"index": 1, "embedding": [1.0]}),
        vectors({"index": 0, "embedding": ["a"]}, {"index": 1, "embedding": [1.0]}),
        vectors({"index": 0, "embedding": None}, {"index": 1, "embedding": [1.0]}),
        whole({"data": 5}),
        whole([1]),
        whole({}),
    ):
        place.script = broken
        assert ask() in (502, 503), broken
    place.script = whole({"error": {"message": "not here"}}, 501)
    assert ask() == 400


BUSY = {"error": {"message": "too many requests"}}


def told_to_wait(platform: Platform, place: Place, status: int, said: str | None, **fields: Any) -> tuple[int, int]:
    """The status a client gets, and the seconds it is told to wait."""
    headers = {} if said is None else {"Retry-After": said}
    place.script = whole(BUSY, status, headers=headers)
    reply = platform.chat(**fields)
    return reply.status, int(reply.headers["retry-after"])


def test_when_to_retry_is_passed_on_and_nonsense_is_not(platform: Platform, place: Place) -> None:
    for status, said, seconds in (
        (429, "17", 17),
        (503, "40", 40),
        (529, " 5 ", 5),
        (429, None, 1),
        (429, "0", 1),
        (429, "-5", 1),
        (429, "1.5", 1),
        (429, "soon", 1),
        (429, "86400", 3_600),
        (503, "9" * 400, 3_600),
        (429, formatdate(time.time() - 60, usegmt=True), 1),
        (429, formatdate(time.time() + 90_000, usegmt=True), 3_600),
        (429, "Thu, 99 Nov 2026 99:00:00 GMT", 1),
        (500, "17", 1),
    ):
        wanted = {529: 503, 500: 502}.get(status, status)
        assert told_to_wait(platform, place, status, said) == (wanted, seconds), said
    in_a_minute = formatdate(time.time() + 60, usegmt=True)
    began = time.time()
    status, seconds = told_to_wait(platform, place, 503, in_a_minute, stream=True)
    assert status == 503 and 60 - (time.time() - began) - 1 <= seconds <= 60


def test_the_clients_libraries_read_it(platform: Platform, place: Place) -> None:
    place.script = whole(BUSY, 429, headers={"retry-after": "23"})
    with openai_client(platform) as chats:
        with pytest.raises(openai.RateLimitError) as full:
            chats.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert full.value.response.headers["retry-after"] == "23"
    with anthropic_client(platform) as messages:
        with pytest.raises(anthropic.RateLimitError) as busy:
            messages.messages.create(model="m", max_tokens=5, messages=HELLO)
        assert busy.value.response.headers["retry-after"] == "23"


PRICED = {"price_in_usd": 1e-6, "price_out_usd": 1e-5}
PLAIN = Script(chat_events({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}))
MESSAGE = Script(
    message_events(message_start(input_tokens=9, output_tokens=1), *words(0, "a"), *message_end("end_turn", 1))
)


@pytest.fixture
def priced(start: Start, place: Place) -> Platform:
    """Models with a price in both protocols, and one without; a request at another price than the list price is
    refused if the model has a price."""
    spec = {"addresses": (place.url,), "health_path": "/models"}
    own = {**spec, **PRICED, "model": "own", "workload": "own", "pool": "own", "protocol": "anthropic"}
    free = {**spec, "model": "free", "workload": "free", "pool": "free"}
    return start([{**spec, **PRICED}, own, free], [])


def test_a_tier_at_another_price_is_refused(priced: Platform, place: Place) -> None:
    with openai_client(priced) as client:

        def ask(model: str, tier: Any) -> int:
            found = client.chat.completions.with_raw_response.create(model=model, messages=HELLO, service_tier=tier)
            return found.status_code

        place.script = PLAIN
        for tier in ("auto", "default"):
            assert ask("m", tier) == 200
            assert place.last.body["service_tier"] == tier
        asked = len(place.asked)
        for other in ("priority", "flex", "fast", "scale"):
            with pytest.raises(openai.BadRequestError) as refused:
                ask("m", other)
            assert (refused.value.param, refused.value.code) == ("service_tier", "unsupported_value")
        assert len(place.asked) == asked, "nothing was asked of the provider"
        assert ask("free", "priority") == 200, "nothing is billed where there is no price"
        assert place.last.body["service_tier"] == "priority"


def test_another_price_is_refused_in_the_words_of_messages(priced: Platform, place: Place) -> None:
    with anthropic_client(priced) as client:

        def ask(model: str, **more: Any) -> int:
            client.messages.create(model=model, max_tokens=5, messages=HELLO, extra_body=more)
            return len(place.asked)

        place.script = MESSAGE
        assert ask("own", service_tier="standard_only", speed="standard") == 1
        assert ask("own", service_tier="auto", speed=None) == 2
        place.script = PLAIN
        assert ask("m", service_tier="standard_only") == 3
        assert place.last.body["service_tier"] == "default"
        for model, more in (
            ("own", {"speed": "fast"}),
            ("own", {"inference_geo": "us"}),
            ("own", {"service_tier": "priority"}),
            ("m", {"service_tier": "priority"}),
        ):
            with pytest.raises(anthropic.BadRequestError, match="costs another price"):
                ask(model, **more)
        assert len(place.asked) == 3


def _rerank(platform: Platform, place: Place) -> None:
    """Replies as llama.cpp (logits), vLLM (with documents, sorted) and older servers (total tokens only) send them."""
    body = {"model": "m", "query": "sea", "documents": ["a", {"text": "b"}, "c"], "top_n": 2, "return_documents": False}

    def ask() -> Reply:
        return platform.ask("POST", "/v1/rerank", body)

    def scored(*found: tuple[object, object], **usage: int) -> Script:
        rows = [{"index": index, "relevance_score": score, "document": {"text": "z"}} for index, score in found]
        return whole({"results": rows, "usage": usage})

    for tokens in ({"prompt_tokens": 21, "total_tokens": 21}, {"total_tokens": 21}):
        place.script = scored((0, -11.5), (1, 3.25), (2, -0.5), **tokens)
        reply = ask()
        assert reply.json["results"] == [{"index": 1, "relevance_score": 3.25}, {"index": 2, "relevance_score": -0.5}]
        assert reply.json["usage"]["prompt_tokens"] == 21
    assert place.asked[-1].body == {"model": "vendor/model-7b", "query": "sea", "documents": ["a", "b", "c"]}
    for broken in (
        scored((0, 1.0), (1, 1.0)),
        scored((0, 1.0), (1, 1.0), (1, 1.0)),
        scored((0, 1.0), (1, 1.0), (3, 1.0)),
        scored((0, 1.0), (1, None), (2, 1.0)),
        scored((0, 1.0), (1, "x"), (2, 1.0)),
        whole({"results": None}),
        whole([{"index": 0, "score": 1.0}]),
    ):
        place.script = broken
        assert ask().status in (502, 503), broken
    for status in (501, *[404] * 8, 405):
        place.script = whole({"error": {"message": "This server has no such path."}}, status)
        assert ask().error["code"] == "engine_refused", "a server without reranking stays in service"
    sizes = {"n_prompt_tokens": 9, "n_ctx": 8}
    message = {"type": "exceed_context_size_error", "message": "documents[2] exceeds the context", **sizes}
    place.script = whole({"error": message}, 400)
    error = ask().error
    assert (error["code"], error["param"]) == ("context_length_exceeded", "documents")
    assert "documents[2] exceeds" in error["message"]
