"""Tool calls of an engine that does not enforce them: the whole reply is constrained to a schema and read as a call.

Design: a required or named call always fits its tool's schema, whatever the model and its template know of tools. The
prompt describes the tools, the engine's grammar forces `{"name": ..., "arguments": {...}}`, one call per reply. If the
model may choose, the reply may also be `{"answer": "..."}`, or `{"answer": {...}}` in the requested response format.
Arguments and answers are streamed as they come; a reply cut off by its length ends within the call.
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
from archwright.serving.http.errors import bad_request

TEXT_SCHEMA: Mapping[str, Any] = {"type": "string"}
TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
FRAME_TOKENS = 24  # of a reply, beside a call's arguments
_CALL_START = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')
_TEXT_START = re.compile(r'\s*\{\s*"answer"\s*:\s*"')
_JSON_START = re.compile(r'\s*\{\s*"answer"\s*:\s*')
# As much of a JSON string as can be decoded: no half escape, no half pair of surrogates.
_DECODABLE_STRING = re.compile(
    r'(?:[^"\\]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}'
    r"|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\[^u])*"
)
_OBJECT_END = " \t\r\n}"
_DESCRIBED_FIELDS = ("name", "description", "parameters")


def involves_tools(body: Mapping[str, Any]) -> bool:
    if "tools" in body:
        return True
    messages = body.get("messages") or ()
    return any(message["role"] == "tool" or "tool_calls" in message for message in messages)


def emulate_tools(body: Mapping[str, Any]) -> tuple[dict[str, Any], ToolCallReader | None]:
    """The request for such an engine, and the reader of its reply; None if no call may come. Raises ApiError 400."""
    calls = [call for message in body["messages"] for call in message.get("tool_calls") or ()]
    other = next((one["type"] for one in (*(body.get("tools") or ()), *calls) if one["type"] != "function"), None)
    if other is not None:
        raise bad_request(f"this model's tools are functions, not {str(other)[:40]!r}", "tools", "unsupported_value")
    told = {name: value for name, value in body.items() if name not in TOOL_FIELDS}
    told["messages"] = messages = [_to_plain_message(message) for message in body["messages"]]
    tools, choice = body.get("tools"), body.get("tool_choice", "auto")
    if not tools or choice == "none":
        return told, None
    if "logprobs" in body:
        raise bad_request("'logprobs' cannot be joined with 'tools' on this model", "logprobs", "invalid_value")
    functions = [tool["function"] for tool in tools]
    if type(choice) is dict:
        functions = [function for function in functions if function["name"] == choice["function"]["name"]]
    answer = _content_schema(body.get("response_format")) if choice == "auto" else None
    told["messages"] = _add_instructions(messages, functions, answer)
    schema = _build_reply_schema(functions, answer, body["max_tokens"])
    told["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}
    return told, ToolCallReader(formed=answer is not TEXT_SCHEMA)


def _to_plain_message(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A call or its result as text: a template may support neither."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result of {message['tool_call_id']}: {message['content']}"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    said = [message["content"]] if message.get("content") else []
    for call in calls:
        function = call["function"]
        said.append(f'{{"name": "{function["name"]}", "arguments": {function["arguments"] or "{}"}}}')
    return {"role": "assistant", "content": "\n".join(said)}


def _content_schema(form: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if form is None:
        return TEXT_SCHEMA
    return form["json_schema"]["schema"] if form["type"] == "json_schema" else {"type": "object"}


def _add_instructions(
    messages: Sequence[Mapping[str, Any]], functions: Sequence[Mapping[str, Any]], answer: Mapping[str, Any] | None
) -> list[Mapping[str, Any]]:
    words = "You can call these functions:\n"
    for function in functions:
        told = {name: function[name] for name in _DESCRIBED_FIELDS if function.get(name)}
        words += msgspec.json.encode(told).decode() + "\n"
    words += 'To call one, reply with JSON: {"name": <function>, "arguments": <its arguments>}.'
    if answer is not None:
        said = "<text>" if answer is TEXT_SCHEMA else f"<JSON of this schema: {msgspec.json.encode(answer).decode()}>"
        words += f'\nTo answer without a call, reply with JSON: {{"answer": {said}}}.'
    first = messages[0]
    if first["role"] == "system" and type(first["content"]) is str:
        return [{"role": "system", "content": f"{first['content']}\n\n{words}"}, *messages[1:]]
    return [{"role": "system", "content": words}, *messages]


def _build_reply_schema(
    functions: Sequence[Mapping[str, Any]], answer: Mapping[str, Any] | None, max_tokens: int
) -> dict[str, Any]:
    given = [function.get("parameters") or {"type": "object", "properties": {}} for function in functions]
    formed = [] if answer is None or answer is TEXT_SCHEMA else [answer]
    placed, defined = bound_schemas([*given, *formed], max_tokens - FRAME_TOKENS)
    forms = [
        _object_schema(name={"const": function["name"]}, arguments=schema)
        for function, schema in zip(functions, placed[: len(given)], strict=True)
    ]
    if answer is not None:
        forms.append(_object_schema(answer=placed[-1] if formed else TEXT_SCHEMA))
    schema = forms[0] if len(forms) == 1 else {"anyOf": forms}
    return {**schema, "$defs": defined} if defined else schema


def _object_schema(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


class ToolCallReader:
    """Reads an OpenAI stream whose text is one call or one answer as JSON; `formed`: the answer is JSON itself."""

    def __init__(self, *, formed: bool = False) -> None:
        self.done = False
        self._formed = formed
        self._rest = ""
        self._state = "head"

    def read(self, event: ServerSentEvent) -> Iterable[EngineEvent]:
        if event.data == DONE_MARK:
            self.done = True
            return ()
        seen = decode_event(event.data)
        if not seen.choices or seen.choices[0].delta is None:
            return [seen]
        choice, delta = seen.choices[0], seen.choices[0].delta
        seen.choices = None
        self._rest += delta.content or ""
        deltas = list(self._read_deltas(last=choice.finish_reason is not None))
        if delta.reasoning_content or delta.reasoning:
            deltas.insert(0, ChoiceDelta(reasoning_content=delta.reasoning_content or delta.reasoning))
        found = [EngineEvent([CompletionChoice(delta=one)]) for one in deltas]
        if choice.finish_reason is not None:
            finish = "tool_calls" if choice.finish_reason == "stop" and self._state == "call" else choice.finish_reason
            found.append(EngineEvent([CompletionChoice(delta=ChoiceDelta(), finish_reason=finish)]))
        return [*found, seen]

    def _read_deltas(self, *, last: bool) -> Iterable[ChoiceDelta]:
        if self._state == "head":
            if match := _CALL_START.match(self._rest):
                self._state, self._rest = "call", self._rest[match.end() :]
                name = msgspec.json.decode(match[1], type=str)
                yield ChoiceDelta(tool_calls=[ToolCall(0, f"call_{secrets.token_hex(12)}", FunctionCall(name, ""))])
            elif match := (_JSON_START if self._formed else _TEXT_START).match(self._rest):
                self._state, self._rest = "answer", self._rest[match.end() :]
        if self._state == "call":
            said = self._read_json_value(last=last)
            if said:
                yield ChoiceDelta(tool_calls=[ToolCall(0, None, FunctionCall(None, said))])
        elif self._state == "answer":
            said = self._read_json_value(last=last) if self._formed else self._read_text()
            if said:
                yield ChoiceDelta(content=said)

    def _read_json_value(self, *, last: bool) -> str:
        """All but what may be the end of the enclosing object."""
        said = self._rest.rstrip(_OBJECT_END)
        held = self._rest = self._rest[len(said) :]
        if last:
            closed = held.rstrip()
            said, self._rest = said + closed.removesuffix("}").rstrip(), ""
        return said

    def _read_text(self) -> str:
        whole = _DECODABLE_STRING.match(self._rest)[0]  # type: ignore[index]
        self._rest = self._rest[len(whole) :]
        return msgspec.json.decode(f'"{whole}"', type=str) if whole else ""
