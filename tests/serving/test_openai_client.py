"""The official client against the null engine, llama.cpp with a real model and a provider: words, tools, images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import openai
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field
from tests.serving.fake_provider import Place, Script, chat_events, whole
from tests.tools.checks import WAIT_S

from .official_clients import HELLO, ask, openai_client

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def client(null: Platform) -> Iterator[openai.OpenAI]:
    with openai_client(null) as made:
        yield made


@pytest.fixture
def real(llama: Platform) -> Iterator[openai.OpenAI]:
    with openai_client(llama) as made:
        yield made


PARIS = ask("What is the capital of France? Answer with one word.")


def test_the_default_of_the_workload_is_used(client: openai.OpenAI) -> None:
    for workload, tokens in [("desk", 16), ("night", 4)]:
        headers = {"x-archwright-workload": workload}
        reply = client.chat.completions.create(model="m", messages=HELLO, extra_headers=headers)
        assert reply.usage is not None and reply.usage.completion_tokens == tokens


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["m", "e", "slow", "desk", "night", "search"]
    assert client.models.retrieve("m").owned_by == "archwright"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_embeddings_in_both_encodings(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model="e", input=["a", "b"])
    plain = client.embeddings.create(model="e", input=["a", "b"], encoding_format="float")
    assert [item.index for item in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert packed.usage.prompt_tokens == 2
    with pytest.raises(openai.BadRequestError, match="does not support embeddings"):
        client.embeddings.create(model="m", input="a")


def test_embeddings_of_token_ids(client: openai.OpenAI) -> None:
    found = client.embeddings.create(model="e", input=[[7, 8, 9], [1]])
    (alone,) = client.embeddings.create(model="e", input=[7, 8, 9]).data
    assert [row.index for row in found.data] == [0, 1] and found.usage.prompt_tokens == 4
    assert alone.embedding == found.data[0].embedding != found.data[1].embedding


def test_errors_are_the_clients_own(null: Platform, client: openai.OpenAI) -> None:
    with openai_client(null, "aw_wrong") as stranger, pytest.raises(openai.AuthenticationError) as wrong:
        stranger.chat.completions.create(model="m", messages=HELLO)
    assert wrong.value.code == "invalid_api_key"
    with openai_client(null, null.made_key("acme", "monitor")) as watcher, pytest.raises(openai.PermissionDeniedError):
        watcher.chat.completions.create(model="m", messages=HELLO)
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-unknown", messages=HELLO)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="m", messages=HELLO, temperature=7)
    assert bad.value.param == "temperature" and (bad.value.request_id or "").startswith("aw-")
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="m", messages=ask("word " * 5000))
    assert long.value.code == "context_length_exceeded"


def test_real_chat_knows_paris_streamed_and_plain(real: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "smol", "messages": PARIS, "temperature": 0, "max_tokens": 12}
    plain = real.chat.completions.create(**asked)
    assert "Paris" in (plain.choices[0].message.content or "") and "timings" not in plain.model_dump_json()
    assert plain.usage is not None and 1 < plain.usage.completion_tokens <= 12
    chunks = list(real.chat.completions.create(**asked, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == plain.choices[0].finish_reason
    assert all("gguf" not in chunk.model_dump_json() for chunk in chunks)


def test_real_stop_and_default_length(real: openai.OpenAI) -> None:
    reply = real.completions.create(model="smol", prompt="1 2 3 4 5 6 7", temperature=0, stop=" 9", max_tokens=20)
    assert " 9" not in reply.choices[0].text and reply.choices[0].finish_reason == "stop"
    endless = real.completions.create(model="smol", prompt="Once upon a time", extra_body={"ignore_eos": True})
    assert endless.usage is not None and endless.usage.completion_tokens == 24
    assert endless.choices[0].finish_reason == "length"


def test_real_seed_repeats(real: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "smol", "messages": ask("Name an animal."), "temperature": 1, "seed": 7}
    asked |= {"max_tokens": 8, "extra_body": {"cache_prompt": False}}
    first, second = (real.chat.completions.create(**asked).choices[0].message.content for _ in range(2))
    assert first == second


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 2, "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}
PLACE: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}


@pytest.mark.nightly
def test_real_schema_is_obeyed_beside_tools_too(real: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "smol", "messages": PARIS, "temperature": 0, "response_format": PLACE}
    said = real.chat.completions.create(**asked, max_tokens=40).choices[0].message
    assert set(json.loads(said.content or "")) == {"city"}
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    asked["tools"] = [{"type": "function", "function": {"name": "leave", "parameters": nothing}}]
    said = real.chat.completions.create(**asked, max_tokens=60).choices[0].message
    assert said.tool_calls or set(json.loads(said.content or "")) == {"city"}


def test_real_bad_schema_and_overflow_are_bad_requests(real: openai.OpenAI) -> None:
    bad: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "banana"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        real.chat.completions.create(model="smol", messages=PARIS, response_format=bad)
    assert caught.value.code == "engine_refused"
    with pytest.raises(openai.BadRequestError) as caught:
        real.chat.completions.create(model="smol", messages=ask("word " * 3000))
    assert caught.value.code == "context_length_exceeded" and "1024" in caught.value.message


def test_real_log_probabilities(real: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "smol", "messages": PARIS, "temperature": 0, "max_tokens": 3}
    asked |= {"logprobs": True, "top_logprobs": 2}
    chunks = [choice for chunk in real.chat.completions.create(**asked, stream=True) for choice in chunk.choices]
    for choices in (chunks, real.chat.completions.create(**asked).choices):
        found = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content or ()]
        assert found and all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in found)


def test_real_old_style_log_probabilities(real: openai.OpenAI) -> None:
    prompt = "The capital of France is"
    reply = real.completions.create(model="smol", prompt=prompt, temperature=0, max_tokens=3, logprobs=0)
    found = reply.choices[0].logprobs
    assert found is not None and found.tokens and found.text_offset is not None and found.top_logprobs is not None
    assert found.text_offset[0] == len(prompt)
    assert all(list(top) == [token] for top, token in zip(found.top_logprobs, found.tokens, strict=True))
    assert "".join(found.tokens).strip() == reply.choices[0].text.strip()


def test_real_several_prompts_and_token_ids(real: openai.OpenAI) -> None:
    """Each choice is the one of its prompt, and every choice is counted."""
    asked: dict[str, Any] = {"model": "smol", "temperature": 0, "max_tokens": 4, "extra_body": {"ignore_eos": True}}
    prompts = ["1 2 3 4 5 6", "The capital of France is"]
    alone = [real.completions.create(prompt=prompt, **asked) for prompt in prompts]
    both = real.completions.create(prompt=prompts, **asked)
    assert [(choice.index, choice.text) for choice in both.choices] == [
        (index, reply.choices[0].text) for index, reply in enumerate(alone)
    ]
    assert both.usage is not None and (both.usage.prompt_tokens, both.usage.completion_tokens) == (
        sum(reply.usage.prompt_tokens for reply in alone if reply.usage),
        8,
    )
    ids = real.completions.create(prompt=[[1, 2, 3], [4, 5]], **asked)
    assert len(ids.choices) == 2 and ids.usage is not None and ids.usage.prompt_tokens == 5


def closed(**properties: Any) -> dict[str, Any]:
    """A schema of an object with exactly these properties."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


