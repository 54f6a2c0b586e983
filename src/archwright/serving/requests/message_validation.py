"""Checks of messages, content parts and tools: the rules of the engine say which fields and kinds pass."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec

from archwright.serving.http.errors import bad_request, invalid_value, unsupported_value
from archwright.serving.requests.field_checks import check_boolean, check_schema, check_text, require_field
from archwright.serving.requests.field_selection import reject_field
from archwright.serving.requests.typed_requests import MAX_MODEL_NAME_CHARACTERS, MAX_TOOLS, describe_invalid
from archwright.serving.settings.config import Endpoint

MAX_PARTS = 1_024
MAX_ID_CHARACTERS = 256
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
TOOL_CHOICES = ("none", "auto", "required")
IMAGE_DETAILS = ("auto", "low", "high")
_CACHE_CONTROL = "cache_control"  # affects only what a provider charges
_FUNCTION_NAME_PATTERN = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# The optional fields of a function.
_FUNCTION_CHECKS: Mapping[str, Callable[[Any, str], Any]] = {
    "description": check_text,
    "parameters": check_schema,
    "strict": check_boolean,
}
# A message of one of these roles that has only a text needs no further check.
_PLAIN_ROLES = ("user", "assistant", "system")
MessageContent = str | list[dict[str, Any]]
# Base64, as such or in a data: URL. An address would make the engine fetch it.
_Data = Annotated[str, msgspec.Meta(pattern=r"^(data:[\w.+/-]{1,80};base64,)?[A-Za-z0-9+/=_-]+\Z")]


def _define_object(**fields: Any) -> Any:
    """Return the type of an object without other fields; a field that may be null may be absent."""
    defaults = [(name, kind, None) if type(None) in get_args(kind) else (name, kind) for name, kind in fields.items()]
    return msgspec.defstruct("Object", defaults, forbid_unknown_fields=True, kw_only=True)


_Named = _define_object(name=str)
_CustomInput = _define_object(name=str, input=str)
_CustomDefinition = _define_object(name=str, description=str | None, format=dict[str, Any] | None)
_AllowedTools = _define_object(mode=Literal["auto", "required"], tools=list[dict[str, Any]])
# The kinds of parts, calls, tools and choices besides text, images and functions.
_KINDS: dict[str, Any] = {
    "messages.content.input_audio": _define_object(type=str, input_audio=_define_object(data=_Data, format=str)),
    # A file by its id belongs to the provider's account, thus to other callers too.
    "messages.content.file": _define_object(type=str, file=_define_object(file_data=_Data, filename=str | None)),
    "messages.content.refusal": _define_object(type=str, refusal=str),
    "messages.tool_calls.custom": _define_object(type=str, id=str, custom=_CustomInput),
    "tools.custom": _define_object(type=str, custom=_CustomDefinition),
    "tool_choice.custom": _define_object(type=str, custom=_Named),
    "tool_choice.allowed_tools": _define_object(type=str, allowed_tools=_AllowedTools),
}


def _check_other_kind(value: dict[str, Any], rule: str, at: str, endpoint: Endpoint) -> dict[str, Any]:
    """Return a part, tool, call or choice that is not text, an image or a function."""
    allowed = endpoint.rules["chat"].inner.get(rule)
    if allowed is None or allowed.handling == "never":
        raise unsupported_value(reject_field(rule, endpoint, "chat", at).message, at)
    try:
        msgspec.convert(value, _KINDS.get(rule, Any))
    except msgspec.ValidationError as error:
        raise describe_invalid(error, at) from None
    return value


def check_messages(value: list[dict[str, Any]], endpoint: Endpoint) -> tuple[list[dict[str, Any]], int]:
    """Return the messages for the engine, and the number of characters of their texts."""
    messages, characters = [], 0
    for index, message in enumerate(value):
        content = message.get("content")
        if type(content) is not str or len(message) != 2 or message.get("role") not in _PLAIN_ROLES:
            message = _check_message(message, f"messages[{index}]", endpoint)
            content = message["content"]
        messages.append(message)
        parts = content or ()
        texts = [parts] if isinstance(parts, str) else [part["text"] for part in parts if part["type"] == "text"]
        characters += sum(map(len, texts))
    return messages, characters


def _has_parts(message: dict[str, Any]) -> bool:
    return message["role"] == "tool" and type(message["content"]) is list


def move_tool_images(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Move the images of tool messages into the user message that follows: most engines take only text from a tool."""
    if not any(map(_has_parts, messages)):
        return messages
    moved: list[dict[str, Any]] = []
    pending: list[dict[str, Any]] = []
    for message in messages:
        if _has_parts(message):
            parts, label = message["content"], f"Images of the tool result {message['tool_call_id']}:"
            pending += [{"type": "text", "text": label}, *(part for part in parts if part["type"] != "text")]
            message = {**message, "content": "".join(part.get("text", "") for part in parts)}
        elif pending and message["role"] == "user":
            own = message["content"]
            message = {
                **message,
                "content": [*pending, *([{"type": "text", "text": own}] if type(own) is str else own)],
            }
            pending = []
        elif pending and message["role"] != "tool":
            moved.append({"role": "user", "content": pending})
            pending = []
        moved.append(message)
    return [*moved, {"role": "user", "content": pending}] if pending else moved


