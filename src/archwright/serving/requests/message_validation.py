"""The checks of a conversation: its messages, what they are made of, and the tools it may use.

An engine of our own gets what it understands and nothing else; before a URL, what we do not know passes.
"""

from __future__ import annotations

import re
from typing import Any

from archwright.serving.http.errors import bad
from archwright.serving.requests.field_checks import DROPPED, boolean, required, schema, text
from archwright.serving.requests.model_resolution import MODEL_NAME
from archwright.serving.settings.config import Endpoint

MESSAGES = 4_096
PARTS = 1_024
TOOLS = 128
IDS = 256
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
CHOICES = ("none", "auto", "required")
DETAILS = ("auto", "low", "high")
# Replies sent back as history carry these, empty.
_OF_REPLIES = ("function_call", "audio", "refusal", "annotations")
# What a reply of ours thought: clients send it back with the rest, and a template leaves it out.
_THOUGHT = ("reasoning_content", "reasoning")
# A mark for a provider's bill.
_CACHED = "cache_control"
_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_IMAGE = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,[A-Za-z0-9+/=]+|https://\S+")
Content = str | list[dict[str, Any]]


def messages(value: Any, name: str, endpoint: Endpoint) -> list[dict[str, Any]]:
    if type(value) is not list or not 0 < len(value) <= MESSAGES:
        raise bad(f"{name!r} must be a list of 1 to {MESSAGES} messages", name, "invalid_value")
    return [_message(item, f"{name}[{index}]", endpoint) for index, item in enumerate(value)]


def _message(value: Any, name: str, endpoint: Endpoint) -> dict[str, Any]:
    if type(value) is not dict:
        raise bad(f"{name!r} must be an object", name, "invalid_type")
    role = value.get("role")
    if type(role) is not str or role not in ROLES:
        raise bad(f"'{name}.role' must be one of {', '.join(ROLES)}", f"{name}.role", "invalid_value")
    passed = _others(value, name, endpoint)
    calls = _calls(value.get("tool_calls"), f"{name}.tool_calls", role, endpoint)
    if role == "tool":
        passed["tool_call_id"] = text(
            required(value.get("tool_call_id"), f"{name}.tool_call_id"), f"{name}.tool_call_id", IDS
        )
    content = value.get("content")
    kept = role if role == "developer" and not endpoint.strict else ROLES[role]
    # A refusal that is sent back as history has no content beside it.
    if calls or (content is None and role == "assistant" and type(passed.get("refusal")) is str):
        said = None if content is None else _content(content, f"{name}.content", endpoint, role)
        return {"role": kept, "content": said, **({"tool_calls": calls} if calls else {}), **passed}
    return {"role": kept, "content": _content(content, f"{name}.content", endpoint, role), **passed}


def _others(value: dict[str, Any], name: str, endpoint: Endpoint) -> dict[str, Any]:
    """What else a message carries, and what of it goes on."""
    passed, role = {}, value["role"]
    for field, inner in value.items():
        if field in ("role", "content", "tool_calls", "tool_call_id") or inner in (None, []):
            continue
        at = f"{name}.{field[:80]}"
        if field == "name":
            text(inner, at, MODEL_NAME)
        elif endpoint.strict:
            if field in _THOUGHT and role == "assistant":
                text(inner, at)
                continue
            if field in _OF_REPLIES:
                raise bad(f"{at!r} is not supported by this model", at, "unsupported_parameter")
            raise bad(f"unknown field {at!r}", at, "unknown_parameter")
        if not endpoint.strict:
            passed[field] = inner
    return passed


def _calls(value: Any, name: str, role: str, endpoint: Endpoint) -> list[dict[str, Any]]:
    if value in (None, []):
        return []
    if role != "assistant" or type(value) is not list or len(value) > TOOLS:
        raise bad(f"{name!r} must be a list of at most {TOOLS} calls of an assistant", name, "invalid_value")
    return [_call(item, f"{name}[{index}]", endpoint) for index, item in enumerate(value)]


def _call(value: Any, name: str, endpoint: Endpoint) -> dict[str, Any]:
    kind = value.get("type", "function") if type(value) is dict else None
    if type(kind) is str and kind != "function" and not endpoint.strict and endpoint.protocol == "openai":
        return dict(value)
    function = value.get("function") if kind == "function" else None
    if type(function) is not dict:
        raise bad(f"{name!r} must be a call of a function", name, "invalid_value")
    said = {
        "name": _function_name(function.get("name"), f"{name}.function.name"),
        "arguments": text(required(function.get("arguments"), f"{name}.function.arguments"), f"{name}.arguments"),
    }
    made = {
        "id": text(required(value.get("id"), f"{name}.id"), f"{name}.id", IDS),
        "type": "function",
        "function": said,
    }
    more = None if endpoint.strict else value.get("extra_content")
    return made if more is None else {**made, "extra_content": more}