SCHEMAS = {
    "get_weather": closed(city={"type": "string"}, unit={"type": "string", "enum": ["C", "F"]}),
    "book_table": closed(guests={"type": "integer"}, names={"type": "array", "items": {"type": "string"}}),
}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()
]
NAMED: Any = {"type": "function", "function": {"name": "book_table"}}
IMAGE = "data:image/png;base64,aGVsbG8="


def calling(messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "smol", "messages": messages, "tools": TOOLS, **more}


@pytest.mark.parametrize(
    ("prompt", "choice"),
    [
        pytest.param("Weather in Rome, in celsius?", "required", marks=pytest.mark.nightly),
        pytest.param("Weather in Rome, in celsius?", NAMED, marks=pytest.mark.nightly),
        pytest.param("Do not call anything; tell me a joke.", "required", marks=pytest.mark.nightly),
        ("Do not call anything; tell me a joke.", NAMED),
    ],
)
def test_real_a_call_that_must_be_made_is_made_and_fits(real: openai.OpenAI, prompt: str, choice: Any) -> None:
    asked = calling(ask(prompt), max_tokens=200, tool_choice=choice)
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


@pytest.mark.nightly
def test_real_free_to_choose_it_calls_or_answers(real: openai.OpenAI) -> None:
    for prompt in ("Weather in Rome, in celsius?", "Say hello."):
        found = real.chat.completions.create(**calling(ask(prompt), max_tokens=200)).choices[0].message
        assert bool(found.tool_calls) != bool(found.content) and not (found.content or "").startswith("{")
    silent = real.chat.completions.create(**calling(ask("Weather?"), max_tokens=8, tool_choice="none"))
    assert silent.choices[0].message.tool_calls is None


@pytest.mark.nightly
def test_real_a_result_is_taken(real: openai.OpenAI) -> None:
    asked = calling(ask("Weather in Rome, in celsius?"), max_tokens=200)
    message = real.chat.completions.create(**asked, tool_choice="required").choices[0].message
    (call,) = message.tool_calls or []
    asked["messages"] += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}]
    after = real.chat.completions.create(**asked, tool_choice="none")
    assert after.choices[0].message.content


