"""The OpenAPI 3.1 document of a route table, made of its rows and their typed records.

Design: the document is the same for each installation. It names no model, no address and no release, so it may be open.
"""

import re
from http import HTTPStatus
from typing import Any, get_args

import msgspec

from archwright.policy.residency import DataClass
from archwright.serving.handlers.stream_relay import EVENT_STREAM_TYPE
from archwright.serving.http.errors import MESSAGES_PATH
from archwright.serving.http.http_response import JSON_CONTENT_TYPE
from archwright.serving.http.multipart import FORM_TYPE
from archwright.serving.process.reply_records import ApiErrorReply, MessageErrorReply
from archwright.serving.process.route_table import METERED_PERMISSION, Route
from archwright.serving.requests.request_validation import WORKLOAD_HEADER
from archwright.serving.routing.router import DATA_CLASS_HEADER

OPENAPI_PATH = "/openapi.json"
_SCHEMAS = "#/components/schemas/"
_PARAMETERS: list[dict[str, Any]] = [
    {"name": DATA_CLASS_HEADER, "in": "header", "schema": {"enum": list(get_args(DataClass))}},
    {"name": WORKLOAD_HEADER.decode(), "in": "header", "schema": {"type": "string"}},
]


def build_document(routes: tuple[Route, ...]) -> dict[str, Any]:
    """Return the document of the routes that have a summary."""
    shown = [route for route in routes if route.summary]
    records = {record for route in shown for record in (route.body, route.reply) if record is not None}
    records |= {ApiErrorReply, MessageErrorReply}
    _, schemas = msgspec.json.schema_components(records, ref_template=_SCHEMAS + "{name}")
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        path = route.path.replace("{}", "{id}") + "{id}" * route.tail
        paths.setdefault(path, {})[route.method.lower()] = _describe_operation(route, path)
    keys: dict[str, dict[str, str]] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Archwright gateway", "version": "v1"},
        "servers": [{"url": "/"}],
        "security": [{name: []} for name in keys],
        "paths": paths,
        "components": {"securitySchemes": keys, "schemas": _simplify(dict(sorted(schemas.items())))},
    }


def _describe_operation(route: Route, path: str) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = list(_PARAMETERS) if route.by_model else []
    parameters += [{"name": name, "in": "query", "schema": {"type": "string"}} for name in route.query]
    if "{id}" in path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    operation: dict[str, Any] = {
        "operationId": "_".join(re.findall(r"\w+", f"{route.method.lower()} {path}")),
        "summary": route.summary,
        "parameters": parameters,
        "responses": _describe_responses(route, path),
    }
    if route.permission is None:
        operation["security"] = []
    if route.body is not None:
        kind = FORM_TYPE if route.upload else JSON_CONTENT_TYPE
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": _refer(route.body)}}}
    return operation


def _describe_responses(route: Route, path: str) -> dict[str, Any]:
    """Return the replies, and the errors that a route of this kind gives."""
    plain = {} if route.reply_type == JSON_CONTENT_TYPE else {"type": "string"}
    replies = {route.reply_type: {"schema": _refer(route.reply) if route.reply else plain}}
    if "stream" in getattr(route.body, "__struct_fields__", ()):
        replies[EVENT_STREAM_TYPE] = {"schema": {"description": "server-sent events"}}
    codes = {400, 408, 413, 431, 503, *route.errors}
    codes |= {401, 403} if route.permission else set()
    codes |= {415} if route.body else set()
    codes |= {404} if "{id}" in path else set()
    codes |= {429} if route.permission == METERED_PERMISSION else set()
    codes |= {404, 502, 504} if route.by_model else set()
    error = {
        JSON_CONTENT_TYPE: {"schema": _refer(MessageErrorReply if path.startswith(MESSAGES_PATH) else ApiErrorReply)}
    }
    responses = {200: replies, **dict.fromkeys(sorted(codes), error)}
    return {str(code): {"description": HTTPStatus(code).phrase, "content": one} for code, one in responses.items()}


def _refer(record: type) -> dict[str, str]:
    return {"$ref": _SCHEMAS + record.__name__}


def _simplify(schema: Any) -> Any:
    """Return the schema with files that are no base64, and with patterns that every dialect reads."""
    if isinstance(schema, list):
        return [_simplify(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _simplify(value) for name, value in schema.items()}
    if found.pop("contentEncoding", None):
        found["format"] = "binary"  # a file of a form, not base64
    if isinstance(pattern := found.get("pattern"), str):
        found["pattern"] = pattern.removesuffix(r"\Z") + "$" * pattern.endswith(r"\Z")
    return found
