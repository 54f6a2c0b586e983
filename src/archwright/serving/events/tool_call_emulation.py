"""Tool calls for engines that do not enforce them: the reply is constrained to a schema.

The prompt describes the tools, and the engine's grammar forces `{"name": ..., "arguments": {...}}`, one call per reply.
If the model may choose, the reply may also be `{"answer": "..."}`, or `{"answer": {...}}` in the requested response
format. Arguments and answers are streamed as they arrive. A reply cut off by its length ends within the call.
Design: a required or named call always fits its tool's schema, even if the model and its template do not support tools.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from archwright.http_client.sse import ServerSentEvent
from archwright.serving.events.engine_events import (
    DONE_MARK,
    ChoiceDelta,
    CompletionChoice,
    EngineEvent,
    FunctionCall,
    ToolCall,
    decode_event,
)
from archwright.serving.events.schema_bounds import bound_schemas
from archwright.serving.http.errors import invalid_value, unsupported_value

Fields = Mapping[str, Any]
TEXT_SCHEMA: Fields = {"type": "string"}
TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
FRAME_TOKENS = 24  # of a reply, in addition to the arguments of a call
_CALL_START = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')
_TEXT_START = re.compile(r'\s*\{\s*"answer"\s*:\s*"')
_JSON_START = re.compile(r'\s*\{\s*"answer"\s*:\s*')
# The longest decodable start of a JSON string: it ends before an incomplete escape or surrogate pair.
_DECODABLE_STRING = re.compile(
    r'(?:[^"\\]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}'
    r"|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\[^u])*"
)
_OBJECT_END = " \t\r\n}"
_DESCRIBED_FIELDS = ("name", "description", "parameters")


def involves_tools(body: Fields) -> bool:
    if "tools" in body:
        return True
    messages = body.get("messages") or ()
    return any(message["role"] == "tool" or "tool_calls" in message for message in messages)


def leaves_the_choice(body: Fields) -> bool:
    """True if the model may answer in free text or call functions, as a chat template's own form allows."""
    functions = all(tool["type"] == "function" for tool in body.get("tools") or ())
    return functions and body.get("tool_choice", "auto") == "auto" and "response_format" not in body


