"""Write a reply in the format of the Responses interface: items of output, and the events that build them.

Design: at most one message or reasoning item is open, and ends where output of another kind begins. The calls of tools
end with the reply, since engines mix their arguments and do not mark their end. A complete response is the result of
the same events, so both forms agree. The fields that repeat the request are encoded once.
"""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from archwright.serving.events.engine_events import ToolCall
from archwright.serving.events.response_formats import (
    DONE_EVENT,
    ResponseEnvelope,
    ResponseOptions,
    ResponsePiece,
    chat_logprobs,
    encode_event,
)
from archwright.serving.http.errors import ApiError

_encode = msgspec.json.Encoder().encode
START_KINDS = ("response.created", "response.in_progress")
INCOMPLETE_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


class _PartKind(NamedTuple):
    """The item of a part, the names of its text, its events and its position, and the list of such parts."""

    item: str
    text: str
    event: str
    part_event: str = "response.content_part"
    position: str = "content_index"
    holder: str = "content"


_SUMMARY = "response.reasoning_summary"
_PARTS = {
    "output_text": _PartKind("message", "text", "response.output_text"),
    "refusal": _PartKind("message", "refusal", "response.refusal"),
    "reasoning_text": _PartKind("reasoning", "text", "response.reasoning_text"),
    "summary_text": _PartKind("reasoning", "text", f"{_SUMMARY}_text", f"{_SUMMARY}_part", "summary_index", "summary"),
}


class ResponsesOptions(msgspec.Struct, frozen=True):
    """`shown`: the fields of each response object that repeat the request, with their effective values. `namespaces`:
    name of a function in the chat -> its namespace and its name there. `summarizes`: the client asked for a summary of
    the reasoning. `top_logprobs` None: no log-probabilities."""

    shown: Mapping[str, Any]
    namespaces: Mapping[str, tuple[str, str]]
    summarizes: bool
    top_logprobs: int | None


class _OpenCall(NamedTuple):
    item: dict[str, Any]
    texts: list[str]
    place: dict[str, Any]
    event: str
    field: str


