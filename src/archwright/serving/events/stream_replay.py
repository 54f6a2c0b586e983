"""A whole reply told again as a stream: what a client that asked for one gets from the cache.

Decides that a call of a tool which the reply's length cut off is not kept: a whole message has no words for half of
its arguments, a stream has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from archwright.serving.events.engine_events import Call, Function
from archwright.serving.events.messages_writer import STOP_REASONS, MessagesWriter
from archwright.serving.events.response_formats import (
    ChatShape,
    Chunks,
    CompletionShape,
    Envelope,
    Piece,
    Wanted,
    Writer,
    entries,
)

Used = dict[str, Any] | None
Told = Callable[[Used], Used]
FINISHES = {reason: finish for finish, reason in STOP_REASONS.items()}
ALL = 1_000  # of the log-probabilities kept: what was asked for is what was kept


def replay(body: bytes, *, include_usage: bool, told: Told | None = None) -> bytes:
    """The server-sent events of a reply: OpenAI's, chat or completion, or a message. `told` makes of a count of
    tokens what the client is told."""
    reply: dict[str, Any] = msgspec.json.decode(body)
    if reply.get("type") == "message":
        return _message(reply)
    chat = reply["object"] == ChatShape.reply_object
    envelope = Envelope(reply["id"], reply["created"], reply["model"], reply.get("system_fingerprint") or "")
    pieces, used = pieces_of(reply), reply.get("usage")
    offsets = (reply["choices"][0].get("logprobs") or {}).get("text_offset") or [0]
    wanted = Wanted(ALL, offsets[0], include_usage, len(pieces))
    writer = Chunks(ChatShape() if chat else CompletionShape(), envelope, wanted)
    return streamed(writer, pieces, used if told is None else told(used))


def pieces_of(reply: dict[str, Any]) -> list[Piece]:
    """What an OpenAI reply says."""
    return [_piece(choice, choice.get("message") or {"content": choice.get("text")}) for choice in reply["choices"]]


def cut_off(pieces: Sequence[Piece]) -> bool:
    return any(piece.calls and piece.finish == "length" for piece in pieces)


def _message(reply: dict[str, Any]) -> bytes:
    """Block by block, as the reply has them."""
    stop = reply["stop_sequence"]
    writer = MessagesWriter(Envelope(reply["id"], 0, reply["model"], ""), () if stop is None else (stop,))
    told = [writer.first()]
    for number, block in enumerate(reply["content"]):
        told.append(writer.piece(_block(number, block)))
    told.append(writer.piece(Piece("", "", None, FINISHES.get(reply["stop_reason"], "stop"), stop=stop or "")))
    read, cached = reply["usage"]["input_tokens"], reply["usage"]["cache_read_input_tokens"]
    used = {"prompt_tokens": read + cached, "completion_tokens": reply["usage"]["output_tokens"]}
    told.append(writer.end({**used, "prompt_tokens_details": {"cached_tokens": cached}}))
    return b"".join(told)


def _block(number: int, block: dict[str, Any]) -> Piece:
    if block["type"] == "thinking":
        return Piece("", block["thinking"], None, None, signature=block["signature"])
    if block["type"] == "redacted_thinking":
        return Piece("", "", None, None, redacted=(block["data"],))
    if block["type"] == "text":
        return Piece(block["text"], "", None, None)
    arguments = msgspec.json.encode(block["input"]).decode()
    return Piece("", "", None, None, [Call(number, block["id"], Function(block["name"], arguments))])


def streamed(writer: Writer, pieces: Sequence[Piece], used: dict[str, Any] | None) -> bytes:
    """All of it at once, in as few events as keep each client's parser content: for each choice its role, what it
    says, its end."""
    return b"".join((writer.first(), *between(writer, pieces), writer.end(used)))


def between(writer: Writer, pieces: Sequence[Piece]) -> Iterator[bytes]:
    """What it says, without its beginning and its end."""
    for piece in pieces:
        # Nearly all are text alone, which is written without making objects of it.
        alone = piece.text and piece == (piece.text, "", None, piece.finish, [], "", 0, "", "", ())
        yield writer.text(piece.text) if alone else writer.piece(piece._replace(finish=None))
        yield writer.piece(Piece("", "", None, piece.finish, number=piece.number, stop=piece.stop))


def _piece(choice: dict[str, Any], said: dict[str, Any]) -> Piece:
    calls = msgspec.convert(said.get("tool_calls") or [], list[Call])
    for number, call in enumerate(calls):
        call.index = number
    texts = said.get("content") or "", said.get("reasoning_content") or ""
    found = entries(choice.get("logprobs"))
    return Piece(*texts, found, choice["finish_reason"], calls, said.get("refusal") or "", choice["index"])
