"""The routes: (method, path) -> permission, handler.

Design: only the two probes are open without a key, and they decode no body. In administration a name is whatever stands
for `{}` in the pattern; nothing else of a path is decoded, so no encoded path reaches another route.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote

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
from archwright.serving.handlers.classification import ClassificationHandler, parse_classification_request
from archwright.serving.handlers.embeddings import EmbeddingsHandler
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.handlers.generation import GenerationHandler
from archwright.serving.handlers.request_handler import HttpReply, ReplyHandler, RequestHandler, json_reply
from archwright.serving.http.errors import MESSAGES_PATH, ApiError
from archwright.serving.http.http_request import HttpRequest
from archwright.serving.http.http_response import HttpResponse
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


Prepare = Callable[[GatewayContext, HttpRequest, HttpResponse, str], RequestHandler]


class Route(NamedTuple):
    """`prepare` validates a request and makes its handler. `tail`: one name follows the path, which `prepare` gets."""

    method: str
    path: str
    permission: str | None
    prepare: Prepare
    tail: bool = False


def reply_with(make_reply: Callable[[GatewayContext, HttpRequest, str], Awaitable[HttpReply]]) -> Prepare:
    """Make handlers of a function that costs nothing and returns the complete reply."""
    return partial(ReplyHandler, make_reply)


def prepare_chat(
    gateway: GatewayContext, request: HttpRequest, response: HttpResponse, _name: str
) -> GenerationHandler:
    generation = parse_chat(request.body, gateway.directory, request.header(WORKLOAD_HEADER))
    return _prepare_generation(gateway, request, response, generation, ChatFormat())


def prepare_completion(
    gateway: GatewayContext, request: HttpRequest, response: HttpResponse, _name: str
) -> GenerationHandler:
    body = decode_body(request.body)
    generation = validate_completion(body, gateway.directory, request.header(WORKLOAD_HEADER))
    shape = CompletionFormat(echoes=bool(generation.body.get("echo")))
    return _prepare_generation(gateway, request, response, generation, shape)


def prepare_message(
    gateway: GatewayContext, request: HttpRequest, response: HttpResponse, _name: str
) -> GenerationHandler:
    body = decode_body(request.body)
    workload, betas = request.header(WORKLOAD_HEADER), request.header(BETA_HEADER)
    generation = translate_request(body, gateway.directory, workload, betas)
    writer = MessagesWriter(_build_envelope(gateway, request, generation, "msg_"), body.get("stop_sequences") or ())
    return GenerationHandler(gateway, request, response, generation, ChatFormat.path, writer)


def _prepare_generation(
    gateway: GatewayContext,
    request: HttpRequest,
    response: HttpResponse,
    generation: GenerationRequest,
    shape: ChoiceFormat,
) -> GenerationHandler:
    options = ResponseOptions(
        generation.top_logprobs, generation.prompt_characters, generation.include_usage, generation.choices
    )
    envelope = _build_envelope(gateway, request, generation, shape.prefix)
    writer = OpenAIWriter(shape, envelope, options, stream=generation.stream)
    return GenerationHandler(gateway, request, response, generation, shape.path, writer)


def _build_envelope(
    gateway: GatewayContext, request: HttpRequest, generation: GenerationRequest, prefix: str
) -> ResponseEnvelope:
    return ResponseEnvelope(prefix + request.id[3:], int(gateway.clock()), generation.model, gateway.fingerprint)


def prepare_token_count(
    gateway: GatewayContext, request: HttpRequest, response: HttpResponse, name: str
) -> ReplyHandler:
    return ReplyHandler(partial(count_tokens, response), gateway, request, response, name)


async def count_tokens(response: HttpResponse, gateway: GatewayContext, request: HttpRequest, _name: str) -> HttpReply:
    """Count the tokens of a message's prompt, by the engine that would answer it."""
    body = {**decode_body(request.body), "max_tokens": 1, "stream": False}
    workload, betas = request.header(WORKLOAD_HEADER), request.header(BETA_HEADER)
    generation = translate_request(body, gateway.directory, workload, betas)
    response.watch_disconnect()
    gateway.accounting.count_request(request.principal)
    attempts = start_attempts(gateway.router, request, response, generation, generation.native or generation.body)

    async def count(replica: Replica) -> int:
        model = replica.client.model_override
        native = None if generation.native is None else {**generation.native, **model}
        body = {**generation.body, **model}
        return await replica.provider.count_tokens(replica.client, body, native, generation.betas)

    slot = gateway.router.build_slot_request(generation, attempts.tenant, attempts.data_class, attempts.until)
    return json_reply({"input_tokens": await attempts.run(slot, count)})