class ResponsesWriter:
    """Writes one reply; `number` is the number of the next event after the two of the start.

    The start may be encoded after the first pieces, since a stream begins only when it has something to send."""

    def __init__(self, envelope: ResponseEnvelope, options: ResponsesOptions, clock: Callable[[], float]) -> None:
        self._envelope, self._options, self._clock = envelope, options, clock
        self._shown = _encode(options.shown)[1:]
        self._output: list[dict[str, Any]] = []
        self._item: dict[str, Any] | None = None  # the open message or reasoning, the last of the output
        self._part = ""  # kind of the open part
        self._texts: list[str] = []  # of the open part
        self._entries: list[dict[str, Any]] = []
        self._calls: dict[int, _OpenCall] = {}
        self._text_prefix = b""
        self._finish = ""
        self.number = len(START_KINDS)

    def encode_start(self) -> bytes:
        snapshot = ResponsesWriter(self._envelope, self._options, self._clock)._encode_snapshot("in_progress")
        return b"".join(
            encode_event(kind, sequence_number=at, response=snapshot) for at, kind in enumerate(START_KINDS)
        )

    def encode_text(self, text: str) -> bytes:
        if self._part != "output_text":
            return self._write_text("output_text", text)
        self._texts.append(text)
        number, self.number = self.number, self.number + 1
        return b'%b%d,"delta":%b}\n\n' % (self._text_prefix, number, _encode(text))

    def encode_piece(self, piece: ResponsePiece) -> bytes:
        self._finish = piece.finish or self._finish
        out = b""
        if piece.reasoning:
            out = self._write_text("summary_text" if self._options.summarizes else "reasoning_text", piece.reasoning)
        for data in piece.redacted:
            out += self._write_encrypted(data)
        if piece.text or piece.entries:
            logprobs = chat_logprobs(piece.entries, ResponseOptions(self._options.top_logprobs)) or {"content": ()}
            out += self._write_text("output_text", piece.text, logprobs["content"])
        if piece.refusal:
            out += self._write_text("refusal", piece.refusal)
        for call in piece.calls:
            out += self._write_call(call)
        return out

    def encode_end(self, used: dict[str, Any] | None) -> bytes:
        out, status = self._close_all(), self._status
        snapshot = self._encode_snapshot(status, usage=to_responses_usage(used))
        return out + self._encode_event(f"response.{status}", response=snapshot) + DONE_EVENT

    def encode_error(self, error: ApiError) -> bytes:
        """Encode the end of a stream that failed. Nothing that is open ends first."""
        code = "server_error" if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_prompt"
        code = "rate_limit_exceeded" if error.status == HTTPStatus.TOO_MANY_REQUESTS else code
        snapshot = self._encode_snapshot("failed", error={"code": code, "message": error.message})
        return self._encode_event("response.failed", response=snapshot) + DONE_EVENT

    def encode_response(self, pieces: Sequence[ResponsePiece], used: dict[str, Any] | None) -> bytes:
        self.encode_piece(pieces[0])
        self._close_all()
        return bytes(self._encode_snapshot(self._status, usage=to_responses_usage(used)))

    @property
    def _status(self) -> str:
        return "incomplete" if self._finish in INCOMPLETE_REASONS else "completed"

    def _encode_event(self, kind: str, **fields: Any) -> bytes:
        number, self.number = self.number, self.number + 1
        return encode_event(kind, sequence_number=number, **fields)

    def _encode_snapshot(
        self, status: str, *, usage: dict[str, Any] | None = None, error: dict[str, Any] | None = None
    ) -> msgspec.Raw:
        """Encode the response object."""
        reason = INCOMPLETE_REASONS.get(self._finish) if status == "incomplete" else None
        completed_at = int(self._clock()) if status == "completed" else None
        fields = {
            **{"id": self._envelope.id, "object": "response", "created_at": self._envelope.created},
            **{"status": status, "completed_at": completed_at, "error": error},
            "incomplete_details": None if reason is None else {"reason": reason},
            **{"output": self._output, "usage": usage},
        }
        return msgspec.Raw(_encode(fields)[:-1] + b"," + self._shown)

    def _write_text(self, kind: str, text: str, entries: Sequence[dict[str, Any]] = ()) -> bytes:
        """Write a piece of text; its part and its item are opened if another kind is open."""
        part = _PARTS[kind]
        out = b"" if self._part == kind else self._open_part(kind, part)
        self._texts.append(text)
        self._entries += entries
        more = {"logprobs": entries} if kind == "output_text" else {}
        return out + self._encode_event(f"{part.event}.delta", **self._place(part), delta=text, **more)

    def _open_part(self, kind: str, part: _PartKind) -> bytes:
        out = self._close_part()
        if self._item is None or self._item["type"] != part.item:
            out += self._close_item() + self._open_item(part.item)
        self._part, self._texts, self._entries = kind, [], []
        place = self._place(part)
        if kind == "output_text":
            head = {"type": f"{part.event}.delta", **place, "logprobs": [], "sequence_number": 0}
            self._text_prefix = b"event: %b\ndata: %b" % (head["type"].encode(), _encode(head)[:-2])
        return out + self._encode_event(f"{part.part_event}.added", **place, part=self._build_part(kind, ""))

    def _open_item(self, kind: str) -> bytes:
        lists: dict[str, Any] = {"role": "assistant"} if kind == "message" else {"summary": []}
        item_id = self._item_id("msg_" if kind == "message" else "rs_")
        self._item = {"id": item_id, "type": kind, "status": "in_progress", **lists, "content": []}
        return self._add_item(self._item)

    def _add_item(self, item: dict[str, Any]) -> bytes:
        self._output.append(item)
        return self._encode_event("response.output_item.added", output_index=len(self._output) - 1, item=item)

    def _item_id(self, prefix: str) -> str:
        return f"{prefix}{self._envelope.id.removeprefix('resp_')}_{len(self._output)}"

    def _place(self, part: _PartKind) -> dict[str, Any]:
        assert self._item is not None, "a part outside an item"
        number = len(self._item[part.holder])
        return {"item_id": self._item["id"], "output_index": len(self._output) - 1, part.position: number}

    def _build_part(self, kind: str, text: str) -> dict[str, Any]:
        more = {"annotations": [], "logprobs": self._entries} if kind == "output_text" else {}
        return {"type": kind, _PARTS[kind].text: text, **more}

    def _close_part(self) -> bytes:
        kind, self._part = self._part, ""
        if not kind or self._item is None:
            return b""
        part, text, place = _PARTS[kind], "".join(self._texts), self._place(_PARTS[kind])
        built = self._build_part(kind, text)
        self._item[part.holder].append(built)
        more = {"logprobs": self._entries} if kind == "output_text" else {}
        out = self._encode_event(f"{part.event}.done", **place, **{part.text: text}, **more)
        return out + self._encode_event(f"{part.part_event}.done", **place, part=built)

    def _close_item(self, status: str = "completed") -> bytes:
        out = self._close_part()
        item, self._item = self._item, None
        return out if item is None else out + self._end_item(item, len(self._output) - 1, status)

    def _end_item(self, item: dict[str, Any], index: int, status: str) -> bytes:
        item["status"] = status
        return self._encode_event("response.output_item.done", output_index=index, item=item)

    def _write_encrypted(self, data: str) -> bytes:
        """End the open reasoning, or an empty one, with its encrypted content."""
        out = self._close_part()
        if self._item is None or self._item["type"] != "reasoning":
            out += self._close_item() + self._open_item("reasoning")
        if self._item is not None:
            self._item["encrypted_content"] = data
        return out + self._close_item()

    def _write_call(self, call: ToolCall) -> bytes:
        called, known, out = call.called_function, self._calls.get(call.index), b""
        if known is None:
            out = self._close_item()
            known = self._calls[call.index] = self._build_call(call)
            out += self._add_item(known.item)
        if called.name:
            known.item.update(self._name_call(called.name))
        if called.arguments:
            known.texts.append(called.arguments)
            out += self._encode_event(f"{known.event}.delta", **known.place, delta=called.arguments)
        return out

    def _build_call(self, call: ToolCall) -> _OpenCall:
        kind, prefix, event, field = ("function_call", "fc_", "function_call_arguments", "arguments")
        if call.custom is not None:
            kind, prefix, event, field = ("custom_tool_call", "ctc_", "custom_tool_call_input", "input")
        item_id, name = self._item_id(prefix), self._name_call(call.called_function.name or "")
        call_id = call.id or f"call_{item_id}"
        item = {"id": item_id, "type": kind, "status": "in_progress", "call_id": call_id, **name, field: ""}
        place = {"item_id": item_id, "output_index": len(self._output)}
        return _OpenCall(item, [], place, f"response.{event}", field)

    def _name_call(self, name: str) -> dict[str, Any]:
        namespace, inner = self._options.namespaces.get(name, ("", name))
        return {"name": inner, "namespace": namespace} if namespace else {"name": name}

    def _close_all(self) -> bytes:
        """End everything that is open; it is incomplete if the reply is."""
        status = self._status
        out = self._close_item(status)
        for item, texts, place, event, field in self._calls.values():
            item[field] = "".join(texts)
            out += self._encode_event(f"{event}.done", **place, **{field: item[field]})
            out += self._end_item(item, place["output_index"], status)
        self._calls.clear()
        return out


def to_responses_usage(used: dict[str, Any] | None) -> dict[str, Any]:
    """Convert the usage of a chat; without usage all counts are 0, because clients need the object."""
    usage = used or {}
    read, written = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    details = usage.get("prompt_tokens_details", {})
    cached, created = details.get("cached_tokens", 0), details.get("cache_write_tokens", 0)
    reasoning = usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": created},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": usage.get("total_tokens", read + written),
        **{name: usage[name] for name in ("cost_usd",) if name in usage},
    }
