"""Engine events in, OpenAI objects out: the same pieces as a stream of chunks or as one assembled reply.

Decides what passes: content, log-probabilities, finish reason and usage. Whatever else an engine adds (timings,
file names, its own ids) stays inside.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import msgspec

_encode = msgspec.json.Encoder().encode
_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


class Piece(NamedTuple):
    """What one engine event says about the one choice; `entries` are log-probabilities in the chat form."""

    text: str
    reasoning: str
    entries: list[dict[str, Any]] | None
    finish: str | None


class Envelope(NamedTuple):
    """What every chunk of a reply repeats. `model` is the name the client used."""

    id: str
    created: int
    model: str
    fingerprint: str


class Shape(Protocol):
    """One of the two text interfaces. `text` is what stands before and behind the text in the chunk of a piece that
    is text and nothing else: nearly every chunk is."""

    path: str
    prefix: str
    reply_object: str
    chunk_object: str
    text: tuple[bytes, bytes]

    def first(self) -> dict[str, Any] | None: ...

    def chunk(self, piece: Piece, wanted: Wanted) -> dict[str, Any]: ...

    def choice(self, whole: Piece, wanted: Wanted) -> dict[str, Any]: ...


class Wanted(NamedTuple):
    """`top_logprobs` None: no log-probabilities; `prompt_characters` is where old-style text offsets start."""

    top_logprobs: int | None
    prompt_characters: int


class ChatShape:
    path = "/chat/completions"
    prefix = "chatcmpl-"
    reply_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    text = (b'{"index":0,"delta":{"content":', b'},"logprobs":null,"finish_reason":null}')

    def first(self) -> dict[str, Any] | None:
        return {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def chunk(self, piece: Piece, wanted: Wanted) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if piece.text:
            delta["content"] = piece.text
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        logprobs = chat_logprobs(piece.entries, wanted)
        return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": piece.finish}

    def choice(self, whole: Piece, wanted: Wanted) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": whole.text, "refusal": None}
        if whole.reasoning:
            message["reasoning_content"] = whole.reasoning
        logprobs = chat_logprobs(whole.entries, wanted)
        return {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": whole.finish}


class CompletionShape:
    """`offset` remembers how far a stream's text has come: old-style log-probabilities carry text offsets."""

    path = "/completions"
    prefix = "cmpl-"
    reply_object = "text_completion"
    chunk_object = "text_completion"
    text = (b'{"index":0,"text":', b',"logprobs":null,"finish_reason":null}')

    def __init__(self) -> None:
        self._offset = 0

    def first(self) -> dict[str, Any] | None:
        return None

    def chunk(self, piece: Piece, wanted: Wanted) -> dict[str, Any]:
        logprobs = self._logprobs(piece.entries, wanted)
        return {"index": 0, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}

    def choice(self, whole: Piece, wanted: Wanted) -> dict[str, Any]:
        logprobs = self._logprobs(whole.entries, wanted)
        return {"index": 0, "text": whole.text, "logprobs": logprobs, "finish_reason": whole.finish}

    def _logprobs(self, found: list[dict[str, Any]] | None, wanted: Wanted) -> dict[str, Any] | None:
        if wanted.top_logprobs is None or not found:
            return None
        offsets = []
        for entry in found:
            offsets.append(wanted.prompt_characters + self._offset)
            self._offset += len(entry["token"])
        return {
            "tokens": [entry["token"] for entry in found],
            "token_logprobs": [entry["logprob"] for entry in found],
            "top_logprobs": [_alternatives(entry, wanted.top_logprobs) for entry in found],
            "text_offset": offsets,
        }


def _alternatives(entry: dict[str, Any], top: int) -> dict[str, float]:
    """The chosen token is always among them, as the old interface promises."""
    best = {other["token"]: other["logprob"] for other in entry["top_logprobs"][:top]}
    return {**best, entry["token"]: entry["logprob"]}


def chat_logprobs(found: list[dict[str, Any]] | None, wanted: Wanted) -> dict[str, Any] | None:
    if wanted.top_logprobs is None or not found:
        return None
    cut = [{**entry, "top_logprobs": entry["top_logprobs"][: wanted.top_logprobs]} for entry in found]
    return {"content": cut, "refusal": None}


def entries(logprobs: object) -> list[dict[str, Any]] | None:
    """An engine's log-probabilities, of either style, in the chat form: token, logprob, bytes, top_logprobs."""
    if type(logprobs) is not dict:
        return None
    if type(logprobs.get("content")) is list:
        return [
            {**_entry(item), "top_logprobs": [_entry(other) for other in _objects(item.get("top_logprobs"))]}
            for item in _objects(logprobs["content"])
        ]
    tokens, chosen = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    return [
        {
            **_entry({"token": token, "logprob": value}),
            "top_logprobs": [_entry({"token": t, "logprob": v}) for t, v in (top or {}).items()],
        }
        for token, value, top in zip(tokens, chosen, tops, strict=False)
    ]


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if type(item) is dict] if type(value) is list else []


def _entry(item: dict[str, Any]) -> dict[str, Any]:
    token = str(item.get("token", ""))
    raw = item.get("bytes")
    return {"token": token, "logprob": item.get("logprob"), "bytes": list(token.encode()) if raw is None else raw}


def usage(found: object) -> dict[str, Any] | None:
    """The engine's count of tokens, in OpenAI's fields; None where an event has none."""
    if not isinstance(found, dict) or type(found.get("completion_tokens")) is not int:
        return None
    kept: dict[str, Any] = {name: found[name] for name in _USAGE if type(found.get(name)) is int}
    details = found.get("prompt_tokens_details")
    if isinstance(details, dict) and type(details.get("cached_tokens")) is int:
        kept["prompt_tokens_details"] = {"cached_tokens": details["cached_tokens"]}
    return kept


class Chunks:
    """Encodes the server-sent events of one reply; what they share is encoded once."""

    def __init__(self, shape: Shape, envelope: Envelope, *, include_usage: bool) -> None:
        head = _head(envelope, shape.chunk_object)
        self._head = b"data: " + msgspec.json.encode(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        before, behind = shape.text
        self._before, self._behind = self._head + before, behind + self._tail

    def text(self, text: str) -> bytes:
        """The chunk of a piece that is text alone."""
        return self._before + _encode(text) + self._behind

    def choice(self, choice: dict[str, Any]) -> bytes:
        return self._head + msgspec.json.encode(choice) + self._tail

    def usage(self, found: dict[str, Any]) -> bytes:
        return self._head + b'],"usage":' + msgspec.json.encode(found) + b"}\n\n"


DONE = b"data: [DONE]\n\n"


def error_event(body: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def reply(shape: Shape, envelope: Envelope, whole: Piece, wanted: Wanted, used: dict[str, Any] | None) -> bytes:
    """The reply of a plain request."""
    body = {**_head(envelope, shape.reply_object), "choices": [shape.choice(whole, wanted)], "usage": used}
    return _encode(body)


def _head(envelope: Envelope, kind: str) -> dict[str, Any]:
    head = {"id": envelope.id, "object": kind, "created": envelope.created, "model": envelope.model}
    return {**head, "system_fingerprint": envelope.fingerprint} if envelope.fingerprint else head
