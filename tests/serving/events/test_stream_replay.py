"""The official client reads the same message from the cache as from the engine, as a stream or complete."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from tests.serving.fake_provider import (
    Place,
    Script,
    block,
    chat_events,
    message_end,
    message_events,
    message_start,
    use,
)
from tests.serving.fake_provider import words as text_block

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket
USED = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17, "prompt_tokens_details": {"cached_tokens": 4}}


def call(number: int, *arguments: str, name: str = "f") -> list[dict[str, Any]]:
    """A tool call as engines stream it: first the name, then the arguments in pieces."""
    begun = {"index": number, "id": f"call_{number}", "function": {"name": name, "arguments": ""}}
    more = [{"index": number, "function": {"arguments": one}} for one in arguments]
    return [{"choices": [{"delta": {"tool_calls": [one]}}]} for one in (begun, *more)]


def ends(reason: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {}, "finish_reason": reason, **more}], "usage": USED}


def words(*texts: str, of: str = "content") -> list[dict[str, Any]]:
    return [{"choices": [{"delta": {of: text}}]} for text in texts]


SCRIPTS = {
    "text": [*words("Hel", "lo \U0001f600\n"), ends("stop")],
    "thoughts": [*words("hm", "!", of="reasoning_content"), *words("Yes."), ends("length")],
    "calls": [*words("Let me see."), *call(0, '{"a": ', '"\u00e9"}'), *call(1), *call(2, "{}"), ends("tool_calls")],
    "stopped": [*words("one, two"), ends("stop", stop_reason="END")],
    "refused": [*words("I can not", of="refusal"), ends("content_filter")],
    "nothing": [ends("stop")],
}


@pytest.fixture
def platform(start: Start, place: Place) -> Platform:
    """Models of two protocols at one address: `m` OpenAI, `n` and `d` Messages."""
    spec = {"addresses": (place.url,), "health_path": "/models", "cache": "all"}
    native = {"model": "n", "workload": "n", "pool": "n", "protocol": "anthropic"}
    cautious = {"model": "d", "workload": "d", "pool": "d", "protocol": "anthropic", "cache": "deterministic"}
    return start([spec, {**spec, **native}, {**spec, **cautious}], [])


@pytest.fixture
def client(platform: Platform) -> Iterator[anthropic.Anthropic]:
    base = platform.url.removesuffix("/v1")
    with anthropic.Anthropic(base_url=base, auth_token=platform.key, api_key=None, max_retries=0) as made:
        yield made


def asked(model: str, word: str, **more: Any) -> dict[str, Any]:
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    said = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": word}], **more}
    return {**said, "stop_sequences": ["END"], "tools": tools}


def streamed(client: anthropic.Anthropic, given: dict[str, Any]) -> tuple[str, dict[str, Any], list[str]]:
    """Return hit or miss, the message that the client built, and the kinds of events in order."""
    with client.messages.stream(**given) as stream:
        kinds = [event.type for event in stream]
        found = stream.get_final_message()
        made = found.model_dump(exclude={"id"})
        return stream.response.headers["x-archwright-cache"], made, list(dict.fromkeys(kinds))


def whole(client: anthropic.Anthropic, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    reply = client.messages.with_raw_response.create(**given)
    return reply.headers["x-archwright-cache"], reply.parse().model_dump(exclude={"id"})


@pytest.mark.parametrize("first", ["stream", "whole"])
def test_what_the_cache_tells_is_what_the_engine_told(client: anthropic.Anthropic, place: Place, first: str) -> None:
    for name, events in SCRIPTS.items():
        place.script = Script(chat_events(*events))
        given, before = asked("m", name), len(place.asked)
        if first == "whole":
            missed, as_whole = whole(client, given)
        else:
            missed, made, kinds = streamed(client, given)
        place.script = Script([b"never asked"], 500)
        hit, told, again = streamed(client, given)
        assert (missed, hit, len(place.asked) - before) == ("miss", "hit", 1), name
        if first == "stream":
            assert (told, again) == (made, kinds), name
        else:
            assert whole(client, given) == ("hit", as_whole), name
            # A stream's message starts without a count of cache creation, so only these two counts are equal.
            for one in (told, as_whole):
                one["usage"] = {kind: one["usage"][kind] for kind in ("input_tokens", "output_tokens")}
            assert told == as_whole, name


def test_a_call_that_was_cut_off_is_replayed(client: anthropic.Anthropic, place: Place) -> None:
    place.script = Script(chat_events(*call(0, '{"a": "b'), ends("length")))
    missed, hit = (streamed(client, asked("m", "cut off")) for _ in range(2))
    assert (missed[0], hit[0], hit[1:]) == ("miss", "hit", missed[1:]) and len(place.asked) == 1
    assert hit[1]["stop_reason"] == "max_tokens"


def test_native_messages_replies_are_replayed(client: anthropic.Anthropic, place: Place) -> None:
    thought = [{"type": "thinking_delta", "thinking": "hm"}, {"type": "signature_delta", "signature": "sig-1"}]
    blocks = [*block(0, {"type": "thinking", "thinking": "", "signature": ""}, *thought), *text_block(1, "Hel", "lo")]
    start, end = message_start(input_tokens=5, output_tokens=1), message_end("stop_sequence", 9, "END")
    place.script = Script(message_events(start, *blocks, *use(2, "f", '{"a": 1}'), *end))
    given = asked("n", "hi", metadata={"user_id": "ann"})
    missed, made, kinds = streamed(client, given)
    hit, told, again = streamed(client, {**given, "metadata": {"user_id": "bob"}})
    assert (missed, hit, told, again) == ("miss", "hit", made, kinds) and len(place.asked) == 1
    assert [block["type"] for block in told["content"]] == ["thinking", "text", "tool_use"]
    assert (told["stop_reason"], told["stop_sequence"]) == ("stop_sequence", "END")
    assert whole(client, given)[0] == "hit"
    assert streamed(client, {**given, "extra_body": {"temperature": 0.5}})[0] == "miss", "part of the key"
    cautious = [asked("d", "hi", extra_body={"temperature": temperature}) for temperature in (0.0, 0.0, 1.0)]
    assert [streamed(client, fields)[0] for fields in cautious] == ["miss", "hit", "off"]
