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
from archwright.serving.handlers.generation import GenerationHandler
from archwright.serving.handlers.request_handler import (
    HandlerContext,
    HttpReply,
    ReplyHandler,
    RequestHandler,
    json_reply,
)
from archwright.serving.http.errors import MESSAGES_PATH, ApiError
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


Prepare = Callable[[HandlerContext], RequestHandler]


class Route(NamedTuple):
    """`prepare` validates a request and makes its handler. `tail`: one name follows the path, which `prepare` gets."""

    method: str
    path: str
    permission: str | None
    prepare: Prepare
    tail: bool = False


def reply_with(make_reply: Callable[[HandlerContext], Awaitable[HttpReply]]) -> Prepare:
    """Make handlers of a function that costs nothing and returns the complete reply."""
    return partial(ReplyHandler, make_reply)


def prepare_chat(context: HandlerContext) -> GenerationHandler:
    request = context.request
    generation = parse_chat(request.body, context.gateway.directory, request.header(WORKLOAD_HEADER))
    return _prepare_generation(context, generation, ChatFormat())


def prepare_completion(context: HandlerContext) -> GenerationHandler:
    request = context.request
    body = decode_body(request.body)
    generation = validate_completion(body, context.gateway.directory, request.header(WORKLOAD_HEADER))
    return _prepare_generation(context, generation, CompletionFormat(echoes=bool(generation.body.get("echo"))))


def _prepare_generation(
    context: HandlerContext, generation: GenerationRequest, shape: ChoiceFormat
) -> GenerationHandler:
    options = ResponseOptions(
        generation.top_logprobs, generation.prompt_characters, generation.include_usage, generation.choices
    )
    envelope = _build_envelope(context, generation, shape.prefix)
    writer = OpenAIWriter(shape, envelope, options, stream=generation.stream)
    return GenerationHandler(context, generation, shape.path, writer)


def _build_envelope(context: HandlerContext, generation: GenerationRequest, prefix: str) -> ResponseEnvelope:
    gateway = context.gateway
    reply_id = prefix + context.request.id[3:]
    return ResponseEnvelope(reply_id, int(gateway.clock()), generation.model, gateway.fingerprint)


def prepare_message(context: HandlerContext) -> GenerationHandler:
    body = decode_body(context.request.body)
    generation = _translate_message(context, body)
    writer = MessagesWriter(_build_envelope(context, generation, "msg_"), body.get("stop_sequences") or ())
    return GenerationHandler(context, generation, ChatFormat.path, writer)


def _translate_message(context: HandlerContext, body: dict[str, Any]) -> GenerationRequest:
    workload, betas = context.request.header(WORKLOAD_HEADER), context.request.header(BETA_HEADER)
    return translate_request(body, context.gateway.directory, workload, betas)


async def count_tokens(context: HandlerContext) -> HttpReply:
    """Count the tokens of a message's prompt, by the engine that would answer it."""
    body = {**decode_body(context.request.body), "max_tokens": 1, "stream": False}
    generation, gateway = _translate_message(context, body), context.gateway
    context.response.watch_disconnect()
    gateway.accounting.count_request(context.request.principal)
    content = generation.native or generation.body
    attempts = start_attempts(gateway.router, context.request, context.response, generation, content)

    async def count(replica: Replica) -> int:
        model = replica.client.model_override
        native = None if generation.native is None else {**generation.native, **model}
        body = {**generation.body, **model}
        return await replica.provider.count_tokens(replica.client, body, native, generation.betas)

    slot = gateway.router.build_slot_request(generation, attempts.tenant, attempts.data_class, attempts.until)
    return json_reply({"input_tokens": await attempts.run(slot, count)})


def prepare_embeddings(context: HandlerContext) -> EmbeddingsHandler:
    body, workload = decode_body(context.request.body), context.request.header(WORKLOAD_HEADER)
    return EmbeddingsHandler(context, validate_embedding(body, context.gateway.directory, workload))


def prepare_classification(context: HandlerContext) -> ClassificationHandler:
    wanted = parse_classification_request(context.request.body, context.gateway.directory, context.name)
    return ClassificationHandler(context, wanted)


