"""The Messages interface put as a chat, and a chat's answer put as a message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from archwright.serving.events import Call, Function
from archwright.serving.messages import MessagesWriter, question
from archwright.serving.refusal import Refusal
from archwright.serving.shapes import Envelope, Piece

from .conftest import Entry, directory, endpoint


def spec(model: str, address: str, **changes: Any) -> Entry:
    given: dict[str, Any] = {"pool": model, "context_tokens": 9000, **changes}
    return endpoint(model=model, workload=f"{model}-work", addresses=(address,), **given)


DIRECTORY = directory(
    spec("m", "unix:e"),
    spec("far", "https://e/v1", vision=True),
    spec("own", "https://a/v1", protocol="anthropic", engine_model="vendor"),
)
HELLO = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {}}
TOOL = {"name": "f", "description": "d", "input_schema": SCHEMA}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


def asked(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 8, "messages": HELLO, **changes}


def test_a_conversation() -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, PNG]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "b"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "7"}, PNG]},
                {"type": "text", "text": "and?", "cache_control": {"type": "ephemeral"}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t2", "content": "8", "is_error": False}]},
    ]
    found = question(asked(model="far", messages=turns, system=[{"type": "text", "text": "s"}]), DIRECTORY, None)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    assert found.body["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, image]},
        {"role": "assistant", "content": "b", "tool_calls": [call]},
        {"role": "tool", "content": "7", "tool_call_id": "t1"},
        {"role": "user", "content": [image, {"type": "text", "text": "and?"}]},
        {"role": "tool", "content": "8", "tool_call_id": "t2"},
    ]


def test_what_else_is_said() -> None:
    found = question(
        asked(
            model="far",
            stream=True,
            stop_sequences=["x"],
            temperature=1,
            top_p=0.5,
            top_k=4,
            metadata={"user_id": "u"},
            tools=[TOOL],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
            thinking={"type": "disabled"},
            output_config={"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
            service_tier="standard_only",
            cache_control={"type": "ephemeral"},
        ),
        DIRECTORY,
        None,
    )
    assert (found.stream, found.include_usage, found.native) == (True, True, None)
    assert {name: found.body[name] for name in found.body if name not in ("messages", "stream", "stream_options")} == {
        "model": "far",
        "max_tokens": 8,
        "stop": ["x"],
        "temperature": 1.0,
        "top_p": 0.5,
        "top_k": 4,
        "user": "u",
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}},
        "reasoning_effort": "low",
        "service_tier": "default",
    }


def test_an_engine_of_ours_gets_what_it_knows() -> None:
    more = {"output_config": {"effort": "low"}, "service_tier": "auto", "metadata": {"user_id": "u"}}
    found = question(asked(**more, tools=[TOOL], tool_choice={"type": "tool", "name": "f"}), DIRECTORY, None)
    assert set(found.body) == {"messages", "max_tokens", "tools", "tool_choice", "model"}
    assert found.body["tool_choice"] == {"type": "function", "function": {"name": "f"}}


def test_what_clients_send_by_themselves_is_taken() -> None:
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    form = {"type": "json_schema", "schema": SCHEMA}
    sent = asked(max_tokens=64_000, output_format=form, context_management=edits, thinking={"type": "adaptive"})
    found = question(sent, DIRECTORY, None)
    assert set(found.body) == {"messages", "max_tokens", "response_format", "model"}
    assert found.body["max_tokens"] == 9000
    assert found.body["response_format"]["json_schema"]["schema"] == SCHEMA


def test_the_clients_own_words_go_to_who_speaks_them() -> None:
    body = asked(model="own", anything="new", messages=[{"role": "user", "content": [{"type": "document"}]}])
    found = question(body, DIRECTORY, None)
    assert found.native == {**body, "model": "own"}
    assert found.work_tokens >= 8 + 10


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "8"}, "max_tokens"),
        ({"max_tokens": 9001, "model": "own"}, "max_tokens"),
        ({"messages": 7, "model": "own"}, "messages"),
        ({"stream": 7, "model": "own"}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [*HELLO, {"role": "user", "content": 7}]}, "messages.1.content"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [PNG]}]}, "messages[0].content[0]"),
        ({"temperature": 1.1}, "temperature"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"tools": [{"type": "web_search_20250305", "name": "w", "input_schema": {}}]}, "tools.0.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"thread": {"type": "create"}, "model": "own"}, "thread"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits"),
        ({"metadata": {"user_id": 7}}, "user"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"temprature": 1}, "temprature"),
        ({"output_config": {"format": {"type": "xml"}}}, "response_format"),
    ],
    ids=str,
)
def test_refused_by_place(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        question(asked(**changes), DIRECTORY, None)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message


def written(pieces: list[Piece], used: dict[str, Any] | None = None) -> tuple[list[Any], Any]:
    """The events of a stream, and the whole message of the last piece."""
    writer = MessagesWriter(Envelope("msg_1", 1, "m", ""), ("END",))
    data = writer.first() + b"".join(map(writer.piece, pieces)) + writer.end(used)
    events = []
    for block in data.decode().strip().split("\n\n"):
        kind, _, said = block.partition("\n")
        events.append(json.loads(said.removeprefix("data: ")))
        assert kind == f"event: {events[-1]['type']}"
    return events, json.loads(writer.whole(pieces[-1:], used))


def test_blocks_are_opened_and_closed_in_order() -> None:
    call, more = Call(0, "t", Function("f", "")), Call(0, None, Function(None, "{}"))
    pieces = [
        Piece("", "hm", None, None),
        Piece("", "", None, None, signature="s"),
        Piece("a", "", None, None),
        Piece("b", "", None, None),
        Piece("", "", None, None, [call]),
        Piece("", "", None, None, [more, Call(1, "u", Function("g", "{}"))]),
        Piece("c", "", None, "tool_calls"),
    ]
    events, _ = written(pieces, {"prompt_tokens": 9, "completion_tokens": 4})
    kinds = [(event["type"], event.get("index")) for event in events]
    begin, stop, delta = "content_block_start", "content_block_stop", "content_block_delta"
    assert kinds == [
        ("message_start", None),
        ("ping", None),
        *((begin, 0), (delta, 0), (delta, 0), (stop, 0)),
        *((begin, 1), (delta, 1), (delta, 1), (stop, 1)),
        *((begin, 2), (delta, 2), (stop, 2)),
        *((begin, 3), (delta, 3), (stop, 3)),
        *((begin, 4), (delta, 4), (stop, 4)),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"] == {"input_tokens": 9, "cache_read_input_tokens": 0, "output_tokens": 4}


@pytest.mark.parametrize(
    ("piece", "reason", "stop"),
    [
        (Piece("a", "", None, "stop"), "end_turn", None),
        (Piece("a", "", None, "stop", stop="END"), "stop_sequence", "END"),
        (Piece("a", "", None, "stop", stop="else"), "end_turn", None),
        (Piece("a", "", None, "length"), "max_tokens", None),
        (Piece("", "", None, "content_filter", (), "no"), "refusal", None),
        (Piece("", "", None, "new"), "end_turn", None),
    ],
)
def test_why_it_ended(piece: Piece, reason: str, stop: str | None) -> None:
    events, whole = written([piece])
    assert (events[-2]["delta"]["stop_reason"], events[-2]["delta"]["stop_sequence"]) == (reason, stop)
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, stop)


def test_a_whole_message() -> None:
    calls = [Call(0, "t", Function("f", '{"a":1}')), Call(1, "u", Function("g", '{"cut": "o'))]
    piece = Piece("a", "hm", [], "tool_calls", calls, signature="s")
    used = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}
    assert written([piece], used)[1] == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "a"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
            {"type": "tool_use", "id": "u", "name": "g", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 4, "cache_read_input_tokens": 5, "output_tokens": 4},
    }
