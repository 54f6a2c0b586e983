"""Checks of request fields: each takes (value, field name, endpoint) and returns the engine's value.

Every field is checked by type and range, a JSON boolean is not a number, and an unknown field is rejected by name.
Engines behind a URL may support more fields: restrictions of our own engines do not apply to them, and unknown fields
are passed on.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from archwright.serving.http.body_structure import LARGE_BODY_BYTES, check_small_body
from archwright.serving.http.errors import ApiError, bad_request, invalid_value, unsupported_field, unsupported_value
from archwright.serving.settings.config import Endpoint

Check = Callable[[Any, str, Endpoint], Any]

MAX_TEXT_CHARACTERS = 512
MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_NODES = 5_000
MAX_LOGIT_BIASES = 1_024
MAX_STOPS = 4
MAX_CHOICES = 128
# llama.cpp keeps 32 bits of a seed; all ones means "choose a random seed".
SEED_MODULUS = 2**32 - 1

DROPPED = object()
"""Result of a check for a valid field that the engine does not need."""


def decode_body(data: bytes) -> dict[str, Any]:
    """Decode a JSON object. Raises ApiError 400, also for NaN, Infinity, invalid UTF-8 and deep nesting.

    The structure is checked first; the connection has checked a large body."""
    if len(data) <= LARGE_BODY_BYTES:
        check_small_body(data)
    try:
        body = msgspec.json.decode(data)
    except RecursionError:
        raise bad_request("the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise bad_request("the body must be a JSON object")
    return body


def check_fields(body: Mapping[str, Any], checks: Mapping[str, Check], endpoint: Endpoint) -> dict[str, Any]:
    """Check `body` field by field; a null field counts as absent."""
    accepted: dict[str, Any] = {}
    for name, value in body.items():
        check = checks.get(name)
        if check is None:
            if endpoint.strict:
                raise unknown_field(name, checks)
            accepted[name] = value
        elif value is not None:
            checked = check(value, name, endpoint)
            if checked is not DROPPED:
                accepted[name] = checked
    return accepted


def unknown_field(name: str, known: Mapping[str, object]) -> ApiError:
    similar = difflib.get_close_matches(name[:80], known, 1)  # slow for a long name
    suggestion = f"; did you mean {similar[0]!r}?" if similar else ""
    return bad_request(f"unknown field {name[:80]!r}{suggestion}", param=name[:80], code="unknown_parameter")


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
    """Check a label for the caller's own records. Our engines do not need it."""
    check_text(value, name, MAX_TEXT_CHARACTERS)
    return DROPPED if endpoint.strict else value


def check_text(value: Any, name: str, limit: int | None = None) -> str:
    if type(value) is not str:
        raise bad_request(f"{name!r} must be a string", name, "invalid_type")
    if limit is not None and len(value) > limit:
        raise invalid_value(f"{name!r} is longer than {limit} characters", name)
    return value


def allow_only(allowed: tuple[object, ...], reason: str) -> Check:
    """Check a field for which our engines support only `allowed`. Other values are rejected, not ignored."""

    def check(value: Any, name: str, endpoint: Endpoint) -> object:
        if not endpoint.strict:
            return value
        if not any(type(value) is type(a) and value == a for a in allowed):
            raise unsupported_value(f"{name!r}: {reason}", name)
        return DROPPED

    return check


# Values that providers charge at list price. Other values of these fields change the price.
LIST_PRICE_VALUES: Mapping[str, tuple[str, ...]] = {
    "service_tier": ("auto", "default", "standard", "standard_only"),
    "speed": ("standard",),
    "inference_geo": ("global",),
}


OTHER_PRICE = "costs another price than this model's configured one"


def require_list_price(body: Mapping[str, Any], endpoint: Endpoint) -> None:
    """Raise ApiError 400 if a field would make the endpoint's configured prices wrong."""
    for name in LIST_PRICE_VALUES.keys() & body.keys() if endpoint.charged else ():
        value = body[name]
        if value is not None and value not in LIST_PRICE_VALUES[name]:
            allowed = " or ".join(map(repr, LIST_PRICE_VALUES[name]))
            raise unsupported_value(f"{name!r}: {str(value)[:40]!r} {OTHER_PRICE}; send {allowed}", name)


# Provider tool types that the client runs itself. All other types run at the provider.
CLIENT_TOOL_PREFIXES = ("custom", "bash_", "text_editor_", "computer_", "memory_")


