"""Replay a cached reply: a chat or completion, or the pieces of a reply that a writer then writes anew."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from archwright.serving.events.engine_events import ToolCall
from archwright.serving.events.response_formats import (
    ResponsePiece,
    ResponseWriter,
    parse_logprobs,
)

StoredReply = tuple[list[ResponsePiece], dict[str, Any] | None]  # with the usage
_decode_pieces = msgspec.json.Decoder(StoredReply).decode


def decode_stored(body: bytes) -> StoredReply:
    """Return a reply that the cache keeps as its pieces, or as a chat or completion."""
    if body.startswith(b"["):
        stored: StoredReply = _decode_pieces(body)
        return stored
    reply: dict[str, Any] = msgspec.json.decode(body)
    return [_parse_choice(choice) for choice in reply["choices"]], reply.get("usage")


def encode_stream(writer: ResponseWriter, pieces: Sequence[ResponsePiece], used: dict[str, Any] | None) -> bytes:
    """Encode a complete stream in few events: the role, the content and the end of each choice."""
    return b"".join((writer.encode_start(), *encode_pieces(writer, pieces), writer.encode_end(used)))


def encode_pieces(writer: ResponseWriter, pieces: Sequence[ResponsePiece]) -> Iterator[bytes]:
    """Encode the events between the start and the end of the stream."""
    for piece in pieces:
        # Most pieces have only text, which is written without building objects.
        only_text = piece.text and piece == (piece.text, "", None, piece.finish, [], "", 0, "", "", ())
        yield writer.encode_text(piece.text) if only_text else writer.encode_piece(piece._replace(finish=None))
        yield writer.encode_piece(ResponsePiece("", "", None, piece.finish, number=piece.number, stop=piece.stop))


def _parse_choice(choice: dict[str, Any]) -> ResponsePiece:
    message = choice.get("message") or {"content": choice.get("text")}
    calls = msgspec.convert(message.get("tool_calls") or [], list[ToolCall])
    for number, call in enumerate(calls):
        call.index = number
    texts = message.get("content") or "", message.get("reasoning_content") or ""
    entries = parse_logprobs(choice.get("logprobs"))
    return ResponsePiece(*texts, entries, choice["finish_reason"], calls, message.get("refusal") or "", choice["index"])