def _content(value: Any, name: str, endpoint: Endpoint, role: str) -> Content:
    if type(value) is str:
        return value
    if type(value) is not list or not 0 < len(value) <= PARTS:
        raise bad(f"{name!r} must be a string or a list of parts", name, "invalid_type")
    parts = [_part(part, f"{name}[{index}]", endpoint, role) for index, part in enumerate(value)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: Any, at: str, endpoint: Endpoint, role: str) -> dict[str, Any]:
    kind = part.get("type") if type(part) is dict else None
    if kind == "image_url" and role == "user" and endpoint.vision:
        return {"type": "image_url", "image_url": _image(part, f"{at}.image_url")}
    if type(kind) is str and kind != "text":
        if not endpoint.strict and kind != "image_url":
            return dict(part)
        raise bad(f"{at!r}: this model takes text only, not {kind[:40]!r}", at, "unsupported_value")
    if kind is None or not {"type", "text"} <= set(part) or (endpoint.strict and set(part) - {"type", "text", _CACHED}):
        raise bad(f"{at!r} must be {{'type': 'text', 'text': ...}}", at, "invalid_value")
    return {"type": "text", "text": text(part["text"], f"{at}.text")}


def _image(part: dict[str, Any], at: str) -> dict[str, Any]:
    given = part.get("image_url")
    if type(given) is not dict or not set(given) <= {"url", "detail"}:
        raise bad(f"{at!r} must be {{'url': ...}}, with a 'detail' if need be", at, "invalid_value")
    url = given.get("url")
    if type(url) is not str or not _IMAGE.fullmatch(url):
        raise bad(f"'{at}.url' must be a base64 data: URL of an image or an https: URL", f"{at}.url", "invalid_value")
    if given.get("detail", "auto") not in DETAILS:
        raise bad(f"'{at}.detail' must be one of {', '.join(DETAILS)}", f"{at}.detail", "invalid_value")
    return dict(given)


def characters(found: list[dict[str, Any]]) -> int:
    """Of text, to weigh a prompt by."""
    count = 0
    for message in found:
        content = message["content"]
        parts = content if type(content) is list else [{"type": "text", "text": content or ""}]
        count += sum(len(part["text"]) for part in parts if part["type"] == "text")
    return count


def tools(value: Any, name: str, endpoint: Endpoint) -> object:
    if type(value) is not list or len(value) > TOOLS:
        raise bad(f"{name!r} must be a list of at most {TOOLS} tools", name, "invalid_value")
    return [_tool(item, f"{name}[{index}]", endpoint) for index, item in enumerate(value)] or DROPPED


def _tool(value: Any, name: str, endpoint: Endpoint) -> dict[str, Any]:
    kind = value.get("type") if type(value) is dict else None
    if type(kind) is str and kind != "function" and not endpoint.strict and endpoint.protocol == "openai":
        return dict(value)
    function = value.get("function") if kind == "function" else None
    if type(function) is not dict:
        raise bad(f"{name!r} must be {{'type': 'function', 'function': ...}}", name, "invalid_value")
    at = f"{name}.function"
    kept: dict[str, Any] = {"name": _function_name(function.get("name"), f"{at}.name")}
    for field, inner in function.items():
        if field == "description" and inner is not None:
            kept[field] = text(inner, f"{at}.{field}")
        elif field == "parameters" and inner is not None:
            kept[field] = schema(inner, f"{at}.{field}", endpoint)
        elif field == "strict" and inner is not None:
            kept[field] = boolean(inner, f"{at}.{field}", endpoint)
        elif field not in ("name", "description", "parameters", "strict"):
            raise bad(f"unknown field '{at}.{field[:80]}'", f"{at}.{field[:80]}", "unknown_parameter")
    return {"type": "function", "function": kept}


def _function_name(value: Any, at: str) -> str:
    if type(value) is not str or not _FUNCTION_NAME.fullmatch(value):
        raise bad(f"{at!r} must be 1 to 64 letters, digits, '_' or '-'", at, "invalid_value")
    return value


def tool_choice(value: Any, name: str, endpoint: Endpoint) -> object:
    if type(value) is str and value in CHOICES:
        return value
    kind = value.get("type") if type(value) is dict else None
    function = value.get("function") if kind == "function" else None
    if type(function) is dict and set(function) == {"name"}:
        return {"type": "function", "function": {"name": text(function["name"], f"{name}.function.name", IDS)}}
    if type(kind) is str and kind != "function" and not endpoint.strict and endpoint.protocol == "openai":
        return dict(value)
    message = f"{name!r} must be one of {', '.join(CHOICES)}, or {{'type': 'function', 'function': {{'name': ...}}}}"
    raise bad(message, name, "invalid_value")


def agree(fields: dict[str, Any]) -> None:
    """What is chosen must be among the tools."""
    given, choice = fields.get("tools"), fields.get("tool_choice")
    if given is None:
        if choice is not None and choice != "none":
            raise bad("'tool_choice' needs 'tools'", "tool_choice", "invalid_value")
        fields.pop("tool_choice", None)
        fields.pop("parallel_tool_calls", None)
        return
    if type(choice) is dict and "function" in choice:
        wanted = choice["function"]["name"]
        if not any(tool["type"] == "function" and tool["function"]["name"] == wanted for tool in given):
            raise bad(f"'tool_choice' names {wanted!r}, which is none of the tools", "tool_choice", "invalid_value")
