"""A model of a provider with the Messages API, behind the real gateway, with clients of both interfaces."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest
from tests.serving.fake_provider import Place, Script, block, message_end, message_events, message_start, use, words

from archwright.errors import ArchwrightError
from archwright.http_client.sse import ServerSentEvent
from archwright.serving.providers.anthropic import AnthropicProvider, MessagesEventReader, to_messages_request

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket

PING = {"type": "ping"}
HI: list[Any] = [{"role": "user", "content": "hi"}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
THOUGHT = block(
    0,
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "thinking_delta", "thinking": "hm"},
    {"type": "signature_delta", "signature": "sig"},
)
LATE = message_events({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
HELLO = message_events(
    message_start(input_tokens=9, cache_read_input_tokens=3, output_tokens=1),
    PING,
    *words(0, "Hel", "lo"),
    PING,
    *message_end("end_turn", 2),
)
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
}
IMAGE = "data:image/png;base64,aGVsbG8="


@pytest.fixture
def platform(start: Start, place: Place, monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("VENDOR_KEY", "sk-vendor")
    spec = {"addresses": (place.url,), "key": "env:VENDOR_KEY", "engine_model": "vendor-large", "vision": True}
    spec |= {"protocol": "anthropic", "health_path": "/models"}
    kept = {"model": "kept", "workload": "kept", "pool": "kept", "cache": "all"}
    return start([spec, {**spec, **kept}], [])


def test_everything_a_provider_may_say(platform: Platform, place: Place) -> None:
    """One platform for many scripts, because each start takes a second."""
    base = platform.url
    with openai.OpenAI(base_url=base, api_key=platform.key, max_retries=0) as chats:
        _a_chat(chats, place)
        _calls(chats, place)
        _badly(chats, place)
        _what_no_message_can_say(platform, place)
    with anthropic.Anthropic(
        base_url=base.removesuffix("/v1"), auth_token=platform.key, api_key=None, max_retries=0
    ) as messages:
        _a_message(messages, place)
        _thoughts_that_are_not_shown(platform, messages, place)
        _tools_that_the_provider_runs(messages, place)
        _betas(platform, messages, place)
        _a_count(messages, place)
        _badly_in_its_own_words(messages, place)
    _parts_where_there_are_none(platform, place)
    log = platform.home.log("gateway").read_text()
    assert "sk-vendor" not in log and "AW-INT" not in log


def _a_chat(chats: openai.OpenAI, place: Place) -> None:
    place.script = Script(HELLO)
    sampling: dict[str, Any] = {"max_tokens": 8, "temperature": 0.5, "stop": ["x"], "user": "u1", "seed": 3}
    turns = [{"role": "system", "content": "Be brief."}, *HI]
    reply = chats.chat.completions.create(model="m", messages=turns, **sampling)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("Hello", "stop")
    usage: Any = reply.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (12, 2, 14)
    assert usage.prompt_tokens_details.cached_tokens == 3
    asked = place.last
    assert asked.path == "/v1/messages" and "authorization" not in asked.headers
    assert (asked.headers["x-api-key"], asked.headers["anthropic-version"]) == ("sk-vendor", "2023-06-01")
    assert asked.body == {
        "model": "vendor-large",
        "max_tokens": 8,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "temperature": 0.5,
        "stop_sequences": ["x"],
        "metadata": {"user_id": "u1"},
        "stream": True,
    }
    usual: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks: list[Any] = list(chats.chat.completions.create(model="m", messages=HI, **usual))
    assert [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content] == ["Hel", "lo"]
    assert chunks[-1].usage.total_tokens == 14


def _calls(chats: openai.OpenAI, place: Place) -> None:
    place.script = Script(
        message_events(
            message_start(input_tokens=5, output_tokens=1),
            *THOUGHT,
            *words(1, "Let me see."),
            *use(2, "f", '{"a":', ' "é"}'),
            *use(3, "f"),
            *message_end("tool_use", 9),
        )
    )
    turns = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}]
    asked: dict[str, Any] = {"model": "m", "messages": turns, "tools": [TOOL], "tool_choice": "required"}
    asked["parallel_tool_calls"] = False
    reply = chats.chat.completions.create(**asked)
    message = reply.choices[0].message
    calls = message.tool_calls or []
    assert [(call.id, call.type) for call in calls] == [("toolu_2", "function"), ("toolu_3", "function")]
    assert [json.loads(call.function.arguments) for call in calls if call.type == "function"] == [{"a": "é"}, {}]
    assert (message.content, reply.choices[0].finish_reason) == ("Let me see.", "tool_calls")
    sent = place.last.body
    assert sent["tools"] == [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]
    assert sent["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    source = {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}
    assert sent["messages"][0]["content"][0]["source"] == source
    with chats.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    assert [call.function.arguments for call in final.choices[0].message.tool_calls or []] == ['{"a": "é"}', "{}"]


def _badly(chats: openai.OpenAI, place: Place) -> None:
    def error(kind: str, status: int) -> Script:
        said = json.dumps({"type": "error", "error": {"type": kind, "message": "sk-vendor at /etc"}})
        return Script([said.encode()], status, "application/json")

    def ask(**more: Any) -> Any:
        return chats.chat.completions.create(model="m", messages=HI, **more)

    for script, kind, code in (
        (error("overloaded_error", 529), openai.InternalServerError, "engine_overloaded"),
        (error("rate_limit_error", 429), openai.RateLimitError, "engine_overloaded"),
        (error("authentication_error", 401), openai.InternalServerError, "upstream_misconfigured"),
        (error("invalid_request_error", 400), openai.BadRequestError, "engine_refused"),
        (Script(HELLO[:-1]), openai.InternalServerError, "engine_unavailable"),
        (Script([b"event: x\ndata: 7\n\n"]), openai.InternalServerError, "engine_reply_invalid"),
        (Script(message_events(message_start(), PING)), openai.InternalServerError, "engine_unavailable"),
    ):
        for streamed in (False, True):
            place.script = script
            if streamed and script.status == 200:
                with pytest.raises(openai.APIError):
                    list(ask(stream=True))
                continue
            with pytest.raises(kind) as caught:
                ask(stream=streamed)
            assert caught.value.code == code and "/etc" not in str(caught.value)
    place.script = Script([*HELLO[:3], *LATE])
    for streamed in (False, True):
        # Nothing was sent yet, so the error can still be a status.
        with pytest.raises(openai.InternalServerError):
            ask(stream=streamed)
    place.script = Script([*HELLO[:4], *LATE])
    with pytest.raises(openai.APIError, match="overloaded"):
        list(ask(stream=True))
    with pytest.raises(openai.InternalServerError):
        ask()


def _what_no_message_can_say(platform: Platform, place: Place) -> None:
    place.script = Script(HELLO)
    count = len(place.asked)
    for fields, param in (
        ({"logprobs": True}, "logprobs"),
        ({"n": 2}, "n"),
        ({"temperature": 1.5}, "temperature"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ):
        reply = platform.chat(**fields)
        assert (reply.status, reply.error["param"]) == (400, param)
    assert platform.ask("POST", "/v1/completions", {"model": "m", "prompt": "x"}).status == 400
    assert len(place.asked) == count
    assert platform.chat(presence_penalty=0, n=1, thinking={"type": "adaptive"}).status == 200
    assert place.last.body["thinking"] == {"type": "adaptive"}


def _a_message(messages: anthropic.Anthropic, place: Place) -> None:
    """The client's body passes unchanged, including cache control, and so does the reply."""
    place.script = Script(
        message_events(
            message_start(input_tokens=5, cache_read_input_tokens=7, output_tokens=1),
            *THOUGHT,
            PING,
            *words(1, "Hel", "lo"),
            *use(2, "f", '{"a": 1}'),
            *message_end("stop_sequence", 9, "END"),
        )
    )
    asked: dict[str, Any] = {"model": "m", "max_tokens": 2048, "messages": HI, "stop_sequences": ["END"]}
    asked["system"] = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    reply = messages.messages.create(**asked)
    assert place.last.body == {**asked, "model": "vendor-large", "stream": True}
    with messages.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for found in (reply, streamed):
        thinking, text, call = (block.model_dump() for block in found.content)
        assert (thinking["thinking"], thinking["signature"], text["text"]) == ("hm", "sig", "Hello")
        assert (call["id"], call["name"], call["input"]) == ("toolu_2", "f", {"a": 1})
        assert (found.stop_reason, found.stop_sequence, found.model) == ("stop_sequence", "END", "m")
        used = found.usage
        assert (used.input_tokens, used.cache_read_input_tokens, used.output_tokens) == (5, 7, 9)


