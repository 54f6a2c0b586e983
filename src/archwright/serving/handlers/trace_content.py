"""Prompts and responses for traces, by OpenTelemetry's GenAI conventions, for tenants that turned this on.

A trace includes texts, tool calls and their results, at most MAX_CHARACTERS of input and of output; the newest messages
of the input come first. Images, sounds and documents are mentioned without their content.
Design: the tenant's setting is checked before this runs and again before the trace leaves (`monitor.trace_exporter`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from archwright.monitor.trace_exporter import TraceContent
from archwright.serving.events.engine_events import select_objects
from archwright.serving.events.response_formats import ResponsePiece
from archwright.serving.requests.request_validation import GenerationRequest

MAX_CHARACTERS = 16_384
MAX_PARTS = 256  # an empty part has a size too
MAX_NAME_CHARACTERS = 256
TRUNCATION_MARK = "… [truncated]"

Part = dict[str, Any]
_encode = msgspec.json.Encoder().encode


def build_trace_content(
    tenant: str, generation: GenerationRequest, output: Sequence[ResponsePiece], *, apart: bool
) -> TraceContent:
    """Build the content. `output`: the reply so far; `apart`: the system prompt is no message."""
    native = generation.native or {}
    body: Mapping[str, Any] = native if "messages" in native else generation.body
    input_budget, output_budget, system_budget = _CharacterBudget(), _CharacterBudget(), _CharacterBudget()
    system = [{"type": "text", "content": _join_texts(body["system"])}] if body.get("system") else []
    messages = select_objects(body.get("messages"))
    if apart and messages and messages[0].get("role") == "system":
        system = [{"type": "text", "content": _join_texts(messages.pop(0).get("content"))}]
    if "prompt" in body:
        prompts = [body["prompt"]] if type(body["prompt"]) is str else body["prompt"]
        messages = [{"role": "user", "content": prompt} for prompt in prompts]
    inputs = [input_budget.format_message(str(one.get("role")), _message_parts(one)) for one in reversed(messages)]
    outputs = [output_budget.format_message("assistant", *reply) for reply in _response_messages(output)]
    texts = [one for one in reversed(inputs) if one["parts"]], outputs, system_budget.truncate_parts(system)
    truncated = input_budget.exceeded or output_budget.exceeded or system_budget.exceeded
    prompt, reply, instructions = (_encode(text).decode() for text in texts)
    return TraceContent(tenant, prompt, reply, instructions, truncated)


class _CharacterBudget:
    """The rest of the limits; `exceeded` once content was left out."""

    def __init__(self) -> None:
        self.exceeded = False
        self._characters_left, self._parts_left = MAX_CHARACTERS, MAX_PARTS

    def format_message(self, role: str, parts: Iterable[Part], finish: str | None = None) -> dict[str, Any]:
        ended = {} if finish is None else {"finish_reason": finish}
        return {"role": role[:MAX_NAME_CHARACTERS], "parts": self.truncate_parts(parts), **ended}

    def truncate_parts(self, parts: Iterable[Part]) -> list[Part]:
        """Return the parts that fit; the last part may be truncated."""
        fitting = []
        for part in parts:
            if not self._parts_left or self._characters_left <= 0:
                self.exceeded = True
                break
            self._parts_left -= 1
            fitting.append({name: self._truncate_field(name, value) for name, value in part.items()})
        return fitting

    def _truncate_field(self, name: str, value: str) -> str:
        if name not in ("content", "arguments", "response"):
            return value[:MAX_NAME_CHARACTERS]
        left = self._characters_left
        self._characters_left -= len(value)
        if len(value) <= left:
            return value
        self.exceeded = True
        return value[: max(0, left)] + TRUNCATION_MARK


def _message_parts(message: Mapping[str, Any]) -> list[Part]:
    content = message.get("content")
    if message.get("role") == "tool":
        return [_tool_result_part(message.get("tool_call_id"), content)]
    parts = [_block_part(block) for block in select_objects(content)]
    if type(content) is str:
        parts = [{"type": "text", "content": content}]
    for call in select_objects(message.get("tool_calls")):
        function = call.get("function")
        fields = function if type(function) is dict else {}
        parts.append(_tool_call_part(call.get("id"), fields.get("name"), fields.get("arguments")))
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


def _tool_call_part(call_id: object, name: object, arguments: object) -> Part:
    text = arguments if type(arguments) is str else _encode(arguments).decode()
    return {"type": "tool_call", "id": str(call_id or ""), "name": str(name or ""), "arguments": text}


def _tool_result_part(call_id: object, content: object) -> Part:
    return {"type": "tool_call_response", "id": str(call_id or ""), "response": _join_texts(content)}


def _response_messages(pieces: Sequence[ResponsePiece]) -> Iterable[tuple[list[Part], str]]:
    """Return parts and finish reason, by the conventions' names; "error": the reply ended without a reason."""
    names = {None: "error", "tool_calls": "tool_call"}
    messages = ((_piece_parts(piece), piece.finish) for piece in pieces)
    return [(parts, names.get(finish) or str(finish)) for parts, finish in messages if parts or finish]


def _piece_parts(piece: ResponsePiece) -> list[Part]:
    texts = (("reasoning", piece.reasoning), ("text", piece.text), ("text", piece.refusal))
    parts: list[Part] = [{"type": kind, "content": text} for kind, text in texts if text]
    calls = ((call.id, call.called_function) for call in piece.calls)
    return parts + [_tool_call_part(call_id, called.name, called.arguments or "") for call_id, called in calls]


def _join_texts(content: object) -> str:
    if type(content) is str:
        return content
    return "\n".join(block["text"] for block in select_objects(content) if type(block.get("text")) is str)
