"""The routes: (method, path) -> permission, handler. Only the two probes are open to everyone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from archwright.monitor.metrics.exposition import CONTENT_TYPE
from archwright.serving.admission.authorization import RouteRequirement
from archwright.serving.events.messages_writer import MessagesWriter
from archwright.serving.events.response_formats import (
    ChatFormat,
    ChoiceFormat,
    CompletionFormat,
    OpenAIWriter,
    ResponseEnvelope,
    ResponseOptions,
)
from archwright.serving.handlers import admin_api
from archwright.serving.handlers.classification import parse_classification_request, serve_classification
from archwright.serving.handlers.embeddings import serve_embeddings
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.handlers.generation import GenerationHandler
from archwright.serving.http.errors import MESSAGES_PATH, ApiError
from archwright.serving.http.http_exchange import JSON_CONTENT_TYPE, HttpExchange
from archwright.serving.messages_api.request_translation import BETA_HEADER, translate_request
from archwright.serving.requests.fast_path import parse_chat
from archwright.serving.requests.field_checks import decode_body
from archwright.serving.requests.model_resolution import MAX_MODEL_NAME_CHARACTERS
from archwright.serving.requests.request_validation import (
    WORKLOAD_HEADER,
    GenerationRequest,
    validate_completion,
    validate_embedding,
)
from archwright.serving.routing.attempts import start_attempts
from archwright.serving.routing.replica import Replica

VERSION_HEADER = b"anthropic-version"  # sent by clients of the Messages interface, which has its own list of models


class Route(NamedTuple):
    """`tail`: the path is followed by one name, which the handler gets."""

    method: str
    path: str
    permission: str | None
    handler: Callable[[GatewayContext, HttpExchange, str], Coroutine[Any, Any, None]]
    tail: bool = False


def handle_chat(gateway: GatewayContext, exchange: HttpExchange, _name: str) -> Coroutine[Any, Any, None]:
    question = parse_chat(exchange.body, gateway.directory, exchange.header(WORKLOAD_HEADER))
    return _run_generation(gateway, exchange, question, ChatFormat())


def handle_completion(gateway: GatewayContext, exchange: HttpExchange, _name: str) -> Coroutine[Any, Any, None]:
    body = decode_body(exchange.body)
    question = validate_completion(body, gateway.directory, exchange.header(WORKLOAD_HEADER))
    return _run_generation(gateway, exchange, question, CompletionFormat(echoes=bool(question.body.get("echo"))))


def handle_message(gateway: GatewayContext, exchange: HttpExchange, _name: str) -> Coroutine[Any, Any, None]:
    body = decode_body(exchange.body)
    workload, betas = exchange.header(WORKLOAD_HEADER), exchange.header(BETA_HEADER)
    question = translate_request(body, gateway.directory, workload, betas)
    gateway.till.set_worst_case(exchange, question)
    writer = MessagesWriter(_build_envelope(gateway, exchange, question, "msg_"), body.get("stop_sequences") or ())
    return GenerationHandler(gateway, exchange, question, ChatFormat.path, writer).run()


async def handle_token_count(gateway: GatewayContext, exchange: HttpExchange, _name: str) -> None:
    """The tokens of a message's prompt, counted by the engine that would answer."""
    body = {**decode_body(exchange.body), "max_tokens": 1, "stream": False}
    workload, betas = exchange.header(WORKLOAD_HEADER), exchange.header(BETA_HEADER)
    question = translate_request(body, gateway.directory, workload, betas)
    exchange.watch_disconnect()
    gateway.till.count_request(exchange)
    course = start_attempts(gateway.router, exchange, question, question.native or question.body)

    async def count(replica: Replica) -> int:
        named = replica.client.model_override
        native = None if question.native is None else {**question.native, **named}
        return await replica.provider.count_tokens(replica.client, {**question.body, **named}, native, question.betas)

    work = gateway.router.build_slot_request(question, course.tenant, course.data_class, course.until)
    _reply_json(exchange, HTTPStatus.OK, {"input_tokens": await course.run(work, count)})


def _run_generation(
    gateway: GatewayContext, exchange: HttpExchange, question: GenerationRequest, shape: ChoiceFormat
) -> Coroutine[Any, Any, None]:
    gateway.till.set_worst_case(exchange, question)
    shown = question.top_logprobs, question.prompt_characters, question.include_usage, question.choices
    envelope = _build_envelope(gateway, exchange, question, shape.prefix)
    writer = OpenAIWriter(shape, envelope, ResponseOptions(*shown), stream=question.stream)
    return GenerationHandler(gateway, exchange, question, shape.path, writer).run()


