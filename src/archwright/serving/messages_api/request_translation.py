"""Translate Messages requests to chats for any model (`messages_writer` writes the reply).

Fields with the same meaning in a chat are translated, cache control is dropped, other fields are rejected by name. If
the model's provider supports the interface itself, the client's body and betas are passed on with only the model's name
replaced; fields that cost more than the configured price are rejected. Fields: API reference, version 2023-06-01.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from archwright.serving.http.errors import (
    THREAD_UNSUPPORTED,
    bad_request,
    invalid_value,
    unsupported_field,
    unsupported_value,
)
from archwright.serving.messages_api import schema
from archwright.serving.providers.anthropic import BETA_HEADER_NAME
from archwright.serving.requests import field_checks
from archwright.serving.requests.model_resolution import ModelDirectory, ResolvedModel
from archwright.serving.requests.multimodal import count_parts
from archwright.serving.requests.request_validation import GenerationRequest, reject_unbounded, validate_chat_fields
from archwright.serving.settings.config import Endpoint

_encode = msgspec.json.Encoder().encode
TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
SERVICE_TIERS = {"auto": "auto", "standard_only": "default"}
BETA_HEADER = BETA_HEADER_NAME.encode()
MAX_BETAS = 32
LONG_CONTEXT_PREFIX = "context-1m-"
_BETA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KNOWN_FIELDS = frozenset({"model", *schema.MessagesRequest.__struct_fields__})


def translate_request(
    body: Mapping[str, Any], directory: ModelDirectory, workload: str | None, betas: str | None = None
) -> GenerationRequest:
    """Validate a request for the endpoint that it names. `betas`: the request's header. Raises ApiError."""
    found = directory.resolve(body.get("model"), workload)
    endpoint = found.endpoints[0]
    field_checks.require_field(body.get("max_tokens"), "max_tokens")
    if body.get("thread") is not None:
        # Rejected also for a provider that has threads, because the gateway cannot bound their size.
        raise bad_request("'thread' is not supported; send the whole conversation", "thread", THREAD_UNSUPPORTED)
    if endpoint.protocol == "anthropic":
        return _pass_through(body, found, endpoint, betas or "")
    for name in body:
        if name not in KNOWN_FIELDS:
            raise field_checks.unknown_field(name, dict.fromkeys(KNOWN_FIELDS))
    try:
        request = msgspec.convert(body, schema.MessagesRequest)
    except msgspec.ValidationError as error:
        raise _invalid_field_error(error) from None
    return validate_chat_fields(_to_chat(request, endpoint), found)


def _pass_through(body: Mapping[str, Any], found: ResolvedModel, endpoint: Endpoint, betas: str) -> GenerationRequest:
    """Build a request for a provider that supports the interface and checks the other fields itself."""
    field_checks.require_list_price(body, endpoint)
    reject_unbounded(body)
    length = field_checks.integer_between(1, endpoint.context_tokens)(body["max_tokens"], "max_tokens", endpoint)
    stream = field_checks.check_boolean(body.get("stream", False), "stream", endpoint)
    for name, value in (("messages", body.get("messages")), ("stop_sequences", body.get("stop_sequences") or [])):
        if type(value) is not list:
            raise bad_request(f"{name!r} must be a list", name, "invalid_type")
    field_checks.reject_provider_tools(body)
    field_checks.reject_compaction(body)
    return GenerationRequest(
        model=found.name,
        endpoint=endpoint,
        body={"model": endpoint.model, "messages": body["messages"], "max_tokens": length},
        plain=found.plain,
        stream=stream,
        prompt_characters=len(_encode(body["messages"])) + len(_encode(body.get("system"))),
        native={**body, "model": endpoint.model},
        betas=_check_betas(betas, endpoint),
        parts=count_parts(body),
    )


def _check_betas(header: str, endpoint: Endpoint) -> str:
    """Return the header's sorted names. Unknown names pass; a name with another price raises ApiError 400."""
    names = sorted({name for part in header.split(",") if (name := part.strip(" \t"))})
    if len(names) > MAX_BETAS or not all(map(_BETA_NAME.fullmatch, names)):
        form = f"up to {MAX_BETAS} comma-separated names of letters, digits, '-', '_' and '.'"
        raise invalid_value(f"{BETA_HEADER_NAME!r} must be {form}", BETA_HEADER_NAME)
    long_context = [name for name in names if endpoint.charged and name.startswith(LONG_CONTEXT_PREFIX)]
    if long_context:
        message = f"{BETA_HEADER_NAME!r}: {long_context[0]!r} {field_checks.OTHER_PRICE}; omit it"
        raise unsupported_value(message, BETA_HEADER_NAME)
    return ",".join(names)


