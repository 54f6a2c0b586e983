"""Prompts and responses for traces, by OpenTelemetry's GenAI conventions, for tenants that turned this on.

A trace holds texts, tool calls and their results, cut to MAX_CHARACTERS each way, the newest of the input first; of
images, sounds and documents only that they were there. The tenant's setting is checked before this runs and again
before the trace leaves (`monitor.trace_exporter`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from archwright.monitor.trace_exporter import TraceContent
from archwright.serving.events.engine_events import select_objects
from archwright.serving.events.response_formats import ResponsePiece
from archwright.serving.events.stream_replay import parse_pieces
from archwright.serving.requests.request_validation import GenerationRequest

MAX_CHARACTERS = 16_384
MAX_PARTS = 256  # an empty part takes room too
MAX_NAME_CHARACTERS = 256
TRUNCATION_MARK = "… [truncated]"
# The conventions' names of finish reasons, where they differ.
FINISH_REASONS = {"tool_calls": "tool_call", "tool_use": "tool_call", "end_turn": "stop", "max_tokens": "length"}

Part = dict[str, Any]
_encode = msgspec.json.Encoder().encode


def build_trace_content(
    tenant: str, question: GenerationRequest, said: Sequence[ResponsePiece] | bytes, *, apart: bool
) -> TraceContent:
    """`said`: the answer so far, or a cached reply; `apart`: the system prompt is not one of the messages."""
    body: Mapping[str, Any] = question.body if question.native is None else question.native
    told, heard, ordered = _CharacterBudget(), _CharacterBudget(), _CharacterBudget()
    system = [{"type": "text", "content": _join_texts(body["system"])}] if body.get("system") else []
    messages = select_objects(body.get("messages"))
    if apart and messages and messages[0].get("role") == "system":
        system = [{"type": "text", "content": _join_texts(messages.pop(0).get("content"))}]
    if "prompt" in body:
        messages = [{"role": "user", "content": body["prompt"]}]
    inputs = [told.format_message(str(one.get("role")), _message_parts(one)) for one in reversed(messages)]
    outputs = [heard.format_message("assistant", parts, finish) for parts, finish in _response_messages(said)]
    texts = [one for one in reversed(inputs) if one["parts"]], outputs, ordered.truncate_parts(system)
    asked, answered, instructions = (_encode(part).decode() for part in texts)
    return TraceContent(tenant, asked, answered, instructions, told.missing or heard.missing or ordered.missing)


class _CharacterBudget:
    """What is left of the limits; `missing` once something did not fit."""

    def __init__(self) -> None:
        self.missing = False
        self._left, self._parts = MAX_CHARACTERS, MAX_PARTS

    def format_message(self, role: str, parts: Iterable[Part], finish: str | None = None) -> dict[str, Any]:
        ended = {} if finish is None else {"finish_reason": finish}
        return {"role": role[:MAX_NAME_CHARACTERS], "parts": self.truncate_parts(parts), **ended}

    def truncate_parts(self, parts: Iterable[Part]) -> list[Part]:
        """The parts that fit, with the one long field cut."""
        found = []
        for part in parts:
            if not self._parts or self._left <= 0:
                self.missing = True
                break
            self._parts -= 1
            found.append({name: self._truncate_field(name, value) for name, value in part.items()})
        return found

    def _truncate_field(self, name: str, value: str) -> str:
        if name not in ("content", "arguments", "response"):
            return value[:MAX_NAME_CHARACTERS]
        left = self._left
        self._left -= len(value)
        if len(value) <= left:
            return value
        self.missing = True
        return value[: max(0, left)] + TRUNCATION_MARK


def _message_parts(message: Mapping[str, Any]) -> list[Part]:
    said = message.get("content")
    if message.get("role") == "tool":
        return [_tool_result_part(message.get("tool_call_id"), said)]
    parts = [_block_part(block) for block in select_objects(said)]
    if type(said) is str:
        parts = [{"type": "text", "content": said}]
    for call in select_objects(message.get("tool_calls")):
        function = call.get("function")
        named = function if type(function) is dict else {}
        parts.append(_tool_call_part(call.get("id"), named.get("name"), named.get("arguments")))
    return parts


def _block_part(block: Mapping[str, Any]) -> Part:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "content": _join_texts(block.get("text"))}
    if kind == "thinking":
        return {"type": "reasoning", "content": _join_texts(block.get("thinking"))}
    if kind == "tool_use":
        return _tool_call_part(block.get("id"), block.get("name"), block.get("input"))
    if kind == "tool_result":
        return _tool_result_part(block.get("tool_use_id"), block.get("content"))
    return {"type": str(kind)}


def _tool_call_part(known: object, name: object, arguments: object) -> Part:
    said = arguments if type(arguments) is str else _encode(arguments).decode()
    return {"type": "tool_call", "id": str(known or ""), "name": str(name or ""), "arguments": said}


def _tool_result_part(known: object, said: object) -> Part:
    return {"type": "tool_call_response", "id": str(known or ""), "response": _join_texts(said)}


def _response_messages(said: Sequence[ResponsePiece] | bytes) -> Iterable[tuple[list[Part], str]]:
    if not isinstance(said, bytes):
        pieces = said
    else:
        reply = msgspec.json.decode(said)
        if reply.get("type") == "message":
            return [([_block_part(block) for block in reply["content"]], _map_finish_reason(reply["stop_reason"]))]
        pieces = parse_pieces(reply)
    told = ((_piece_parts(piece), piece.finish) for piece in pieces)
    return [(parts, _map_finish_reason(finish)) for parts, finish in told if parts or finish]


def _piece_parts(piece: ResponsePiece) -> list[Part]:
    texts = (("reasoning", piece.reasoning), ("text", piece.text), ("text", piece.refusal))
    parts: list[Part] = [{"type": kind, "content": text} for kind, text in texts if text]
    calls = ((call.id, call.called_function) for call in piece.calls)
    return parts + [_tool_call_part(known, called.name, called.arguments or "") for known, called in calls]


def _map_finish_reason(reason: str | None) -> str:
    """The conventions' name; an answer without a reason was broken off."""
    return FINISH_REASONS.get(reason, reason) if reason else "error"


def _join_texts(said: object) -> str:
    if type(said) is str:
        return said
    return "\n".join(one["text"] for one in select_objects(said) if type(one.get("text")) is str)
