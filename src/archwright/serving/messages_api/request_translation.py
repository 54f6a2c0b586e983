"""Translate Messages requests to chats for any model (`messages_writer` writes the reply).

Fields with the same meaning in a chat are translated, cache control is dropped, other fields are rejected by name. If
the model's provider supports the interface itself, the client's validated body and its betas are passed on with only
the model's name replaced; fields that cost more than the configured price are rejected.
"""

import re
from collections.abc import Mapping, Set
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from archwright.contract.record import replace
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
from archwright.serving.requests.document_text import DocumentReference
from archwright.serving.requests.field_selection import select_fields
from archwright.serving.requests.model_resolution import ModelDirectory, ResolvedModel
from archwright.serving.requests.multimodal import count_parts
from archwright.serving.requests.request_validation import GenerationRequest, build_chat
from archwright.serving.requests.typed_requests import ChatRequest, ModelRequest, check_types
from archwright.serving.settings.config import Endpoint
from archwright.serving.settings.engine_fields import PASS
from archwright.serving.settings.prices import InputKind

_encode = msgspec.json.Encoder().encode
TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
SERVICE_TIERS = {"auto": "auto", "standard_only": "default"}
BETA_HEADER = BETA_HEADER_NAME.encode()
MAX_BETAS = 32
# Provider tool types that the client runs itself. All other types run at the provider.
CLIENT_TOOL_PREFIXES = ("custom", "bash_", "text_editor_", "computer_", "memory_")
MEDIUM_BUDGET, HIGH_BUDGET = 2_048, 16_384  # least thinking tokens of these efforts
PDF_TYPE = "application/pdf"
LONG_CONTEXT_PREFIX = "context-1m-"
# As the encoder writes them; in a text their quotes are escaped.
CACHE_MARK, HOUR_MARK = b'"cache_control":{', b'"ttl":"1h"'
_BETA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def translate_request(
    body: Mapping[str, Any],
    directory: ModelDirectory,
    workload: str | None,
    betas: str | None = None,
    kind: type[schema.MessagesRequest] = schema.MessagesRequest,
) -> GenerationRequest:
    """Validate a request for the endpoint that it names. `betas`: the request's header. Raises ApiError."""
    found = directory.resolve(check_types(body, ModelRequest).model, workload)
    if body.get("thread") is not None:
        # Rejected also for a provider that has threads, because the gateway cannot bound their size.
        raise bad_request("'thread' is not supported; send the whole conversation", "thread", THREAD_UNSUPPORTED)
    endpoint = found.endpoints[0]
    allowed = {path for path, rule in endpoint.rules["messages"].inner.items() if rule is PASS}
    request = check_types(_remove_allowed(body, allowed) if allowed else body, kind, dotted=True)
    fields = select_fields(body, endpoint, "messages")
    if endpoint.protocol == "anthropic":
        return _pass_through(fields, request, found, betas or "")
    others = {name: value for name, value in fields.items() if name not in kind.__struct_fields__}
    documents: list[DocumentReference] = []
    chat = {**others, **_to_chat(request, endpoint, documents)}
    built = build_chat(check_types(chat, ChatRequest), chat, found)
    size = built.parts.data_bytes + sum(len(document.data) for document in documents)
    parts = built.parts._replace(data_bytes=size, boundless=True) if documents else built.parts
    return replace(built, documents=tuple(documents), parts=parts, may_shorten=True)


def _remove_allowed(body: Mapping[str, Any], allowed: Set[str]) -> dict[str, Any]:
    """Return a body without the fields of messages, the kinds of blocks and the tools that the operator allows."""

    def filter_kinds(items: Any, at: str) -> Any:
        if type(items) is not list:
            return items
        return [item for item in items if type(item) is not dict or f"{at}{item.get('type')}" not in allowed]

    def filter_fields(message: Any) -> Any:
        if type(message) is not dict:
            return message
        kept = {name: value for name, value in message.items() if "." in name or f"messages.{name}" not in allowed}
        return {**kept, "content": filter_kinds(kept.get("content"), "messages.content.")}

    messages = body.get("messages")
    messages = list(map(filter_fields, messages)) if type(messages) is list else messages
    return {**body, "messages": messages, "tools": filter_kinds(body.get("tools"), "tools.")}


def _pass_through(
    native: dict[str, Any], request: schema.MessagesRequest, found: ResolvedModel, betas: str
) -> GenerationRequest:
    """Build a request for a provider that supports the interface."""
    endpoint = found.endpoints[0]
    field_checks.require_list_price(native, endpoint)
    field_checks.check_length(request.max_tokens, "max_tokens", endpoint)
    _reject_provider_work(request)
    native |= {"model": endpoint.model, "max_tokens": request.max_tokens}
    return GenerationRequest(
        model=found.name,
        endpoint=endpoint,
        body={"model": endpoint.model, "messages": native["messages"], "max_tokens": request.max_tokens},
        max_tokens=request.max_tokens,
        plain=found.plain,
        stream=bool(request.stream),
        prompt_characters=len(_encode(native["messages"])) + len(_encode(native.get("system"))),
        structured=True,
        native=native,
        betas=_check_betas(betas, endpoint),
        parts=count_parts(native, endpoint.image_hosts),
        input_kinds=_find_cache_marks(native),
    )


