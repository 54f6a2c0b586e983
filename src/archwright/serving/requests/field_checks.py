"""Decode a body, and the checks that several requests share."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from archwright.serving.http.body_structure import LARGE_BODY_BYTES, check_small_body
from archwright.serving.http.errors import bad_request, invalid_value, unsupported_value
from archwright.serving.settings.config import Endpoint

MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_NODES = 5_000
# An escape of one half of a character above U+FFFF, without the other half. The decoder calls it truncated input.
_HALF_CHARACTER = re.compile(
    rb"""(?<!\\)(?:\\\\)*\\u
        (?: d[89ab][0-9a-f]{2} (?!\\ud[c-f]) | (?<! \\ud[89ab][0-9a-f]{2} \\u) d[c-f][0-9a-f]{2} )""",
    re.IGNORECASE | re.VERBOSE,
)


def decode_body(data: bytes) -> dict[str, Any]:
    """Decode a JSON object. Raises ApiError 400, also for NaN, Infinity, invalid UTF-8 and deep nesting.

    The structure is checked first; the connection has checked a large body."""
    if len(data) <= LARGE_BODY_BYTES:
        check_small_body(data)
    try:
        body = msgspec.json.decode(data)
    except RecursionError:
        raise bad_request("the body is nested too deeply") from None
    except UnicodeDecodeError:
        raise bad_request("the body is not valid JSON: it is not UTF-8") from None
    except msgspec.DecodeError as error:
        half = _HALF_CHARACTER.search(data)
        reason = f"the escape {half[0].decode()} is one half of a surrogate pair" if half else str(error)
        raise bad_request(f"the body is not valid JSON: {reason}") from None
    if not isinstance(body, dict):
        raise bad_request("the body must be a JSON object")
    return body


def require_field(value: Any, name: str) -> Any:
    if value is None:
        raise bad_request(f"{name!r} is required", param=name, code="missing_required_parameter")
    return value


def check_text(value: Any, name: str, limit: int | None = None) -> str:
    if type(value) is not str:
        raise bad_request(f"{name!r} must be a string", name, "invalid_type")
    if limit is not None and len(value) > limit:
        raise invalid_value(f"{name!r} is longer than {limit} characters", name)
    return value


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


def check_boolean(value: Any, name: str) -> bool:
    if type(value) is not bool:
        raise bad_request(f"{name!r} must be true or false", name, "invalid_type")
    return value


def check_length(value: int, name: str, endpoint: Endpoint) -> None:
    """Raise ApiError 400 for an output length that exceeds the context."""
    if value > endpoint.context_tokens:
        message = f"{name!r} is {value}, but this model's context holds {endpoint.context_tokens} tokens"
        raise bad_request(message, name, "context_length_exceeded")


def check_schema(value: Any, name: str) -> Any:
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
