"""The official client of the Messages interface, unchanged, in front of engines that know nothing of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from tests.serving.fake_provider import Script, chat_events

from .official_clients import HELLO, anthropic_client, ask

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start
    from tests.serving.fake_provider import Place

pytestmark = pytest.mark.enable_socket

WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def client(null: Platform) -> Iterator[anthropic.Anthropic]:
    with anthropic_client(null) as made:
        yield made


@pytest.fixture
def real(llama: Platform) -> Iterator[anthropic.Anthropic]:
    with anthropic_client(llama) as made:
        yield made


def test_calls_that_an_engine_mixes(start: Start, place: Place) -> None:
    def delta(**said: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": said, "finish_reason": None}]}

    def call(number: int, said: str, name: str | None = None) -> dict[str, Any]:
        begun = {} if name is None else {"id": f"call_{number}", "type": "function"}
        function = {"arguments": said} if name is None else {"name": name, "arguments": said}
        return delta(tool_calls=[{"index": number, **begun, "function": function}])

    mixed = [delta(content="Well"), call(0, "", "f"), call(1, '{"b"', "g"), call(0, '{"a": '), delta(content="now")]
    mixed += [call(1, ": 2}"), call(0, "1}"), {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}]
    place.script = Script(chat_events(*mixed))
    platform = start([{"addresses": (place.url,), "health_path": "/models"}], [])
    opened: set[int] = set()
    beta = {"anthropic-beta": "b-2025-01-01"}  # which this engine would not understand
    with (
        anthropic_client(platform) as client,
        client.messages.stream(model="m", max_tokens=9, messages=HELLO, extra_headers=beta) as stream,
    ):
        for event in stream:
            if event.type == "content_block_start":
                assert not opened
                opened.add(event.index)
            elif event.type == "content_block_delta":
                assert event.index in opened
            elif event.type == "content_block_stop":
                opened.remove(event.index)
        found = stream.get_final_message()
    assert not opened and "anthropic-beta" not in place.last.headers
    texts = [block.text for block in found.content if block.type == "text"]
    uses = [(block.id, block.name, block.input) for block in found.content if block.type == "tool_use"]
    assert texts == ["Well", "now"]
    assert uses == [("call_0", "f", {"a": 1}), ("call_1", "g", {"b": 2})]
    assert found.stop_reason == "tool_use"


def test_errors_are_the_clients_own(null: Platform, client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": "m", "max_tokens": 4, "messages": HELLO}
    with anthropic_client(null, "aw_wrong") as stranger, pytest.raises(anthropic.AuthenticationError) as wrong:
        stranger.messages.create(**asked)
    key = null.made_key("acme", "monitor")
    with anthropic_client(null, key) as watcher, pytest.raises(anthropic.PermissionDeniedError):
        watcher.messages.create(**asked)
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**{**asked, "model": "nobody"})
    bodies: list[Any] = [wrong.value.body, missing.value.body]
    assert [body["error"]["type"] for body in bodies] == ["authentication_error", "not_found_error"]
    rows: list[tuple[str, dict[str, Any]]] = [
        ("max_tokens", {"max_tokens": 0}),
        (r"messages\.0\.content", {"messages": [{"role": "user", "content": 7}]}),
        ("thinking", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
    ]
    for named, fields in rows:
        with pytest.raises(anthropic.BadRequestError, match=named):
            client.messages.create(**{**asked, **fields})


def test_the_tool_runner_sends_conversations_whole_where_no_thread_is_kept(client: anthropic.Anthropic) -> None:
    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return city

    runner = client.beta.messages.tool_runner(
        model="m", max_tokens=8, messages=[{"role": "user", "content": "hi"}], tools=[get_weather], max_iterations=2
    )
    assert [reply.stop_reason for reply in runner] == ["tool_use", "tool_use"]


def test_models_in_the_words_of_this_interface(client: anthropic.Anthropic) -> None:
    page = client.models.list(limit=1)
    assert not page.has_next_page() and (page.first_id, page.last_id) == (page.data[0].id, page.data[-1].id)
    found = client.models.retrieve("m")
    assert (found.id, found.type, found.display_name) == ("m", "model", "m") and found.created_at.year > 2000


def test_real_chat_knows_paris(real: anthropic.Anthropic) -> None:
    words = ask("What is the capital of France? Answer with one word.")
    asked: dict[str, Any] = {"model": "smol", "max_tokens": 12, "messages": words, "extra_body": {"temperature": 0}}
    reply = real.messages.create(**asked)
    assert reply.content[0].type == "text" and "Paris" in reply.content[0].text
    assert reply.usage.input_tokens + (reply.usage.cache_read_input_tokens or 0) > 10
    with real.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == reply.content[0].text


def test_real_tokens_are_counted_as_the_engine_counts_them(null: Platform, real: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": "smol", "system": "Be brief.", "messages": ask("Weather in Rome?")}
    wholes: list[dict[str, Any]] = [asked, {**asked, "tools": [WEATHER], "tool_choice": {"type": "any"}}]
    for whole in wholes:
        counted = real.messages.count_tokens(**whole)
        used = real.messages.create(**whole, max_tokens=64).usage
        assert counted.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0) > 10
    with anthropic_client(null) as other:  # an engine that cannot count
        assert 0 < other.messages.count_tokens(model="m", messages=HELLO).input_tokens < 20


@pytest.mark.parametrize(
    "choice",
    [pytest.param({"type": "any"}, marks=pytest.mark.nightly), {"type": "tool", "name": "get_weather"}],
)
def test_real_tools_are_used_and_their_results_taken(real: anthropic.Anthropic, choice: Any) -> None:
    asked: dict[str, Any] = {"model": "smol", "max_tokens": 120, "tools": [WEATHER]}
    turns = ask("What is the weather in Paris, in celsius?")
    reply = real.messages.create(**asked, messages=turns, tool_choice=choice)
    (use,) = reply.content
    assert reply.stop_reason == use.type == "tool_use" and use.name == "get_weather"
    assert set(use.input) == {"city", "unit"} and use.input["unit"] in ("C", "F")
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "18 degrees, sunny"}
    turns += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": [result]}]
    said = real.messages.create(**asked, messages=turns, tool_choice={"type": "none"})
    assert said.content[0].type == "text"


def test_real_tools_streamed(real: anthropic.Anthropic) -> None:
    with real.messages.stream(
        model="smol", max_tokens=120, messages=ask("Weather in Rome?"), tools=[WEATHER], tool_choice={"type": "any"}
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        found = stream.get_final_message()
    assert len(pieces) > 3
    (use,) = found.content
    assert use.type == "tool_use" and use.input == json.loads("".join(pieces))