def emulate_tools(body: Fields) -> tuple[dict[str, Any], ToolCallReader | None]:
    """Return the request without tools, and its reader (None if no call is allowed). Raises ApiError 400."""
    calls = [call for message in body["messages"] for call in message.get("tool_calls") or ()]
    other = next((tool["type"] for tool in (*(body.get("tools") or ()), *calls) if tool["type"] != "function"), None)
    if other is not None:
        raise unsupported_value(f"this model supports function tools, not {str(other)[:40]!r}", "tools")
    plain = {name: value for name, value in body.items() if name not in TOOL_FIELDS}
    plain["messages"] = messages = [_to_plain_message(message) for message in body["messages"]]
    tools, choice = body.get("tools"), body.get("tool_choice", "auto")
    if not tools or choice == "none":
        return plain, None
    if "logprobs" in body:
        message = "this model does not support 'logprobs' together with 'tools'; send one of them"
        raise invalid_value(message, "logprobs")
    functions = [tool["function"] for tool in tools]
    if type(choice) is dict:
        functions = [function for function in functions if function["name"] == choice["function"]["name"]]
    answer = _content_schema(body.get("response_format")) if choice == "auto" else None
    plain["messages"] = _add_instructions(messages, functions, answer)
    schema = _build_reply_schema(functions, answer, body["max_tokens"])
    plain["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}
    return plain, ToolCallReader(structured=answer is not TEXT_SCHEMA)


def _to_plain_message(message: Fields) -> Fields:
    """Write a call or its result as text, because the chat template may support neither."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result of {message['tool_call_id']}: {message['content']}"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    lines = [message["content"]] if message.get("content") else []
    for call in calls:
        function = call["function"]
        lines.append(f'{{"name": "{function["name"]}", "arguments": {function["arguments"] or "{}"}}}')
    return {"role": "assistant", "content": "\n".join(lines)}


def _content_schema(form: Fields | None) -> Fields:
    if form is None:
        return TEXT_SCHEMA
    return form["json_schema"]["schema"] if form["type"] == "json_schema" else {"type": "object"}


def _add_instructions(messages: Sequence[Fields], functions: Sequence[Fields], answer: Fields | None) -> list[Fields]:
    instructions = "You can call these functions:\n"
    for function in functions:
        described = {name: function[name] for name in _DESCRIBED_FIELDS if function.get(name)}
        instructions += msgspec.json.encode(described).decode() + "\n"
    instructions += 'To call one, reply with JSON: {"name": <function>, "arguments": <its arguments>}.'
    if answer is not None:
        form = "<text>" if answer is TEXT_SCHEMA else f"<JSON of this schema: {msgspec.json.encode(answer).decode()}>"
        instructions += f'\nTo answer without a call, reply with JSON: {{"answer": {form}}}.'
    first = messages[0]
    if first["role"] == "system" and type(first["content"]) is str:
        return [{"role": "system", "content": f"{first['content']}\n\n{instructions}"}, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


def _build_reply_schema(functions: Sequence[Fields], answer: Fields | None, max_tokens: int) -> dict[str, Any]:
    parameters = [function.get("parameters") or {"type": "object", "properties": {}} for function in functions]
    structured = [] if answer is None or answer is TEXT_SCHEMA else [answer]
    placed, defined = bound_schemas([*parameters, *structured], max_tokens - FRAME_TOKENS)
    forms = [
        _object_schema(name={"const": function["name"]}, arguments=schema)
        for function, schema in zip(functions, placed[: len(parameters)], strict=True)
    ]
    if answer is not None:
        forms.append(_object_schema(answer=placed[-1] if structured else TEXT_SCHEMA))
    schema = forms[0] if len(forms) == 1 else {"anyOf": forms}
    return {**schema, "$defs": defined} if defined else schema


def _object_schema(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


class ToolCallReader:
    """Reads a stream whose text is one call or answer as JSON; `structured`: the answer is JSON too."""

    def __init__(self, *, structured: bool = False) -> None:
        self.done = False
        self._structured = structured
        self._rest = ""
        self._state = "head"

    def read(self, event: ServerSentEvent) -> Iterable[EngineEvent]:
        if event.data == DONE_MARK:
            self.done = True
            return ()
        decoded = decode_event(event.data)
        if not decoded.choices or decoded.choices[0].delta is None:
            return [decoded]
        choice, delta = decoded.choices[0], decoded.choices[0].delta
        decoded.choices = None
        self._rest += delta.content or ""
        deltas = list(self._read_deltas(last=choice.finish_reason is not None))
        if delta.reasoning_content or delta.reasoning:
            deltas.insert(0, ChoiceDelta(reasoning_content=delta.reasoning_content or delta.reasoning))
        events = [EngineEvent([CompletionChoice(delta=part)]) for part in deltas]
        if choice.finish_reason is not None:
            finish = "tool_calls" if choice.finish_reason == "stop" and self._state == "call" else choice.finish_reason
            events.append(EngineEvent([CompletionChoice(delta=ChoiceDelta(), finish_reason=finish)]))
        return [*events, decoded]

    def _read_deltas(self, *, last: bool) -> Iterable[ChoiceDelta]:
        if self._state == "head":
            if match := _CALL_START.match(self._rest):
                self._state, self._rest = "call", self._rest[match.end() :]
                name = msgspec.json.decode(match[1], type=str)
                yield ChoiceDelta(tool_calls=[ToolCall(0, f"call_{secrets.token_hex(12)}", FunctionCall(name, ""))])
            elif match := (_JSON_START if self._structured else _TEXT_START).match(self._rest):
                self._state, self._rest = "answer", self._rest[match.end() :]
        if self._state == "call":
            arguments = self._read_json_value(last=last)
            if arguments:
                yield ChoiceDelta(tool_calls=[ToolCall(0, None, FunctionCall(None, arguments))])
        elif self._state == "answer":
            text = self._read_json_value(last=last) if self._structured else self._read_text()
            if text:
                yield ChoiceDelta(content=text)

    def _read_json_value(self, *, last: bool) -> str:
        """Return the value so far, without bytes that may end the enclosing object."""
        value = self._rest.rstrip(_OBJECT_END)
        self._rest = self._rest[len(value) :]
        if last:
            value, self._rest = value + self._rest.rstrip().removesuffix("}").rstrip(), ""
        return value

    def _read_text(self) -> str:
        text = _DECODABLE_STRING.match(self._rest)[0]  # type: ignore[index]
        self._rest = self._rest[len(text) :]
        return msgspec.json.decode(f'"{text}"', type=str) if text else ""
