"""Provider for the Messages API: translates OpenAI requests to it, and its events to OpenAI events.

A field without a counterpart is rejected by name if it would change the reply, and dropped if it is only a hint (a
seed). Requests of the Messages interface itself are passed on unchanged. Fields: API reference, version 2023-06-01.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from archwright.http_client.client import NO_HEADERS, EngineClient
from archwright.http_client.sse import ServerSentEvent
from archwright.serving.events.engine_events import ChoiceDelta, CompletionChoice, EngineEvent, FunctionCall, ToolCall
from archwright.serving.http.errors import ENGINE_OVERLOADED, ApiError, bad_request, invalid_value, unsupported_value
from archwright.serving.providers.protocol import CHAT_PATH, Body, EngineRequest, Provider
from archwright.serving.requests.field_checks import decode_body

API_VERSION = "2023-06-01"
BETA_HEADER_NAME = "anthropic-beta"
PATH = "/messages"
# The fields that determine the prompt's length. The count endpoint rejects other fields.
PROMPT_FIELDS = frozenset(
    {"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "context_management"}
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
# OpenAI's effort scale has levels that this API lacks.
EFFORT_LEVELS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh"}
# Fields that the gateway sets or this API does not need: hints, and labels for the caller's own records.
IGNORED_FIELDS = frozenset(
    {"seed", "n", "store", "prompt_cache_key", "safety_identifier", "modalities", "verbosity"}
    | {"ignore_eos", "cache_prompt"}
)
UNSUPPORTED_FIELDS = frozenset(
    {"logprobs", "top_logprobs", "logit_bias", "min_p", "prediction", "web_search_options", "audio"}
)
_TRANSLATED_FIELDS = frozenset(
    {"model", "messages", "max_tokens", "stop", "user", "temperature", "metadata", "service_tier"}
    | {"tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"}
)
NEUTRAL_VALUES = {"presence_penalty": 0, "frequency_penalty": 0}
DATA_URL = "data:"


class AnthropicProvider(Provider):
    def headers(self, key: str) -> Mapping[str, str]:
        return {"x-api-key": key, "anthropic-version": API_VERSION}

    def build_request(
        self, path: str, body: Body, native: Body | None, *, whole: bool = False, betas: str = ""
    ) -> EngineRequest:
        del whole  # the API rejects long replies that are not streams
        if path != CHAT_PATH:
            raise bad_request(f"this model does not support {path}; use {CHAT_PATH}", "model", "unsupported_model")
        if native is not None:
            headers = {BETA_HEADER_NAME: betas} if betas else NO_HEADERS
            sent = {**native, "model": body["model"], "stream": True}
            return EngineRequest(PATH, sent, MessagesEventReader(), headers=headers)
        return EngineRequest(PATH, to_messages_request(body), MessagesEventReader())

    async def count_tokens(self, client: EngineClient, body: Body, native: Body | None, betas: str = "") -> int:
        request = self.build_request(CHAT_PATH, body, native, betas=betas)
        prompt = {name: value for name, value in request.body.items() if name in PROMPT_FIELDS}
        tokens = (await client.post(f"v1{PATH}/count_tokens", prompt, request.headers)).get("input_tokens")
        return tokens if type(tokens) is int else 0


def to_messages_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a validated chat body to a Messages request. Raises ApiError 400."""
    system, messages = _translate_messages(body["messages"])
    request: dict[str, Any] = {"model": body["model"], "max_tokens": body["max_tokens"], "messages": messages}
    request["stream"] = True
    if system:
        request["system"] = system
    for name, value in body.items():
        if name in UNSUPPORTED_FIELDS or (name in NEUTRAL_VALUES and value != NEUTRAL_VALUES[name]):
            raise bad_request(f"this model's provider does not support {name!r}", name, "unsupported_parameter")
        if name not in IGNORED_FIELDS and name not in NEUTRAL_VALUES and name not in _TRANSLATED_FIELDS:
            request[name] = value  # the provider may support it
    temperature = body.get("temperature")
    if temperature is not None:
        if temperature > 1:
            raise invalid_value("'temperature' must be a number from 0 to 1 for this model", "temperature")
        request["temperature"] = temperature
    if body.get("stop"):
        request["stop_sequences"] = body["stop"]
    if body.get("user"):
        request["metadata"] = {"user_id": body["user"]}
    if body.get("service_tier") in SERVICE_TIERS:
        request["service_tier"] = SERVICE_TIERS[body["service_tier"]]
    _translate_tools(body, request)
    _translate_output(body, request)
    return request