def _thoughts_that_are_not_shown(platform: Platform, messages: anthropic.Anthropic, place: Place) -> None:
    """Hidden reasoning must be returned unchanged, or the provider rejects the turn with the tool result."""
    signed = {"type": "signature_delta", "signature": "sig"}
    hidden = [{"type": "redacted_thinking", "data": data} for data in ("abc", "def")]
    place.script = Script(
        message_events(
            message_start(input_tokens=5, output_tokens=1),
            *block(0, {"type": "thinking", "thinking": "", "signature": ""}, signed),
            *(*block(1, hidden[0]), *block(2, hidden[1]), *words(3, "a"), *use(4, "f", "{}")),
            *message_end("tool_use", 9),
        )
    )
    asked: dict[str, Any] = {"model": "kept", "max_tokens": 9, "messages": HI}
    for first in ("whole", "stream"):
        asked["system"] = first
        for kind in (first, "whole", "stream"):
            if kind == "whole":
                found: Any = messages.messages.create(**asked)
            else:
                with messages.messages.stream(**asked) as stream:
                    found = stream.get_final_message()
            said = [one.model_dump(exclude_none=True) for one in found.content]
            assert said[:3] == [{"type": "thinking", "thinking": "", "signature": "sig"}, *hidden]
            assert [one["type"] for one in said[3:]] == ["text", "tool_use"]
    asked_once = [one for one in place.asked if one.body.get("system") in ("whole", "stream")]
    assert len(asked_once) == 2, "the others came from the cache"
    assert platform.chat(model="kept", messages=HI).json["choices"][0]["message"]["content"] == "a"