def prepare_embeddings(
    gateway: GatewayContext, request: HttpRequest, response: HttpResponse, _name: str
) -> EmbeddingsHandler:
    body = decode_body(request.body)
    generation = validate_embedding(body, gateway.directory, request.header(WORKLOAD_HEADER))
    return EmbeddingsHandler(gateway, request, response, generation)


def prepare_classification(
    gateway: GatewayContext, request: HttpRequest, response: HttpResponse, name: str
) -> ClassificationHandler:
    wanted = parse_classification_request(request.body, gateway.directory, name)
    return ClassificationHandler(gateway, request, response, wanted)


async def list_models(gateway: GatewayContext, request: HttpRequest, _name: str) -> HttpReply:
    """List the names for generations. Classifiers are left out, since a client could not use them as a model."""
    data = [_describe_model(gateway, request, name) for name in gateway.directory.names]
    if request.header(VERSION_HEADER) is None:
        return json_reply({"object": "list", "data": data})
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return json_reply({"data": data, "has_more": False, **ends})


async def get_model(gateway: GatewayContext, request: HttpRequest, name: str) -> HttpReply:
    if name not in gateway.directory.names:
        message = f"The model {name[:MAX_MODEL_NAME_CHARACTERS]!r} does not exist. GET /v1/models lists the models."
        raise ApiError(HTTPStatus.NOT_FOUND, message, "model_not_found", param="model")
    return json_reply(_describe_model(gateway, request, name))


def _describe_model(gateway: GatewayContext, request: HttpRequest, name: str) -> dict[str, Any]:
    if request.header(VERSION_HEADER) is not None:
        created_at = datetime.fromtimestamp(gateway.started_at, UTC).isoformat()
        return {"type": "model", "id": name, "display_name": name, "created_at": created_at}
    return {"id": name, "object": "model", "created": gateway.started_at, "owned_by": "archwright"}


async def get_metrics(gateway: GatewayContext, _request: HttpRequest, _name: str) -> HttpReply:
    # In a thread, since tens of thousands of series take long to render.
    return HttpReply(await asyncio.to_thread(gateway.render_metrics), content_type=CONTENT_TYPE)


async def healthz(_gateway: GatewayContext, _request: HttpRequest, _name: str) -> HttpReply:
    return json_reply({"status": "ok"})


async def readyz(gateway: GatewayContext, _request: HttpRequest, _name: str) -> HttpReply:
    """Tell if every endpoint has an engine. Only counts of pools, since this route is open to everyone."""
    ready, counts = gateway.is_ready, {"ready": gateway.ready_pool_count, "total": len(gateway.pools)}
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return json_reply({"ready": ready, "pools": counts}, status)


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/chat/completions", "inference.invoke", prepare_chat),
    Route("POST", "/v1/completions", "inference.invoke", prepare_completion),
    Route("POST", MESSAGES_PATH, "inference.invoke", prepare_message),
    Route("POST", f"{MESSAGES_PATH}/count_tokens", "inference.invoke", prepare_token_count),
    Route("POST", "/v1/embeddings", "inference.invoke", prepare_embeddings),
    Route("POST", "/v1/predict/", "inference.invoke", prepare_classification, tail=True),
    Route("GET", "/v1/models", "models.read", reply_with(list_models)),
    Route("GET", "/v1/models/", "models.read", reply_with(get_model), tail=True),
    Route("GET", "/metrics", "metrics.read", reply_with(get_metrics)),
    Route("GET", "/healthz", None, reply_with(healthz)),
    Route("GET", "/readyz", None, reply_with(readyz)),
    Route("HEAD", "/healthz", None, reply_with(healthz)),
    Route("HEAD", "/readyz", None, reply_with(readyz)),
)


