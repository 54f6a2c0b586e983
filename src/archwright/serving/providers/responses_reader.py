"""Read the event stream of an engine that speaks the Responses interface, as OpenAI chat events.

Summaries of reasoning count as reasoning. Encrypted reasoning is passed on as it is.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from archwright.http_client.sse import ServerSentEvent
from archwright.serving.events.engine_events import (
    DONE_MARK,
    ChoiceDelta,
    CompletionChoice,
    CustomCall,
    EngineEvent,
    FunctionCall,
    ToolCall,
)

PATH = "/responses"
ENDS = frozenset({"completed", "incomplete", "failed"})
REASONING_DELTAS = frozenset({"reasoning_text.delta", "reasoning.delta", "reasoning_summary_text.delta"})
CALL_DELTAS = frozenset({"function_call_arguments.delta", "custom_tool_call_input.delta"})
CALL_KINDS = frozenset({"function_call", "custom_tool_call"})
USAGE_FIELDS = {
    **{"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens", "total_tokens": "total_tokens"},
    **{"input_tokens_details": "prompt_tokens_details", "output_tokens_details": "completion_tokens_details"},
}
FINISH_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}
ERROR_STATUSES = {"rate_limit_exceeded": HTTPStatus.TOO_MANY_REQUESTS, "invalid_prompt": HTTPStatus.BAD_REQUEST}


class _Item(msgspec.Struct, gc=False):
    type: str = ""
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    encrypted_content: str | None = None


class _StreamEvent(msgspec.Struct, gc=False):
    type: str
    output_index: int = 0
    summary_index: int = 0
    delta: str = ""
    logprobs: list[Any] | None = None
    item: _Item | None = None
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    code: str | None = None
    message: str | None = None


_decode = msgspec.json.Decoder(_StreamEvent).decode


class ResponsesEventReader:
    """Reads the event stream of one reply. Raises msgspec.DecodeError."""

    def __init__(self) -> None:
        self.done = False
        self._calls: dict[int, int] = {}  # index of the item -> index of the call

    def read(self, event: ServerSentEvent) -> Iterable[EngineEvent]:
        if event.data == DONE_MARK:
            return ()
        parsed = _decode(event.data)
        kind, index = parsed.type.removeprefix("response."), parsed.output_index
        if kind == "output_text.delta":
            logprobs = {"content": parsed.logprobs} if parsed.logprobs else None
            return [EngineEvent([CompletionChoice(delta=ChoiceDelta(content=parsed.delta), logprobs=logprobs)])]
        if kind in REASONING_DELTAS:
            return [_delta_event(reasoning_content=parsed.delta)]
        if kind == "reasoning_summary_part.added" and parsed.summary_index:
            return [_delta_event(reasoning_content="\n\n")]
        if kind == "refusal.delta":
            return [_delta_event(refusal=parsed.delta)]
        if kind in CALL_DELTAS and index in self._calls:
            return [_delta_event(tool_calls=[ToolCall(self._calls[index], None, FunctionCall(None, parsed.delta))])]
        if parsed.item is not None:
            return self._read_item(kind, index, parsed.item)
        if kind == "error":
            return [_error_event(parsed.error or {"message": parsed.message, "code": parsed.code})]
        if kind in ENDS:
            return self._read_end(kind, parsed.response or {})
        return ()

    def _read_item(self, kind: str, index: int, item: _Item) -> Iterable[EngineEvent]:
        if kind == "output_item.done" and item.encrypted_content:
            return [_delta_event(redacted=item.encrypted_content)]
        if kind != "output_item.added" or item.type not in CALL_KINDS:
            return ()
        self._calls[index] = number = len(self._calls)
        if item.type == "custom_tool_call":
            return [_delta_event(tool_calls=[ToolCall(number, item.call_id, None, CustomCall(item.name, ""))])]
        name = f"{item.namespace}__{item.name}" if item.namespace else item.name
        return [_delta_event(tool_calls=[ToolCall(number, item.call_id, FunctionCall(name, ""))])]

    def _read_end(self, kind: str, response: dict[str, Any]) -> Iterable[EngineEvent]:
        if kind == "failed":
            return [_error_event(response.get("error") or {})]
        self.done = True
        finish = "tool_calls" if self._calls else "stop"
        if kind == "incomplete":
            finish = FINISH_REASONS.get(str((response.get("incomplete_details") or {}).get("reason")), "length")
        usage = response.get("usage")
        choice = CompletionChoice(delta=ChoiceDelta(), finish_reason=finish)
        counts = {name: usage.get(sent) for sent, name in USAGE_FIELDS.items()} if type(usage) is dict else None
        return [EngineEvent([choice], counts)]


def _error_event(error: dict[str, Any]) -> EngineEvent:
    return EngineEvent(error={**error, "code": ERROR_STATUSES.get(str(error.get("code")), 500)})


def _delta_event(**fields: Any) -> EngineEvent:
    return EngineEvent([CompletionChoice(delta=ChoiceDelta(**fields))])