async def list_models(context: HandlerContext) -> HttpReply:
    """List the names for generations. Classifiers are left out, since a client could not use them as a model."""
    data = [_describe_model(context, name) for name in context.gateway.directory.names]
    if context.request.header(VERSION_HEADER) is None:
        return json_reply({"object": "list", "data": data})
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return json_reply({"data": data, "has_more": False, **ends})


async def get_model(context: HandlerContext) -> HttpReply:
    name = context.name
    if name not in context.gateway.directory.names:
        message = f"The model {name[:MAX_MODEL_NAME_CHARACTERS]!r} does not exist. GET /v1/models lists the models."
        raise ApiError(HTTPStatus.NOT_FOUND, message, "model_not_found", param="model")
    return json_reply(_describe_model(context, name))


def _describe_model(context: HandlerContext, name: str) -> dict[str, Any]:
    started_at = context.gateway.started_at
    if context.request.header(VERSION_HEADER) is not None:
        created_at = datetime.fromtimestamp(started_at, UTC).isoformat()
        return {"type": "model", "id": name, "display_name": name, "created_at": created_at}
    return {"id": name, "object": "model", "created": started_at, "owned_by": "archwright"}


async def get_metrics(context: HandlerContext) -> HttpReply:
    # In a thread, since tens of thousands of series take long to render.
    return HttpReply(await asyncio.to_thread(context.gateway.render_metrics), content_type=CONTENT_TYPE)


async def healthz(_context: HandlerContext) -> HttpReply:
    return json_reply({"status": "ok"})


async def readyz(context: HandlerContext) -> HttpReply:
    """Tell if every endpoint has an engine. Only counts of pools, since this route is open to everyone."""
    gateway = context.gateway
    counts = {"ready": gateway.ready_pool_count, "total": len(gateway.pools)}
    status = HTTPStatus.OK if gateway.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    return json_reply({"ready": gateway.is_ready, "pools": counts}, status)


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/chat/completions", "inference.invoke", prepare_chat),
    Route("POST", "/v1/completions", "inference.invoke", prepare_completion),
    Route("POST", MESSAGES_PATH, "inference.invoke", prepare_message),
    Route("POST", f"{MESSAGES_PATH}/count_tokens", "inference.invoke", reply_with(count_tokens)),
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
    Route("GET", "/admin/tenants", "tenants.manage", admin_api.prepare(admin_api.list_tenants)),
    Route("POST", "/admin/tenants", "tenants.manage", admin_api.prepare(admin_api.create_tenant)),
    Route("GET", "/admin/tenants/{}", "keys.manage", admin_api.prepare(admin_api.get_tenant)),
    Route("PUT", "/admin/tenants/{}/limits", "tenants.manage", admin_api.prepare(admin_api.set_tenant_limits)),
    Route("PUT", "/admin/tenants/{}/content", "content.manage", admin_api.prepare(admin_api.set_content_tracing)),
    Route("GET", "/admin/tenants/{}/keys", "keys.manage", admin_api.prepare(admin_api.list_tenant_keys)),
    Route("POST", "/admin/tenants/{}/keys", "keys.manage", admin_api.prepare(admin_api.create_key)),
    Route("GET", "/admin/tenants/{}/users", "keys.manage", admin_api.prepare(admin_api.list_tenant_users)),
    Route("PUT", "/admin/tenants/{}/users/{}/limits", "keys.manage", admin_api.prepare(admin_api.set_user_limits)),
    Route("GET", "/admin/tenants/{}/usage", "usage.read", admin_api.prepare(admin_api.get_tenant_usage, flushes=True)),
    Route("GET", "/admin/tenants/{}/audit", "audit.read", admin_api.prepare(admin_api.get_tenant_audit)),
    Route("GET", "/admin/keys/{}", "keys.manage", admin_api.prepare(admin_api.get_key)),
    Route("DELETE", "/admin/keys/{}", "keys.manage", admin_api.prepare(admin_api.revoke_key)),
    Route("PUT", "/admin/keys/{}/limits", "keys.manage", admin_api.prepare(admin_api.set_key_limits)),
    Route("POST", "/admin/keys/{}/rotate", "keys.manage", admin_api.prepare(admin_api.rotate_key)),
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
