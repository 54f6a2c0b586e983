"""The exact cache: responses of the same tenant and version only, limited in bytes and hours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from archwright.home import Home
from archwright.policy.cache_key import CacheKeyParts
from archwright.serving.admission.response_cache import (
    ENTRY_BYTES,
    FRONT_BYTES,
    FRONT_ENTRIES,
    MAX_SALTS,
    CachedResponse,
    ResponseCache,
)
from archwright.serving.events.engine_events import FunctionCall, ToolCall
from archwright.serving.events.messages_writer import MessagesWriter
from archwright.serving.events.response_formats import (
    ChatFormat,
    CompletionFormat,
    OpenAIWriter,
    ResponseEnvelope,
    ResponseOptions,
    ResponsePiece,
)
from archwright.serving.events.stream_replay import decode_stored, encode_stream

MIB = 1024 * 1024


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(tmp_path: Path, clock: Clock) -> Iterator[ResponseCache]:
    made = ResponseCache(Home(tmp_path / "home"), b"p" * 32, size_bytes=4 * MIB, ttl_s=100, clock=clock)
    yield made
    made.close()


def asked(content: object = "Hi", version: str = "m@v1", temperature: float = 0.0) -> CacheKeyParts:
    messages = [{"role": "user", "content": content}]
    return CacheKeyParts("chat", version, {"messages": messages, "temperature": temperature})


def answer(body: bytes = b'{"answer": 1}', version: str = "m@v1") -> CachedResponse:
    return CachedResponse(body, 10, 20, 0.25, version)


def key_of(cache: ResponseCache, tenant: str, question: CacheKeyParts) -> bytes:
    key = cache.cache_key(tenant, question, "deterministic")
    assert key is not None and len(key) == 16
    return key


def cold(cache: ResponseCache) -> ResponseCache:
    """As another worker sees it: nothing in its own memory."""
    cache._front.clear()
    cache._front_bytes = 0
    return cache


def test_the_same_tenant_and_version_hit_and_others_do_not(cache: ResponseCache) -> None:
    mine, other = key_of(cache, "clinic", asked()), key_of(cache, "bank", asked())
    assert mine != other
    cache.put(mine, answer())
    assert cache.get(mine) == answer() == cold(cache).get(mine)
    assert cache.get(other) is None and cold(cache).get(other) is None
    assert cache.get(key_of(cache, "clinic", asked(version="m@v2"))) is None
    assert cache.cache_key("clinic", asked(temperature=1.0), "deterministic") is None, "not for the cache"


def test_without_the_pepper_no_key_can_be_made(cache: ResponseCache, tmp_path: Path) -> None:
    other = ResponseCache(Home(tmp_path / "other"), b"q" * 32, size_bytes=4 * MIB)
    assert key_of(other, "clinic", asked()) != key_of(cache, "clinic", asked())
    other.close()


def test_an_answer_is_told_until_its_time_is_over(cache: ResponseCache, clock: Clock) -> None:
    key = key_of(cache, "clinic", asked())
    cache.put(key, answer())
    clock.now += 99.9
    assert cache.get(key) and cold(cache).get(key)
    clock.now += 0.1
    assert cache.get(key) is None and cold(cache).get(key) is None


def test_it_forgets_the_old_within_its_bytes_and_keeps_what_is_used(cache: ResponseCache) -> None:
    """20 MB through a cache of 4: never full, one entry asked for all along stays, the newest are there."""
    used = key_of(cache, "clinic", asked("used"))
    cache.put(used, answer(b"used"))
    keys = []
    for number in range(20_000):
        keys.append(key_of(cache, "clinic", asked(number)))
        cache.put(keys[-1], answer(b"x" * 1000))
        if number % 50 == 0:
            assert cold(cache).get(used) == answer(b"used"), number
    assert cache.refused == 0
    kept = [cache._table.read(cache._read_entry, key) is not None for key in keys]
    assert all(kept[-700:]) and not any(kept[:15_000])


def test_answers_of_every_size_fit_or_are_left_out(cache: ResponseCache) -> None:
    for round_ in range(400):
        size = (round_ * 7919) % (2 * ENTRY_BYTES)
        key = key_of(cache, "clinic", asked(round_))
        cache.put(key, answer(b"x" * size))
        found = cold(cache).get(key)
        assert (found is not None) is (size + 100 < ENTRY_BYTES) or abs(size - ENTRY_BYTES) < 100
    assert cache.refused == 0


def test_the_process_keeps_a_few_in_bounded_memory(cache: ResponseCache) -> None:
    for number in range(2 * FRONT_ENTRIES):
        cache.put(number.to_bytes(16, "big"), answer(b"x" * 100))
    assert len(cache._front) == FRONT_ENTRIES
    for number in range(100):
        cache.put(number.to_bytes(16, "big"), answer(b"x" * 200_000))
    assert cache._front_bytes <= FRONT_BYTES
    assert cache._front_bytes == sum(len(cached.body) for _, cached in cache._front.values())


def test_a_table_that_refuses_is_a_miss_and_no_error(cache: ResponseCache) -> None:
    key = key_of(cache, "clinic", asked())
    cache._generation_bytes = 64 * MIB  # as if nothing had to be forgotten
    for number in range(6_000):
        cache.put(number.to_bytes(16, "big"), answer(b"x" * 1000))
    assert cache.refused > 0
    before = cache.refused
    cache.put(key, answer(b"x" * (ENTRY_BYTES * 3 // 4)))
    assert cache.refused == before + 1 and cold(cache).get(key) is None
    cache._table.close()
    assert cold(cache).get(key) is None and cache.refused == before + 2


def test_a_few_thousand_tenants_are_remembered(cache: ResponseCache) -> None:
    first = key_of(cache, "t0", asked())
    for number in range(2 * MAX_SALTS):
        key_of(cache, f"t{number}", asked())
    assert len(cache._salts) <= MAX_SALTS and key_of(cache, "t0", asked()) == first


OTHER = """
import sys
from archwright.home import Home
from archwright.policy.cache_key import CacheKeyParts
from archwright.serving.admission.response_cache import ResponseCache
cache = ResponseCache(Home(sys.argv[1]), b"p" * 32, size_bytes=int(sys.argv[2]), clock=lambda: 1000.0)
question = CacheKeyParts("chat", "m@v1", {"temperature": 0.0, "messages": [{"content": "Hi", "role": "user"}]})
found = cache.get(cache.cache_key("clinic", question, "deterministic"))
print(found.body.decode() if found else "nothing")
"""


@pytest.mark.process
def test_another_process_tells_it_too(cache: ResponseCache, tmp_path: Path) -> None:
    cache.put(key_of(cache, "clinic", asked()), answer(b"told"))
    words = [sys.executable, "-c", OTHER, str(tmp_path / "home"), str(4 * MIB)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "told\n"
    assert not any(b"Hi" in path.read_bytes() for path in (tmp_path / "home" / "run" / "slates").iterdir())
    assert os.stat(tmp_path / "home" / "run" / "slates").st_mode & 0o077 == 0


def events_of(stream: bytes) -> list[dict[str, Any]]:
    found = [event.removeprefix(b"data: ") for event in stream.split(b"\n\n")]
    assert found[-2:] == [b"[DONE]", b""]
    return [msgspec.json.decode(event) for event in found[:-2]]


def replay(
    body: bytes, form: ChatFormat | CompletionFormat, envelope: ResponseEnvelope, options: ResponseOptions
) -> list[dict[str, Any]]:
    return events_of(encode_stream(OpenAIWriter(form, envelope, options), *decode_stored(body)))


def test_a_chat_told_again_as_a_stream_says_the_same() -> None:
    envelope, wanted = ResponseEnvelope("chatcmpl-1", 5, "assistant", "fp"), ResponseOptions(None, include_usage=True)
    whole = ResponsePiece("Hello", "think", None, "length")
    used = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    body = OpenAIWriter(ChatFormat(), envelope, wanted).encode_response([whole], used)
    events = replay(body, ChatFormat(), envelope, wanted)
    assert {(event["id"], event["object"], event["created"]) for event in events} == {
        ("chatcmpl-1", "chat.completion.chunk", 5)
    }
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "Hello", "reasoning_content": "think"}, {}]
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None, None, "length"]
    assert events[-1]["choices"] == [] and events[-1]["usage"] == used
    assert "usage" not in replay(body, ChatFormat(), envelope, ResponseOptions(None))[-1]


def test_calls_of_tools_are_numbered_in_a_stream() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call, call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    told = replay(json.dumps(body).encode(), ChatFormat(), ResponseEnvelope("x", 1, "m", ""), ResponseOptions(None))
    assert told[1]["choices"][0]["delta"] == {"tool_calls": [{"index": 0, **call}, {"index": 1, **call}]}
    assert told[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("shape", [ChatFormat, CompletionFormat])
def test_choices_calls_and_log_probabilities_are_told_again(shape: type[ChatFormat] | type[CompletionFormat]) -> None:
    """The events put together are the reply again."""
    token = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
    entry = {**token, "top_logprobs": [token]}
    chat, envelope, options = shape is ChatFormat, ResponseEnvelope("id", 5, "m", ""), ResponseOptions(1, choices=2)
    forms = [ChatFormat() if chat else CompletionFormat([7, 9]) for _ in range(2)]
    calls = [ToolCall(0, "c1", FunctionCall("f", "{}"))] if chat else []
    given = [ResponsePiece("Hi", "", [entry], "stop", number=n, calls=calls) for n in (0, 1)]
    body = OpenAIWriter(forms[0], envelope, options).encode_response(given, None)
    events = [event["choices"][0] for event in replay(body, forms[1], envelope, options)]
    whole = json.loads(body)["choices"]
    said = [event for event in events if event["logprobs"]]
    assert [event["logprobs"] for event in said] == [choice["logprobs"] for choice in whole]
    assert [event["index"] for event in events if event["finish_reason"] == "stop"] == [0, 1]
    if not chat:
        assert [event["text"] for event in events] == ["Hi", "", "Hi", ""]
    if chat:
        assert said[1]["delta"]["tool_calls"] == [{"index": 0, **whole[1]["message"]["tool_calls"][0]}]


def test_a_reply_is_told_again_as_a_message() -> None:
    whole = ResponsePiece("Hello", "", None, "stop")
    writer = OpenAIWriter(ChatFormat(), ResponseEnvelope("chatcmpl-1", 5, "m", ""), ResponseOptions(None))
    pieces, _ = decode_stored(writer.encode_response([whole], None))
    told = encode_stream(MessagesWriter(ResponseEnvelope("msg_1", 5, "m", "")), pieces, None).decode()
    assert '"text_delta","text":"Hello"' in told and '"stop_reason":"end_turn"' in told
