"""What passes from an engine's events to a client, in both styles of log-probabilities."""

from __future__ import annotations

import json
from typing import Any

import pytest

from archwright.serving.shapes import (
    ChatShape,
    Chunks,
    CompletionShape,
    Envelope,
    Piece,
    Wanted,
    entries,
    reply,
    usage,
)

NOTHING = Wanted(None, 0)
ENTRY = {"token": " a", "logprob": -0.5, "bytes": [32, 97], "top_logprobs": []}


def entry(token: str, logprob: float, **others: float) -> dict[str, Any]:
    top = [{"token": t, "logprob": v, "bytes": list(t.encode())} for t, v in others.items()]
    return {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": top}


@pytest.mark.parametrize(
    ("choice", "piece"),
    [
        ({"delta": {"content": "x"}}, Piece("x", "", None, None)),
        ({"delta": {"content": None}, "finish_reason": "stop"}, Piece("", "", None, "stop")),
        ({"delta": {"reasoning_content": "h"}}, Piece("", "h", None, None)),
        ({"delta": {"reasoning": "h"}}, Piece("", "h", None, None)),
        ({"delta": None, "finish_reason": ""}, Piece("", "", None, None)),
        ({"delta": [1], "finish_reason": 5}, Piece("", "", None, None)),
        ({"delta": {"content": 7, "reasoning": {}}}, Piece("", "", None, None)),
        ({}, Piece("", "", None, None)),
    ],
)
def test_chat_events(choice: dict[str, Any], piece: Piece) -> None:
    assert ChatShape().read(choice) == piece


def test_completion_events() -> None:
    assert CompletionShape().read({"text": "x", "finish_reason": "stop"}) == Piece("x", "", None, "stop")
    assert CompletionShape().read({"text": None, "logprobs": {"content": []}}) == Piece("", "", [], None)


def test_log_probabilities_of_either_style_read_alike() -> None:
    new = {"logprobs": {"content": [{**entry(" a", -0.5, b=-1.0), "id": 7}, "noise"]}}
    old = {"logprobs": {"tokens": [" a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -1.0}]}}
    assert entries(new) == entries(old) == [entry(" a", -0.5, b=-1.0)]
    assert entries({"logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}}) == [entry("a", -1.0)]
    assert entries({"logprobs": None}) is None
    assert entries({"logprobs": 3}) is None
    assert entries({"logprobs": {}}) == []


def test_chat_log_probabilities_are_cut_to_what_was_asked() -> None:
    piece = Piece("a", "", [entry("a", -0.1, a=-0.1, b=-2.0)], None)
    shape = ChatShape()
    assert shape.chunk(piece, NOTHING)["logprobs"] is None
    assert shape.chunk(piece, Wanted(0, 0))["logprobs"]["content"][0]["top_logprobs"] == []
    assert len(shape.chunk(piece, Wanted(1, 0))["logprobs"]["content"][0]["top_logprobs"]) == 1


def test_old_style_log_probabilities_of_a_stream_count_on() -> None:
    shape = CompletionShape()
    wanted = Wanted(1, 10)
    first = shape.chunk(Piece("ab", "", [entry("ab", -0.1, x=-0.05)], None), wanted)["logprobs"]
    second = shape.chunk(Piece("c", "", [entry("c", -0.2, c=-0.2)], "stop"), wanted)["logprobs"]
    assert first == {
        "tokens": ["ab"],
        "token_logprobs": [-0.1],
        "top_logprobs": [{"x": -0.05, "ab": -0.1}],
        "text_offset": [10],
    }
    assert (second["text_offset"], second["top_logprobs"]) == ([12], [{"c": -0.2}])
    assert shape.chunk(Piece("d", "", None, None), wanted)["logprobs"] is None


def test_a_whole_reply_with_reasoning() -> None:
    pieces = [Piece("", "why", None, None), Piece("a", "", None, None), Piece("b", "", None, "stop")]
    body = json.loads(reply(ChatShape(), Envelope("id", 1, "m", ""), pieces, NOTHING, None))
    assert body == {
        "id": "id",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "ab", "refusal": None, "reasoning_content": "why"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": None,
    }


def test_a_reasoning_chunk() -> None:
    assert ChatShape().chunk(Piece("", "why", None, None), NOTHING)["delta"] == {"reasoning_content": "why"}


@pytest.mark.parametrize(
    ("event", "kept"),
    [
        ({}, None),
        ({"usage": None}, None),
        ({"usage": {"prompt_tokens": 3}}, None),
        ({"usage": {"completion_tokens": True}}, None),
        (
            {"usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "secret": 1}},
            {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        ),
        (
            {"usage": {"completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1, "x": 2}}},
            {"completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}},
        ),
        ({"usage": {"completion_tokens": 2, "prompt_tokens_details": {}}}, {"completion_tokens": 2}),
    ],
)
def test_usage_keeps_the_interface_alone(event: dict[str, Any], kept: dict[str, Any] | None) -> None:
    assert usage(event) == kept


def test_chunks_repeat_the_envelope() -> None:
    chunks = Chunks(CompletionShape(), Envelope("id", 1, "m", "fp"), include_usage=True)
    sent = chunks.choice({"index": 0}) + chunks.usage({"total_tokens": 1})
    first, second = (json.loads(part[6:]) for part in sent.decode().strip().split("\n\n"))
    assert first["choices"] == [{"index": 0}]
    assert first["usage"] is None
    assert (second["choices"], second["usage"]) == ([], {"total_tokens": 1})
    assert first["system_fingerprint"] == second["system_fingerprint"] == "fp"
