"""The official client with what goes beyond words: tools, structured output, images, several choices, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import openai
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field
from tests.serving.fake_provider import Place, Script, chat_events

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
BOOK: dict[str, Any] = {
    "type": "object",
    "properties": {"guests": {"type": "integer"}, "names": {"type": "array", "items": {"type": "string"}}},
    "required": ["guests", "names"],
    "additionalProperties": False,
}
SCHEMAS = {"get_weather": WEATHER, "book_table": BOOK}
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()
]
NAMED: Any = {"type": "function", "function": {"name": "book_table"}}
IMAGE = "data:image/png;base64,aGVsbG8="


def client_of(platform: Platform, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=platform.url, api_key=platform.key, max_retries=retries, timeout=60)


def ask(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def real(llama: Platform) -> Iterator[openai.OpenAI]:
    with client_of(llama) as made:
        yield made


@pytest.fixture
def client(null: Platform) -> Iterator[openai.OpenAI]:
    with client_of(null) as made:
        yield made


@pytest.mark.parametrize("prompt", ["Weather in Rome, in celsius?", "Do not call anything; tell me a joke."])
@pytest.mark.parametrize("choice", ["required", NAMED])
def test_real_a_call_that_must_be_made_is_made_and_fits(real: openai.OpenAI, prompt: str, choice: Any) -> None:
    asked: dict[str, Any] = {"model": "smol", "messages": ask(prompt), "tools": TOOLS, "tool_choice": choice}
    asked["max_tokens"] = 200
    plain = real.chat.completions.create(**asked)
    with real.chat.completions.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_completion()
    assert kinds.count("tool_calls.function.arguments.delta") > 3
    for reply in (plain, streamed):
        found = reply.choices[0]
        (call,) = found.message.tool_calls or []
        assert call.type == "function" and call.id.startswith("call_")
        assert call.function.name in (("book_table",) if choice is NAMED else SCHEMAS)
        assert Draft202012Validator(SCHEMAS[call.function.name]).is_valid(json.loads(call.function.arguments))
        assert (found.finish_reason, found.message.content or None) == ("tool_calls", None)


def test_real_free_to_choose_it_calls_or_answers(real: openai.OpenAI) -> None:
    for prompt in ("Weather in Rome, in celsius?", "Say hello."):
        reply = real.chat.completions.create(model="smol", messages=ask(prompt), tools=TOOLS, max_tokens=200)
        found = reply.choices[0]
        calls = found.message.tool_calls or []
        assert bool(calls) != bool(found.message.content)
        assert not (found.message.content or "").startswith("{")
    silent = real.chat.completions.create(
        model="smol", messages=ask("Weather?"), tools=TOOLS, tool_choice="none", max_tokens=8
    )
    assert silent.choices[0].message.tool_calls is None


def test_real_a_result_is_taken(real: openai.OpenAI) -> None:
    turns = ask("Weather in Rome, in celsius?")
    asked: dict[str, Any] = {"model": "smol", "tools": TOOLS, "max_tokens": 200}
    reply = real.chat.completions.create(messages=turns, tool_choice="required", **asked)
    message = reply.choices[0].message
    said: Any = message.model_dump()
    turns.append(said)
    (call,) = message.tool_calls or []
    turns.append({"role": "tool", "tool_call_id": call.id, "content": "18 degrees"})
    after = real.chat.completions.create(messages=turns, tool_choice="none", **asked)
    assert after.choices[0].message.content


class Room(BaseModel):
    name: str = Field(max_length=12)
    floor: int = Field(ge=0, le=9)
    kind: Literal["office", "lab"]


def test_real_structured_output_is_parsed(real: openai.OpenAI) -> None:
    reply = real.chat.completions.parse(
        model="smol", messages=ask("Describe a room."), response_format=Room, max_tokens=120
    )
    assert isinstance(reply.choices[0].message.parsed, Room)
    tool = openai.pydantic_function_tool(Room)
    called = real.chat.completions.parse(
        model="smol", messages=ask("Describe a room."), tools=[tool], tool_choice="required", max_tokens=200
    )
    (call,) = called.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Room)


def test_a_null_engine_calls_too(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="m", messages=ask("hi"), tools=TOOLS, tool_choice="required", max_tokens=60
    )
    (call,) = reply.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "x", "unit": "C"})


def test_images_where_the_model_takes_none_are_refused_by_place(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": parts}])
    assert (caught.value.param, caught.value.code) == ("messages[0].content[1]", "unsupported_value")


def test_a_full_house_is_waited_out_by_the_client(start: Start) -> None:
    platform = start([{"slots": 1}], [{"slots": 1, "tpot_s": 0.05}])
    held = [platform.open_chat(max_tokens=16) for _ in range(40)]
    platform.until(lambda: platform.in_flight() >= 2)
    with client_of(platform) as hasty, pytest.raises(openai.RateLimitError) as full:
        for _ in range(200):
            hasty.chat.completions.create(model="m", messages=ask("hi"), max_tokens=1, timeout=0.2)
    wait_s = int(full.value.response.headers["retry-after"])
    assert (full.value.code, wait_s >= 1) == ("queue_full", True)
    for one in held:
        one.close()
    with client_of(platform, retries=3) as patient:
        reply = patient.chat.completions.create(model="m", messages=ask("hi"), max_tokens=1)
    assert reply.choices[0].message.content


def test_what_goes_to_a_url_and_comes_back(start: Start, place: Place) -> None:
    spec = {"addresses": (place.url,), "engine_model": "vendor/x", "health_path": "/models"}
    platform = start([{**spec, "vision": True}, {**spec, "workload": "blind", "pool": "b"}], [])
    with client_of(platform) as client:
        _seen_and_passed_on(client, place)
        _several_choices(client, place)
        _calls_as_they_come(client, place)
        place.script = Script([b'{"error": "boom"}'], 500, "application/json")
        with pytest.raises(openai.InternalServerError) as failed:
            client.chat.completions.create(model="desk", messages=ask("hi"))
        assert failed.value.code == "engine_failed"
        parts: Any = [{"type": "image_url", "image_url": {"url": IMAGE}}]
        with pytest.raises(openai.BadRequestError, match="takes text only"):
            client.chat.completions.create(model="blind", messages=[{"role": "user", "content": parts}])
        with pytest.raises(openai.BadRequestError) as bad:
            parts = [{"type": "image_url", "image_url": {"url": "http://plain/x.png"}}]
            client.chat.completions.create(model="desk", messages=[{"role": "user", "content": parts}])
        assert bad.value.param == "messages[0].content[0].image_url.url"


def _seen_and_passed_on(client: openai.OpenAI, place: Place) -> None:
    place.script = Script(chat_events({"choices": [{"delta": {"content": "a cat"}, "finish_reason": "stop"}]}))
    parts: Any = [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}},
    ]
    reply = client.chat.completions.create(
        model="desk",
        messages=[{"role": "developer", "content": "brief"}, {"role": "user", "content": parts, "name": "ann"}],
        seed=-1,
        user="u1",
        metadata={"a": "b"},
        service_tier="flex",
        reasoning_effort="high",
        store=True,
        logit_bias={"5": 1},
        extra_body={"guided_regex": "x+"},
    )
    assert reply.choices[0].message.content == "a cat"
    asked = place.last.body
    assert asked["messages"] == [
        {"role": "developer", "content": "brief"},
        {"role": "user", "content": parts, "name": "ann"},
    ]
    kept = {name: asked[name] for name in asked if name not in ("messages", "stream", "stream_options")}
    assert kept == {
        "model": "vendor/x",
        "max_tokens": 16,
        "seed": -1,
        "user": "u1",
        "metadata": {"a": "b"},
        "service_tier": "flex",
        "reasoning_effort": "high",
        "store": True,
        "logit_bias": {"5": 1},
        "guided_regex": "x+",
    }


def _several_choices(client: openai.OpenAI, place: Place) -> None:
    def said(index: int, text: str, finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}

    place.script = Script(chat_events(said(0, "a"), said(1, "b"), said(0, "c", "stop"), said(1, "d", "stop")))
    asked: dict[str, Any] = {"model": "desk", "messages": ask("hi"), "n": 2}
    reply = client.chat.completions.create(**asked)
    found = [(choice.index, choice.message.content, choice.finish_reason) for choice in reply.choices]
    assert found == [(0, "ac", "stop"), (1, "bd", "stop")]
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion()
    assert [choice.message.content for choice in streamed.choices] == ["ac", "bd"]
    place.script = Script(chat_events(said(0, "a", "stop")))
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**asked)


def _calls_as_they_come(client: openai.OpenAI, place: Place) -> None:
    def calling(index: int, finish: str | None = None, **call: Any) -> dict[str, Any]:
        return {"choices": [{"delta": {"tool_calls": [{"index": index, **call}]}, "finish_reason": finish}]}

    begin: dict[str, Any] = {"id": "c0", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    other: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "book_table", "arguments": "{}"}}
    place.script = Script(
        chat_events(
            calling(0, **begin),
            calling(0, function={"arguments": '{"city":'}),
            calling(0, function={"arguments": '"x"}'}),
            calling(1, "tool_calls", **other),
        )
    )
    asked: dict[str, Any] = {"model": "desk", "messages": ask("hi"), "tools": TOOLS, "tool_choice": "required"}
    plain = client.chat.completions.create(**asked)
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion()
    for reply in (plain, streamed):
        calls = reply.choices[0].message.tool_calls or []
        said = [(call.id, call.function.name, call.function.arguments) for call in calls if call.type == "function"]
        assert said == [("c0", "get_weather", '{"city":"x"}'), ("c1", "book_table", "{}")]
    assert place.last.body["tools"] == TOOLS and place.last.body["tool_choice"] == "required"


def test_a_client_that_stops_listening_stops_the_engine(start: Start, place: Place) -> None:
    platform = start([{"addresses": (place.url,), "health_path": "/models"}], [])
    place.script = Script(chat_events({"choices": [{"delta": {"content": "a"}}]})[:1], hangs=True)
    with client_of(platform) as client:
        stream = client.chat.completions.create(model="m", messages=ask("hi"), stream=True)
        assert next(iter(stream)).choices[0].delta.role == "assistant"
        stream.close()
    assert place.gone.wait(10)
