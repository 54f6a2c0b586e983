"""Checks of messages, content parts and tools. Unknown fields pass only to engines behind a URL."""

import re
from typing import Any

from archwright.serving.http.errors import bad_request, invalid_value, unsupported_field, unsupported_value
from archwright.serving.requests.field_checks import DROPPED, check_boolean, check_schema, check_text, require_field
from archwright.serving.requests.model_resolution import MAX_MODEL_NAME_CHARACTERS
from archwright.serving.settings.config import Endpoint

MAX_MESSAGES = 4_096
MAX_PARTS = 1_024
MAX_TOOLS = 128
MAX_ID_CHARACTERS = 256
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
TOOL_CHOICES = ("none", "auto", "required")
IMAGE_DETAILS = ("auto", "low", "high")
# Empty in replies that clients send back as history.
_REPLY_FIELDS = ("function_call", "audio", "refusal", "annotations")
# Clients send the reasoning back as history; chat templates omit it.
_REASONING_FIELDS = ("reasoning_content", "reasoning")
_CACHE_CONTROL = "cache_control"  # affects only what a provider charges
_FUNCTION_NAME_PATTERN = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_IMAGE_URL_PATTERN = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,[A-Za-z0-9+/=]+|https://\S+")
MessageContent = str | list[dict[str, Any]]


def check_messages(value: Any, name: str, endpoint: Endpoint) -> list[dict[str, Any]]:
    if type(value) is not list or not 0 < len(value) <= MAX_MESSAGES:
        raise invalid_value(f"{name!r} must be a list of 1 to {MAX_MESSAGES} messages", name)
    return [_check_message(item, f"{name}[{index}]", endpoint) for index, item in enumerate(value)]


def _check_message(value: Any, name: str, endpoint: Endpoint) -> dict[str, Any]:
    if type(value) is not dict:
        raise bad_request(f"{name!r} must be an object", name, "invalid_type")
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
    """Check the other fields of a message and return those to pass on."""
    passed, role = {}, value["role"]
    for field, inner in value.items():
        if field in ("role", "content", "tool_calls", "tool_call_id") or inner in (None, []):
            continue
        at = f"{name}.{field[:80]}"
        if field == "name":
            check_text(inner, at, MAX_MODEL_NAME_CHARACTERS)
        elif endpoint.strict:
            if field in _REASONING_FIELDS and role == "assistant":
                check_text(inner, at)
                continue
            if field in _REPLY_FIELDS:
                raise unsupported_field(f"{at!r} is not supported by this model", at)
            raise bad_request(f"unknown field {at!r}", at, "unknown_parameter")
        if not endpoint.strict:
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
    if type(kind) is str and kind != "function" and not endpoint.strict and endpoint.protocol == "openai":
        return dict(value)
    function = value.get("function") if kind == "function" else None
    if type(function) is not dict:
        raise invalid_value(f"{name!r} must be a function call", name)
    called = _check_function_name(function.get("name"), f"{name}.function.name")
    arguments = require_field(function.get("arguments"), f"{name}.function.arguments")
    checked = {"name": called, "arguments": check_text(arguments, f"{name}.arguments")}
    call_id = check_text(require_field(value.get("id"), f"{name}.id"), f"{name}.id", MAX_ID_CHARACTERS)
    call = {"id": call_id, "type": "function", "function": checked}
    extra = None if endpoint.strict else value.get("extra_content")
    return call if extra is None else {**call, "extra_content": extra}


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
    if kind == "image_url" and role == "user" and endpoint.vision:
        return {"type": "image_url", "image_url": _check_image(part, f"{at}.image_url")}
    if type(kind) is str and kind != "text":
        if not endpoint.strict and kind != "image_url":
            return dict(part)
        raise unsupported_value(f"{at!r}: this model takes text only, not {kind[:40]!r}", at)
    fits = kind is not None and {"type", "text"} <= set(part)
    if not fits or (endpoint.strict and set(part) - {"type", "text", _CACHE_CONTROL}):
        raise invalid_value(f"{at!r} must be {{'type': 'text', 'text': ...}}", at)
    return {"type": "text", "text": check_text(part["text"], f"{at}.text")}


