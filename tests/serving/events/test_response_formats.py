"""The fields of engine events that reach the client, in both styles of log-probabilities."""

from __future__ import annotations

import json
from typing import Any

import pytest

from archwright.serving.events.engine_events import FunctionCall, ToolCall
from archwright.serving.events.response_formats import (
    ChatFormat,
    ChoiceFormat,
    CompletionFormat,
    OpenAIWriter,
    ResponseEnvelope,
    ResponseOptions,
    ResponsePiece,
    parse_logprobs,
    parse_usage,
)

NOTHING = ResponseOptions(None)
COUNTS = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
TWO, CACHED = {"completion_tokens": 2}, {"cached_tokens": 1}


def entry(token: str, logprob: float, **others: float) -> dict[str, Any]:
    top = [{"token": t, "logprob": v, "bytes": list(t.encode())} for t, v in others.items()]
    return {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": top}


def test_log_probabilities_of_either_style_read_alike() -> None:
    new = {"content": [{**entry(" a", -0.5, b=-1.0), "id": 7}, "noise"]}
    old = {"tokens": [" a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -1.0}]}
    assert parse_logprobs(new) == parse_logprobs(old) == [entry(" a", -0.5, b=-1.0)]
    assert parse_logprobs({"tokens": ["a"], "token_logprobs": [-1.0]}) == [entry("a", -1.0)]
    assert parse_logprobs(None) is None
    assert parse_logprobs(3) is None
    assert parse_logprobs({}) == []


def test_chat_log_probabilities_are_cut_to_what_was_asked() -> None:
    piece = ResponsePiece("a", "", [entry("a", -0.1, a=-0.1, b=-2.0)], None)
    shape = ChatFormat()
    assert shape.chunk_choice(piece, NOTHING)["logprobs"] is None
    assert shape.chunk_choice(piece, ResponseOptions(0))["logprobs"]["content"][0]["top_logprobs"] == []
    assert len(shape.chunk_choice(piece, ResponseOptions(1))["logprobs"]["content"][0]["top_logprobs"]) == 1


def test_old_style_log_probabilities_of_a_stream_count_on() -> None:
    shape = CompletionFormat([10])
    wanted = ResponseOptions(1)
    first = shape.chunk_choice(ResponsePiece("ab", "", [entry("ab", -0.1, x=-0.05)], None), wanted)["logprobs"]
    second = shape.chunk_choice(ResponsePiece("c", "", [entry("c", -0.2, c=-0.2)], "stop"), wanted)["logprobs"]
    top = {"top_logprobs": [{"x": -0.05, "ab": -0.1}], "text_offset": [10]}
    assert first == {"tokens": ["ab"], "token_logprobs": [-0.1], **top}
    assert (second["text_offset"], second["top_logprobs"]) == ([12], [{"c": -0.2}])
    assert shape.chunk_choice(ResponsePiece("d", "", None, None), wanted)["logprobs"] is None


def test_a_whole_reply_with_reasoning() -> None:
    chunks = OpenAIWriter(ChatFormat(), ResponseEnvelope("id", 1, "m", ""), NOTHING)
    body = json.loads(chunks.encode_response([ResponsePiece("ab", "why", None, "stop")], None))
    said = {"role": "assistant", "content": "ab", "refusal": None, "reasoning_content": "why"}
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": "stop"}
    head = {"id": "id", "object": "chat.completion", "created": 1, "model": "m"}
    assert body == {**head, "choices": [choice], "usage": None}


def test_calls_whole_and_in_pieces() -> None:
    call = ToolCall(1, "c1", FunctionCall("f", "{}"))
    whole = ChatFormat().complete_choice(ResponsePiece("", "", None, "tool_calls", [call]), NOTHING)["message"]
    assert whole["content"] is None
    assert whole["tool_calls"] == [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    more = [ToolCall(1, None, FunctionCall(None, "x"))]
    assert ChatFormat().chunk_choice(ResponsePiece("", "", None, None, more, number=2), NOTHING)["index"] == 2
    for piece, delta in (
        (ResponsePiece("", "", None, None, more), {"tool_calls": [{"index": 1, "function": {"arguments": "x"}}]}),
        (ResponsePiece("", "", None, None, (), "no"), {"refusal": "no"}),
        (ResponsePiece("", "why", None, None), {"reasoning_content": "why"}),
    ):
        assert ChatFormat().chunk_choice(piece, NOTHING)["delta"] == delta


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        *((found, None) for found in (None, [1], {"prompt_tokens": 3}, {"completion_tokens": True})),
        *(({"prompt_tokens": 3, "completion_tokens": count}, None) for count in (-2, 10**25)),
        ({**COUNTS, "secret": 1}, COUNTS),
        ({**TWO, "prompt_tokens_details": {"cached_tokens": 1, "x": 2}}, {**TWO, "prompt_tokens_details": CACHED}),
        ({**TWO, "prompt_tokens_details": {}}, TWO),
        ({**TWO, "prompt_tokens": -3, "total_tokens": 2**40}, TWO),
        ({**TWO, "prompt_tokens_details": {"cached_tokens": -1}}, TWO),
    ],
)
def test_usage_keeps_the_interface_alone(found: object, kept: dict[str, Any] | None) -> None:
    assert parse_usage(found) == kept


@pytest.mark.parametrize("shape", [ChatFormat(), CompletionFormat()])
@pytest.mark.parametrize("include_usage", [True, False])
def test_a_chunk_of_text_alone_is_what_the_long_way_makes(shape: ChoiceFormat, include_usage: bool) -> None:
    chunks = OpenAIWriter(shape, ResponseEnvelope("id", 1, "m", ""), ResponseOptions(None, include_usage))
    for text in ("x", ' "\\\n', "ä€😀", "\x00\u2028"):
        assert chunks.encode_text(text) == chunks.encode_piece(ResponsePiece(text, "", None, None))


def test_chunks_repeat_the_envelope() -> None:
    options = ResponseOptions(None, include_usage=True)
    chunks = OpenAIWriter(CompletionFormat(), ResponseEnvelope("id", 1, "m", "fp"), options)
    sent = chunks.encode_text("x") + chunks.encode_end({"total_tokens": 1})
    *parts, done = sent.decode().strip().split("\n\n")
    assert done == "data: [DONE]"
    assert chunks.encode_end(None) == b"data: [DONE]\n\n"
    first, second = (json.loads(part[6:]) for part in parts)
    assert first["choices"][0]["text"] == "x"
    assert first["usage"] is None
    assert (second["choices"], second["usage"]) == ([], {"total_tokens": 1})
    assert first["system_fingerprint"] == second["system_fingerprint"] == "fp"