def _betas(platform: Platform, messages: anthropic.Anthropic, place: Place) -> None:
    """Betas are passed on with native bodies, and a reply is reused only for the same betas."""
    place.script = Script(HELLO)
    asked: dict[str, Any] = {"max_tokens": 9, "messages": [{"role": "user", "content": "betas?"}]}
    messages.beta.messages.create(model="m", **asked, betas=["b-2025-01-01", "a-2025-01-01"])
    assert (place.last.path, place.last.headers["anthropic-beta"]) == ("/v1/messages", "a-2025-01-01,b-2025-01-01")
    assert (place.last.headers["anthropic-version"], place.last.headers["x-api-key"]) == ("2023-06-01", "sk-vendor")
    messages.messages.create(model="m", **asked)
    assert "anthropic-beta" not in place.last.headers
    assert platform.chat(headers={"anthropic-beta": "b-2025-01-01"}).status == 200
    assert "anthropic-beta" not in place.last.headers, "a chat is translated"
    found = []
    for beta in ("", "a", "b, a", "a,b", "", "a"):
        headers = {"anthropic-beta": beta} if beta else {}
        reply = platform.ask("POST", "/v1/messages", {"model": "kept", **asked}, headers=headers)
        found.append((beta, reply.headers["x-archwright-cache"]))
    assert found == [("", "miss"), ("a", "miss"), ("b, a", "miss"), ("a,b", "hit"), ("", "hit"), ("a", "hit")]
    count = len(place.asked)
    with pytest.raises(anthropic.BadRequestError, match="anthropic-beta"):
        messages.beta.messages.create(model="m", **asked, betas=["a b"])
    assert len(place.asked) == count
    place.script = Script([b'{"input_tokens": 14}'], kind="application/json")
    messages.beta.messages.count_tokens(
        model="m", messages=asked["messages"], betas=["c-2025-01-01"], context_management={"edits": []}
    )
    assert place.last.body["context_management"] == {"edits": []}, "edits change the count"
    assert "c-2025-01-01" in place.last.headers["anthropic-beta"].split(",")