def _check_message(value: dict[str, Any], name: str, endpoint: Endpoint) -> dict[str, Any]:
    role = value.get("role")
    if type(role) is not str or role not in ROLES:
        raise invalid_value(f"'{name}.role' must be one of {', '.join(ROLES)}", f"{name}.role")
    passed = _check_other_fields(value, name, endpoint)
    calls = _check_tool_calls(value.get("tool_calls"), f"{name}.tool_calls", role, endpoint)
    if role == "tool":
        at = f"{name}.tool_call_id"
        passed["tool_call_id"] = check_text(require_field(value.get("tool_call_id"), at), at, MAX_ID_CHARACTERS)
    content = value.get("content")
    sent_role = role if role == "developer" and not endpoint.strict else ROLES[role]
    # A refusal in the history has no content.
    if calls or (content is None and role == "assistant" and type(passed.get("refusal")) is str):
        checked = None if content is None else _check_content(content, f"{name}.content", endpoint, role)
        return {"role": sent_role, "content": checked, **({"tool_calls": calls} if calls else {}), **passed}
    return {"role": sent_role, "content": _check_content(content, f"{name}.content", endpoint, role), **passed}


def _check_other_fields(value: dict[str, Any], name: str, endpoint: Endpoint) -> dict[str, Any]:
    """Check the other fields of a message and return those to pass on. Replies contain empty ones."""
    passed = {}
    for field, inner in value.items():
        if field in ("role", "content", "tool_calls", "tool_call_id") or inner in (None, []):
            continue
        at, rule = f"{name}.{field[:80]}", endpoint.rules["chat"].inner.get(f"messages.{field}")
        if "." in field or (field.startswith("reasoning") and value["role"] != "assistant"):
            rule = None  # in the rules, a dot leads to a part
        if rule is None or rule.handling == "never":
            raise reject_field(f"messages.{field}", endpoint, "chat", at)
        if rule.type is str:
            check_text(inner, at, MAX_MODEL_NAME_CHARACTERS if field == "name" else None)
        if rule.handling == "pass":
            passed[field] = inner
    return passed


def _check_tool_calls(value: Any, name: str, role: str, endpoint: Endpoint) -> list[dict[str, Any]]:
    if value in (None, []):
        return []
    if role != "assistant" or type(value) is not list or len(value) > MAX_TOOLS:
        raise invalid_value(f"{name!r} must be a list of at most {MAX_TOOLS} calls in an assistant message", name)
    return [_check_tool_call(item, f"{name}[{index}]", endpoint) for index, item in enumerate(value)]


def _check_tool_call(value: Any, name: str, endpoint: Endpoint) -> dict[str, Any]:
    kind = value.get("type", "function") if type(value) is dict else None
    if kind == "custom":
        return _check_other_kind(value, "messages.tool_calls.custom", name, endpoint)
    function = value.get("function") if kind == "function" else None
    if type(function) is not dict:
        raise invalid_value(f"{name!r} must be a function call", name)
    called = _check_function_name(function.get("name"), f"{name}.function.name")
    arguments = require_field(function.get("arguments"), f"{name}.function.arguments")
    checked = {"name": called, "arguments": check_text(arguments, f"{name}.arguments")}
    call_id = check_text(require_field(value.get("id"), f"{name}.id"), f"{name}.id", MAX_ID_CHARACTERS)
    call = {"id": call_id, "type": "function", "function": checked}
    extra = None if endpoint.strict else value.get("extra_content")
    if extra is None:
        return call
    try:  # the signature of a call, as the reply had it
        return {**call, "extra_content": msgspec.convert(extra, dict[str, dict[str, str]])}
    except msgspec.ValidationError as error:
        raise describe_invalid(error, f"{name}.extra_content") from None


