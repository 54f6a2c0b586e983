"""What an engine says, event by event, whatever it speaks: OpenAI's stream events, decoded to what passes.

A provider that speaks otherwise is read into these same events, so that everything behind knows one language.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from archwright.http_client.sse import ServerSentEvent

DONE_MARK = b"[DONE]"


# Decoded by the thousand and dropped at once, never part of a cycle: not for the collector to look at.
class FunctionCall(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class CustomCall(FunctionCall, rename={"arguments": "input"}, gc=False):
    """A call whose arguments are no JSON but any text."""

    arguments: str | None = None


class ToolCall(msgspec.Struct, gc=False):
    """A piece of a tool call: `id` and the name come with the first, the arguments bit by bit. Without its
    `extra_content` (its thought's signature) Gemini takes no call back as history."""

    index: int = 0
    id: str | None = None
    function: FunctionCall | None = None
    custom: CustomCall | None = None
    extra_content: Any = None

    @property
    def called_function(self) -> FunctionCall:
        return self.function or self.custom or FunctionCall()


class ChoiceDelta(msgspec.Struct, gc=False):
    """`signature` vouches for the reasoning before it, where a provider gives one; `redacted` is reasoning in a form
    that only the provider reads."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    refusal: str | None = None
    signature: str | None = None
    redacted: str | None = None


class CompletionChoice(msgspec.Struct, gc=False):
    """`delta` is a piece of a stream, `message` all of a reply that came whole; `stop_reason` the stop text that was
    met, where an engine names it."""

    index: int = 0
    delta: ChoiceDelta | None = None
    message: ChoiceDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None
    stop_reason: Any = None


class EngineEvent(msgspec.Struct, gc=False):
    """What passes of an engine's event; whatever else it adds (timings, file names, its own ids) stays inside."""

    choices: list[CompletionChoice] | None = None
    usage: Any = None
    error: Any = None
    prompt_progress: Any = None


decode_event = msgspec.json.Decoder(EngineEvent).decode
decode_events = msgspec.json.Decoder(list[EngineEvent]).decode


def read_event(data: bytes) -> EngineEvent:
    """An event of a stream, or a whole reply. Content in parts (some reasoning models) is put together: the texts, and
    what was thought as reasoning. Raises msgspec.DecodeError and UnicodeDecodeError for nonsense."""
    try:
        return decode_event(data)
    except msgspec.ValidationError:
        raw = msgspec.json.decode(data)
        if not _join_content_parts(raw):
            raise
        return msgspec.convert(raw, EngineEvent)


def extract_plain_text(event: EngineEvent) -> str | None:
    """The text of an event that brings nothing else."""
    choices = event.choices
    if not choices or event.usage is not None or event.error is not None or event.prompt_progress is not None:
        return None
    if len(choices) > 1:
        return None
    choice = choices[0]
    if choice.finish_reason is not None or choice.logprobs is not None or choice.index:
        return None
    delta = choice.delta
    if delta is None:
        return choice.text
    alone = delta.reasoning_content is None and delta.reasoning is None and delta.tool_calls is None
    return delta.content if alone and delta.refusal is None and delta.signature is None else None


def _join_content_parts(raw: Any) -> bool:
    """Whether content was in parts, which are text now."""
    found = False
    for choice in _select_objects(raw.get("choices") if type(raw) is dict else None):
        said = choice.get("delta") or choice.get("message")
        if type(said) is dict and type(said.get("content")) is list:
            parts = _select_objects(said["content"])
            said["content"] = "".join(_text_or_empty(part.get("text")) for part in parts)
            thought = "".join(
                _text_or_empty(one.get("text")) for part in parts for one in _select_objects(part.get("thinking"))
            )
            said.setdefault("reasoning_content", thought or None)
            found = True
    return found


def _select_objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if type(item) is dict] if type(value) is list else []


def _text_or_empty(value: object) -> str:
    return value if type(value) is str else ""


class EventReader(Protocol):
    """Reads one reply of an engine that does not simply speak OpenAI's chat. `done` once the stream is at its end."""

    done: bool

    def read(self, event: ServerSentEvent) -> Iterable[EngineEvent]:
        """Raises msgspec.DecodeError for nonsense."""
