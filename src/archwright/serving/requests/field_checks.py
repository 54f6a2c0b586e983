"""Checks of a request's fields. Each takes (value, field, endpoint) and returns what the engine gets.

Engines accept almost anything silently, so every field is checked here by type and range, a JSON true is no number, and
an unknown field is refused by name. An engine behind a URL may know more: restrictions of our own engines do not apply
to it, and unknown fields are passed on.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from archwright.serving.http.errors import ApiError, bad_request, invalid_value, unsupported_field, unsupported_value
from archwright.serving.settings.config import Endpoint

Check = Callable[[Any, str, Endpoint], Any]

MAX_TEXT_CHARACTERS = 512
MAX_DEPTH = 200
MAX_CONTAINERS = 100_000
MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_NODES = 5_000
MAX_LOGIT_BIASES = 1_024
MAX_STOPS = 4
MAX_CHOICES = 128
# llama.cpp keeps 32 bits of a seed and reads all ones as "choose one".
SEED_MODULUS = 2**32 - 1

DROPPED = object()
"""A check's result for a field that is valid but means nothing to an engine."""


def decode_body(data: bytes) -> dict[str, Any]:
    """The body as a JSON object. The parser refuses NaN, Infinity, invalid UTF-8 and too deep nesting."""
    try:
        body = msgspec.json.decode(data)
    except RecursionError:
        raise bad_request("the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise bad_request("the body must be a JSON object")
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check_nesting(body)
    return body


def _check_nesting(body: object) -> None:
    """Raises ApiError 400: what the parser accepts may be too deep to search or encode, or take 20 times its size."""
    level, parts = [body], 0
    for _ in range(MAX_DEPTH):
        inner = [list(node.values()) if type(node) is dict else node for node in level]
        level = [one for each in inner if type(each) is list for one in each if type(one) in (dict, list)]
        parts += len(level)
        if parts > MAX_CONTAINERS:
            raise bad_request(f"the body is made of more than {MAX_CONTAINERS} objects and lists")
        if not level:
            return
    raise bad_request("the body is nested too deeply")


def check_fields(body: Mapping[str, Any], checks: Mapping[str, Check], endpoint: Endpoint) -> dict[str, Any]:
    """`body` field by field; null means absent."""
    found: dict[str, Any] = {}
    for name, value in body.items():
        check = checks.get(name)
        if check is None:
            if endpoint.strict:
                raise unknown_field(name, checks)
            found[name] = value
        elif value is not None:
            taken = check(value, name, endpoint)
            if taken is not DROPPED:
                found[name] = taken
    return found


def unknown_field(name: str, known: Mapping[str, object]) -> ApiError:
    near = difflib.get_close_matches(name[:80], known, 1)  # slow for a long name
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return bad_request(f"unknown field {name[:80]!r}{meant}", param=name[:80], code="unknown_parameter")


def require_field(value: Any, name: str) -> Any:
    if value is None:
        raise bad_request(f"{name!r} is required", param=name, code="missing_required_parameter")
    return value


def integer_between(low: int, high: int) -> Check:
    def check(value: Any, name: str, _endpoint: Endpoint) -> int:
        if type(value) is not int or not low <= value <= high:
            raise invalid_value(f"{name!r} must be an integer from {low} to {high}", name)
        return value

    return check


def number_between(low: float, high: float) -> Check:
    def check(value: Any, name: str, _endpoint: Endpoint) -> float:
        if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
            raise invalid_value(f"{name!r} must be a number from {low:g} to {high:g}", name)
        return float(value)

    return check


def check_boolean(value: Any, name: str, _endpoint: Endpoint) -> bool:
    if type(value) is not bool:
        raise bad_request(f"{name!r} must be true or false", name, "invalid_type")
    return value


def check_label(value: Any, name: str, endpoint: Endpoint) -> object:
    """A text for the caller's bookkeeping."""
    check_text(value, name, MAX_TEXT_CHARACTERS)
    return DROPPED if endpoint.strict else value


def check_text(value: Any, name: str, limit: int | None = None) -> str:
    if type(value) is not str:
        raise bad_request(f"{name!r} must be a string", name, "invalid_type")
    if limit is not None and len(value) > limit:
        raise invalid_value(f"{name!r} is longer than {limit} characters", name)
    return value


def allow_only(allowed: tuple[object, ...], why: str) -> Check:
    """A field of which our engines support only the harmless values; the others are refused, not ignored."""

    def check(value: Any, name: str, endpoint: Endpoint) -> object:
        if not endpoint.strict:
            return value
        if not any(type(value) is type(a) and value == a for a in allowed):
            raise unsupported_value(f"{name!r}: {why}", name)
        return DROPPED

    return check


# Values that providers charge at their list price; any other value of these fields has another price.
LIST_PRICE_VALUES: Mapping[str, tuple[str, ...]] = {
    "service_tier": ("auto", "default", "standard", "standard_only"),
    "speed": ("standard",),
    "inference_geo": ("global",),
}


def require_list_price(body: Mapping[str, Any], endpoint: Endpoint) -> None:
    """Raises ApiError 400 for fields with which the endpoint's prices would be wrong."""
    for name in LIST_PRICE_VALUES.keys() & body.keys() if endpoint.charged else ():
        value = body[name]
        if value is not None and value not in LIST_PRICE_VALUES[name]:
            said = " or ".join(map(repr, LIST_PRICE_VALUES[name]))
            message = f"{name!r}: {str(value)[:40]!r} is charged at another price than this model has here; send {said}"
            raise unsupported_value(message, name)


# A provider's tools that the client runs itself; all others run at the provider.
CLIENT_TOOL_PREFIXES = ("custom", "bash_", "text_editor_", "computer_", "memory_")


def reject_provider_tools(body: Mapping[str, Any]) -> None:
    """Raises ApiError 400 for tools that the provider runs: they cost extra, and replies cannot hold their results."""
    if body.get("mcp_servers"):
        raise unsupported_field("'mcp_servers' is not supported", "mcp_servers")
    tools = body.get("tools")
    for number, tool in enumerate(tools if type(tools) is list else ()):
        kind = tool.get("type") if type(tool) is dict else None
        if kind is not None and not str(kind).startswith(CLIENT_TOOL_PREFIXES):
            at = f"tools.{number}.type"
            message = f"{at}: tools that run at the provider are not supported, such as {str(kind)[:40]!r}"
            raise unsupported_value(message, at)


def reject_compaction(body: Mapping[str, Any]) -> None:
    """Raises ApiError 400 for a summary by the provider: it costs extra, and replies here cannot hold it."""
    managed = body.get("context_management")
    edits = managed.get("edits") if type(managed) is dict else None
    kinds = [edit.get("type") for edit in edits if type(edit) is dict] if type(edits) is list else []
    summarises = any(str(kind).startswith("compact") for kind in kinds)
    if summarises or body.get("compaction"):
        name = "context_management" if summarises else "compaction"
        raise unsupported_field(f"{name!r}: a summary by the provider is not supported", name)


def reject_unsupported(value: Any, name: str, endpoint: Endpoint) -> object:
    if not endpoint.strict:
        return value
    if value in ([], {}):
        return DROPPED
    raise unsupported_field(f"{name!r} is not supported in this release", name)


def reject_unrepresentable(value: Any, name: str, _endpoint: Endpoint) -> object:
    """A field whose results (audio, old-style calls, search citations) replies cannot hold: paid for and lost."""
    if value in ([], {}, ["text"]):
        return DROPPED
    raise unsupported_field(f"{name!r} is not supported: replies are text and calls of 'tools'", name)


def check_max_tokens(value: Any, name: str, endpoint: Endpoint) -> int:
    """The number of tokens to generate, within the model's context."""
    if type(value) is not int or value < 1:
        raise invalid_value(f"{name!r} must be an integer of at least 1", name)
    if value > endpoint.context_tokens:
        message = f"{name!r} is {value}, this model's context holds {endpoint.context_tokens} tokens"
        raise bad_request(message, name, "context_length_exceeded")
    return value


def check_seed(value: Any, name: str, endpoint: Endpoint) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise invalid_value(f"{name!r} must be a 64-bit integer", name)
    return value % SEED_MODULUS if endpoint.strict else value


def check_choice_count(value: Any, name: str, endpoint: Endpoint) -> object:
    """The number of replies; our engines make one per request."""
    most = 1 if endpoint.strict or endpoint.protocol != "openai" else MAX_CHOICES
    if type(value) is not int or value < 1:
        raise invalid_value(f"{name!r} must be an integer of at least 1", name)
    if value > most:
        why = f"this model makes at most {most} a request; send the request again for another"
        raise unsupported_value(f"{name!r}: {why}", name)
    return DROPPED if value == 1 else value


def check_stop(value: Any, name: str, _endpoint: Endpoint) -> object:
    stops = [value] if type(value) is str else value
    if type(stops) is not list or len(stops) > MAX_STOPS or not all(type(s) is str and s for s in stops):
        raise invalid_value(f"{name!r} must be a non-empty string or up to {MAX_STOPS} of them", name)
    for one in stops:
        check_text(one, name, MAX_TEXT_CHARACTERS)
    return stops or DROPPED


def check_stream_options(value: Any, name: str, endpoint: Endpoint) -> dict[str, Any]:
    if type(value) is not dict:
        raise bad_request(f"{name!r} must be an object", name, "invalid_type")
    return check_fields(value, {"include_usage": check_boolean, "include_obfuscation": check_boolean}, endpoint)


def check_logit_bias(value: Any, name: str, _endpoint: Endpoint) -> object:
    if type(value) is not dict or len(value) > MAX_LOGIT_BIASES:
        raise bad_request(f"{name!r} must be an object of at most {MAX_LOGIT_BIASES} token ids", name, "invalid_type")
    for token, bias in value.items():
        fits = type(bias) in (int, float) and -100 <= bias <= 100
        if not (token.isascii() and token.isdigit() and len(token) <= 9 and fits):
            raise invalid_value(f"{name!r} must map token ids to numbers from -100 to 100", name)
    return value or DROPPED


def check_metadata(value: Any, name: str, endpoint: Endpoint) -> object:
    fits = type(value) is dict and len(value) <= 16
    if not fits or not all(type(v) is str and len(v) <= MAX_TEXT_CHARACTERS and len(k) <= 64 for k, v in value.items()):
        raise invalid_value(f"{name!r} must map up to 16 names to strings", name)
    return DROPPED if endpoint.strict else value


def check_response_format(value: Any, name: str, endpoint: Endpoint) -> object:
    kind = value.get("type") if type(value) is dict else None
    if kind == "text" and len(value) == 1:
        return DROPPED
    if kind == "json_object" and len(value) == 1:
        return value
    if kind != "json_schema" or type(value.get("json_schema")) is not dict or len(value) != 2:
        raise invalid_value(f"{name!r} must be of type text, json_object, or json_schema with its 'json_schema'", name)
    inner = value["json_schema"]
    allowed = {"name": check_label, "description": check_label, "strict": check_boolean, "schema": check_schema}
    check_fields(inner, allowed, endpoint)
    require_field(inner.get("name"), f"{name}.json_schema.name")
    require_field(inner.get("schema"), f"{name}.json_schema.schema")
    return value


def check_schema(value: Any, name: str, _endpoint: Endpoint) -> Any:
    """A JSON schema small enough to build a grammar from."""
    if type(value) is not dict:
        raise bad_request(f"{name!r} must be an object", name, "invalid_type")
    todo: list[tuple[Any, int]] = [(value, 1)]
    nodes = 0
    while todo:
        node, depth = todo.pop()
        nodes += 1
        if depth > MAX_SCHEMA_DEPTH or nodes > MAX_SCHEMA_NODES:
            limits = f"nested deeper than {MAX_SCHEMA_DEPTH} or larger than {MAX_SCHEMA_NODES} parts"
            raise invalid_value(f"{name!r} is {limits}", name)
        inner = node.values() if type(node) is dict else node if type(node) is list else ()
        todo.extend((child, depth + 1) for child in inner)
    return value