def _check_content(value: Any, name: str, endpoint: Endpoint, role: str) -> MessageContent:
    if type(value) is str:
        return value
    if type(value) is not list or not 0 < len(value) <= MAX_PARTS:
        raise bad_request(f"{name!r} must be a string or a list of parts", name, "invalid_type")
    parts = [_check_part(part, f"{name}[{index}]", endpoint, role) for index, part in enumerate(value)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _check_part(part: Any, at: str, endpoint: Endpoint, role: str) -> dict[str, Any]:
    kind = part.get("type") if type(part) is dict else None
    if kind == "image_url" and role in ("user", "tool") and endpoint.vision:
        return {"type": "image_url", "image_url": _check_image(part, f"{at}.image_url")}
    if type(kind) is str and kind != "text":
        if not endpoint.strict and kind != "image_url":
            return _check_other_kind(part, f"messages.content.{kind[:80]}", at, endpoint)
        raise unsupported_value(f"{at!r}: this model takes text only, not {kind[:40]!r}", at)
    fits = kind is not None and {"type", "text"} <= set(part)
    if not fits or (endpoint.strict and set(part) - {"type", "text", _CACHE_CONTROL}):
        raise invalid_value(f"{at!r} must be {{'type': 'text', 'text': ...}}", at)
    return {"type": "text", "text": check_text(part["text"], f"{at}.text")}


def _check_image(part: dict[str, Any], at: str) -> dict[str, Any]:
    given = part.get("image_url")
    if type(given) is not dict or not set(given) <= {"url", "detail"}:
        raise invalid_value(f"{at!r} must be {{'url': ...}}, optionally with 'detail'", at)
    check_text(require_field(given.get("url"), f"{at}.url"), f"{at}.url")  # `multimodal` checks what it holds
    if given.get("detail", "auto") not in IMAGE_DETAILS:
        raise invalid_value(f"'{at}.detail' must be one of {', '.join(IMAGE_DETAILS)}", f"{at}.detail")
    return dict(given)


def check_tool_fields(fields: dict[str, Any], endpoint: Endpoint) -> None:
    """Check tools and the choice of a tool, in place."""
    tools = [_check_tool(tool, f"tools[{index}]", endpoint) for index, tool in enumerate(fields.pop("tools", ()))]
    if tools:
        fields["tools"] = tools
    if type(fields.get("tool_choice")) is dict:
        fields["tool_choice"] = _check_tool_choice(fields["tool_choice"], endpoint)
    _check_tool_consistency(fields)


def _check_tool(value: dict[str, Any], name: str, endpoint: Endpoint) -> dict[str, Any]:
    kind = value.get("type")
    if type(kind) is str and kind != "function":
        return _check_other_kind(value, f"tools.{kind[:80]}", name, endpoint)
    function = value.get("function") if kind == "function" else None
    if type(function) is not dict:
        raise invalid_value(f"{name!r} must be {{'type': 'function', 'function': ...}}", name)
    at = f"{name}.function"
    checked: dict[str, Any] = {"name": _check_function_name(function.get("name"), f"{at}.name")}
    for field, inner in function.items():
        if field in _FUNCTION_CHECKS:
            if inner is not None:
                checked[field] = _FUNCTION_CHECKS[field](inner, f"{at}.{field}")
        elif field != "name":
            raise bad_request(f"unknown field '{at}.{field[:80]}'", f"{at}.{field[:80]}", "unknown_parameter")
    return {"type": "function", "function": checked}


def _check_function_name(value: Any, at: str) -> str:
    if type(value) is not str or not _FUNCTION_NAME_PATTERN.fullmatch(value):
        raise invalid_value(f"{at!r} must be 1 to 64 letters, digits, '_' or '-'", at)
    return value


def _check_tool_choice(value: dict[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    name = "tool_choice"
    kind = value.get("type")
    function = value.get("function") if kind == "function" else None
    if type(function) is dict and set(function) == {"name"}:
        chosen = check_text(function["name"], f"{name}.function.name", MAX_ID_CHARACTERS)
        return {"type": "function", "function": {"name": chosen}}
    if type(kind) is str and kind != "function":
        return _check_other_kind(value, f"{name}.{kind[:80]}", name, endpoint)
    forms = f"one of {', '.join(TOOL_CHOICES)}, or {{'type': 'function', 'function': {{'name': ...}}}}"
    raise invalid_value(f"{name!r} must be {forms}", name)


def _check_tool_consistency(fields: dict[str, Any]) -> None:
    tools, choice = fields.get("tools"), fields.get("tool_choice")
    if tools is None:
        if choice is not None and choice != "none":
            raise invalid_value("'tool_choice' needs 'tools'", "tool_choice")
        fields.pop("tool_choice", None)
        fields.pop("parallel_tool_calls", None)
        return
    if type(choice) is dict and "function" in choice:
        chosen = choice["function"]["name"]
        if not any(tool["type"] == "function" and tool["function"]["name"] == chosen for tool in tools):
            raise invalid_value(f"'tool_choice' names {chosen!r}, which is not in 'tools'", "tool_choice")