def reject_provider_tools(body: Mapping[str, Any]) -> None:
    """Raise ApiError 400 for tools that run at the provider: they cost extra, replies lack their results."""
    if body.get("mcp_servers"):
        raise unsupported_field("'mcp_servers' is not supported", "mcp_servers")
    tools = body.get("tools")
    for number, tool in enumerate(tools if type(tools) is list else ()):
        kind = tool.get("type") if type(tool) is dict else None
        if kind is not None and not str(kind).startswith(CLIENT_TOOL_PREFIXES):
            at = f"tools.{number}.type"
            message = f"{at}: tools that run at the provider are not supported (type {str(kind)[:40]!r})"
            raise unsupported_value(message, at)


def reject_compaction(body: Mapping[str, Any]) -> None:
    """Raise ApiError 400 for summaries by the provider: they cost extra, replies cannot contain them."""
    managed = body.get("context_management")
    edits = managed.get("edits") if type(managed) is dict else None
    kinds = [edit.get("type") for edit in edits if type(edit) is dict] if type(edits) is list else []
    summarises = any(str(kind).startswith("compact") for kind in kinds)
    if summarises or body.get("compaction"):
        name = "context_management" if summarises else "compaction"
        raise unsupported_field(f"{name!r}: summaries by the provider are not supported", name)


def reject_unsupported(value: Any, name: str, endpoint: Endpoint) -> object:
    if not endpoint.strict:
        return value
    if value in ([], {}):
        return DROPPED
    raise unsupported_field(f"{name!r} is not supported in this release", name)


def reject_unrepresentable(value: Any, name: str, _endpoint: Endpoint) -> object:
    """Reject a field whose paid results (audio, old-style calls, citations) replies cannot contain."""
    if value in ([], {}, ["text"]):
        return DROPPED
    raise unsupported_field(f"{name!r} is not supported: replies contain only text and calls of 'tools'", name)


def check_max_tokens(value: Any, name: str, endpoint: Endpoint) -> int:
    if type(value) is not int or value < 1:
        raise invalid_value(f"{name!r} must be an integer of at least 1", name)
    if value > endpoint.context_tokens:
        message = f"{name!r} is {value}, but this model's context holds {endpoint.context_tokens} tokens"
        raise bad_request(message, name, "context_length_exceeded")
    return value


def check_seed(value: Any, name: str, endpoint: Endpoint) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise invalid_value(f"{name!r} must be a 64-bit integer", name)
    return value % SEED_MODULUS if endpoint.strict else value


def check_choice_count(value: Any, name: str, endpoint: Endpoint) -> object:
    """Check the number of choices; our engines generate one per request."""
    most = 1 if endpoint.strict or endpoint.protocol != "openai" else MAX_CHOICES
    if type(value) is not int or value < 1:
        raise invalid_value(f"{name!r} must be an integer of at least 1", name)
    if value > most:
        limit = f"this model generates at most {most} per request; repeat the request for more"
        raise unsupported_value(f"{name!r}: {limit}", name)
    return DROPPED if value == 1 else value


def check_stop(value: Any, name: str, _endpoint: Endpoint) -> object:
    stops = [value] if type(value) is str else value
    if type(stops) is not list or len(stops) > MAX_STOPS or not all(type(s) is str and s for s in stops):
        raise invalid_value(f"{name!r} must be a non-empty string or a list of up to {MAX_STOPS} such strings", name)
    for stop in stops:
        check_text(stop, name, MAX_TEXT_CHARACTERS)
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
    if kind in ("text", "json_object") and len(value) == 1:
        return value if kind == "json_object" else DROPPED
    if kind != "json_schema" or type(value.get("json_schema")) is not dict or len(value) != 2:
        forms = "type text or json_object, or type json_schema and a 'json_schema'"
        raise invalid_value(f"{name!r} must have {forms}", name)
    inner = value["json_schema"]
    allowed = {"name": check_label, "description": check_label, "strict": check_boolean, "schema": check_schema}
    check_fields(inner, allowed, endpoint)
    require_field(inner.get("name"), f"{name}.json_schema.name")
    require_field(inner.get("schema"), f"{name}.json_schema.schema")
    return value


def check_schema(value: Any, name: str, _endpoint: Endpoint) -> Any:
    """Check that a JSON schema is small enough to build a grammar."""
    if type(value) is not dict:
        raise bad_request(f"{name!r} must be an object", name, "invalid_type")
    pending: list[tuple[Any, int]] = [(value, 1)]
    nodes = 0
    while pending:
        node, depth = pending.pop()
        nodes += 1
        if depth > MAX_SCHEMA_DEPTH or nodes > MAX_SCHEMA_NODES:
            limits = f"nested deeper than {MAX_SCHEMA_DEPTH} levels or has more than {MAX_SCHEMA_NODES} nodes"
            raise invalid_value(f"{name!r} is {limits}", name)
        inner = node.values() if type(node) is dict else node if type(node) is list else ()
        pending.extend((child, depth + 1) for child in inner)
    return value
