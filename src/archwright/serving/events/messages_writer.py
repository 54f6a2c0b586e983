"""Write a reply in the format of the Messages interface: a sequence of blocks.

Design: engines do not mark the end of a tool call, so its block ends when the JSON object of its arguments is complete.
Until then other output is buffered, up to BUFFER_LIMIT_BYTES; the end of the stream writes all buffered output. OpenAI
engines report the prompt's tokens only at the end, so the first event reports 0 and the last event the real count.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from archwright.errors import EngineError
from archwright.serving.events.engine_events import ToolCall
from archwright.serving.events.response_formats import ResponseEnvelope, ResponsePiece, encode_event

_encode = msgspec.json.Encoder().encode
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
BUFFER_LIMIT_BYTES = 1 << 20
PIECE_OVERHEAD_BYTES = 256  # of a buffered piece, in addition to its text
TEXT_INDEX = -1  # index of output that is not a tool call
_FIELDS_OF_COMPLETE_USAGE = ("cache_creation", "service_tier", "inference_geo", "speed")  # no event repeats them
_JSON_TOKENS = re.compile(r'\\.|["{}\[\]\\]', re.DOTALL)


class _JsonObjectScanner:
    """Scans a JSON object that arrives in pieces; `closed`: the object is complete."""

    def __init__(self) -> None:
        self.closed = False
        self._depth = 0
        self._quoted = False
        self._escape = ""  # an escape sequence cut off at the end of a piece

    def feed(self, text: str) -> None:
        text, self._escape = self._escape + text, ""
        for token in _JSON_TOKENS.findall(text):
            if token == "\\":
                self._escape = token
            elif token == '"':
                self._quoted = not self._quoted
            elif self._quoted:
                continue
            elif token in ("{", "["):
                self._depth += 1
            elif token in ("}", "]"):
                self._depth -= 1
                self.closed = self.closed or self._depth <= 0


class MessagesWriter:
    """Writes one reply. A stream has one open block at a time: text, thinking or a tool call."""

    def __init__(self, envelope: ResponseEnvelope, stops: Sequence[str] = ()) -> None:
        self._envelope = envelope
        self._stops = stops
        self._open = ""
        self._blocks = 0
        self._begun: set[int] = set()  # indexes of the calls that have a block
        self._call: int | None = None  # index of the call whose block is open
        self._arguments = _JsonObjectScanner()  # arguments of the call whose block is open
        self._buffered: dict[int, list[ResponsePiece]] = {}  # by call index
        self._free_bytes = BUFFER_LIMIT_BYTES
        self._ended = False
        self._finish: ResponsePiece | None = None
        self._text_prefix = b""

    def encode_start(self) -> bytes:
        message = self._build_message([], None, to_messages_usage(None))
        return encode_event("message_start", message=message) + encode_event("ping")

    def encode_text(self, text: str) -> bytes:
        if self._open != "text":
            return self._write_or_buffer(TEXT_INDEX, ResponsePiece(text, "", None, None))
        return b"%b%b}}\n\n" % (self._text_prefix, _encode(text))

    def encode_piece(self, piece: ResponsePiece) -> bytes:
        if piece.finish:
            self._finish = piece
        out = b""
        if piece.text or piece.refusal or piece.reasoning or piece.signature or piece.redacted:
            out = self._write_or_buffer(TEXT_INDEX, piece._replace(calls=()))
        for call in piece.calls:
            out += self._write_or_buffer(call.index, ResponsePiece("", "", None, None, (call,)))
        return out

    def _write_or_buffer(self, number: int, piece: ResponsePiece) -> bytes:
        """Return the bytes to send now; nothing for a closed call, whose arguments were complete.

        Raises EngineError AW-ENG-03 if the buffer is full."""
        if number != self._call:
            if number in self._begun:
                return b""
            if self._is_block_incomplete:
                arguments = [call.called_function.arguments or "" for call in piece.calls]
                texts = (piece.text, piece.refusal, piece.reasoning, piece.signature, *piece.redacted, *arguments)
                self._free_bytes -= PIECE_OVERHEAD_BYTES + sum(map(len, texts))
                if self._free_bytes < 0:
                    message = f"the engine sent {BUFFER_LIMIT_BYTES} bytes of other output inside an open tool call"
                    raise EngineError("AW-ENG-03", message, hint="make the engine generate one tool call at a time")
                self._buffered.setdefault(number, []).append(piece)
                return b""
        return self._write_piece(piece) + self._flush_buffered()

    @property
    def _is_block_incomplete(self) -> bool:
        return self._call is not None and not self._arguments.closed and not self._ended

    def _flush_buffered(self) -> bytes:
        """Write the buffered pieces, up to a call that is not complete."""
        out = b""
        while self._buffered and not self._is_block_incomplete:
            out += b"".join(map(self._write_piece, self._buffered.pop(next(iter(self._buffered)))))
        if not self._buffered:
            self._free_bytes = BUFFER_LIMIT_BYTES
        return out

    def _write_piece(self, piece: ResponsePiece) -> bytes:
        out = b""
        if (piece.reasoning or piece.signature) and self._open != "thinking":
            out = self._open_block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        if piece.reasoning:
            out += self._encode_delta({"type": "thinking_delta", "thinking": piece.reasoning})
        if piece.signature:
            out += self._encode_delta({"type": "signature_delta", "signature": piece.signature})
        for data in piece.redacted:
            out += self._open_block("redacted_thinking", {"type": "redacted_thinking", "data": data})
        if piece.text or piece.refusal:
            if self._open != "text":
                out += self._open_block("text", {"type": "text", "text": "", "citations": None})
            out += self.encode_text(piece.text + piece.refusal)
        for call in piece.calls:
            out += self._write_tool_call(call)
        return out

    def _write_tool_call(self, call: ToolCall) -> bytes:
        function, out = call.called_function, b""
        if call.index not in self._begun:
            out = self._open_block("tool_use", _tool_use_block(call, {}))
            self._begun.add(call.index)
            self._call, self._arguments = call.index, _JsonObjectScanner()
        if function.arguments:
            self._arguments.feed(function.arguments)
            out += self._encode_delta({"type": "input_json_delta", "partial_json": function.arguments})
        return out

    def encode_end(self, used: dict[str, Any] | None) -> bytes:
        self._ended = True  # no more pieces follow
        out = self._flush_buffered() + self._close_block()
        reason, stop = self._map_stop_reason(self._finish)
        delta = {"stop_reason": reason, "stop_sequence": stop, "stop_details": None, "container": None}
        usage = to_messages_usage(used)
        usage = {name: count for name, count in usage.items() if name not in _FIELDS_OF_COMPLETE_USAGE}
        out += encode_event("message_delta", delta=delta, usage=usage)
        return out + encode_event("message_stop")

    def encode_response(self, pieces: Sequence[ResponsePiece], used: dict[str, Any] | None) -> bytes:
        piece = pieces[0]
        blocks: list[dict[str, Any]] = []
        if piece.reasoning or piece.signature:  # some providers send only the signature
            blocks.append({"type": "thinking", "thinking": piece.reasoning, "signature": piece.signature})
        blocks += [{"type": "redacted_thinking", "data": data} for data in piece.redacted]
        if piece.text or piece.refusal:
            blocks.append({"type": "text", "text": piece.text + piece.refusal, "citations": None})
        for call in piece.calls:
            blocks.append(_tool_use_block(call, _parse_arguments(call.called_function.arguments)))
        return _encode(self._build_message(blocks, piece, to_messages_usage(used)))

    def _build_message(
        self, blocks: list[dict[str, Any]], piece: ResponsePiece | None, usage: dict[str, Any]
    ) -> dict[str, Any]:
        reason, stop = self._map_stop_reason(piece)
        head = {"id": self._envelope.id, "type": "message", "role": "assistant", "model": self._envelope.model}
        ended = {"stop_reason": reason, "stop_sequence": stop, "stop_details": None, "container": None}
        return {**head, "content": blocks, **ended, "diagnostics": None, "usage": usage}

    def _map_stop_reason(self, piece: ResponsePiece | None) -> tuple[str | None, str | None]:
        if piece is None or piece.finish is None:
            return None, None
        if piece.finish == "stop" and piece.stop in self._stops:
            return "stop_sequence", piece.stop
        if piece.finish == "stop" and (self._begun or piece.calls):
            return "tool_use", None  # many engines report "stop" after a required call
        return STOP_REASONS.get(piece.finish, "end_turn"), None

    def _open_block(self, kind: str, block: dict[str, Any]) -> bytes:
        out = self._close_block() + encode_event("content_block_start", index=self._blocks, content_block=block)
        self._open, self._blocks = kind, self._blocks + 1
        head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,' % (self._blocks - 1)
        self._text_prefix = head + b'"delta":{"type":"text_delta","text":'
        return out

    def _close_block(self) -> bytes:
        if not self._open:
            return b""
        self._open, self._call = "", None
        return encode_event("content_block_stop", index=self._blocks - 1)

    def _encode_delta(self, delta: dict[str, Any]) -> bytes:
        return encode_event("content_block_delta", index=self._blocks - 1, delta=delta)


def _tool_use_block(call: ToolCall, arguments: dict[str, Any]) -> dict[str, Any]:
    named = {"id": call.id or "", "name": call.called_function.name or "", "input": arguments}
    return {"type": "tool_use", **named, "caller": {"type": "direct"}}


def _parse_arguments(arguments: str | None) -> dict[str, Any]:
    """Decode a call's arguments; {} if they were cut off."""
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {}


def to_messages_usage(used: dict[str, Any] | None) -> dict[str, Any]:
    """Convert OpenAI usage to Messages usage, with all its fields. Its input tokens exclude cached tokens."""
    usage = used or {}
    details = usage.get("prompt_tokens_details", {})
    cached, created = details.get("cached_tokens", 0), details.get("cache_creation_tokens", 0)
    created, hour = max(created, details.get("cache_write_tokens", 0)), details.get("cache_creation_1h_tokens")
    durations = {"ephemeral_5m_input_tokens": created - (hour or 0), "ephemeral_1h_input_tokens": hour}
    thinking = usage.get("completion_tokens_details", {}).get("reasoning_tokens")
    return {
        "input_tokens": max(0, usage.get("prompt_tokens", 0) - cached - created),
        "output_tokens": usage.get("completion_tokens", 0),
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": created,
        "output_tokens_details": None if thinking is None else {"thinking_tokens": thinking},
        "server_tool_use": None,
        **dict.fromkeys(_FIELDS_OF_COMPLETE_USAGE),  # unknown here
        "cache_creation": None if hour is None else durations,
    }
