"""Messages requests as chats, and replies of chats as messages."""

from __future__ import annotations

import json
from typing import Annotated, Any, get_args, get_origin

import pytest
from anthropic import types
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from archwright.errors import EngineError
from archwright.serving.admission.metering import estimate_worst_case
from archwright.serving.events.engine_events import FunctionCall, ToolCall
from archwright.serving.events.messages_writer import BUFFER_LIMIT_BYTES, MessagesWriter
from archwright.serving.events.response_formats import ResponseEnvelope, ResponsePiece
from archwright.serving.http.errors import ApiError
from archwright.serving.messages_api.request_translation import translate_request
from archwright.serving.settings.config import WeightedTarget

from ..conftest import Entry, directory, endpoint


def spec(model: str, address: str, **changes: Any) -> Entry:
    given: dict[str, Any] = {"pool": model, "context_tokens": 9000, **changes}
    return endpoint(model=model, workload=f"{model}-work", addresses=(address,), **given)


DIRECTORY = directory(
    spec("m", "unix:e"),
    spec("far", "https://e/v1", vision=True),
    spec("own", "https://a/v1", protocol="anthropic", engine_model="vendor"),
    spec("v", "https://e/v1", engine="vllm"),
    spec("mixed", "https://e/v1", targets=(WeightedTarget(pool="mixed"), WeightedTarget(pool="own"))),
    spec("dear", "https://a/v1", protocol="anthropic", price_in_usd=1e-6, price_out_usd=1e-6),
)
HELLO = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {}}
TOOL = {"name": "f", "description": "d", "input_schema": SCHEMA}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a text"}}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


MANY_BETAS = ",".join(f"b{number:02}" for number in range(32))


def asked(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 8, "messages": HELLO, **changes}


def test_a_conversation() -> None:
    thoughts = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "redacted_thinking", "data": "x"}]
    said = [{"type": "text", "text": "b"}, {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}}]
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "7"}, PNG]}
    more = {"type": "text", "text": "and?", "cache_control": {"type": "ephemeral"}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, PNG]},
        {"role": "assistant", "content": [*thoughts, *said]},
        {"role": "user", "content": [result, more]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t2", "content": "8", "is_error": False}]},
    ]
    sent = asked(model="far", messages=turns, system=[{"type": "text", "text": "s"}])
    found = translate_request(sent, DIRECTORY, None)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    assert found.body["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, image]},
        {"role": "assistant", "content": "b", "tool_calls": [call]},
        {"role": "tool", "content": "7", "tool_call_id": "t1"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Images of the tool result t1:"},
                image,
                {"type": "text", "text": "and?"},
            ],
        },
        {"role": "tool", "content": "8", "tool_call_id": "t2"},
    ]