def _build_envelope(
    gateway: GatewayContext, exchange: HttpExchange, question: GenerationRequest, prefix: str
) -> ResponseEnvelope:
    return ResponseEnvelope(prefix + exchange.id[3:], int(gateway.clock()), question.model, gateway.fingerprint)


def handle_embeddings(gateway: GatewayContext, exchange: HttpExchange, _name: str) -> Coroutine[Any, Any, None]:
    body = decode_body(exchange.body)
    question = validate_embedding(body, gateway.directory, exchange.header(WORKLOAD_HEADER))
    gateway.till.set_worst_case(exchange, question)
    return serve_embeddings(gateway, exchange, question)


def handle_classification(gateway: GatewayContext, exchange: HttpExchange, name: str) -> Coroutine[Any, Any, None]:
    return serve_classification(gateway, exchange, parse_classification_request(exchange.body, gateway.directory, name))


async def list_models(gateway: GatewayContext, exchange: HttpExchange, _name: str) -> None:
    """The names for generations; not classifiers, which a client could not use as a model."""
    data = [_describe_model(gateway, exchange, name) for name in gateway.directory.names]
    page: dict[str, Any] = {"object": "list", "data": data}
    if exchange.header(VERSION_HEADER) is not None:
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        page = {"data": data, "has_more": False, **ends}
    _reply_json(exchange, HTTPStatus.OK, page)


async def get_model(gateway: GatewayContext, exchange: HttpExchange, name: str) -> None:
    if name not in gateway.directory.names:
        message = f"the model {name[:MAX_MODEL_NAME_CHARACTERS]!r} does not exist"
        raise ApiError(HTTPStatus.NOT_FOUND, message, "model_not_found", param="model")
    _reply_json(exchange, HTTPStatus.OK, _describe_model(gateway, exchange, name))


async def get_metrics(gateway: GatewayContext, exchange: HttpExchange, _name: str) -> None:
    # In a thread, since tens of thousands of series take long to render.
    exchange.reply(HTTPStatus.OK, await asyncio.to_thread(gateway.render_metrics), CONTENT_TYPE)


async def healthz(_gateway: GatewayContext, exchange: HttpExchange, _name: str) -> None:
    _reply_json(exchange, HTTPStatus.OK, {"status": "ok"})


async def readyz(gateway: GatewayContext, exchange: HttpExchange, _name: str) -> None:
    """Whether every endpoint has an engine. Only counts of pools, since this page is open to everyone."""
    ready, counts = gateway.is_ready, {"ready": gateway.ready_pool_count, "total": len(gateway.pools)}
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    _reply_json(exchange, status, {"ready": ready, "pools": counts})


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/chat/completions", "inference.invoke", handle_chat),
    Route("POST", "/v1/completions", "inference.invoke", handle_completion),
    Route("POST", MESSAGES_PATH, "inference.invoke", handle_message),
    Route("POST", f"{MESSAGES_PATH}/count_tokens", "inference.invoke", handle_token_count),
    Route("POST", "/v1/embeddings", "inference.invoke", handle_embeddings),
    Route("POST", "/v1/predict/", "inference.invoke", handle_classification, tail=True),
    Route("GET", "/v1/models", "models.read", list_models),
    Route("GET", "/v1/models/", "models.read", get_model, tail=True),
    Route("GET", "/metrics", "metrics.read", get_metrics),
    Route("GET", "/healthz", None, healthz),
    Route("GET", "/readyz", None, readyz),
    Route("HEAD", "/healthz", None, healthz),
    Route("HEAD", "/readyz", None, readyz),
)


