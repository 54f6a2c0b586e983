"""Write OpenAI replies, as a stream of chunks or one object: content, log-probabilities and usage."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard

import msgspec

from archwright.serving.events.engine_events import ToolCall, select_objects

_encode = msgspec.json.Encoder().encode
_USAGE_FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens")
PROMPT_DETAILS = "prompt_tokens_details"
_USAGE_DETAILS = {
    PROMPT_DETAILS: (
        "cached_tokens",
        # Written to a provider's cache: by Anthropic's name, those of them kept for an hour, by OpenAI's name.
        "cache_creation_tokens",
        "cache_creation_1h_tokens",
        "cache_write_tokens",
        "audio_tokens",
    ),
    "completion_tokens_details": ("reasoning_tokens",),
}
DONE_EVENT = b"data: [DONE]\n\n"
# Upper bound of a plausible token count; the cost of that many tokens still fits 64-bit sums.
MAX_COUNT = 1 << 31


def encode_event(kind: str, **fields: Any) -> bytes:
    """Encode an event of the Messages or the Responses interface, which have their type twice."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **fields}))


class ResponsePiece(NamedTuple):
    """A part of one choice. `entries`: chat log-probabilities; `stop`: the matched stop text, if known."""

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
    """The fields that every chunk of a reply repeats. `model`: the name from the client's request."""

    id: str
    created: int
    model: str
    fingerprint: str


class ResponseWriter(Protocol):
    """Writes one reply in the client's format, as a stream (start, pieces, end) or as one response.

    `encode_text` takes a piece of the first choice that has only text, which is the usual case."""

    def encode_start(self) -> bytes: ...
    def encode_text(self, text: str) -> bytes: ...
    def encode_piece(self, piece: ResponsePiece) -> bytes: ...
    def encode_end(self, used: dict[str, Any] | None) -> bytes: ...
    def encode_response(self, pieces: Sequence[ResponsePiece], used: dict[str, Any] | None) -> bytes: ...


class ResponseOptions(msgspec.Struct, frozen=True, gc=False):
    """`top_logprobs` None: no log-probabilities."""

    top_logprobs: int | None
    include_usage: bool = False
    choices: int = 1