def _translate_tools(body: Mapping[str, Any], request: dict[str, Any]) -> None:
    if not body.get("tools"):
        return
    request["tools"] = tools = []
    for function in (tool["function"] for tool in body["tools"]):
        description = {"description": function["description"]} if function.get("description") else {}
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        tools.append({"name": function["name"], **description, "input_schema": schema})
    requested = body.get("tool_choice", "auto")
    choice: dict[str, Any] = {"type": TOOL_CHOICES[requested] if type(requested) is str else "tool"}
    if type(requested) is dict:
        choice["name"] = requested["function"]["name"]
    if body.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    request["tool_choice"] = choice


def _translate_output(body: Mapping[str, Any], request: dict[str, Any]) -> None:
    config: dict[str, Any] = {}
    form = body.get("response_format")
    if form is not None:
        if form["type"] != "json_schema":
            message = "'response_format': this model's provider supports only json_schema"
            raise unsupported_value(message, "response_format")
        config["format"] = {"type": "json_schema", "schema": form["json_schema"]["schema"]}
    effort = EFFORT_LEVELS.get(body.get("reasoning_effort", ""))
    if effort is not None:
        config["effort"] = effort
    if config:
        request["output_config"] = config


def _translate_messages(messages: Iterable[Mapping[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Return the system prompt and the turns. The API requires adjacent messages of one role as one turn."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = message["role"]
        if role in ("system", "developer"):
            system.append(_join_text_parts(message["content"]))
            continue
        turn_role = "assistant" if role == "assistant" else "user"
        blocks = _message_blocks(message)
        if not blocks:
            continue  # the API rejects an empty turn
        if turns and turns[-1]["role"] == turn_role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": turn_role, "content": blocks})
    return "\n\n".join(system), turns


def _message_blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content, refusal = message.get("content"), message.get("refusal")
    if not content and type(refusal) is str:
        content = refusal
    if message["role"] == "tool":
        result = [_content_block(part) for part in content] if type(content) is list else _join_text_parts(content)
        return [{"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": result}]
    parts = [{"type": "text", "text": content}] if type(content) is str else content or ()
    blocks = [_content_block(part) for part in parts if part.get("type") != "text" or part["text"]]
    return blocks + [_tool_use_block(call) for call in message.get("tool_calls") or ()]


def _content_block(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] in ("text", "refusal"):
        return {"type": "text", "text": str(part.get(part["type"]))}
    if part["type"] != "image_url":
        raise unsupported_value(f"this model's provider does not support {part['type']!r} parts", "messages")
    kind, _, data = part["image_url"]["url"].removeprefix(DATA_URL).partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _tool_use_block(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = decode_body((function["arguments"] or "{}").encode())
    except (ApiError, UnicodeError) as error:
        raise invalid_value("the arguments of an earlier tool call are not a JSON object", "messages") from error
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}


def _join_text_parts(content: object) -> str:
    """Return the text of a system prompt or a tool result, which may consist of parts."""
    parts: Any = [{"type": "text", "text": content}] if type(content) is str else content or ()
    other = next((part["type"] for part in parts if part["type"] != "text"), None)
    if other is not None:
        message = f"this model's provider does not support {other!r} parts in a system prompt or tool result"
        raise unsupported_value(message, "messages")
    return "".join(part["text"] for part in parts)


class _BlockDelta(msgspec.Struct, gc=False):
    """A delta of a block or of the message, or the start of a block."""

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


class _CacheCreation(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None


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
        self._calls: dict[int, int] = {}  # index of the block -> index of the call
        self._without_arguments: set[int] = set()  # blocks of calls without arguments so far

    def read(self, event: ServerSentEvent) -> Iterable[EngineEvent]:
        parsed = _decode(event.data)
        if parsed.type == "content_block_delta" and parsed.delta is not None:
            return self._read_block_delta(parsed.index, parsed.delta)
        if parsed.type == "content_block_start" and parsed.content_block is not None:
            return self._read_block_start(parsed.index, parsed.content_block)
        if parsed.type == "content_block_stop" and parsed.index in self._without_arguments:
            return [_tool_call_event(ToolCall(self._calls[parsed.index], None, FunctionCall(None, "{}")))]
        if parsed.type == "message_start" and parsed.message is not None:
            self._update_usage(parsed.message.usage)
            return [EngineEvent(prompt_progress={"total": self._count_prompt()})]
        if parsed.type == "message_delta":
            return self._read_message_delta(parsed)
        if parsed.type == "error":
            error = parsed.error or {}
            return [EngineEvent(error={**error, "code": ERROR_STATUSES.get(str(error.get("type")), 500)})]
        self.done = parsed.type == "message_stop"
        return ()  # a ping, or an event of a later API version

    def _read_block_start(self, index: int, block: _BlockDelta) -> Iterable[EngineEvent]:
        if block.type == "tool_use":
            self._calls[index] = number = len(self._calls)
            self._without_arguments.add(index)
            return [_tool_call_event(ToolCall(number, block.id, FunctionCall(block.name, "")))]
        if block.type == "redacted_thinking":
            return [_delta_event(ChoiceDelta(redacted=block.data))]
        return [_delta_event(ChoiceDelta(content=block.text))] if block.text else ()

    def _read_block_delta(self, index: int, delta: _BlockDelta) -> Iterable[EngineEvent]:
        if delta.text:
            return [_delta_event(ChoiceDelta(content=delta.text))]
        if delta.partial_json and index in self._calls:
            self._without_arguments.discard(index)
            return [_tool_call_event(ToolCall(self._calls[index], None, FunctionCall(None, delta.partial_json)))]
        if delta.thinking:
            return [_delta_event(ChoiceDelta(reasoning_content=delta.thinking))]
        return [_delta_event(ChoiceDelta(signature=delta.signature))] if delta.signature else ()

    def _read_message_delta(self, parsed: _StreamEvent) -> Iterable[EngineEvent]:
        self._update_usage(parsed.usage)
        delta = parsed.delta or _BlockDelta()
        finish = FINISH_REASONS.get(delta.stop_reason, "stop") if delta.stop_reason else None
        choice = CompletionChoice(delta=ChoiceDelta(), finish_reason=finish, stop_reason=delta.stop_sequence)
        used, prompt = self._used, self._count_prompt()
        cached, output = used.cache_read_input_tokens or 0, used.output_tokens or 0
        created = used.cache_creation_input_tokens or 0
        counts = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
        details = {
            name: count for name, count in (("cached_tokens", cached), ("cache_creation_tokens", created)) if count
        }
        if created and used.cache_creation is not None:
            details["cache_creation_1h_tokens"] = used.cache_creation.ephemeral_1h_input_tokens or 0
        return [EngineEvent([choice], {**counts, "prompt_tokens_details": details} if details else counts)]

    def _count_prompt(self) -> int:
        """Return the tokens of the prompt so far, with those read from a cache and written to it."""
        used = self._used
        return (used.input_tokens or 0) + (used.cache_read_input_tokens or 0) + (used.cache_creation_input_tokens or 0)

    def _update_usage(self, used: _Usage | None) -> None:
        """Replace the counts: each count in a stream is a running total."""
        for name in _Usage.__struct_fields__ if used is not None else ():
            value = getattr(used, name)
            if value is not None:
                setattr(self._used, name, value)


def _delta_event(delta: ChoiceDelta) -> EngineEvent:
    return EngineEvent([CompletionChoice(delta=delta)])


def _tool_call_event(call: ToolCall) -> EngineEvent:
    return _delta_event(ChoiceDelta(tool_calls=[call]))
