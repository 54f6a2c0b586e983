"""The Messages interface in front of any model: a request of it becomes the chat it means, the answer is written in
its words.

Decides what passes: what means the same in a chat is translated, marks that only concern a provider's bill (cache
control) are left out, and what no chat can say is refused by name. Where the model's provider speaks the interface
itself, the client's own body goes there unchanged but for the model's name. An engine that does not speak it counts
the prompt only at the end, so a stream's first event says 0 and its last the count. Fields and events: the API's
reference, version 2023-06-01.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from archwright.serving.config import Endpoint
from archwright.serving.directory import Directory, Found
from archwright.serving.events import Call, Function
from archwright.serving.fields import at_list_price, integer, required, run_by_clients, unknown
from archwright.serving.parts import parts_of
from archwright.serving.refusal import THREAD_UNSUPPORTED, bad
from archwright.serving.shapes import Envelope, Piece
from archwright.serving.told import Image, Output, Result, Text, Told, Turn, Url, Use
from archwright.serving.validate import Question, conversation

_encode = msgspec.json.Encoder().encode
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
TIERS = {"auto": "auto", "standard_only": "default"}


FIELDS = frozenset({"model", *Told.__struct_fields__})


def question(body: Mapping[str, Any], directory: Directory, workload: str | None) -> Question:
    """What the request asks, of the endpoint it names. Raises Refusal."""
    found = directory.find(body.get("model"), workload)
    endpoint = found.endpoints[0]
    required(body.get("max_tokens"), "max_tokens")
    if body.get("thread") is not None:
        # Nor at a provider that has them: what it holds for a conversation would be in nobody's reckoning here.
        raise bad("'thread' is not supported: send the whole conversation", "thread", THREAD_UNSUPPORTED)
    if endpoint.protocol == "anthropic":
        return _unchanged(body, found, endpoint)
    for name in body:
        if name not in FIELDS:
            raise unknown(name, {**dict.fromkeys(FIELDS)})
    try:
        told = msgspec.convert(body, Told)
    except msgspec.ValidationError as error:
        raise _misfit(error) from None
    return conversation(_chat(told, endpoint), found)


def _unchanged(body: Mapping[str, Any], found: Found, endpoint: Endpoint) -> Question:
    """For a provider that speaks the interface: checked there, but for what we reckon with."""
    at_list_price(body, endpoint)
    length = integer(1, endpoint.context_tokens)(body["max_tokens"], "max_tokens", endpoint)
    stream = body.get("stream", False)
    if type(stream) is not bool or type(body.get("messages")) is not list:
        name = "messages" if type(stream) is bool else "stream"
        raise bad(f"{name!r} must be {'a list' if name == 'messages' else 'true or false'}", name, "invalid_type")
    run_by_clients(body)
    asked = {**body, "model": endpoint.model}
    characters = len(_encode(body["messages"])) + len(_encode(body.get("system")))
    return Question(
        model=found.name,
        endpoint=endpoint,
        body={"model": asked["model"], "messages": body["messages"], "max_tokens": length},
        plain=found.plain,
        stream=stream,
        prompt_characters=characters,
        native=asked,
        parts=parts_of(body),
    )


def _misfit(error: msgspec.ValidationError) -> Exception:
    """The place in a request, in the words of the interface: messages.0.content."""
    said, _, place = str(error).partition(" - at `$")
    name = place.rstrip("`").lstrip(".").replace("[", ".").replace("]", "") or _named(said)
    if said.startswith("Object missing required field `"):
        field = said.split("`")[1]
        name = f"{name}.{field}" if place else field
        return bad(f"{name}: field required", name, "missing_required_parameter")
    return bad(f"{name}: {said}", name, "invalid_value")


def _named(said: str) -> str:
    return said.split("`")[1] if "`" in said else "body"


def _chat(told: Told, endpoint: Endpoint) -> dict[str, Any]:
    """The same request as a chat's fields."""
    messages: list[dict[str, Any]] = []
    if told.system:
        words = told.system if type(told.system) is str else "\n\n".join(part.text for part in told.system)  # type: ignore[union-attr]
        messages.append({"role": "system", "content": words})
    for number, turn in enumerate(told.messages):
        messages += _turn(turn, f"messages.{number}")
    asked: dict[str, Any] = {
        "messages": messages,
        # Everyone has to send one, so clients' own defaults are those of larger models.
        "max_tokens": min(told.max_tokens, endpoint.context_tokens),
        "top_p": told.top_p,
        "top_k": told.top_k,
        "stop": told.stop_sequences,
        "temperature": told.temperature,
        "stream": told.stream,
        "stream_options": {"include_usage": True} if told.stream else None,
        "user": (told.metadata or {}).get("user_id"),
    }
    if told.temperature is not None and told.temperature > 1:
        raise bad("'temperature' must be a number from 0 to 1", "temperature", "invalid_value")
    if (told.thinking or {}).get("type") == "enabled":
        raise bad("this model does not take 'thinking'", "thinking", "unsupported_parameter")
    if told.service_tier is not None and not endpoint.strict:
        asked["service_tier"] = TIERS.get(told.service_tier, told.service_tier)
    for edit in told.context_management.edits if told.context_management else ():
        if not edit.type.startswith("clear_thinking"):  # which no chat is sent
            at = "context_management.edits"
            raise bad(
                f"{at}: this model's conversations are not edited, such as by {edit.type!r}", at, "unsupported_value"
            )
    config = told.output_config or Output(format=told.output_format)
    return {**asked, **_calls(told), **_output(config, endpoint)}