# Each {} is one name.
ADMIN_ROUTES: tuple[Route, ...] = (
    Route("GET", "/admin/tenants", "tenants.manage", admin_api.list_tenants),
    Route("POST", "/admin/tenants", "tenants.manage", admin_api.create_tenant),
    Route("GET", "/admin/tenants/{}", "keys.manage", admin_api.get_tenant),
    Route("PUT", "/admin/tenants/{}/limits", "tenants.manage", admin_api.set_tenant_limits),
    Route("PUT", "/admin/tenants/{}/content", "content.manage", admin_api.set_content_tracing),
    Route("GET", "/admin/tenants/{}/keys", "keys.manage", admin_api.list_tenant_keys),
    Route("POST", "/admin/tenants/{}/keys", "keys.manage", admin_api.create_key),
    Route("GET", "/admin/tenants/{}/users", "keys.manage", admin_api.list_tenant_users),
    Route("PUT", "/admin/tenants/{}/users/{}/limits", "keys.manage", admin_api.set_user_limits),
    Route("GET", "/admin/tenants/{}/usage", "usage.read", admin_api.get_tenant_usage),
    Route("GET", "/admin/tenants/{}/audit", "audit.read", admin_api.get_tenant_audit),
    Route("GET", "/admin/keys/{}", "keys.manage", admin_api.get_key),
    Route("DELETE", "/admin/keys/{}", "keys.manage", admin_api.revoke_key),
    Route("PUT", "/admin/keys/{}/limits", "keys.manage", admin_api.set_key_limits),
    Route("POST", "/admin/keys/{}/rotate", "keys.manage", admin_api.rotate_key),
)


class RouteMatch(NamedTuple):
    """The route, if any; what authorisation it needs (None: open to everyone); the decoded name in the path (two are
    joined by "/"). The rest of a path is compared as it was sent."""

    route: Route | None
    wish: RouteRequirement | None
    name: str


def _build_match(route: Route | None, methods: tuple[str, ...], name: str = "", instead: str = "") -> RouteMatch:
    if route is not None and route.permission is None:
        return RouteMatch(route, None, name)
    permission = route.permission if route else None
    return RouteMatch(route, RouteRequirement(permission, bool(methods), methods, instead), name)


_EXACT_ROUTES = {(route.method, route.path): _build_match(route, (route.method,)) for route in ROUTES if not route.tail}


def find_route(method: str, path: str) -> RouteMatch:
    plain = _EXACT_ROUTES.get((method, path))
    if plain is not None:
        return plain
    fit = [route for route in ROUTES if _path_matches(route, path)]
    route = next((route for route in fit if route.method == method), None)
    name = unquote(path[len(fit[0].path) :]) if fit else ""
    return _build_match(route, tuple(route.method for route in fit), name, "" if fit else _suggest_path(path))


_SLASHES = re.compile("//+")
_VERSION_PREFIX = re.compile("(?:/+v1(?=/))*")
_NO_RESPONSES = (
    "; the Responses interface is not served: set the client to chat completions, which are at /v1/chat/completions "
    "(such as `provider.chat(model)` or `set_default_openai_api('chat_completions')`)"
)


def _suggest_path(path: str) -> str:
    """A hint for clients of another interface, or whose base URL lacks the version or has it twice."""
    tail = _SLASHES.sub("/", _VERSION_PREFIX.sub("", path, count=1)).removesuffix("/")
    if tail.startswith("/responses"):
        return _NO_RESPONSES
    meant = f"/v1{tail}"
    if not any(_path_matches(route, meant) for route in ROUTES):
        return ""
    ends = "before /v1" if meant.startswith(MESSAGES_PATH) else "in /v1"
    return f"; did you mean {meant}? The client's base URL ends {ends}"


_ADMIN_PATTERNS = [
    (route, re.compile("([^/]+)".join(map(re.escape, route.path.split("{}"))))) for route in ADMIN_ROUTES
]


def find_admin_route(method: str, path: str) -> RouteMatch:
    """The match among the routes of administration. A name with an encoded "/" matches nothing."""
    fit = [(route, found.groups()) for route, pattern in _ADMIN_PATTERNS if (found := pattern.fullmatch(path))]
    names = [unquote(name) for name in fit[0][1]] if fit else []
    if any("/" in name for name in names):
        fit = []
    route = next((route for route, _names in fit if route.method == method), None)
    return _build_match(route, tuple(route.method for route, _names in fit), "/".join(names))


def _path_matches(route: Route, path: str) -> bool:
    if not route.tail:
        return path == route.path
    return path.startswith(route.path) and len(path) > len(route.path)


def _describe_model(gateway: GatewayContext, exchange: HttpExchange, name: str) -> dict[str, Any]:
    if exchange.header(VERSION_HEADER) is not None:
        made = datetime.fromtimestamp(gateway.started_at, UTC).isoformat()
        return {"type": "model", "id": name, "display_name": name, "created_at": made}
    return {"id": name, "object": "model", "created": gateway.started_at, "owned_by": "archwright"}


def _reply_json(exchange: HttpExchange, status: int, body: object) -> None:
    exchange.reply(status, msgspec.json.encode(body), JSON_CONTENT_TYPE)
