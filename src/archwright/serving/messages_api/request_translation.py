"""The Messages interface in front of any model: its requests become chats (`messages_writer` writes the answer).

What has the same meaning in a chat is translated, marks for a provider's bill (cache control) are dropped, and the rest
is refused by name. If the model's provider speaks the interface itself, the client's body and betas are passed on with
only the model's name changed; what would cost more than the bill is refused. Fields: API reference, version 2023-06-01.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from archwright.serving.http.errors import THREAD_UNSUPPORTED, bad_request, invalid_value, unsupported_value
from archwright.serving.messages_api.schema import (
    ImageBlock,
    InputMessage,
    MessagesRequest,
    OutputConfig,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
)
from archwright.serving.providers.anthropic import BETA_HEADER_NAME
from archwright.serving.requests.field_checks import (
    integer_between,
    reject_compaction,
    reject_provider_tools,
    require_field,
    require_list_price,
    unknown_field,
)
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
KNOWN_FIELDS = frozenset({"model", *MessagesRequest.__struct_fields__})


def translate_request(
    body: Mapping[str, Any], directory: ModelDirectory, workload: str | None, betas: str | None = None
) -> GenerationRequest:
    """The request for the endpoint it names; `betas` is its header. Raises ApiError."""
    found = directory.resolve(body.get("model"), workload)
    endpoint = found.endpoints[0]
    require_field(body.get("max_tokens"), "max_tokens")
    if body.get("thread") is not None:
        # Also not for a provider that has threads: their size could not be bounded here.
        raise bad_request("'thread' is not supported: send the whole conversation", "thread", THREAD_UNSUPPORTED)
    if endpoint.protocol == "anthropic":
        return _pass_through(body, found, endpoint, betas or "")
    for name in body:
        if name not in KNOWN_FIELDS:
            raise unknown_field(name, {**dict.fromkeys(KNOWN_FIELDS)})
    try:
        told = msgspec.convert(body, MessagesRequest)
    except msgspec.ValidationError as error:
        raise _invalid_field_error(error) from None
    return validate_chat_fields(_to_chat(told, endpoint), found)


def _pass_through(body: Mapping[str, Any], found: ResolvedModel, endpoint: Endpoint, betas: str) -> GenerationRequest:
    """For a provider that speaks the interface and checks the rest itself."""
    require_list_price(body, endpoint)
    reject_unbounded(body)
    length = integer_between(1, endpoint.context_tokens)(body["max_tokens"], "max_tokens", endpoint)
    stream = body.get("stream", False)
    if type(stream) is not bool:
        raise bad_request("'stream' must be true or false", "stream", "invalid_type")
    for name, value in (("messages", body.get("messages")), ("stop_sequences", body.get("stop_sequences") or [])):
        if type(value) is not list:
            raise bad_request(f"{name!r} must be a list", name, "invalid_type")
    reject_provider_tools(body)
    reject_compaction(body)
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


def _check_betas(said: str, endpoint: Endpoint) -> str:
    """The sorted names in the header; those with another price (longer context) are refused, unknown ones passed on."""
    names = sorted({name for one in said.split(",") if (name := one.strip(" \t"))})
    if len(names) > MAX_BETAS or not all(map(_BETA_NAME.fullmatch, names)):
        form = f"up to {MAX_BETAS} names of letters, digits, '-', '_' and '.', apart by commas"
        raise invalid_value(f"{BETA_HEADER_NAME!r} must be {form}", BETA_HEADER_NAME)
    dear = next((name for name in names if name.startswith(LONG_CONTEXT_PREFIX)), None) if endpoint.charged else None
    if dear is not None:
        message = f"{BETA_HEADER_NAME!r}: {dear!r} is charged at another price than this model has here; leave it out"
        raise unsupported_value(message, BETA_HEADER_NAME)
    return ",".join(names)


def _invalid_field_error(error: msgspec.ValidationError) -> Exception:
    """The error with its place as the interface writes it: messages.0.content."""
    said, _, place = str(error).partition(" - at `$")
    quoted = said.split("`")[1] if "`" in said else "body"
    name = place.rstrip("`").lstrip(".").replace("[", ".").replace("]", "") or quoted
    if said.startswith("Object missing required field `"):
        name = f"{name}.{quoted}" if place else quoted
        return bad_request(f"{name}: field required", name, "missing_required_parameter")
    return invalid_value(f"{name}: {said}", name)


def _to_chat(told: MessagesRequest, endpoint: Endpoint) -> dict[str, Any]:
    """The same request as a chat's fields."""
    messages: list[dict[str, Any]] = []
    if told.system:
        words = told.system if type(told.system) is str else "\n\n".join(part.text for part in told.system)  # type: ignore[union-attr]
        messages.append({"role": "system", "content": words})
    for number, turn in enumerate(told.messages):
        messages += _translate_message(turn, f"messages.{number}")
    asked: dict[str, Any] = {
        "messages": messages,
        # The field is required, so clients' defaults are those of larger models.
        "max_tokens": min(told.max_tokens, endpoint.context_tokens),
        "top_p": told.top_p,
        "top_k": told.top_k,
        "stop": told.stop_sequences,
        "temperature": told.temperature,
        "stream": told.stream,
        "stream_options": {"include_usage": True} if told.stream else None,
        "user": (told.metadata or {}).get("user_id"),
    }
    if told.temperature is not None and told.temperature > 1:
        raise invalid_value("'temperature' must be a number from 0 to 1", "temperature")
    if (told.thinking or {}).get("type") == "enabled":
        raise bad_request("this model does not take 'thinking'", "thinking", "unsupported_parameter")
    if told.service_tier is not None and not endpoint.strict:
        asked["service_tier"] = SERVICE_TIERS.get(told.service_tier, told.service_tier)
    for edit in told.context_management.edits if told.context_management else ():
        if not edit.type.startswith("clear_thinking"):  # a chat has no thinking to clear
            at = "context_management.edits"
            raise unsupported_value(f"{at}: this model's conversations are not edited, such as by {edit.type!r}", at)
    config = told.output_config or OutputConfig(format=told.output_format)
    return {**asked, **_translate_tools(told), **_translate_output(config, endpoint)}