class Room(BaseModel):
    name: str = Field(max_length=12)
    floor: int = Field(ge=0, le=9)
    kind: Literal["office", "lab"]


def test_real_structured_output_is_parsed(real: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "smol", "messages": ask("Describe a room."), "max_tokens": 200}
    reply = real.chat.completions.parse(**asked, response_format=Room)
    assert isinstance(reply.choices[0].message.parsed, Room)
    called = real.chat.completions.parse(**asked, tools=[openai.pydantic_function_tool(Room)], tool_choice="required")
    (call,) = called.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Room)


def test_a_null_engine_calls_too(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(**calling(HELLO, model="m", tool_choice="required", max_tokens=60))
    (call,) = reply.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "x", "unit": "C"})


def test_images_where_the_model_takes_none_are_refused_by_place(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": parts}])
    assert (caught.value.param, caught.value.code) == ("messages[0].content[1]", "unsupported_value")


def test_a_full_queue_is_waited_out_by_the_client(start: Start) -> None:
    platform = start([{"slots": 1}], [{"slots": 1, "tpot_s": 0.05}])
    held = [platform.open_chat(max_tokens=4000) for _ in range(40)]
    platform.until(lambda: platform.requests("rejected") > 0)
    with openai_client(platform) as hasty, pytest.raises(openai.RateLimitError) as full:
        hasty.chat.completions.create(model="m", messages=HELLO, max_tokens=1)
    wait_s = int(full.value.response.headers["retry-after"])
    assert (full.value.code, wait_s >= 1) == ("queue_full", True)
    for one in held:
        one.close()
    with openai_client(platform, max_retries=3) as patient:
        reply = patient.chat.completions.create(model="m", messages=HELLO, max_tokens=1)
    assert reply.choices[0].message.content


def test_what_goes_to_a_url_and_comes_back(start: Start, place: Place) -> None:
    spec = {"addresses": (place.url,), "engine_model": "vendor/x", "health_path": "/models"}
    platform = start([{**spec, "vision": True}, {**spec, "workload": "blind", "pool": "b"}], [])
    with openai_client(platform) as client:
        _seen_and_passed_on(client, place)
        _several_choices(client, place)
        place.script = whole({"error": "boom"}, 500)
        with pytest.raises(openai.InternalServerError) as failed:
            client.chat.completions.create(model="desk", messages=HELLO)
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
        {"type": "input_audio", "input_audio": {"data": "aGVsbG8=", "format": "wav"}},
    ]
    turns: Any = [{"role": "developer", "content": "brief"}, {"role": "user", "content": parts, "name": "ann"}]
    fields: dict[str, Any] = {"seed": -1, "user": "u1", "metadata": {"a": "b"}, "service_tier": "flex"}
    fields |= {"reasoning_effort": "high", "store": True, "logit_bias": {"5": 1}}
    fields |= {"tools": TOOLS, "tool_choice": "auto"}
    reply = client.chat.completions.create(model="desk", messages=turns, **fields, extra_body={"min_tokens": 1})
    assert reply.choices[0].message.content == "a cat"
    asked = place.last.body
    assert asked["messages"] == turns
    kept = {name: asked[name] for name in asked if name not in ("messages", "stream", "stream_options")}
    assert kept == {"model": "vendor/x", "max_tokens": 16, **fields, "min_tokens": 1}


def _several_choices(client: openai.OpenAI, place: Place) -> None:
    def said(index: int, text: str, finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}

    place.script = Script(chat_events(said(0, "a"), said(1, "b"), said(0, "c", "stop"), said(1, "d", "stop")))
    asked: dict[str, Any] = {"model": "desk", "messages": HELLO, "n": 2}
    reply = client.chat.completions.create(**asked)
    found = [(choice.index, choice.message.content, choice.finish_reason) for choice in reply.choices]
    assert found == [(0, "ac", "stop"), (1, "bd", "stop")]
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion()
    assert [choice.message.content for choice in streamed.choices] == ["ac", "bd"]
    place.script = Script(chat_events(said(0, "a", "stop")))
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**asked)


def test_a_client_that_stops_listening_stops_the_engine(start: Start, place: Place) -> None:
    platform = start([{"addresses": (place.url,), "health_path": "/models", "engine": "vllm"}], [])
    place.script = Script(chat_events({"choices": [{"delta": {"content": "a"}}]})[:1], hangs=True)
    with openai_client(platform) as client:
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert next(iter(stream)).choices[0].delta.role == "assistant"
        stream.close()
    assert place.gone.wait(WAIT_S)