class ChatFormat:
    """Chat completions. `text`: the bytes around the text in a chunk that has only text."""

    path = "/chat/completions"
    prefix = "chatcmpl-"
    reply_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    text = (b'{"index":0,"delta":{"content":', b'},"logprobs":null,"finish_reason":null}')

    def start_choice(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk_choice(self, piece: ResponsePiece, options: ResponseOptions) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if piece.text:
            delta["content"] = piece.text
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.refusal:
            delta["refusal"] = piece.refusal
        if piece.calls:
            delta["tool_calls"] = [{"index": call.index, **_format_tool_call(call)} for call in piece.calls]
        logprobs = chat_logprobs(piece.entries, options)
        return {"index": piece.number, "delta": delta, "logprobs": logprobs, "finish_reason": piece.finish}

    def complete_choice(self, piece: ResponsePiece, options: ResponseOptions) -> dict[str, Any]:
        without_content = not piece.text and (piece.calls or piece.refusal)
        message: dict[str, Any] = {"role": "assistant", "content": None if without_content else piece.text}
        message["refusal"] = piece.refusal or None
        if piece.reasoning:
            message["reasoning_content"] = piece.reasoning
        if piece.calls:
            message["tool_calls"] = [_format_tool_call(call) for call in piece.calls]
        logprobs = chat_logprobs(piece.entries, options)
        return {"index": piece.number, "message": message, "logprobs": logprobs, "finish_reason": piece.finish}


def _format_tool_call(call: ToolCall) -> dict[str, Any]:
    kind, field = ("function", "arguments") if call.custom is None else ("custom", "input")
    formatted: dict[str, Any] = {"id": call.id, "type": kind} if call.id is not None else {}
    function = call.function or call.custom
    if function is not None:
        name = {} if function.name is None else {"name": function.name}
        formatted[kind] = {**name, field: function.arguments or ""}
    return formatted if call.extra_content is None else {**formatted, "extra_content": call.extra_content}


class CompletionFormat:
    """Text completions, with text offsets of log-probabilities. `starts`: the first offset of each choice: the
    characters of its prompt, unless its text begins with the prompt."""

    path = "/completions"
    prefix = "cmpl-"
    reply_object = "text_completion"
    chunk_object = "text_completion"
    text = (b'{"index":0,"text":', b',"logprobs":null,"finish_reason":null}')

    def __init__(self, starts: Sequence[int] = (0,)) -> None:
        self._starts = starts
        self._offsets: dict[int, int] = {}

    def start_choice(self, index: int) -> dict[str, Any] | None:
        return None

    def chunk_choice(self, piece: ResponsePiece, options: ResponseOptions) -> dict[str, Any]:
        logprobs = self._format_logprobs(piece, options)
        return {"index": piece.number, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}

    def complete_choice(self, piece: ResponsePiece, options: ResponseOptions) -> dict[str, Any]:
        """Format the complete choice; offsets start again if the choice was also streamed."""
        self._offsets.pop(piece.number, None)
        return self.chunk_choice(piece, options)

    def _format_logprobs(self, piece: ResponsePiece, options: ResponseOptions) -> dict[str, Any] | None:
        entries = piece.entries
        if options.top_logprobs is None or not entries:
            return None
        offsets, offset = [], self._offsets.get(piece.number, self._starts[piece.number])
        for entry in entries:
            offsets.append(offset)
            offset += len(entry["token"])
        self._offsets[piece.number] = offset
        return {
            "tokens": [entry["token"] for entry in entries],
            "token_logprobs": [entry["logprob"] for entry in entries],
            # The completions interface specifies that the alternatives include the chosen token.
            "top_logprobs": [
                {other["token"]: other["logprob"] for other in (*entry["top_logprobs"][: options.top_logprobs], entry)}
                for entry in entries
            ],
            "text_offset": offsets,
        }


ChoiceFormat = ChatFormat | CompletionFormat


def chat_logprobs(entries: list[dict[str, Any]] | None, options: ResponseOptions) -> dict[str, Any] | None:
    if options.top_logprobs is None or not entries:
        return None
    shortened = [{**entry, "top_logprobs": entry["top_logprobs"][: options.top_logprobs]} for entry in entries]
    return {"content": shortened, "refusal": None}


def parse_logprobs(logprobs: object) -> list[dict[str, Any]] | None:
    """Convert log-probabilities of either style to entries: token, logprob, bytes, top_logprobs."""
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
    """True if `value` is a plausible token count. The count is charged to the caller."""
    return type(value) is int and 0 <= value <= MAX_COUNT


def parse_usage(found: object) -> dict[str, Any] | None:
    """Return the engine's plausible token counts in OpenAI's fields; None without an output count."""
    if not isinstance(found, dict):
        return None
    usage: dict[str, Any] = {}
    for name in _USAGE_FIELDS:
        count = found.get(name)
        if is_count(count):
            usage[name] = count
    if "completion_tokens" not in usage:
        return None
    for name, fields in _USAGE_DETAILS.items():
        details = found.get(name)
        if isinstance(details, dict):
            counts = {field: details[field] for field in fields if is_count(details.get(field))}
            if counts:
                usage[name] = counts
    return usage


def hide_cached_tokens(usage: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the counts as if the engine had read the whole prompt."""
    if usage is None or PROMPT_DETAILS not in usage:
        return usage
    return {name: count for name, count in usage.items() if name != PROMPT_DETAILS}


def add_usage(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the sums of the counts of two choices, without details."""
    prompt, output = (one.get(name, 0) + other.get(name, 0) for name in _USAGE_FIELDS[:2])
    return dict(zip(_USAGE_FIELDS, (prompt, output, prompt + output), strict=True))


class OpenAIWriter:
    """Writes OpenAI replies. For a `stream`, the bytes common to all chunks are encoded once."""

    def __init__(
        self, shape: ChoiceFormat, envelope: ResponseEnvelope, options: ResponseOptions, *, stream: bool = True
    ) -> None:
        self._shape, self._envelope, self._options = shape, envelope, options
        if not stream:
            return
        self._head = b"data: " + _encode(_envelope_fields(envelope, shape.chunk_object))[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if options.include_usage else b"]}\n\n"
        before, after = shape.text
        self._before, self._after = self._head + before, after + self._tail

    def encode_start(self) -> bytes:
        choices = map(self._shape.start_choice, range(self._options.choices))
        return b"".join(self._encode_choice(choice) for choice in choices if choice is not None)

    def encode_text(self, text: str) -> bytes:
        return self._before + _encode(text) + self._after

    def encode_piece(self, piece: ResponsePiece) -> bytes:
        return self._encode_choice(self._shape.chunk_choice(piece, self._options))

    def encode_end(self, used: dict[str, Any] | None) -> bytes:
        if not (self._options.include_usage and used):
            return DONE_EVENT
        return self._head + b'],"usage":' + _encode(used) + b"}\n\n" + DONE_EVENT

    def encode_response(self, pieces: Sequence[ResponsePiece], used: dict[str, Any] | None) -> bytes:
        choices = [self._shape.complete_choice(piece, self._options) for piece in pieces]
        head = _envelope_fields(self._envelope, self._shape.reply_object)
        return _encode({**head, "choices": choices, "usage": used})

    def _encode_choice(self, choice: dict[str, Any]) -> bytes:
        return self._head + _encode(choice) + self._tail


def _envelope_fields(envelope: ResponseEnvelope, kind: str) -> dict[str, Any]:
    head = {"id": envelope.id, "object": kind, "created": envelope.created, "model": envelope.model}
    return {**head, "system_fingerprint": envelope.fingerprint} if envelope.fingerprint else head
