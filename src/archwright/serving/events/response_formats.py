"""Engine events in, OpenAI objects out, as a stream of chunks or one reply: content, log-probabilities, usage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard

import msgspec

from archwright.serving.events.engine_events import ToolCall, select_objects

_encode = msgspec.json.Encoder().encode
_USAGE_FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens")
_USAGE_DETAILS = (("prompt_tokens_details", "cached_tokens"), ("completion_tokens_details", "reasoning_tokens"))
DONE_EVENT = b"data: [DONE]\n\n"
# More tokens than any request has; costs of so many still add up in 64 bits.
MAX_COUNT = 1 << 31


class ResponsePiece(NamedTuple):
    """A part of one choice; `entries` are log-probabilities in the chat form, `stop` the stop text met, if known."""

    text: str
    reasoning: str
    entries: list[dict[str, Any]] | None
    finish: str | None
    calls: Sequence[ToolCall] = ()
    refusal: str = ""
    number: int = 0
    signature: str = ""
    stop: str = ""
    redacted: tuple[str, ...] = ()


class ResponseEnvelope(msgspec.Struct, frozen=True, gc=False):
    """The fields that every chunk of a reply repeats. `model` is the name the client used."""

    id: str
    created: int
    model: str
    fingerprint: str


class ResponseWriter(Protocol):
    """Writes one reply in the client's format: as a stream (start, texts and pieces, end) or as one response.
    `encode_text` is for a piece of the first choice that is only text, as nearly all are."""

    def encode_start(self) -> bytes: ...
    def encode_text(self, text: str) -> bytes: ...
    def encode_piece(self, piece: ResponsePiece) -> bytes: ...
    def encode_end(self, used: dict[str, Any] | None) -> bytes: ...
    def encode_response(self, pieces: Sequence[ResponsePiece], used: dict[str, Any] | None) -> bytes: ...


class ChoiceFormat(Protocol):
    """One of OpenAI's two text interfaces. `text`: the bytes before and after the text in a chunk of text alone."""

    path: str
    prefix: str
    reply_object: str
    chunk_object: str
    text: tuple[bytes, bytes]

    def start_choice(self, index: int) -> dict[str, Any] | None: ...
    def chunk_choice(self, piece: ResponsePiece, wanted: ResponseOptions) -> dict[str, Any]: ...
    def complete_choice(self, piece: ResponsePiece, wanted: ResponseOptions) -> dict[str, Any]: ...


class ResponseOptions(msgspec.Struct, frozen=True, gc=False):
    """`top_logprobs` None: no log-probabilities; `prompt_characters`: where old-style text offsets start."""

    top_logprobs: int | None
    prompt_characters: int
    include_usage: bool = False
    choices: int = 1