def _calls(told: Told) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, tool in enumerate(told.tools or ()):
        if tool.type not in (None, "custom"):
            at = f"tools.{number}.type"
            raise bad(f"{at}: this model has no tools of a provider, such as {tool.type!r}", at, "unsupported_value")
        schema = required(tool.input_schema, f"tools.{number}.input_schema")
        function = {"name": tool.name, "description": tool.description, "parameters": schema}
        found.setdefault("tools", []).append({"type": "function", "function": {**function, "strict": tool.strict}})
    choice = told.tool_choice
    if choice is None:
        return found
    if choice.type == "tool":
        found["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice.type in CHOICES:
        found["tool_choice"] = CHOICES[choice.type]
    else:
        message = f"'tool_choice.type' must be one of {', '.join((*CHOICES, 'tool'))}"
        raise bad(message, "tool_choice.type", "invalid_value")
    return {**found, "parallel_tool_calls": False} if choice.disable_parallel_tool_use else found


def _output(config: Output, endpoint: Endpoint) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if config.format is not None:
        inner = {"name": "reply", "schema": config.format.get("schema"), "strict": True}
        found["response_format"] = {"type": config.format.get("type"), "json_schema": inner}
    if config.effort is not None and not endpoint.strict:
        found["reasoning_effort"] = config.effort
    return found


def _turn(turn: Turn, name: str) -> list[dict[str, Any]]:
    """The messages one turn is in a chat: results of calls first, each its own, then what is said."""
    if turn.role not in ("user", "assistant", "system"):
        raise bad(f"{name}.role: must be 'user' or 'assistant'", f"{name}.role", "invalid_value")
    if type(turn.content) is str:
        return [{"role": turn.role, "content": turn.content}]
    found: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in turn.content:
        if isinstance(block, Text | Image):
            parts.append(_part(block))
        elif isinstance(block, Use):
            function = {"name": block.name, "arguments": _encode(block.input).decode()}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif isinstance(block, Result):
            inner = [Text(block.content)] if type(block.content) is str else block.content
            shown = [_part(one) for one in inner]  # type: ignore[arg-type]
            said = "".join(part["text"] for part in shown if part["type"] == "text")
            found.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": said})
            parts += [part for part in shown if part["type"] != "text"]
    if calls:
        found.append({"role": turn.role, "content": parts or None, "tool_calls": calls})
    elif parts or not found:
        found.append({"role": turn.role, "content": parts or ""})
    return found


def _part(block: Text | Image) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"type": "text", "text": block.text}
    source = block.source
    url = source.url if isinstance(source, Url) else f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}