def _find_cache_marks(native: dict[str, Any]) -> frozenset[InputKind]:
    """Return the kinds of writes to the provider's cache that a body marks, in whatever field the marks stand."""
    encoded = _encode(native)
    if CACHE_MARK not in encoded:
        return frozenset()
    return frozenset({"cache_write", "cache_write_1h"}) if HOUR_MARK in encoded else frozenset({"cache_write"})


def _reject_provider_work(request: schema.MessagesRequest) -> None:
    """Raise ApiError 400 for tools and summaries of the provider: they cost extra, replies lack their results."""
    for number, tool in enumerate(request.tools or ()):
        if tool.type is not None and not tool.type.startswith(CLIENT_TOOL_PREFIXES):
            at = f"tools.{number}.type"
            message = f"{at}: tools that run at the provider are not supported (type {tool.type[:40]!r})"
            raise unsupported_value(message, at)
    managed = request.context_management
    if managed is not None and any(edit.type.startswith("compact") for edit in managed.edits):
        name = "context_management"
        raise unsupported_field(f"{name!r}: summaries by the provider are not supported", name)


def _check_betas(header: str, endpoint: Endpoint) -> str:
    """Return the header's sorted names. Unknown names pass; a name with another price raises ApiError 400."""
    names = sorted({name for part in header.split(",") if (name := part.strip(" \t"))})
    if len(names) > MAX_BETAS or not all(map(_BETA_NAME.fullmatch, names)):
        form = f"up to {MAX_BETAS} comma-separated names of letters, digits, '-', '_' and '.'"
        raise invalid_value(f"{BETA_HEADER_NAME!r} must be {form}", BETA_HEADER_NAME)
    long_context = [name for name in names if name.startswith(LONG_CONTEXT_PREFIX)]
    if long_context and endpoint.charged and not endpoint.long_context:
        message = f"{BETA_HEADER_NAME!r}: {long_context[0]!r} {field_checks.OTHER_PRICE}; omit it"
        raise unsupported_value(message, BETA_HEADER_NAME)
    return ",".join(names)


def _to_chat(request: schema.MessagesRequest, endpoint: Endpoint, documents: list[DocumentReference]) -> dict[str, Any]:
    """Return the fields of the equivalent chat. Adds its PDF documents to `documents`."""
    messages: list[dict[str, Any]] = []
    if request.system:
        parts = request.system
        system = parts if type(parts) is str else "\n\n".join(part.text for part in parts)  # type: ignore[union-attr]
        messages.append({"role": "system", "content": system})
    for number, turn in enumerate(request.messages):
        messages += _translate_message(turn, f"messages.{number}", documents)
    chat: dict[str, Any] = {
        "model": request.model,
        "messages": messages,
        # Clients must send the field, so their default may exceed this model's context (`may_shorten`).
        "max_tokens": min(request.max_tokens, endpoint.context_tokens),
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": request.stop_sequences,
        "temperature": request.temperature,
        "stream": request.stream,
        "stream_options": {"include_usage": True} if request.stream else None,
        "user": request.metadata.user_id if request.metadata else None,
    }
    if request.service_tier is not None and not endpoint.strict:
        chat["service_tier"] = SERVICE_TIERS.get(request.service_tier, request.service_tier)
    for edit in request.context_management.edits if request.context_management else ():
        if not edit.type.startswith("clear_thinking"):  # a chat has no thinking to clear
            at = "context_management.edits"
            raise unsupported_value(f"{at}: this model does not support the edit {edit.type!r}", at)
    config = request.output_config or schema.OutputConfig(format=request.output_format)
    thinking = _translate_thinking(request.thinking, config.effort, endpoint)
    return {**chat, **_translate_tools(request), **_translate_output(config, endpoint), **thinking}