class ChatFormat:
    path = "/chat/completions"
    prefix = "chatcmpl-"
    reply_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    text = (b'{"index":0,"delta":{"content":', b'},"logprobs":null,"finish_reason":null}')

    def start_choice(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk_choice(self, piece: ResponsePiece, wanted: ResponseOptions) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if piece.text:
            delta["content"] = piece.text
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.refusal:
            delta["refusal"] = piece.refusal
        if piece.calls:
            delta["tool_calls"] = [{"index": call.index, **_format_tool_call(call)} for call in piece.calls]
        logprobs = chat_logprobs(piece.entries, wanted)
        return {"index": piece.number, "delta": delta, "logprobs": logprobs, "finish_reason": piece.finish}

    def complete_choice(self, piece: ResponsePiece, wanted: ResponseOptions) -> dict[str, Any]:
        nothing = not piece.text and (piece.calls or piece.refusal)
        message: dict[str, Any] = {"role": "assistant", "content": None if nothing else piece.text}
        message["refusal"] = piece.refusal or None
        if piece.reasoning:
            message["reasoning_content"] = piece.reasoning
        if piece.calls:
            message["tool_calls"] = [_format_tool_call(call) for call in piece.calls]
        logprobs = chat_logprobs(piece.entries, wanted)
        return {"index": piece.number, "message": message, "logprobs": logprobs, "finish_reason": piece.finish}


def _format_tool_call(call: ToolCall) -> dict[str, Any]:
    kind, words = ("function", "arguments") if call.custom is None else ("custom", "input")
    said: dict[str, Any] = {"id": call.id, "type": kind} if call.id is not None else {}
    function = call.function or call.custom
    if function is not None:
        named = {} if function.name is None else {"name": function.name}
        said[kind] = {**named, words: function.arguments or ""}
    return said if call.extra_content is None else {**said, "extra_content": call.extra_content}


class CompletionFormat:
    """Counts text offsets, which old-style log-probabilities have. `echoes`: the text begins with the prompt."""

    path = "/completions"
    prefix = "cmpl-"
    reply_object = "text_completion"
    chunk_object = "text_completion"
    text = (b'{"index":0,"text":', b',"logprobs":null,"finish_reason":null}')

    def __init__(self, *, echoes: bool = False) -> None:
        self._echoes = echoes
        self._offsets: dict[int, int] = {}

    def start_choice(self, index: int) -> dict[str, Any] | None:
        return None

    def chunk_choice(self, piece: ResponsePiece, wanted: ResponseOptions) -> dict[str, Any]:
        logprobs = self._format_logprobs(piece, wanted)
        return {"index": piece.number, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}

    def complete_choice(self, piece: ResponsePiece, wanted: ResponseOptions) -> dict[str, Any]:
        """The whole choice, also after it was streamed."""
        self._offsets.pop(piece.number, None)
        return self.chunk_choice(piece, wanted)

    def _format_logprobs(self, piece: ResponsePiece, wanted: ResponseOptions) -> dict[str, Any] | None:
        found = piece.entries
        if wanted.top_logprobs is None or not found:
            return None
        start = 0 if self._echoes else wanted.prompt_characters
        offsets, offset = [], self._offsets.get(piece.number, start)
        for entry in found:
            offsets.append(offset)
            offset += len(entry["token"])
        self._offsets[piece.number] = offset
        return {
            "tokens": [entry["token"] for entry in found],
            "token_logprobs": [entry["logprob"] for entry in found],
            # The chosen token is always among the alternatives, as the old interface promises.
            "top_logprobs": [
                {other["token"]: other["logprob"] for other in (*entry["top_logprobs"][: wanted.top_logprobs], entry)}
                for entry in found
            ],
            "text_offset": offsets,
        }


def chat_logprobs(found: list[dict[str, Any]] | None, wanted: ResponseOptions) -> dict[str, Any] | None:
    if wanted.top_logprobs is None or not found:
        return None
    cut = [{**entry, "top_logprobs": entry["top_logprobs"][: wanted.top_logprobs]} for entry in found]
    return {"content": cut, "refusal": None}


def parse_logprobs(logprobs: object) -> list[dict[str, Any]] | None:
    """An engine's log-probabilities, of either style, in the chat form: token, logprob, bytes, top_logprobs."""
    if type(logprobs) is not dict:
        return None
    if type(logprobs.get("content")) is list:
        return [
            {**_logprob_entry(item), "top_logprobs": [*map(_logprob_entry, select_objects(item.get("top_logprobs")))]}
            for item in select_objects(logprobs["content"])
        ]
    tokens, chosen = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    return [
        {
            **_logprob_entry({"token": token, "logprob": value}),
            "top_logprobs": [_logprob_entry({"token": t, "logprob": v}) for t, v in (top or {}).items()],
        }
        for token, value, top in zip(tokens, chosen, tops, strict=False)
    ]


def _logprob_entry(item: dict[str, Any]) -> dict[str, Any]:
    token = str(item.get("token", ""))
    raw = item.get("bytes")
    return {"token": token, "logprob": item.get("logprob"), "bytes": list(token.encode()) if raw is None else raw}


def is_count(value: object) -> TypeGuard[int]:
    """True if `value` is a believable count of tokens: it is billed."""
    return type(value) is int and 0 <= value <= MAX_COUNT


def parse_usage(found: object) -> dict[str, Any] | None:
    """The engine's count of tokens, in OpenAI's fields; None where an event has none."""
    if not isinstance(found, dict) or not is_count(found.get("completion_tokens")):
        return None
    kept: dict[str, Any] = {name: found[name] for name in _USAGE_FIELDS if is_count(found.get(name))}
    for name, field in _USAGE_DETAILS:
        details = found.get(name)
        if isinstance(details, dict) and is_count(details.get(field)):
            kept[name] = {field: details[field]}
    return kept


class OpenAIWriter:
    """Writes OpenAI's replies; what all chunks share is encoded once, for a `stream`."""

    def __init__(
        self, shape: ChoiceFormat, envelope: ResponseEnvelope, wanted: ResponseOptions, *, stream: bool = True
    ) -> None:
        self._shape, self._envelope, self._wanted = shape, envelope, wanted
        if not stream:
            return
        self._head = b"data: " + _encode(_envelope_fields(envelope, shape.chunk_object))[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if wanted.include_usage else b"]}\n\n"
        before, behind = shape.text
        self._before, self._behind = self._head + before, behind + self._tail

    def encode_start(self) -> bytes:
        found = [self._shape.start_choice(index) for index in range(self._wanted.choices)]
        return b"".join(self._encode_choice(choice) for choice in found if choice is not None)

    def encode_text(self, text: str) -> bytes:
        return self._before + _encode(text) + self._behind

    def encode_piece(self, piece: ResponsePiece) -> bytes:
        return self._encode_choice(self._shape.chunk_choice(piece, self._wanted))

    def encode_end(self, used: dict[str, Any] | None) -> bytes:
        if not (self._wanted.include_usage and used):
            return DONE_EVENT
        return self._head + b'],"usage":' + _encode(used) + b"}\n\n" + DONE_EVENT

    def encode_response(self, pieces: Sequence[ResponsePiece], used: dict[str, Any] | None) -> bytes:
        choices = [self._shape.complete_choice(piece, self._wanted) for piece in pieces]
        head = _envelope_fields(self._envelope, self._shape.reply_object)
        return _encode({**head, "choices": choices, "usage": used})

    def _encode_choice(self, choice: dict[str, Any]) -> bytes:
        return self._head + _encode(choice) + self._tail


def _envelope_fields(envelope: ResponseEnvelope, kind: str) -> dict[str, Any]:
    head = {"id": envelope.id, "object": kind, "created": envelope.created, "model": envelope.model}
    return {**head, "system_fingerprint": envelope.fingerprint} if envelope.fingerprint else head