def _invalid_field_error(error: msgspec.ValidationError) -> Exception:
    """Name the field in the interface's notation: messages.0.content."""
    problem, _, path = str(error).partition(" - at `$")
    quoted = problem.split("`")[1] if "`" in problem else "body"
    name = path.rstrip("`").lstrip(".").replace("[", ".").replace("]", "") or quoted
    if problem.startswith("Object missing required field `"):
        name = f"{name}.{quoted}" if path else quoted
        return bad_request(f"{name}: field required", name, "missing_required_parameter")
    return invalid_value(f"{name}: {problem}", name)


def _to_chat(request: schema.MessagesRequest, endpoint: Endpoint) -> dict[str, Any]:
    """Return the fields of the equivalent chat."""
    messages: list[dict[str, Any]] = []
    if request.system:
        parts = request.system
        system = parts if type(parts) is str else "\n\n".join(part.text for part in parts)  # type: ignore[union-attr]
        messages.append({"role": "system", "content": system})
    for number, turn in enumerate(request.messages):
        messages += _translate_message(turn, f"messages.{number}")
    chat: dict[str, Any] = {
        "messages": messages,
        # Clients must send the field, so their default may exceed this model's context.
        "max_tokens": min(request.max_tokens, endpoint.context_tokens),
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": request.stop_sequences,
        "temperature": request.temperature,
        "stream": request.stream,
        "stream_options": {"include_usage": True} if request.stream else None,
        "user": (request.metadata or {}).get("user_id"),
    }
    if request.temperature is not None and request.temperature > 1:
        raise invalid_value("'temperature' must be a number from 0 to 1", "temperature")
    if (request.thinking or {}).get("type") == "enabled":
        raise unsupported_field("this model does not support 'thinking'; remove the field", "thinking")
    if request.service_tier is not None and not endpoint.strict:
        chat["service_tier"] = SERVICE_TIERS.get(request.service_tier, request.service_tier)
    for edit in request.context_management.edits if request.context_management else ():
        if not edit.type.startswith("clear_thinking"):  # a chat has no thinking to clear
            at = "context_management.edits"
            raise unsupported_value(f"{at}: this model does not support the edit {edit.type!r}", at)
    config = request.output_config or schema.OutputConfig(format=request.output_format)
    return {**chat, **_translate_tools(request), **_translate_output(config, endpoint)}


def _translate_tools(request: schema.MessagesRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for number, tool in enumerate(request.tools or ()):
        if tool.type not in (None, "custom"):
            at = f"tools.{number}.type"
            raise unsupported_value(f"{at}: this model does not support the provider tool {tool.type!r}", at)
        parameters = field_checks.require_field(tool.input_schema, f"tools.{number}.input_schema")
        function = {"name": tool.name, "description": tool.description, "parameters": parameters}
        fields.setdefault("tools", []).append({"type": "function", "function": {**function, "strict": tool.strict}})
    choice = request.tool_choice
    if choice is None:
        return fields
    if choice.type == "tool":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice.type in TOOL_CHOICES:
        fields["tool_choice"] = TOOL_CHOICES[choice.type]
    else:
        allowed = ", ".join((*TOOL_CHOICES, "tool"))
        raise invalid_value(f"'tool_choice.type' must be one of {allowed}", "tool_choice.type")
    return {**fields, "parallel_tool_calls": False} if choice.disable_parallel_tool_use else fields


def _translate_output(config: schema.OutputConfig, endpoint: Endpoint) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if config.format is not None:
        inner = {"name": "reply", "schema": config.format.get("schema"), "strict": True}
        fields["response_format"] = {"type": config.format.get("type"), "json_schema": inner}
    if config.effort is not None and not endpoint.strict:
        fields["reasoning_effort"] = config.effort
    return fields


def _translate_message(turn: schema.InputMessage, name: str) -> list[dict[str, Any]]:
    """Return the chat messages of one turn: first each tool result, then the other blocks."""
    if turn.role not in ("user", "assistant", "system"):
        raise invalid_value(f"{name}.role: must be 'user' or 'assistant'", f"{name}.role")
    if type(turn.content) is str:
        return [{"role": turn.role, "content": turn.content}]
    messages: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in turn.content:
        if isinstance(block, schema.TextBlock | schema.ImageBlock):
            parts.append(_translate_part(block))
        elif isinstance(block, schema.ToolUseBlock):
            function = {"name": block.name, "arguments": _encode(block.input).decode()}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif isinstance(block, schema.ToolResultBlock):
            inner = [schema.TextBlock(block.content)] if type(block.content) is str else block.content
            results = [_translate_part(part) for part in inner]  # type: ignore[arg-type]
            text = "".join(part["text"] for part in results if part["type"] == "text")
            messages.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
            parts += [part for part in results if part["type"] != "text"]
    if calls:
        messages.append({"role": turn.role, "content": parts or None, "tool_calls": calls})
    elif parts or not messages:
        messages.append({"role": turn.role, "content": parts or ""})
    return messages


def _translate_part(block: schema.TextBlock | schema.ImageBlock) -> dict[str, Any]:
    if isinstance(block, schema.TextBlock):
        return {"type": "text", "text": block.text}
    source = block.source
    url = source.url if isinstance(source, schema.UrlSource) else f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}