def _check_image(part: dict[str, Any], at: str) -> dict[str, Any]:
    given = part.get("image_url")
    if type(given) is not dict or not set(given) <= {"url", "detail"}:
        raise invalid_value(f"{at!r} must be {{'url': ...}}, optionally with 'detail'", at)
    url = given.get("url")
    if type(url) is not str or not _IMAGE_URL_PATTERN.fullmatch(url):
        raise invalid_value(f"'{at}.url' must be a base64 data: URL of an image or an https: URL", f"{at}.url")
    if given.get("detail", "auto") not in IMAGE_DETAILS:
        raise invalid_value(f"'{at}.detail' must be one of {', '.join(IMAGE_DETAILS)}", f"{at}.detail")
    return dict(given)


def count_characters(messages: list[dict[str, Any]]) -> int:
    count = 0
    for message in messages:
        content = message["content"]
        parts = content if type(content) is list else [{"type": "text", "text": content or ""}]
        count += sum(len(part["text"]) for part in parts if part["type"] == "text")
    return count


def check_tools(value: Any, name: str, endpoint: Endpoint) -> object:
    if type(value) is not list or len(value) > MAX_TOOLS:
        raise invalid_value(f"{name!r} must be a list of at most {MAX_TOOLS} tools", name)
    return [_check_tool(item, f"{name}[{index}]", endpoint) for index, item in enumerate(value)] or DROPPED


def _check_tool(value: Any, name: str, endpoint: Endpoint) -> dict[str, Any]:
    kind = value.get("type") if type(value) is dict else None
    if type(kind) is str and kind != "function" and not endpoint.strict and endpoint.protocol == "openai":
        return dict(value)
    function = value.get("function") if kind == "function" else None
    if type(function) is not dict:
        raise invalid_value(f"{name!r} must be {{'type': 'function', 'function': ...}}", name)
    at = f"{name}.function"
    checked: dict[str, Any] = {"name": _check_function_name(function.get("name"), f"{at}.name")}
    for field, inner in function.items():
        if field == "description" and inner is not None:
            checked[field] = check_text(inner, f"{at}.{field}")
        elif field == "parameters" and inner is not None:
            checked[field] = check_schema(inner, f"{at}.{field}", endpoint)
        elif field == "strict" and inner is not None:
            checked[field] = check_boolean(inner, f"{at}.{field}", endpoint)
        elif field not in ("name", "description", "parameters", "strict"):
            raise bad_request(f"unknown field '{at}.{field[:80]}'", f"{at}.{field[:80]}", "unknown_parameter")
    return {"type": "function", "function": checked}


def _check_function_name(value: Any, at: str) -> str:
    if type(value) is not str or not _FUNCTION_NAME_PATTERN.fullmatch(value):
        raise invalid_value(f"{at!r} must be 1 to 64 letters, digits, '_' or '-'", at)
    return value


def check_tool_choice(value: Any, name: str, endpoint: Endpoint) -> object:
    if type(value) is str and value in TOOL_CHOICES:
        return value
    kind = value.get("type") if type(value) is dict else None
    function = value.get("function") if kind == "function" else None
    if type(function) is dict and set(function) == {"name"}:
        chosen = check_text(function["name"], f"{name}.function.name", MAX_ID_CHARACTERS)
        return {"type": "function", "function": {"name": chosen}}
    if type(kind) is str and kind != "function" and not endpoint.strict and endpoint.protocol == "openai":
        return dict(value)
    forms = f"one of {', '.join(TOOL_CHOICES)}, or {{'type': 'function', 'function': {{'name': ...}}}}"
    raise invalid_value(f"{name!r} must be {forms}", name)


def check_tool_consistency(fields: dict[str, Any]) -> None:
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
