"""What a request said and was answered, in the words of OpenTelemetry's GenAI conventions, for who turned that on.

Decides what a trace may hold of it: words, calls of tools and their results, cut to LIMIT characters each way with a
mark where something is missing, the newest of the input first; of pictures, sounds and documents that they were there.
Whether a tenant wants this at all is asked before anything here is made, and again before it leaves (`monitor.traces`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from archwright.monitor.trace_exporter import Content
from archwright.serving.events.response_formats import Piece
from archwright.serving.events.stream_replay import pieces_of
from archwright.serving.requests.request_validation import Question

LIMIT = 16_384
PARTS = 256  # a part costs room even where it is empty
NAME_LIMIT = 256
MARK = "… [truncated]"
# The conventions' words for why an answer ended, where they are others.
FINISHES = {"tool_calls": "tool_call", "tool_use": "tool_call", "end_turn": "stop", "max_tokens": "length"}

Part = dict[str, Any]
_encode = msgspec.json.Encoder().encode


def content_of(tenant: str, question: Question, said: Sequence[Piece] | bytes, *, apart: bool) -> Content:
    """`said` is what came of an answer so far, or a whole reply from the cache; `apart`: the client's interface has the
    system's words beside the conversation."""
    body: Mapping[str, Any] = question.body if question.native is None else question.native
    told, heard, ordered = _Room(), _Room(), _Room()
    system = [{"type": "text", "content": _words(body["system"])}] if body.get("system") else []
    messages = _list(body.get("messages"))
    if apart and messages and messages[0].get("role") == "system":
        system = [{"type": "text", "content": _words(messages.pop(0).get("content"))}]
    if "prompt" in body:
        messages = [{"role": "user", "content": body["prompt"]}]
    inputs = [told.message(str(one.get("role"))[:NAME_LIMIT], _asked(one)) for one in reversed(messages)]
    outputs = [heard.message("assistant", parts, finish) for parts, finish in _answers(said)]
    return Content(
        tenant,
        _json(reversed([one for one in inputs if one["parts"]])),
        _json(outputs),
        _json(ordered.cut(system)),
        any(room.missing for room in (told, heard, ordered)),
    )


class _Room:
    """What is left of LIMIT; `missing` once something did not fit."""

    def __init__(self) -> None:
        self.missing = False
        self._left, self._parts = LIMIT, PARTS

    def message(self, role: str, parts: Iterable[Part], finish: str | None = None) -> dict[str, Any]:
        ended = {} if finish is None else {"finish_reason": finish}
        return {"role": role, "parts": self.cut(parts), **ended}

    def cut(self, parts: Iterable[Part]) -> list[Part]:
        """The parts for which there is room, their one long field cut to it."""
        found = []
        for part in parts:
            if not self._parts or self._left <= 0:
                self.missing = True
                break
            self._parts -= 1
            found.append({name: self._fitted(name, value) for name, value in part.items()})
        return found

    def _fitted(self, name: str, value: str) -> str:
        if name not in ("content", "arguments", "response"):
            return value[:NAME_LIMIT]
        left = self._left
        self._left -= len(value)
        if len(value) <= left:
            return value
        self.missing = True
        return value[: max(0, left)] + MARK


def _asked(message: Mapping[str, Any]) -> list[Part]:
    """The parts of one message, of a chat or in the Messages interface."""
    said = message.get("content")
    if message.get("role") == "tool":
        return [_result(message.get("tool_call_id"), said)]
    parts = [{"type": "text", "content": said}] if type(said) is str else [_block(block) for block in _list(said)]
    for call in _list(message.get("tool_calls")):
        function = call.get("function")
        named = function if type(function) is dict else {}
        parts.append(_call(call.get("id"), named.get("name"), named.get("arguments")))
    return parts


def _block(block: Mapping[str, Any]) -> Part:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "content": _words(block.get("text"))}
    if kind == "thinking":
        return {"type": "reasoning", "content": _words(block.get("thinking"))}
    if kind == "tool_use":
        return _call(block.get("id"), block.get("name"), block.get("input"))
    if kind == "tool_result":
        return _result(block.get("tool_use_id"), block.get("content"))
    return {"type": str(kind)}


def _call(known: object, name: object, arguments: object) -> Part:
    said = arguments if type(arguments) is str else _encode(arguments).decode()
    return {"type": "tool_call", "id": str(known or ""), "name": str(name or ""), "arguments": said}


def _result(known: object, said: object) -> Part:
    return {"type": "tool_call_response", "id": str(known or ""), "response": _words(said)}


def _answers(said: Sequence[Piece] | bytes) -> Iterable[tuple[list[Part], str]]:
    if not isinstance(said, bytes):
        pieces = said
    else:
        reply = msgspec.json.decode(said)
        if reply.get("type") == "message":
            return [([_block(block) for block in reply["content"]], _finish(reply["stop_reason"]))]
        pieces = pieces_of(reply)
    told = ((_spoken(piece), piece.finish) for piece in pieces)
    return [(parts, _finish(finish)) for parts, finish in told if parts or finish]


def _spoken(piece: Piece) -> list[Part]:
    texts = (("reasoning", piece.reasoning), ("text", piece.text), ("text", piece.refusal))
    parts: list[Part] = [{"type": kind, "content": text} for kind, text in texts if text]
    for call in piece.calls:
        parts.append(_call(call.id, call.said.name, call.said.arguments or ""))
    return parts


def _finish(reason: str | None) -> str:
    """An answer without a reason was broken off."""
    return FINISHES.get(reason, reason) if reason else "error"


def _words(said: object) -> str:
    """The text of a text, or of blocks."""
    if type(said) is str:
        return said
    return "\n".join(one["text"] for one in _list(said) if type(one.get("text")) is str)


def _list(value: object) -> list[dict[str, Any]]:
    return [one for one in value if type(one) is dict] if type(value) is list else []


def _json(value: Iterable[object]) -> str:
    return _encode(list(value)).decode()