class MessagesWriter:
    """Writes one reply. A stream is of blocks, one open at a time: text, thinking, calls of tools."""

    def __init__(self, envelope: Envelope, stops: Sequence[str] = ()) -> None:
        self._envelope = envelope
        self._stops = stops
        self._open = ""
        self._blocks = 0
        self._calls: dict[int, int] = {}
        self._finish: Piece | None = None
        self._behind = b""

    def first(self) -> bytes:
        usage = {"input_tokens": 0, "output_tokens": 0}
        return _event("message_start", message=self._message([], None, usage)) + _event("ping")

    def text(self, text: str) -> bytes:
        if self._open != "text":
            return self._begin("text", {"type": "text", "text": ""}) + self.text(text)
        return b"%b%b}}\n\n" % (self._behind, _encode(text))

    def piece(self, piece: Piece) -> bytes:
        out = self._thought(piece) if piece.reasoning or piece.signature else b""
        for data in piece.redacted:
            out += self._begin("redacted_thinking", {"type": "redacted_thinking", "data": data})
        if piece.text or piece.refusal:
            out += self.text(piece.text + piece.refusal)
        for call in piece.calls:
            out += self._call(call)
        if piece.finish:
            self._finish = piece
        return out

    def _thought(self, piece: Piece) -> bytes:
        out = b""
        if self._open != "thinking":
            out = self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        if piece.reasoning:
            out += self._delta(self._blocks - 1, {"type": "thinking_delta", "thinking": piece.reasoning})
        if piece.signature:
            out += self._delta(self._blocks - 1, {"type": "signature_delta", "signature": piece.signature})
        return out

    def _call(self, call: Call) -> bytes:
        function, out = call.function or Function(), b""
        if call.index not in self._calls:
            out = self._begin(
                "tool_use", {"type": "tool_use", "id": call.id or "", "name": function.name or "", "input": {}}
            )
            self._calls[call.index] = self._blocks - 1
        if function.arguments:
            said = {"type": "input_json_delta", "partial_json": function.arguments}
            out += self._delta(self._calls[call.index], said)
        return out

    def end(self, used: dict[str, Any] | None) -> bytes:
        reason, stop = self._reason(self._finish)
        delta = {"stop_reason": reason, "stop_sequence": stop}
        return self._close() + _event("message_delta", delta=delta, usage=usage_of(used)) + _event("message_stop")

    def whole(self, pieces: Sequence[Piece], used: dict[str, Any] | None) -> bytes:
        piece = pieces[0]
        blocks: list[dict[str, Any]] = []
        if piece.reasoning or piece.signature:  # which may be all that is shown of it
            blocks.append({"type": "thinking", "thinking": piece.reasoning, "signature": piece.signature})
        blocks += [{"type": "redacted_thinking", "data": data} for data in piece.redacted]
        if piece.text or piece.refusal:
            blocks.append({"type": "text", "text": piece.text + piece.refusal})
        for call in piece.calls:
            name, said = call.said.name, call.said.arguments
            blocks.append({"type": "tool_use", "id": call.id or "", "name": name, "input": _input(said)})
        return _encode(self._message(blocks, piece, usage_of(used)))

    def _message(self, blocks: list[dict[str, Any]], piece: Piece | None, usage: dict[str, Any]) -> dict[str, Any]:
        reason, stop = self._reason(piece)
        head = {"id": self._envelope.id, "type": "message", "role": "assistant", "model": self._envelope.model}
        return {**head, "content": blocks, "stop_reason": reason, "stop_sequence": stop, "usage": usage}

    def _reason(self, piece: Piece | None) -> tuple[str | None, str | None]:
        if piece is None or piece.finish is None:
            return None, None
        if piece.finish == "stop" and piece.stop in self._stops:
            return "stop_sequence", piece.stop
        if piece.finish == "stop" and (self._calls or piece.calls):
            return "tool_use", None  # many say "stop" of a call that had to be made
        return STOP_REASONS.get(piece.finish, "end_turn"), None

    def _begin(self, kind: str, block: dict[str, Any]) -> bytes:
        out = self._close() + _event("content_block_start", index=self._blocks, content_block=block)
        self._open, self._blocks = kind, self._blocks + 1
        head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,' % (self._blocks - 1)
        self._behind = head + b'"delta":{"type":"text_delta","text":'
        return out

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _event("content_block_stop", index=self._blocks - 1)

    def _delta(self, index: int, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=index, delta=delta)


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **fields}))


def _input(said: str | None) -> dict[str, Any]:
    """A call's arguments; of one that was cut off there are none to tell."""
    try:
        return msgspec.json.decode(said or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def usage_of(used: dict[str, Any] | None) -> dict[str, Any]:
    """The count in the words of the interface: what came from a cache is not among the input there."""
    found = used or {}
    cached = found.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    read = {"input_tokens": max(0, found.get("prompt_tokens", 0) - cached), "cache_read_input_tokens": cached}
    return {**read, "output_tokens": found.get("completion_tokens", 0)}
