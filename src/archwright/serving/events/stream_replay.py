"""Replay a cached reply as a stream.

A reply with a truncated tool call is not cached, because a message cannot represent it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from archwright.serving.events.engine_events import FunctionCall, ToolCall
from archwright.serving.events.messages_writer import STOP_REASONS, MessagesWriter
from archwright.serving.events.response_formats import (
    ChatFormat,
    CompletionFormat,
    OpenAIWriter,
    ResponseEnvelope,
    ResponseOptions,
    ResponsePiece,
    ResponseWriter,
    parse_logprobs,
)

UsageTransform = Callable[[dict[str, Any] | None], dict[str, Any] | None]
FINISH_REASONS = {reason: finish for finish, reason in STOP_REASONS.items()}
MAX_LOGPROBS = 1_000  # no limit: only the requested log-probabilities are cached


def replay_response(body: bytes, *, include_usage: bool, told: UsageTransform | None = None) -> bytes:
    """Encode a cached reply as server-sent events. `told` converts the usage for the client."""
    reply: dict[str, Any] = msgspec.json.decode(body)
    if reply.get("type") == "message":
        return _replay_message(reply)
    chat = reply["object"] == ChatFormat.reply_object
    envelope = ResponseEnvelope(reply["id"], reply["created"], reply["model"], reply.get("system_fingerprint") or "")
    pieces, used = parse_pieces(reply), reply.get("usage")
    starts = [((choice.get("logprobs") or {}).get("text_offset") or [0])[0] for choice in reply["choices"]]
    options = ResponseOptions(MAX_LOGPROBS, include_usage, len(pieces))
    writer = OpenAIWriter(ChatFormat() if chat else CompletionFormat(starts), envelope, options)
    return encode_stream(writer, pieces, used if told is None else told(used))


def parse_pieces(reply: dict[str, Any]) -> list[ResponsePiece]:
    return [_parse_choice(choice) for choice in reply["choices"]]


def has_truncated_call(pieces: Sequence[ResponsePiece]) -> bool:
    return any(piece.calls and piece.finish == "length" for piece in pieces)


def _replay_message(reply: dict[str, Any]) -> bytes:
    stop = reply["stop_sequence"]
    writer = MessagesWriter(ResponseEnvelope(reply["id"], 0, reply["model"], ""), () if stop is None else (stop,))
    events = [writer.encode_start()]
    events += [writer.encode_piece(_parse_block(number, block)) for number, block in enumerate(reply["content"])]
    finish = FINISH_REASONS.get(reply["stop_reason"], "stop")
    events.append(writer.encode_piece(ResponsePiece("", "", None, finish, stop=stop or "")))
    usage = reply["usage"]
    cached, created = usage["cache_read_input_tokens"], usage.get("cache_creation_input_tokens", 0)
    used = {"prompt_tokens": usage["input_tokens"] + cached + created, "completion_tokens": usage["output_tokens"]}
    thinking = (usage.get("output_tokens_details") or {}).get("thinking_tokens")
    details = {"prompt_tokens_details": {"cached_tokens": cached, "cache_creation_tokens": created}}
    events.append(writer.encode_end({**used, **details, "completion_tokens_details": {"reasoning_tokens": thinking}}))
    return b"".join(events)


def _parse_block(number: int, block: dict[str, Any]) -> ResponsePiece:
    if block["type"] == "thinking":
        return ResponsePiece("", block["thinking"], None, None, signature=block["signature"])
    if block["type"] == "redacted_thinking":
        return ResponsePiece("", "", None, None, redacted=(block["data"],))
    if block["type"] == "text":
        return ResponsePiece(block["text"], "", None, None)
    arguments = msgspec.json.encode(block["input"]).decode()
    return ResponsePiece("", "", None, None, [ToolCall(number, block["id"], FunctionCall(block["name"], arguments))])


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