def _translate_tools(told: MessagesRequest) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, tool in enumerate(told.tools or ()):
        if tool.type not in (None, "custom"):
            at = f"tools.{number}.type"
            raise unsupported_value(f"{at}: this model has no tools of a provider, such as {tool.type!r}", at)
        schema = require_field(tool.input_schema, f"tools.{number}.input_schema")
        function = {"name": tool.name, "description": tool.description, "parameters": schema}
        found.setdefault("tools", []).append({"type": "function", "function": {**function, "strict": tool.strict}})
    choice = told.tool_choice
    if choice is None:
        return found
    if choice.type == "tool":
        found["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice.type in TOOL_CHOICES:
        found["tool_choice"] = TOOL_CHOICES[choice.type]
    else:
        allowed = ", ".join((*TOOL_CHOICES, "tool"))
        raise invalid_value(f"'tool_choice.type' must be one of {allowed}", "tool_choice.type")
    return {**found, "parallel_tool_calls": False} if choice.disable_parallel_tool_use else found


def _translate_output(config: OutputConfig, endpoint: Endpoint) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if config.format is not None:
        inner = {"name": "reply", "schema": config.format.get("schema"), "strict": True}
        found["response_format"] = {"type": config.format.get("type"), "json_schema": inner}
    if config.effort is not None and not endpoint.strict:
        found["reasoning_effort"] = config.effort
    return found


def _translate_message(turn: InputMessage, name: str) -> list[dict[str, Any]]:
    """The chat messages of one turn: first each result of a call, then the rest."""
    if turn.role not in ("user", "assistant", "system"):
        raise invalid_value(f"{name}.role: must be 'user' or 'assistant'", f"{name}.role")
    if type(turn.content) is str:
        return [{"role": turn.role, "content": turn.content}]
    found: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in turn.content:
        if isinstance(block, TextBlock | ImageBlock):
            parts.append(_translate_part(block))
        elif isinstance(block, ToolUseBlock):
            function = {"name": block.name, "arguments": _encode(block.input).decode()}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif isinstance(block, ToolResultBlock):
            inner = [TextBlock(block.content)] if type(block.content) is str else block.content
            shown = [_translate_part(one) for one in inner]  # type: ignore[arg-type]
            said = "".join(part["text"] for part in shown if part["type"] == "text")
            found.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": said})
            parts += [part for part in shown if part["type"] != "text"]
    if calls:
        found.append({"role": turn.role, "content": parts or None, "tool_calls": calls})
    elif parts or not found:
        found.append({"role": turn.role, "content": parts or ""})
    return found


def _translate_part(block: TextBlock | ImageBlock) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    source = block.source
    url = source.url if isinstance(source, UrlSource) else f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}