def test_what_else_is_reported() -> None:
    same: dict[str, Any] = {"model": "far", "max_tokens": 8, "temperature": 1, "top_p": 0.5, "top_k": 4}
    sent = asked(
        **same,
        stream=True,
        stop_sequences=["x"],
        metadata={"user_id": "u"},
        tools=[TOOL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        service_tier="standard_only",
        cache_control={"type": "ephemeral"},
    )
    found = translate_request(sent, DIRECTORY, None)
    assert (found.stream, found.include_usage, found.native) == (True, True, None)
    assert {name: found.body[name] for name in found.body if name not in ("messages", "stream", "stream_options")} == {
        **same,
        "stop": ["x"],
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
    found = translate_request(asked(**more, tools=[TOOL], tool_choice={"type": "tool", "name": "f"}), DIRECTORY, None)
    assert set(found.body) == {"messages", "max_tokens", "tools", "tool_choice", "model"}
    assert found.body["tool_choice"] == {"type": "function", "function": {"name": "f"}}


def test_what_clients_send_by_themselves_is_taken() -> None:
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    form = {"type": "json_schema", "schema": SCHEMA}
    sent = asked(max_tokens=64_000, output_format=form, context_management=edits, thinking={"type": "adaptive"})
    found = translate_request(sent, DIRECTORY, None)
    assert set(found.body) == {"messages", "max_tokens", "response_format", "model"}
    assert found.body["max_tokens"] == 9000
    assert found.body["response_format"]["json_schema"]["schema"] == SCHEMA


def test_a_native_body_passes_to_a_provider_of_the_interface() -> None:
    body = asked(model="own", top_k=3, messages=[{"role": "user", "content": [DOCUMENT]}])
    found = translate_request({**body, "anything": None}, DIRECTORY, None)
    assert found.native == {**body, "model": "own"}
    assert found.work_tokens >= 8 + 10


@pytest.mark.parametrize("model", ["m", "own"])
def test_a_cancelled_request_is_charged_for_its_tools(model: str) -> None:
    body = asked(model=model, tools=[{**TOOL, "description": "word " * 400}])
    worst = estimate_worst_case(translate_request(body, DIRECTORY, None), len(json.dumps(body)))
    assert worst.input_estimate >= 500


@pytest.mark.parametrize(
    ("model", "thinking", "sent"),
    [
        ("far", {"type": "disabled"}, {"reasoning_effort": "none"}),
        *(
            ("far", {"type": "enabled", "budget_tokens": budget}, {"reasoning_effort": effort})
            for budget, effort in ((2047, "low"), (2048, "medium"), (16_383, "medium"), (16_384, "high"))
        ),
        ("far", {"type": "enabled", "display": "summarized"}, {"reasoning_effort": "medium"}),
        ("far", {"type": "adaptive"}, {}),
        ("m", {"type": "disabled"}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ("v", {"type": "disabled"}, {"chat_template_kwargs": {"enable_thinking": False}}),
        (
            "v",
            {"type": "enabled", "budget_tokens": 2048},
            {"chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 2048}},
        ),
    ],
)
def test_thinking_reaches_the_engine(model: str, thinking: dict[str, Any], sent: dict[str, Any]) -> None:
    found = translate_request(asked(model=model, thinking=thinking), DIRECTORY, None)
    assert {name: found.body[name] for name in found.body if name not in ("messages", "max_tokens", "model")} == sent


def test_the_effort_says_more_than_a_budget_and_less_than_disabled() -> None:
    for thinking, effort in (({"type": "enabled", "budget_tokens": 1024}, "high"), ({"type": "disabled"}, "none")):
        config = {"effort": "high"}
        found = translate_request(asked(model="far", thinking=thinking, output_config=config), DIRECTORY, None)
        assert found.body["reasoning_effort"] == effort


@pytest.mark.parametrize("kind", ["bash_20250124", "text_editor_20250728", "memory_20250818"])
def test_a_tool_of_the_client_gets_its_published_input(kind: str) -> None:
    tool = {"type": kind, "name": kind.rpartition("_")[0]}
    found = translate_request(asked(tools=[tool], tool_choice={"type": "any"}), DIRECTORY, None)
    (function,) = (one["function"] for one in found.body["tools"])
    assert function["name"] == tool["name"] and function["description"]
    Draft202012Validator.check_schema(function["parameters"])
    assert "command" in function["parameters"]["properties"]


def test_documents_are_text_of_the_chat() -> None:
    parts = {"type": "content", "content": [{"type": "text", "text": "one"}, PNG]}
    plain, titled = {**DOCUMENT, "source": {"type": "content", "content": "c"}}, {"title": "T", "context": "C"}
    turns = [
        {"role": "user", "content": [{**DOCUMENT, **titled}, plain, {**DOCUMENT, "source": parts}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [DOCUMENT]}]},
    ]
    user, tool = translate_request(asked(model="far", messages=turns), DIRECTORY, None).body["messages"]
    texts = "".join(part["text"] if part["type"] == "text" else "IMAGE" for part in user["content"])
    begin, end = "<document>\n", "\n</document>\n"
    first, second, third = "T\n\nC\n\na text", "c", "\noneIMAGE"
    assert texts == f"{begin}{first}{end}{begin}{second}{end}{begin}{third}</document>\n"
    assert (tool["role"], tool["content"]) == ("tool", f"{begin}a text{end}")


def test_a_pdf_may_fill_the_context_and_its_data_are_no_text() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "A" * 8_000}
    found = translate_request(
        asked(messages=[{"role": "user", "content": [{**DOCUMENT, "source": source}]}]), DIRECTORY, None
    )
    (document,) = found.documents
    assert document.mark in found.body["messages"][0]["content"] and document.at == "messages.0.content.0"
    assert (found.parts.data_bytes, found.prompt_characters < 200) == (8_000, True)
    assert estimate_worst_case(found, 9_000).tokens == found.endpoint.context_tokens + 8


UNKNOWN_THINKING = (("enabled", "omitted"), ("disabled", "full"), ("deep", None))
WRONG_NATIVE: dict[str, Any] = {
    **dict.fromkeys(("messages", "stream", "stop_sequences"), 7),
    **{"max_tokens": 9001, "max_new_tokens": 9000, "models": ["other"], "thread": {"type": "create"}},
    "kv_transfer_params": {"remote_host": "x"},
}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        *(({"max_tokens": value}, "max_tokens") for value in (None, 0, "8")),
        *(({"model": "own", name: value}, name) for name, value in WRONG_NATIVE.items()),
        ({"messages": []}, "messages"),
        *(({"messages": [{"content": "x", **role}]}, "messages.0.role") for role in ({"role": "tool"}, {})),
        ({"messages": [*HELLO, {"role": "user", "content": 7}]}, "messages.1.content"),
        *(
            ({"messages": [{"role": "user", "content": [{**DOCUMENT, **changes}]}]}, f"messages.0.content.0.{place}")
            for changes, place in (
                ({"citations": {"enabled": True}}, "citations"),
                ({"source": {"type": "base64", "media_type": "text/html", "data": "aGk="}}, "source.media_type"),
            )
        ),
        *(
            (
                {"messages": [{"role": "user", "content": [{**DOCUMENT, "source": source}]}]},
                "messages.0.content.0.source.type",
            )
            for source in ({"type": "url", "url": "https://e/a.pdf"}, {"type": "file", "file_id": "f"})
        ),
        ({"messages": [{"role": "user", "content": [PNG]}]}, "messages[0].content[0]"),
        ({"temperature": 1.1}, "temperature"),
        *(({"thinking": {"type": kind, "display": shown}}, "thinking") for kind, shown in UNKNOWN_THINKING),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"model": "mixed", "thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"tools": [{"type": "web_search_20250305", "name": "w", "input_schema": {}}]}, "tools.0.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [{"type": "computer_20250124", "name": "computer"}]}, "tools.0.type"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits"),
        ({"metadata": {"user_id": 7}}, "metadata.user_id"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"temprature": 1}, "temprature"),
        ({"output_config": {"format": {"type": "xml"}}}, "response_format.type"),
    ],
    ids=str,
)
def test_refused_by_place(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        translate_request(asked(**changes), DIRECTORY, None)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message


def written(pieces: list[ResponsePiece], used: dict[str, Any] | None = None) -> tuple[list[Any], Any]:
    """Return the events of a stream, and the complete message of the last piece."""
    writer = MessagesWriter(ResponseEnvelope("msg_1", 1, "m", ""), ("END",))
    data = writer.encode_start() + b"".join(map(writer.encode_piece, pieces)) + writer.encode_end(used)
    events = []
    for block in data.decode().strip().split("\n\n"):
        kind, _, said = block.partition("\n")
        events.append(json.loads(said.removeprefix("data: ")))
        assert kind == f"event: {events[-1]['type']}"
    return events, json.loads(writer.encode_response(pieces[-1:], used))


def test_blocks_are_opened_and_closed_in_order() -> None:
    call, more = ToolCall(0, "t", FunctionCall("f", "")), ToolCall(0, None, FunctionCall(None, "{}"))
    pieces = [
        *(ResponsePiece("", "hm", None, None), ResponsePiece("", "", None, None, signature="s")),
        *(ResponsePiece("a", "", None, None), ResponsePiece("b", "", None, None)),
        ResponsePiece("", "", None, None, [call]),
        ResponsePiece("", "", None, None, [more, ToolCall(1, "u", FunctionCall("g", "{}"))]),
        ResponsePiece("c", "", None, "tool_calls"),
    ]
    events, _ = written(pieces, {"prompt_tokens": 9, "completion_tokens": 4})
    kinds = [(event["type"], event.get("index")) for event in events]
    begin, stop, delta = "content_block_start", "content_block_stop", "content_block_delta"
    assert kinds == [
        ("message_start", None),
        ("ping", None),
        *((begin, 0), (delta, 0), (delta, 0), (stop, 0)),
        *((begin, 1), (delta, 1), (delta, 1), (stop, 1)),
        *((kind, number) for number in (2, 3, 4) for kind in (begin, delta, stop)),
        ("message_delta", None),
        ("message_stop", None),
    ]
    ended = {"stop_sequence": None, "stop_details": None, "container": None}
    assert events[-2]["delta"] == {"stop_reason": "tool_use", **ended}
    counts = {"input_tokens": 9, "output_tokens": 4, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    assert events[-2]["usage"] == {**counts, "output_tokens_details": None, "server_tool_use": None}


def test_every_field_of_the_published_types_is_there() -> None:
    """In a message and in each event of a stream; the types are those of the official client."""
    calls = [ToolCall(0, "t", FunctionCall("f", '{"a":1}'))]
    piece = ResponsePiece("a", "hm", [], "tool_calls", calls, signature="s", redacted=("x",))
    used: dict[str, Any] = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    used |= {"prompt_tokens_details": {"cached_tokens": 5, "cache_creation_tokens": 1}}
    events, message = written([piece], {**used, "completion_tokens_details": {"reasoning_tokens": 3}})
    check_fields(types.Message, message)
    parsed = types.Message.model_validate(message)
    assert parsed.usage.output_tokens_details is not None and parsed.usage.output_tokens_details.thinking_tokens == 3
    assert (parsed.usage.input_tokens, parsed.usage.cache_creation_input_tokens) == (3, 1)
    kinds: dict[str, Any] = {
        "message_start": types.RawMessageStartEvent,
        "message_delta": types.RawMessageDeltaEvent,
        "content_block_start": types.RawContentBlockStartEvent,
    }
    found = [event for event in events if event["type"] in kinds]
    assert len(found) == 6
    for event in found:
        check_fields(kinds[event["type"]], event)


def check_fields(kind: Any, value: Any) -> None:
    """Every field of the type is present, also in its parts; `toolset_name` belongs to calls of provider toolsets."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    for member in get_args(kind):
        check_fields(member, value)
    if not isinstance(kind, type) or not hasattr(kind, "model_fields") or not isinstance(value, dict):
        for item in value if isinstance(value, list) else ():
            for member in get_args(kind):
                check_fields(member, item)
        return
    tag = kind.model_fields.get("type")
    if tag is not None and value.get("type") not in get_args(tag.annotation):
        return
    assert set(kind.model_fields) - {"toolset_name"} <= set(value), kind
    for name, info in kind.model_fields.items():
        check_fields(info.annotation, value.get(name))


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        (None, ""),
        ("b-2025-01-01,\ta_1.0 , ,b-2025-01-01", "a_1.0,b-2025-01-01"),
        *((name, name) for name in ("", "b-2025-01-01", "context-1m-2025-08-07", MANY_BETAS)),
    ],
)
def test_betas_are_names(said: str | None, sent: str) -> None:
    assert translate_request(asked(model="own"), DIRECTORY, None, said).betas == sent
    for other in ("m", "far"):
        assert translate_request(asked(model=other), DIRECTORY, None, said).betas == ""


@pytest.mark.parametrize("said", ["a b", "a;b", "ä", "a\rb", "-a", "x" * 65, ",".join(map(str, range(33)))])
def test_betas_that_are_no_names(said: str) -> None:
    with pytest.raises(ApiError) as caught:
        translate_request(asked(model="own"), DIRECTORY, None, said)
    assert (caught.value.status, caught.value.param) == (400, "anthropic-beta")
    assert translate_request(asked(), DIRECTORY, None, said).betas == ""


def test_betas_with_another_price_are_rejected() -> None:
    with pytest.raises(ApiError, match="another price") as caught:
        translate_request(asked(model="dear"), DIRECTORY, None, "a,context-1m-2025-08-07")
    assert (caught.value.status, caught.value.param) == (400, "anthropic-beta")
    edits: list[Any] = [{"type": "clear_tool_uses_20250919"}]
    assert translate_request(asked(model="own", context_management={"edits": edits}), DIRECTORY, None, "b").native
    summaries = {"context_management": {"edits": [*edits, {"type": "compact_20260112"}]}, "compaction": {"type": "x"}}
    for name, value in summaries.items():
        with pytest.raises(ApiError) as caught:
            translate_request(asked(model="own", **{name: value}), DIRECTORY, None, "b")
        assert (caught.value.status, caught.value.param) == (400, name)


def part(number: int, arguments: str, name: str | None = None) -> ResponsePiece:
    """A piece of a tool call; the first piece has `name`."""
    known = None if name is None else f"t{number}"
    return ResponsePiece("", "", None, None, [ToolCall(number, known, FunctionCall(name, arguments))])


def blocks(events: list[Any]) -> list[tuple[str, str]]:
    """Return kind and text of each block. Every delta must belong to the open block."""
    found: list[tuple[str, str]] = []
    is_open = False
    for event in events:
        if event["type"] == "content_block_start":
            assert not is_open and event["index"] == len(found)
            found.append((event["content_block"].get("name") or event["content_block"]["type"], ""))
            is_open = True
        elif event["type"].startswith("content_block"):
            assert is_open and event["index"] == len(found) - 1
            is_open = event["type"] == "content_block_delta"
            kind, words = found[-1]
            said = event.get("delta", {})
            found[-1] = kind, words + (said.get("text") or said.get("partial_json") or said.get("thinking") or "")
    assert not is_open
    return found


def test_mixed_pieces_wait_for_the_open_block() -> None:
    pieces = [
        *(part(0, "", "f"), part(1, "", "g"), part(0, '{"a": "}'), ResponsePiece("x", "", None, None)),
        *(part(1, '{"b"'), part(2, '{"c": [', "h"), ResponsePiece("y", "hm", None, None), part(0, "\\\\")),
        *(part(0, "\\"), part(0, '"{"}'), part(1, ": 1}"), part(0, "\n"), part(2, "]}")),
        ResponsePiece("z", "", None, "tool_calls"),
    ]
    events, _ = written(pieces)
    assert blocks(events) == [
        *(("f", '{"a": "}\\\\\\"{"}'), ("g", '{"b": 1}'), ("text", "x"), ("thinking", "hm"), ("text", "y")),
        *(("h", '{"c": []}'), ("text", "z")),
    ]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_incomplete_calls_are_written_at_the_end() -> None:
    calls = [part(0, "", "f"), part(1, '{"b', "g"), part(0, '{"a'), part(2, "{}", "h")]
    assert blocks(written([*calls, ResponsePiece("x", "", None, "length")])[0]) == [
        ("f", '{"a'),
        ("g", '{"b'),
        ("h", "{}"),
        ("text", "x"),
    ]


@given(st.data())
def test_mixed_pieces_are_written_once_and_in_order(data: st.DataObject) -> None:
    values = st.recursive(st.text('"\\\\{}[]x', max_size=6), lambda inner: st.lists(inner, max_size=2), max_leaves=4)
    whole = [json.dumps({"a": value}) for value in data.draw(st.lists(values, min_size=1, max_size=4))]
    left: dict[int, str] = {-1: "some words", **dict(enumerate(whole))}
    pieces: list[ResponsePiece] = []
    begun: set[int] = set()
    while left:
        number = data.draw(st.sampled_from(sorted(left)))
        size = data.draw(st.integers(1, 8))
        said, left[number] = left[number][:size], left[number][size:]
        if not left[number]:
            del left[number]
        name = None if number in begun else f"f{number}"
        pieces.append(ResponsePiece(said, "", None, None) if number < 0 else part(number, said, name))
        begun.add(number)
    found = blocks(written([*pieces, ResponsePiece("", "", None, "tool_calls")])[0])
    calls = [(f"f{number}", said) for number, said in enumerate(whole)]
    assert sorted(one for one in found if one[0] != "text") == calls
    assert "".join(said for kind, said in found if kind == "text") == "some words"


def test_pieces_that_need_not_wait_are_written_at_once() -> None:
    writer = MessagesWriter(ResponseEnvelope("msg_1", 1, "m", ""))
    for piece in (part(0, "", "f"), part(0, '{"a'), part(0, '": 1}'), part(1, "{}", "g")):
        assert writer.encode_piece(piece)
    assert writer.encode_text("x") and writer.encode_piece(part(2, '{"c', "h"))
    assert not writer.encode_text("held")
    with pytest.raises(EngineError) as caught:
        for _ in range(BUFFER_LIMIT_BYTES // 1_000):
            writer.encode_text("x" * 1_000)
    assert caught.value.code == "AW-ENG-03"


@pytest.mark.parametrize(
    ("piece", "reason", "stop"),
    [
        *((ResponsePiece("a", "", None, "stop", stop=stop), "end_turn", None) for stop in ("", "else")),
        (ResponsePiece("a", "", None, "stop", stop="END"), "stop_sequence", "END"),
        (ResponsePiece("a", "", None, "length"), "max_tokens", None),
        (ResponsePiece("", "", None, "content_filter", (), "no"), "refusal", None),
        (ResponsePiece("", "", None, "new"), "end_turn", None),
    ],
)
def test_why_it_ended(piece: ResponsePiece, reason: str, stop: str | None) -> None:
    events, whole = written([piece])
    assert (events[-2]["delta"]["stop_reason"], events[-2]["delta"]["stop_sequence"]) == (reason, stop)
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, stop)


def test_a_whole_message() -> None:
    calls = [ToolCall(0, "t", FunctionCall("f", '{"a":1}')), ToolCall(1, "u", FunctionCall("g", '{"cut": "o'))]
    piece = ResponsePiece("a", "hm", [], "tool_calls", calls, signature="s")
    used = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}
    assert written([piece], used)[1] == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "a", "citations": None},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}, "caller": {"type": "direct"}},
            {"type": "tool_use", "id": "u", "name": "g", "input": {}, "caller": {"type": "direct"}},
        ],
        "stop_reason": "tool_use",
        **dict.fromkeys(("stop_sequence", "stop_details", "container", "diagnostics")),
        "usage": {
            **{"input_tokens": 4, "cache_read_input_tokens": 5, "output_tokens": 4, "cache_creation_input_tokens": 0},
            **dict.fromkeys(("output_tokens_details", "server_tool_use", "cache_creation", "service_tier")),
            **dict.fromkeys(("inference_geo", "speed")),
        },
    }
