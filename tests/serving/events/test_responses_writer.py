"""The events of a Responses stream: all kinds, in order, and together the same as the complete response."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from archwright.serving.events.engine_events import CustomCall, FunctionCall, ToolCall
from archwright.serving.events.response_formats import ResponseEnvelope, ResponsePiece
from archwright.serving.events.responses_writer import ResponsesOptions, ResponsesWriter
from archwright.serving.events.stream_replay import decode_stored, encode_stream
from archwright.serving.http.errors import ApiError, too_many_requests
from archwright.serving.responses_api.request_translation import SHOWN_FIELDS

SHOWN: dict[str, Any] = {
    **SHOWN_FIELDS,
    **{"model": "m", "max_output_tokens": 9, "reasoning": {"effort": None, "summary": None}, "store": False},
    **{"service_tier": "default", "text": {"format": {"type": "text"}}, "tools": [], "truncation": "disabled"},
}
USED = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 2}}
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ENTRY = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -1.0, "bytes": [97]}]}


def write(*, summarizes: bool = False, top: int | None = None) -> ResponsesWriter:
    options = ResponsesOptions(SHOWN, {"ns__f": ("ns", "f")}, summarizes, top)
    return ResponsesWriter(ResponseEnvelope("resp_1", 7, "m", ""), options, lambda: 12.5)


def piece(**fields: Any) -> ResponsePiece:
    plain: dict[str, Any] = {"text": "", "reasoning": "", "entries": None, "finish": None}
    return ResponsePiece(**{**plain, **fields})


def call(index: int, said: str, name: str | None = None, kind: str = "function") -> ResponsePiece:
    begun = None if name is None else f"call_{index}"
    if kind == "custom":
        return piece(calls=[ToolCall(index, begun, None, CustomCall(name, said))])
    return piece(calls=[ToolCall(index, begun, FunctionCall(name, said))])


def parse(data: bytes) -> list[dict[str, Any]]:
    """Return the events. Each is valid, has the name that its data says, and the next number."""
    *blocks, done, rest = data.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    events = []
    for number, block in enumerate(blocks):
        name, body = block.split("\n")
        event = json.loads(body.removeprefix("data: "))
        assert name == f"event: {event['type']}" and event["sequence_number"] == number
        STREAM_EVENT.validate_python(event)
        events.append(event)
    return events


def stream(writer: ResponsesWriter, *pieces: ResponsePiece) -> list[dict[str, Any]]:
    written = [writer.encode_piece(one) for one in pieces]
    return parse(b"".join((writer.encode_start(), *written, writer.encode_end(USED))))


def check(event: dict[str, Any]) -> dict[str, Any]:
    """Return the response of an event, in which every field of the published type stands."""
    response: dict[str, Any] = event["response"]
    assert set(Response.model_fields) <= set(response)
    Response.model_validate(response)
    return response


def test_the_events_of_a_text() -> None:
    writer = write()
    data = writer.encode_text("Hel") + writer.encode_text('lo "you"') + writer.encode_piece(piece(finish="stop"))
    events = parse(writer.encode_start() + data + writer.encode_end(USED))
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event["delta"] for event in events[4:6]] == ["Hel", 'lo "you"']
    assert check(events[0])["output"] == [] and check(events[0])["usage"] is None
    response = check(events[-1])
    assert response["output"] == [events[-2]["item"]] and response["completed_at"] == 12
    (part,) = response["output"][0]["content"]
    assert part == {"type": "output_text", "text": 'Hello "you"', "annotations": [], "logprobs": []}
    assert response["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 8,
    }


def test_reasoning_refusal_and_mixed_calls() -> None:
    events = stream(
        write(),
        piece(reasoning="Hm"),
        piece(reasoning="m"),
        piece(text="Well"),
        piece(refusal="No"),
        call(0, "", "ns__f"),
        call(1, '{"b"', "g"),
        call(0, "{}"),
        call(1, ":1}"),
        call(2, "free", "h", "custom"),
        piece(text="now", finish="tool_calls"),
    )
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert {"reasoning_text.delta", "reasoning_text.done", "refusal.delta", "refusal.done"} <= set(kinds)
    assert kinds.count("function_call_arguments.delta") == 3 and kinds.count("function_call_arguments.done") == 2
    assert kinds.count("custom_tool_call_input.delta") == kinds.count("custom_tool_call_input.done") == 1
    thought, said, first, second, third, after = check(events[-1])["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hmm"}] and thought["summary"] == []
    assert [part.get("text") or part["refusal"] for part in said["content"]] == ["Well", "No"]
    assert (first["name"], first["namespace"], first["arguments"], first["call_id"]) == ("f", "ns", "{}", "call_0")
    assert (second["name"], second["arguments"], "namespace" in second) == ("g", '{"b":1}', False)
    assert (third["type"], third["input"]) == ("custom_tool_call", "free")
    assert after["content"][0]["text"] == "now" and {item["status"] for item in (said, first, after)} == {"completed"}


def test_a_summary_and_encrypted_reasoning() -> None:
    events = stream(write(summarizes=True), piece(reasoning="Hm"), piece(redacted=("X",)), piece(redacted=("Y",)))
    kinds = [event["type"] for event in events]
    assert "response.reasoning_summary_part.added" in kinds and "response.reasoning_summary_text.done" in kinds
    first, second = check(events[-1])["output"]
    assert first["summary"] == [{"type": "summary_text", "text": "Hm"}] and first["encrypted_content"] == "X"
    assert second["summary"] == [] and second["encrypted_content"] == "Y"


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_a_reply_that_was_cut_is_incomplete(finish: str, reason: str) -> None:
    events = stream(write(), piece(text="Hel"), call(0, '{"a', "f"), piece(finish=finish))
    assert events[-1]["type"] == "response.incomplete"
    response = check(events[-1])
    assert response["incomplete_details"] == {"reason": reason} and response["completed_at"] is None
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (too_many_requests("slow", "rate_limit_exceeded"), "rate_limit_exceeded"),
        (ApiError(502, "broken"), "server_error"),
        (ApiError(400, "bad"), "invalid_prompt"),
    ],
)
def test_a_failure_ends_the_stream(error: ApiError, code: str) -> None:
    writer = write()
    data = writer.encode_start() + writer.encode_text("Hel") + writer.encode_error(error)
    last = parse(data)[-1]
    assert last["type"] == "response.failed"
    assert check(last)["error"] == {"code": code, "message": error.message}


def test_log_probabilities() -> None:
    events = stream(write(top=0), piece(text="a", entries=[ENTRY], finish="stop"))
    delta = next(event for event in events if event["type"] == "response.output_text.delta")
    assert delta["logprobs"] == [{**ENTRY, "top_logprobs": []}]
    assert check(events[-1])["output"][0]["content"][0]["logprobs"] == delta["logprobs"]
    silent = stream(write(), piece(text="a", entries=[ENTRY]))
    assert check(silent[-1])["output"][0]["content"][0]["logprobs"] == []


def test_without_usage_the_counts_are_0() -> None:
    body = json.loads(write().encode_response([piece(text="a", finish="stop")], None))
    assert body["usage"]["total_tokens"] == 0 and body["usage"]["input_tokens_details"]["cached_tokens"] == 0


def test_a_cache_keeps_what_a_replay_writes() -> None:
    whole = call(0, "{}", "ns__f")._replace(text="Well", reasoning="Hm", finish="tool_calls", redacted=("X",))
    pieces, used = decode_stored(msgspec.json.encode(([whole], USED)))
    expected = json.loads(write().encode_response([whole], USED))
    assert json.loads(write().encode_response(pieces, used)) == expected
    assert check(parse(encode_stream(write(), pieces, used))[-1]) == expected


TEXTS = st.text(min_size=1, max_size=8)
PIECES = st.lists(
    st.one_of(
        *(st.builds(lambda said, kind=kind: (kind, 0, said), TEXTS) for kind in ("text", "reasoning", "refusal")),
        st.builds(lambda index, said: ("call", index, said), st.integers(0, 2), TEXTS),
    ),
    max_size=12,
)


@pytest.mark.property
@given(PIECES, st.booleans())
def test_the_deltas_together_are_the_final_object(said: list[tuple[str, int, str]], summarizes: bool) -> None:
    writer, begun = write(summarizes=summarizes), set[int]()
    written = []
    for kind, index, text in said:
        if kind == "text":
            written.append(writer.encode_text(text))
        elif kind == "call":
            written.append(writer.encode_piece(call(index, text, None if index in begun else "f")))
            begun.add(index)
        else:
            written.append(writer.encode_piece(piece(**{kind: text})))
    written.append(writer.encode_piece(piece(finish="stop")))
    events = parse(b"".join((writer.encode_start(), *written, writer.encode_end(USED))))
    built: dict[tuple[Any, ...], str] = {}
    closed: dict[int, dict[str, Any]] = {}
    opened = 0
    for event in events:
        kind, index = event["type"], event.get("output_index", -1)
        if kind == "response.output_item.added":
            assert index == opened
            opened += 1
        elif kind == "response.output_item.done":
            closed[index] = event["item"]
        elif kind.endswith(".delta"):
            assert index not in closed
            at = (index, event.get("content_index"), event.get("summary_index"))
            built[at] = built.get(at, "") + event["delta"]
    output = check(events[-1])["output"]
    assert [closed[index] for index in range(opened)] == output
    final: dict[tuple[Any, ...], str] = {}
    for index, item in enumerate(output):
        if "arguments" in item:
            final[index, None, None] = item["arguments"]
        final |= {(index, n, None): one.get("text") or one["refusal"] for n, one in enumerate(item.get("content", ()))}
        final |= {(index, None, n): one["text"] for n, one in enumerate(item.get("summary", ()))}
    assert built == final
    total = "".join(text for kind, _, text in said if kind == "text")
    assert "".join(p["text"] for i in output for p in i.get("content", ()) if p["type"] == "output_text") == total