def _translate_tools(request: schema.MessagesRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for number, tool in enumerate(request.tools or ()):
        known = _client_tools().get(tool.type or "", {})
        if tool.type not in (None, "custom") and not known:
            at, names = f"tools.{number}.type", ", ".join(_client_tools())
            raise unsupported_value(f"{at}: this model supports {names}, not {tool.type[:40]!r}", at)
        given = known.get("input_schema") or tool.input_schema
        parameters = field_checks.require_field(given, f"tools.{number}.input_schema")
        described = known.get("description") or tool.description
        function = {"name": tool.name, "description": described, "parameters": parameters}
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


@cache
def _client_tools() -> dict[str, dict[str, Any]]:
    """Return description and input of the provider's tools that a client runs, by type. A request has neither."""
    found: dict[str, dict[str, Any]] = msgspec.json.decode(Path(__file__).with_name("client_tools.json").read_bytes())
    return found


def _translate_thinking(thinking: schema.Thinking | None, effort: str | None, endpoint: Endpoint) -> dict[str, Any]:
    """Return the fields that turn an engine's reasoning on or off. Raises ApiError 400 if it has none.

    The rows of `thinking` name what the engines take: the switch of a chat template, or OpenAI's effort. `adaptive`
    leaves the decision to the model. `effort`: of `output_config`, which says more than a budget."""
    if thinking is None or thinking.type == "adaptive":
        return {}
    if thinking.type not in ("enabled", "disabled") or thinking.display not in (None, "summarized"):
        message = "'thinking' must have the type enabled, disabled or adaptive, and no display but summarized"
        raise unsupported_value(message, "thinking")
    rules, enabled, budget = endpoint.rules, thinking.type == "enabled", thinking.budget_tokens or MEDIUM_BUDGET
    taken = {name for name, rule in rules["messages"].inner.items() if rule.handling == "pass"}
    if "thinking.template" in taken and not (enabled and endpoint.strict):  # our own engines return no thinking
        takes_budget = enabled and "chat_template_kwargs.thinking_budget" in rules["chat"].inner
        budgets = {"thinking_budget": budget} if takes_budget and thinking.budget_tokens else {}
        return {"chat_template_kwargs": {"enable_thinking": enabled, **budgets}}
    if "thinking.effort" not in taken:
        raise unsupported_field("this model does not support 'thinking'; remove the field", "thinking")
    level = "low" if budget < MEDIUM_BUDGET else "medium" if budget < HIGH_BUDGET else "high"
    return {"reasoning_effort": effort or level if enabled else "none"}


def _translate_output(config: schema.OutputConfig, endpoint: Endpoint) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if config.format is not None:
        inner = {"name": "reply", "schema": config.format.schema, "strict": True}
        fields["response_format"] = {"type": config.format.type, "json_schema": inner}
    if config.effort is not None and not endpoint.strict:
        fields["reasoning_effort"] = config.effort
    return fields


def _translate_message(
    turn: schema.InputMessage, name: str, documents: list[DocumentReference]
) -> list[dict[str, Any]]:
    """Return the chat messages of one turn: first each tool result, then the other blocks."""
    if type(turn.content) is str:
        return [{"role": turn.role, "content": turn.content}]
    messages: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for number, block in enumerate(turn.content):
        at = f"{name}.content.{number}"
        if isinstance(block, schema.ToolUseBlock):
            function = {"name": block.name, "arguments": _encode(block.input).decode()}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif isinstance(block, schema.ToolResultBlock):
            inner = [schema.TextBlock(text=block.content)] if type(block.content) is str else block.content
            results = [part for block in inner for part in _translate_part(block, at, documents)]
            messages.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": results or ""})
        elif not isinstance(block, schema.ThinkingBlock | schema.RedactedThinkingBlock):
            parts += _translate_part(block, at, documents)
    if calls:
        messages.append({"role": turn.role, "content": parts or None, "tool_calls": calls})
    elif parts or not messages:
        messages.append({"role": turn.role, "content": parts or ""})
    return messages


def _translate_part(block: object, at: str, documents: list[DocumentReference]) -> list[dict[str, Any]]:
    if isinstance(block, schema.TextBlock):
        return [{"type": "text", "text": block.text}]
    if isinstance(block, schema.DocumentBlock):
        return _translate_document(block, at, documents)
    if not isinstance(block, schema.ImageBlock | schema.EnclosedImageBlock):
        raise unsupported_value(f"{at}.type: this model takes text, images and documents only", f"{at}.type")
    source = block.source
    url = source.url if isinstance(source, schema.UrlSource) else f"data:{source.media_type};base64,{source.data}"
    return [{"type": "image_url", "image_url": {"url": url}}]


def _translate_document(
    block: schema.DocumentBlock, at: str, documents: list[DocumentReference]
) -> list[dict[str, Any]]:
    """Return a document as text, with the images that it encloses."""
    source, content = block.source, ""
    if block.citations is not None and block.citations.enabled:
        raise unsupported_value(f"{at}.citations: this model cites no documents", f"{at}.citations")
    if isinstance(source, schema.ContentSource):
        content = source.content if type(source.content) is str else ""
    elif isinstance(source, schema.TextSource):
        content = source.data
    elif source.media_type == PDF_TYPE:
        documents.append(DocumentReference.of(at, source.data))
        content = documents[-1].mark
    else:
        message = f"{at}.source.media_type: this model takes documents of {PDF_TYPE} and text only"
        raise unsupported_value(message, f"{at}.source.media_type")
    text = "\n\n".join(text for text in (block.title, block.context, content) if text)
    enclosed = source.content if isinstance(source, schema.ContentSource) and type(source.content) is list else []
    parts = [part for inner in enclosed for part in _translate_part(inner, at, documents)]
    return [{"type": "text", "text": f"<document>\n{text}\n"}, *parts, {"type": "text", "text": "</document>\n"}]
