"""Engines that speak the Messages API: OpenAI requests are translated to it, its events to OpenAI's.

A field that would change the answer and has no counterpart is refused by name; one that promises nothing (a seed) is
dropped. Requests of the Messages interface itself are passed on as they are. Fields: API reference, version 2023-06-01.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from archwright.http_client.client import NO_HEADERS, EngineClient, EngineRefused
from archwright.http_client.sse import ServerSentEvent
from archwright.serving.events.engine_events import ChoiceDelta, CompletionChoice, EngineEvent, FunctionCall, ToolCall
from archwright.serving.http.errors import ENGINE_OVERLOADED, ApiError, bad_request, invalid_value, unsupported_value
from archwright.serving.providers.protocol import EngineRequest
from archwright.serving.requests.field_checks import decode_body

API_VERSION = "2023-06-01"
BETA_HEADER_NAME = "anthropic-beta"
PATH = "/messages"
# The fields that decide the length of a prompt; others are refused by the count endpoint.
PROMPT_FIELDS = (
    *("model", "messages", "system", "tools", "tool_choice"),
    *("thinking", "output_config", "context_management"),
)
FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
ERROR_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": ENGINE_OVERLOADED,
}
TOOL_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
SERVICE_TIERS = {"auto": "auto", "default": "standard_only"}
# OpenAI's scale of effort has levels that this one lacks.
EFFORT_LEVELS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh"}
# Set by us, or without meaning there: hints that promise nothing, the caller's bookkeeping.
IGNORED_FIELDS = frozenset(
    {
        *("seed", "n", "store", "prompt_cache_key", "safety_identifier", "modalities", "verbosity"),
        *("ignore_eos", "cache_prompt"),
    }
)
UNSUPPORTED_FIELDS = frozenset(
    {"logprobs", "top_logprobs", "logit_bias", "min_p", "prediction", "web_search_options", "audio"}
)
_TRANSLATED_FIELDS = frozenset(
    {
        *("model", "messages", "max_tokens", "stop", "user", "temperature", "metadata", "service_tier"),
        *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"),
    }
)
NEUTRAL_VALUES = {"presence_penalty": 0, "frequency_penalty": 0}
DATA_URL = "data:"


class AnthropicProvider:
    def headers(self, key: str) -> Mapping[str, str]:
        return {"x-api-key": key, "anthropic-version": API_VERSION}

    def build_request(
        self, path: str, body: dict[str, Any], native: dict[str, Any] | None, *, whole: bool = False, betas: str = ""
    ) -> EngineRequest:
        del whole  # the API refuses long answers unless they stream
        if path != "/chat/completions":
            raise bad_request(f"this model does not answer at {path}; ask for a chat", "model", "unsupported_model")
        if native is not None:
            headers = {BETA_HEADER_NAME: betas} if betas else NO_HEADERS
            sent = {**native, "model": body["model"], "stream": True}
            return EngineRequest(PATH, sent, MessagesEventReader(), headers=headers)
        return EngineRequest(PATH, to_messages_request(body), MessagesEventReader())

    def adapt_request(self, asked: EngineRequest, error: EngineRefused) -> bool:
        del asked, error
        return False

    async def count_tokens(
        self, client: EngineClient, body: dict[str, Any], native: dict[str, Any] | None, betas: str = ""
    ) -> int:
        asked = self.build_request("/chat/completions", body, native, betas=betas)
        kept = {name: value for name, value in asked.body.items() if name in PROMPT_FIELDS}
        found = (await client.post(f"v1{PATH}/count_tokens", kept, asked.headers)).get("input_tokens")
        return found if type(found) is int else 0


def to_messages_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """A validated chat body as a Messages request. Raises ApiError 400."""
    system, messages = _translate_messages(body["messages"])
    asked: dict[str, Any] = {"model": body["model"], "max_tokens": body["max_tokens"], "messages": messages}
    asked["stream"] = True
    if system:
        asked["system"] = system
    for name, value in body.items():
        if name in UNSUPPORTED_FIELDS or (name in NEUTRAL_VALUES and value != NEUTRAL_VALUES[name]):
            raise bad_request(f"{name!r} is not supported by this model's provider", name, "unsupported_parameter")
        if name not in IGNORED_FIELDS and name not in NEUTRAL_VALUES and name not in _TRANSLATED_FIELDS:
            asked[name] = value  # the provider may know it
    _translate_sampling(body, asked)
    _translate_tools(body, asked)
    _translate_output(body, asked)
    return asked


def _translate_sampling(body: Mapping[str, Any], asked: dict[str, Any]) -> None:
    temperature = body.get("temperature")
    if temperature is not None:
        if temperature > 1:
            raise invalid_value("'temperature' must be a number from 0 to 1 for this model", "temperature")
        asked["temperature"] = temperature
    if body.get("stop"):
        asked["stop_sequences"] = body["stop"]
    if body.get("user"):
        asked["metadata"] = {"user_id": body["user"]}
    if body.get("service_tier") in SERVICE_TIERS:
        asked["service_tier"] = SERVICE_TIERS[body["service_tier"]]


def _translate_tools(body: Mapping[str, Any], asked: dict[str, Any]) -> None:
    if not body.get("tools"):
        return
    asked["tools"] = [_translate_tool(tool["function"]) for tool in body["tools"]]
    wanted = body.get("tool_choice", "auto")
    choice: dict[str, Any] = {"type": TOOL_CHOICES[wanted] if type(wanted) is str else "tool"}
    if type(wanted) is dict:
        choice["name"] = wanted["function"]["name"]
    if body.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    asked["tool_choice"] = choice


def _translate_tool(function: Mapping[str, Any]) -> dict[str, Any]:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    told = {"description": function["description"]} if function.get("description") else {}
    return {"name": function["name"], **told, "input_schema": schema}


def _translate_output(body: Mapping[str, Any], asked: dict[str, Any]) -> None:
    config: dict[str, Any] = {}
    form = body.get("response_format")
    if form is not None:
        if form["type"] != "json_schema":
            message = "'response_format': this model's provider takes a json_schema only"
            raise unsupported_value(message, "response_format")
        config["format"] = {"type": "json_schema", "schema": form["json_schema"]["schema"]}
    effort = EFFORT_LEVELS.get(body.get("reasoning_effort", ""))
    if effort is not None:
        config["effort"] = effort
    if config:
        asked["output_config"] = config


def _translate_messages(messages: Iterable[Mapping[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The system prompt, and the turns: neighbouring messages of one side become one turn, as required."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = message["role"]
        if role in ("system", "developer"):
            system.append(_join_text_parts(message["content"]))
            continue
        side = "assistant" if role == "assistant" else "user"
        blocks = _message_blocks(message)
        if not blocks:
            continue  # the API refuses an empty turn
        if turns and turns[-1]["role"] == side:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": side, "content": blocks})
    return "\n\n".join(system), turns


def _message_blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content, refusal = message.get("content"), message.get("refusal")
    if not content and type(refusal) is str:
        content = refusal
    if message["role"] == "tool":
        return [{"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": _join_text_parts(content)}]
    parts = [{"type": "text", "text": content}] if type(content) is str else content or ()
    blocks = [_content_block(part) for part in parts if part.get("type") != "text" or part["text"]]
    return blocks + [_tool_use_block(call) for call in message.get("tool_calls") or ()]


def _content_block(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] in ("text", "refusal"):
        return {"type": "text", "text": str(part.get(part["type"]))}
    if part["type"] != "image_url":
        raise unsupported_value(f"this model's provider takes no {part['type']!r} parts", "messages")
    url: str = part["image_url"]["url"]
    if not url.startswith(DATA_URL):
        return {"type": "image", "source": {"type": "url", "url": url}}
    kind, _, data = url.removeprefix(DATA_URL).partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _tool_use_block(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        given = decode_body((function["arguments"] or "{}").encode())
    except (ApiError, UnicodeError) as error:
        raise invalid_value("the arguments of an earlier tool call are no JSON object", "messages") from error
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": given}


def _join_text_parts(content: object) -> str:
    """The text of a system prompt or a call's result, which may be in parts."""
    parts: Any = [{"type": "text", "text": content}] if type(content) is str else content or ()
    other = next((part["type"] for part in parts if part["type"] != "text"), None)
    if other is not None:
        raise unsupported_value(f"this model's provider takes no {other!r} parts there", "messages")
    return "".join(part["text"] for part in parts)