# Each {} is one name.
ADMIN_ROUTES: tuple[Route, ...] = (
    Route("GET", "/admin/tenants", "tenants.manage", reply_with(admin_api.list_tenants)),
    Route("POST", "/admin/tenants", "tenants.manage", reply_with(admin_api.create_tenant)),
    Route("GET", "/admin/tenants/{}", "keys.manage", reply_with(admin_api.get_tenant)),
    Route("PUT", "/admin/tenants/{}/limits", "tenants.manage", reply_with(admin_api.set_tenant_limits)),
    Route("PUT", "/admin/tenants/{}/content", "content.manage", reply_with(admin_api.set_content_tracing)),
    Route("GET", "/admin/tenants/{}/keys", "keys.manage", reply_with(admin_api.list_tenant_keys)),
    Route("POST", "/admin/tenants/{}/keys", "keys.manage", reply_with(admin_api.create_key)),
    Route("GET", "/admin/tenants/{}/users", "keys.manage", reply_with(admin_api.list_tenant_users)),
    Route("PUT", "/admin/tenants/{}/users/{}/limits", "keys.manage", reply_with(admin_api.set_user_limits)),
    Route("GET", "/admin/tenants/{}/usage", "usage.read", reply_with(admin_api.get_tenant_usage)),
    Route("GET", "/admin/tenants/{}/audit", "audit.read", reply_with(admin_api.get_tenant_audit)),
    Route("GET", "/admin/keys/{}", "keys.manage", reply_with(admin_api.get_key)),
    Route("DELETE", "/admin/keys/{}", "keys.manage", reply_with(admin_api.revoke_key)),
    Route("PUT", "/admin/keys/{}/limits", "keys.manage", reply_with(admin_api.set_key_limits)),
    Route("POST", "/admin/keys/{}/rotate", "keys.manage", reply_with(admin_api.rotate_key)),
)


class RouteMatch(NamedTuple):
    """The route of a request, if any; what it demands, None if it is open; the decoded name in the path.

    Two names are joined by "/". The rest of a path is compared as it was sent.
    """

    route: Route | None
    requirement: RouteRequirement | None
    name: str


def _build_match(route: Route | None, methods: tuple[str, ...], name: str = "", suggestion: str = "") -> RouteMatch:
    if route is not None and route.permission is None:
        return RouteMatch(route, None, name)
    permission = route.permission if route else None
    return RouteMatch(route, RouteRequirement(permission, bool(methods), methods, suggestion), name)


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
    " The Responses interface is not served. Set the client to chat completions, which are at /v1/chat/completions "
    "(such as `provider.chat(model)` or `set_default_openai_api('chat_completions')`)."
)


def _suggest_path(path: str) -> str:
    """Return a hint for clients of another interface, or whose base URL lacks the version or has it twice."""
    tail = _SLASHES.sub("/", _VERSION_PREFIX.sub("", path, count=1)).removesuffix("/")
    if tail.startswith("/responses"):
        return _NO_RESPONSES
    suggested = f"/v1{tail}"
    if not any(_path_matches(route, suggested) for route in ROUTES):
        return ""
    ends = "before /v1" if suggested.startswith(MESSAGES_PATH) else "in /v1"
    return f" Did you mean {suggested}? The client's base URL must end {ends}."


_ADMIN_PATTERNS = [
    (route, re.compile("([^/]+)".join(map(re.escape, route.path.split("{}"))))) for route in ADMIN_ROUTES
]


def find_admin_route(method: str, path: str) -> RouteMatch:
    """Return the match among the routes of administration. A name with an encoded "/" matches nothing."""
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