def _tools_that_the_provider_runs(messages: anthropic.Anthropic, place: Place) -> None:
    """Tools that run at the provider cost extra and are rejected. The client's own tools pass."""
    place.script = Script(HELLO)
    count = len(place.asked)
    for fields, param in (
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"extra_body": {"mcp_servers": [{"type": "url", "url": "https://x.example", "name": "x"}]}}, "mcp_servers"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=param):
            messages.messages.create(model="m", max_tokens=8, messages=HI, **fields)
    assert len(place.asked) == count
    mine: Any = [{"type": "bash_20250124", "name": "bash"}, {"name": "f", "input_schema": {"type": "object"}}]
    messages.messages.create(model="m", max_tokens=8, messages=HI, tools=mine)
    assert place.last.body["tools"] == mine


def _parts_where_there_are_none(platform: Platform, place: Place) -> None:
    place.script = Script(HELLO)
    sound = [{"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}]
    for turns in (
        [{"role": "system", "content": sound}, *HI],
        [*HI, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c", "content": sound}],
    ):
        reply = platform.chat(messages=turns)
        assert (reply.status, reply.error["code"]) == (400, "unsupported_value")
    for refusal in ({"content": None, "refusal": "no"}, {"content": [{"type": "refusal", "refusal": "no"}]}):
        assert platform.chat(messages=[*HI, {"role": "assistant", **refusal}, *HI]).status == 200
        assert place.last.body["messages"][1]["content"] == [{"type": "text", "text": "no"}]


def _a_count(messages: anthropic.Anthropic, place: Place) -> None:
    place.script = Script([b'{"input_tokens": 14}'], kind="application/json")
    asked: dict[str, Any] = {"model": "m", "system": "Be brief.", "messages": HI}
    assert messages.messages.count_tokens(**asked).input_tokens == 14
    assert (place.last.path, place.last.body) == ("/v1/messages/count_tokens", {**asked, "model": "vendor-large"})


def _badly_in_its_own_words(messages: anthropic.Anthropic, place: Place) -> None:
    for status, kind, raised in (
        (529, "overloaded_error", anthropic.InternalServerError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (400, "invalid_request_error", anthropic.BadRequestError),
    ):
        said = json.dumps({"type": "error", "error": {"type": kind, "message": "no"}}).encode()
        place.script = Script([said], status, "application/json")
        with pytest.raises(raised) as caught:
            messages.messages.create(model="m", max_tokens=8, messages=HI)
        body: Any = caught.value.body
        assert body["error"]["type"] == kind
    place.script = Script([*HELLO[:4], *LATE])
    with (
        pytest.raises(anthropic.APIStatusError, match="overloaded"),
        messages.messages.stream(model="m", max_tokens=8, messages=HI) as stream,
    ):
        list(stream)


def test_a_conversation_with_calls_becomes_turns() -> None:
    function = {"type": "function", "function": {"name": "f"}}
    turns = [
        *({"role": "developer", "content": "one"}, {"role": "system", "content": "two"}, *HI),
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        *({"role": "tool", "tool_call_id": "c", "content": "7"}, {"role": "user", "content": "and?"}),
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]},
    ]
    asked = to_messages_request(
        {
            **{"model": "v", "max_tokens": 5, "messages": turns, "tools": [function], "tool_choice": function},
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
            **{"reasoning_effort": "minimal", "service_tier": "default"},
        }
    )
    assert asked["system"] == "one\n\ntwo"
    last = [
        {"type": "tool_result", "tool_use_id": "c", "content": "7"},
        {"type": "text", "text": "and?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
    ]
    assert asked["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": last},
    ]
    assert asked["tools"] == [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]
    assert asked["tool_choice"] == {"type": "tool", "name": "f"}
    assert asked["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}, "effort": "low"}
    assert asked["service_tier"] == "standard_only"


def seen(*events: dict[str, Any]) -> tuple[list[Any], bool]:
    """Return the choices and usage that a reader makes of a stream, and whether the stream has ended."""
    reader = MessagesEventReader()
    found: list[Any] = []
    for event in events:
        assert not reader.done
        read = reader.read(ServerSentEvent(event["type"], json.dumps(event).encode()))
        found += [one for one in read if one.prompt_progress is None]
    return [choice for one in found for choice in one.choices or [one.error or one.usage]], reader.done


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        *((reason, "stop") for reason in ("end_turn", "stop_sequence", "pause_turn", "of_next_year")),
        *((reason, "length") for reason in ("max_tokens", "model_context_window_exceeded")),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
    ],
)
def test_why_it_ended(reason: str, finish: str) -> None:
    (last,), done = seen(message_start(), PING, *message_end(reason, 1, "END"))
    assert (last.finish_reason, last.stop_reason, done) == (finish, "END", True)


def test_blocks_of_every_kind() -> None:
    text, theirs = {"type": "text", "text": "A"}, {"type": "server_tool_use", "id": "x", "name": "n"}
    choices, done = seen(
        *(message_start(input_tokens=1), *THOUGHT),
        *block(1, text, {"type": "text_delta", "text": "b"}, {"type": "citations_delta", "citation": {}}),
        *(*use(2, "f", "", "{}"), *block(3, theirs, {"type": "input_json_delta", "partial_json": "{"})),
        {"type": "of_next_year", "delta": {}},
    )
    said = [choice.delta for choice in choices]
    assert [one.reasoning_content for one in said if one.reasoning_content] == ["hm"]
    assert [one.signature for one in said if one.signature] == ["sig"]
    assert [one.content for one in said if one.content] == ["A", "b"]
    calls = [call for one in said for call in one.tool_calls or ()]
    found = [(call.index, call.id, call.function and call.function.arguments) for call in calls]
    assert found == [(0, "toolu_2", ""), (0, None, "{}")] and not done


def test_an_error_of_each_kind_has_its_status() -> None:
    kinds = {"overloaded_error": 529, "rate_limit_error": 429, "of_next_year": 500}
    for error, status in (*(({"error": {"type": kind}}, status) for kind, status in kinds.items()), ({}, 500)):
        (found,), _ = seen({"type": "error", **error})
        assert found["code"] == status


def test_usage_is_the_last_word_on_each_count() -> None:
    reader = MessagesEventReader()
    start = message_start(input_tokens=5, cache_creation_input_tokens=2, cache_read_input_tokens=3, output_tokens=1)
    (stated,) = reader.read(ServerSentEvent("", json.dumps(start).encode()))
    assert stated.prompt_progress == {"total": 10}
    (end,) = reader.read(ServerSentEvent("", json.dumps(message_end("end_turn", 7)[0]).encode()))
    cached = {"prompt_tokens_details": {"cached_tokens": 3, "cache_creation_tokens": 2}}
    assert end.usage == {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17, **cached}


def test_what_a_provider_cannot_be_told() -> None:
    plain: dict[str, Any] = {"model": "v", "max_tokens": 5, "messages": HI}
    audio = {"role": "user", "content": [{"type": "input_audio"}]}
    broken = {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}]}
    for fields, says in (
        ({"messages": [audio]}, "'input_audio' parts"),
        ({"messages": [broken]}, "not a JSON object"),
        ({"logit_bias": {"5": 1}}, "'logit_bias'"),
        ({"frequency_penalty": 1}, "'frequency_penalty'"),
    ):
        with pytest.raises(ArchwrightError, match=says):
            to_messages_request({**plain, **fields})
    with pytest.raises(ArchwrightError, match="does not support /completions"):
        AnthropicProvider().build_request("/completions", plain, None)
    choice = {"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False}
    kept = to_messages_request({**plain, **choice, "top_k": 4})
    assert (kept["tool_choice"], kept["top_k"]) == ({"type": "none"}, 4)
    native = AnthropicProvider().build_request("/chat/completions", plain, {"model": "m", "x": 1})
    assert native.body == {"model": "v", "x": 1, "stream": True}
