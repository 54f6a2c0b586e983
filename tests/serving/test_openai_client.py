"""The official client, unchanged, against the null engine and against llama.cpp with a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import openai
import pytest

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam
    from tests.serving.conftest import Platform

pytestmark = pytest.mark.enable_socket


def client_of(platform: Platform, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=platform.url, api_key=key or platform.key, max_retries=0, timeout=60)


@pytest.fixture
def client(null: Platform) -> Iterator[openai.OpenAI]:
    with client_of(null) as made:
        yield made


@pytest.fixture
def real(llama: Platform) -> Iterator[openai.OpenAI]:
    with client_of(llama) as made:
        yield made


def ask(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


PARIS = ask("What is the capital of France? Answer with one word.")


def test_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="m", messages=ask("hi"), max_tokens=4)
    assert reply.object == "chat.completion"
    assert reply.model == "m"
    assert reply.choices[0].message.content == "The null engine says"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (1, 4, 5)
    assert reply.system_fingerprint == "aw-0123456789ab"


def test_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="desk", messages=ask("hi"), max_tokens=4, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.model for chunk in chunks} == {"desk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "The null engine says"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


def test_no_usage_chunk_unless_asked(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="m", messages=ask("hi"), max_tokens=2, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_the_default_of_the_workload_is_used(client: openai.OpenAI) -> None:
    for workload, tokens in [("desk", 16), ("night", 4)]:
        reply = client.chat.completions.create(
            model="m", messages=ask("hi"), extra_headers={"x-archwright-workload": workload}
        )
        assert reply.usage is not None
        assert reply.usage.completion_tokens == tokens


def test_completions(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="m", prompt="Once", max_tokens=3)
    assert (reply.object, reply.choices[0].text) == ("text_completion", "The null engine")
    chunks = list(client.completions.create(model="m", prompt="Once", max_tokens=3, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "The null engine"


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
    with client_of(null, "aw_wrong") as stranger, pytest.raises(openai.AuthenticationError) as wrong:
        stranger.chat.completions.create(model="m", messages=ask("hi"))
    assert wrong.value.code == "invalid_api_key"
    with client_of(null, null.made_key("acme", "monitor")) as watcher, pytest.raises(openai.PermissionDeniedError):
        watcher.chat.completions.create(model="m", messages=ask("hi"))
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-unknown", messages=ask("hi"))
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="m", messages=ask("hi"), temperature=7)
    assert bad.value.param == "temperature"
    assert bad.value.request_id is not None
    assert bad.value.request_id.startswith("aw-")


def test_a_prompt_over_the_context_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=ask("word " * 5000))
    assert caught.value.code == "context_length_exceeded"


def test_real_chat_knows_paris(real: openai.OpenAI) -> None:
    reply = real.chat.completions.create(model="smol", messages=PARIS, temperature=0, max_tokens=12)
    assert "Paris" in (reply.choices[0].message.content or "")
    assert reply.usage is not None
    assert 1 < reply.usage.completion_tokens <= 12
    assert "timings" not in reply.model_dump_json()


def test_real_stream_and_plain_agree(real: openai.OpenAI) -> None:
    plain = real.chat.completions.create(model="smol", messages=PARIS, temperature=0, max_tokens=12)
    chunks = list(real.chat.completions.create(model="smol", messages=PARIS, temperature=0, max_tokens=12, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == plain.choices[0].finish_reason
    assert all("gguf" not in chunk.model_dump_json() for chunk in chunks)


def test_real_stop_and_default_length(real: openai.OpenAI) -> None:
    reply = real.completions.create(model="smol", prompt="1 2 3 4 5 6 7", temperature=0, stop=" 9", max_tokens=20)
    assert " 9" not in reply.choices[0].text
    assert reply.choices[0].finish_reason == "stop"
    endless = real.completions.create(model="smol", prompt="Once upon a time", extra_body={"ignore_eos": True})
    assert endless.usage is not None
    assert endless.usage.completion_tokens == 24
    assert endless.choices[0].finish_reason == "length"


def test_real_seed_repeats(real: openai.OpenAI) -> None:
    def draw() -> str:
        reply = real.chat.completions.create(
            model="smol",
            messages=ask("Name an animal."),
            temperature=1,
            seed=7,
            max_tokens=8,
            extra_body={"cache_prompt": False},
        )
        return reply.choices[0].message.content or ""

    assert draw() == draw()


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 2, "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}
PLACE: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}


def test_real_schema_is_obeyed(real: openai.OpenAI) -> None:
    reply = real.chat.completions.create(
        model="smol",
        messages=PARIS,
        temperature=0,
        max_tokens=40,
        response_format=PLACE,
    )
    assert set(json.loads(reply.choices[0].message.content or "")) == {"city"}


def test_real_answer_beside_tools_keeps_the_schema(real: openai.OpenAI) -> None:
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    reply = real.chat.completions.create(
        model="smol",
        messages=PARIS,
        temperature=0,
        max_tokens=60,
        response_format=PLACE,
        tools=[{"type": "function", "function": {"name": "leave", "parameters": nothing}}],
    )
    said = reply.choices[0].message
    assert said.tool_calls or set(json.loads(said.content or "")) == {"city"}


def test_real_bad_schema_is_a_bad_request(real: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        real.chat.completions.create(
            model="smol",
            messages=PARIS,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "banana"}}},
        )
    assert caught.value.code == "engine_refused"


def test_real_overflow_is_a_bad_request(real: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        real.chat.completions.create(model="smol", messages=ask("word " * 3000))
    assert caught.value.code == "context_length_exceeded"
    assert "1024" in caught.value.message


@pytest.mark.parametrize("streamed", [False, True])
def test_real_log_probabilities(real: openai.OpenAI, streamed: bool) -> None:
    if streamed:
        chunks = real.chat.completions.create(
            model="smol", messages=PARIS, temperature=0, max_tokens=3, logprobs=True, top_logprobs=2, stream=True
        )
        found = [entry for chunk in chunks for c in chunk.choices if c.logprobs for entry in c.logprobs.content or ()]
    else:
        reply = real.chat.completions.create(
            model="smol", messages=PARIS, temperature=0, max_tokens=3, logprobs=True, top_logprobs=2
        )
        assert reply.choices[0].logprobs is not None
        found = list(reply.choices[0].logprobs.content or ())
    assert found
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in found)


def test_real_old_style_log_probabilities(real: openai.OpenAI) -> None:
    prompt = "The capital of France is"
    reply = real.completions.create(model="smol", prompt=prompt, temperature=0, max_tokens=3, logprobs=0)
    found = reply.choices[0].logprobs
    assert found is not None
    assert found.tokens
    assert found.text_offset is not None
    assert found.text_offset[0] == len(prompt)
    assert found.top_logprobs is not None
    assert all(list(top) == [token] for top, token in zip(found.top_logprobs, found.tokens, strict=True))
    assert "".join(found.tokens).strip() == reply.choices[0].text.strip()
