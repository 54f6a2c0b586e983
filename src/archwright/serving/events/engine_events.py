"""OpenAI stream events with the fields passed on. Readers of other protocols produce the same events."""

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from archwright.http_client.json_constants import replace_constants
from archwright.http_client.sse import ServerSentEvent

DONE_MARK = b"[DONE]"


# gc=False: many short-lived objects that are never part of a cycle.
class FunctionCall(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class CustomCall(FunctionCall, rename={"arguments": "input"}, gc=False):
    """A call whose arguments are free text."""

    arguments: str | None = None


class ToolCall(msgspec.Struct, gc=False):
    """A piece of a tool call. Gemini rejects a call in the history without its signature, `extra_content`."""

    index: int = 0
    id: str | None = None
    function: FunctionCall | None = None
    custom: CustomCall | None = None
    extra_content: Any = None

    @property
    def called_function(self) -> FunctionCall:
        return self.function or self.custom or FunctionCall()


class ChoiceDelta(msgspec.Struct, gc=False):
    """`signature`: the provider's signature of the preceding reasoning. `redacted`: encrypted reasoning."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    refusal: str | None = None
    signature: str | None = None
    redacted: str | None = None


class CompletionChoice(msgspec.Struct, gc=False):
    """`delta`: a stream piece; `message`: a complete reply; `stop_reason`: matched stop text, if known."""

    index: int = 0
    delta: ChoiceDelta | None = None
    message: ChoiceDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None
    stop_reason: Any = None


class EngineEvent(msgspec.Struct, gc=False):
    """The fields of an engine's event that are passed on. Others (timings, file names, ids) are dropped.

    `prompt_progress`: `total` is the number of input tokens; the event has nothing else."""

    choices: list[CompletionChoice] | None = None
    usage: Any = None
    error: Any = None
    prompt_progress: Any = None


decode_event = msgspec.json.Decoder(EngineEvent).decode
decode_events = msgspec.json.Decoder(list[EngineEvent]).decode


def read_event(data: bytes) -> EngineEvent:
    """Decode a stream event or a complete reply.

    Content in parts (some reasoning models) becomes text and reasoning. Numbers that JSON has not, such as a usage of
    NaN, are unknown ones. Raises msgspec.DecodeError and UnicodeDecodeError."""
    try:
        return decode_event(data)
    except msgspec.DecodeError:
        raw = msgspec.json.decode(replace_constants(data))
        _join_content_parts(raw)
        return msgspec.convert(raw, EngineEvent)


def extract_plain_text(event: EngineEvent) -> str | None:
    """Return the text of an event that contains only text, else None."""
    choices = event.choices
    if not choices or event.usage is not None or event.error is not None or event.prompt_progress is not None:
        return None
    choice = choices[0]
    if len(choices) > 1 or choice.finish_reason is not None or choice.logprobs is not None or choice.index:
        return None
    delta = choice.delta
    if delta is None:
        return choice.text
    plain = delta.reasoning_content is None and delta.reasoning is None and delta.tool_calls is None
    return delta.content if plain and delta.refusal is None and delta.signature is None else None


def _join_content_parts(raw: Any) -> None:
    """Replace content in parts by text and reasoning, in place."""
    for choice in select_objects(raw.get("choices") if type(raw) is dict else None):
        message = choice.get("delta") or choice.get("message")
        if type(message) is dict and type(message.get("content")) is list:
            parts = select_objects(message["content"])
            message["content"] = _join_part_texts(parts)
            thoughts = [inner for part in parts for inner in select_objects(part.get("thinking"))]
            message.setdefault("reasoning_content", _join_part_texts(thoughts) or None)


def select_objects(value: object) -> list[dict[str, Any]]:
    """Return the JSON objects in a list; an empty list if `value` is not a list."""
    return [item for item in value if type(item) is dict] if type(value) is list else []


def _join_part_texts(parts: list[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in parts if type(part.get("text")) is str)


class EventReader(Protocol):
    """Reads one reply in a format other than plain OpenAI chat. `done`: the stream has ended."""

    done: bool

    def read(self, event: ServerSentEvent) -> Iterable[EngineEvent]:
        """Translate one event. Raises msgspec.DecodeError."""