class _BlockDelta(msgspec.Struct, gc=False):
    """A delta of a block or of the message, or a block as it begins."""

    type: str = ""
    text: str = ""
    partial_json: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str | None = None
    name: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(msgspec.Struct, gc=False):
    usage: _Usage | None = None


class _StreamEvent(msgspec.Struct, gc=False):
    type: str
    index: int = 0
    delta: _BlockDelta | None = None
    content_block: _BlockDelta | None = None
    message: _Message | None = None
    usage: _Usage | None = None
    error: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_StreamEvent).decode


class MessagesEventReader:
    """Reads the event stream of one reply. Raises msgspec.DecodeError."""

    def __init__(self) -> None:
        self.done = False
        self._used = _Usage(0, 0, 0, 0)
        self._calls: dict[int, int] = {}  # block to number of the call
        self._silent: set[int] = set()  # blocks of calls without arguments yet

    def read(self, event: ServerSentEvent) -> Iterable[EngineEvent]:
        told = _decode(event.data)
        if told.type == "content_block_delta" and told.delta is not None:
            return self._read_block_delta(told.index, told.delta)
        if told.type == "content_block_start" and told.content_block is not None:
            return self._read_block_start(told.index, told.content_block)
        if told.type == "content_block_stop" and told.index in self._silent:
            return [_tool_call_event(ToolCall(self._calls[told.index], None, FunctionCall(None, "{}")))]
        if told.type == "message_start" and told.message is not None:
            self._update_usage(told.message.usage)
            return ()
        if told.type == "message_delta":
            return self._read_message_delta(told)
        if told.type == "error":
            found = told.error or {}
            return [EngineEvent(error={**found, "code": ERROR_STATUSES.get(str(found.get("type")), 500)})]
        self.done = told.type == "message_stop"
        return ()  # a ping, or what a later version says

    def _read_block_start(self, index: int, block: _BlockDelta) -> Iterable[EngineEvent]:
        if block.type == "tool_use":
            self._calls[index] = number = len(self._calls)
            self._silent.add(index)
            return [_tool_call_event(ToolCall(number, block.id, FunctionCall(block.name, "")))]
        if block.type == "redacted_thinking":
            return [_delta_event(ChoiceDelta(redacted=block.data))]
        return [_delta_event(ChoiceDelta(content=block.text))] if block.text else ()

    def _read_block_delta(self, index: int, said: _BlockDelta) -> Iterable[EngineEvent]:
        if said.text:
            return [_delta_event(ChoiceDelta(content=said.text))]
        if said.partial_json and index in self._calls:
            self._silent.discard(index)
            return [_tool_call_event(ToolCall(self._calls[index], None, FunctionCall(None, said.partial_json)))]
        if said.thinking:
            return [_delta_event(ChoiceDelta(reasoning_content=said.thinking))]
        return [_delta_event(ChoiceDelta(signature=said.signature))] if said.signature else ()

    def _read_message_delta(self, told: _StreamEvent) -> Iterable[EngineEvent]:
        self._update_usage(told.usage)
        said = told.delta or _BlockDelta()
        finish = FINISH_REASONS.get(said.stop_reason, "stop") if said.stop_reason else None
        choice = CompletionChoice(delta=ChoiceDelta(), finish_reason=finish, stop_reason=said.stop_sequence)
        return [EngineEvent([choice], self._to_openai_usage())]

    def _update_usage(self, used: _Usage | None) -> None:
        """Counts in a stream are totals: the last one of each holds."""
        for name in _Usage.__struct_fields__ if used is not None else ():
            value = getattr(used, name)
            if value is not None:
                setattr(self._used, name, value)

    def _to_openai_usage(self) -> dict[str, Any]:
        used = self._used
        cached = used.cache_read_input_tokens or 0
        read = (used.input_tokens or 0) + cached + (used.cache_creation_input_tokens or 0)
        written = used.output_tokens or 0
        counted = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return {**counted, "prompt_tokens_details": {"cached_tokens": cached}} if cached else counted


def _delta_event(delta: ChoiceDelta) -> EngineEvent:
    return EngineEvent([CompletionChoice(delta=delta)])


def _tool_call_event(call: ToolCall) -> EngineEvent:
    return _delta_event(ChoiceDelta(tool_calls=[call]))
