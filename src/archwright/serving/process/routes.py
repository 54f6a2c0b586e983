"""The routes: (method, path) -> permission, handler.

Design: only the two probes are open without a key, and they decode no body. In administration a name is whatever stands
for `{}` in the pattern; nothing else of a path is decoded, so no encoded path reaches another route.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from http import HTTPMethod, HTTPStatus
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from archwright.monitor.metrics.exposition import CONTENT_TYPE
from archwright.serving.admission.authorization import RouteRequirement
from archwright.serving.events.citation_writer import CitationWriter
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
from archwright.serving.handlers.rerank import RerankHandler
from archwright.serving.handlers.retrieval import RetrievalHandler
from archwright.serving.http.errors import MESSAGES_PATH, ApiError
from archwright.serving.http.http_response import body_too_large
from archwright.serving.messages_api.request_translation import BETA_HEADER, translate_request
from archwright.serving.messages_api.schema import CountTokensRequest, MessagesRequest
from archwright.serving.requests.fast_path import parse_chat
from archwright.serving.requests.field_checks import decode_body
from archwright.serving.requests.passage_prompt import parse_model_name, validate_passage_chat
from archwright.serving.requests.request_validation import (
    WORKLOAD_HEADER,
    GenerationRequest,
    validate_completion,
    validate_embedding,
    validate_rerank,
)
from archwright.serving.requests.typed_requests import MAX_MODEL_NAME_CHARACTERS
from archwright.serving.routing.attempts import start_attempts
from archwright.serving.routing.replica import Replica

VERSION_HEADER = b"anthropic-version"  # sent by clients of the Messages interface, which has its own list of models


Prepare = Callable[[HandlerContext], RequestHandler]


class Route(NamedTuple):
    """`prepare` validates a request and makes its handler. Each {} in `path` is a name.

    `tail`: a name follows the path, which may contain "/". `images`: image data may exceed the limit of the body.
    """

    method: str
    path: str
    permission: str | None
    prepare: Prepare
    tail: bool = False
    images: bool = False


def reply_with(make_reply: Callable[[HandlerContext], Awaitable[HttpReply]]) -> Prepare:
    """Make handlers of a function that costs nothing and returns the complete reply."""
    return partial(ReplyHandler, make_reply)


W = TypeVar("W", bound=OpenAIWriter)


def prepare_chat(context: HandlerContext) -> GenerationHandler:
    request, directory = context.request, context.gateway.directory
    try:
        generation = parse_chat(request.body, directory, request.header(WORKLOAD_HEADER))
    except ApiError as error:
        if error.openai_code != "model_not_found":
            raise
        return _prepare_retrieval(context, error)
    return _prepare_generation(context, generation, ChatFormat())


def _prepare_retrieval(context: HandlerContext, unknown: ApiError) -> RetrievalHandler:
    """Prepare a chat about documents. Raises the error `unknown` if its model name does not mean one."""
    body = decode_body(context.request.body)
    dataset = parse_model_name(body.get("model"))
    if dataset is None:
        raise unknown
    workload = context.request.header(WORKLOAD_HEADER)
    chat = validate_passage_chat(body, dataset, context.gateway.directory, workload)
    _check_text_size(context, chat.generation)
    return RetrievalHandler(context, chat, _make_writer(context, chat.generation, ChatFormat(), CitationWriter))


def prepare_completion(context: HandlerContext) -> GenerationHandler:
    body, workload = decode_body(context.request.body), context.request.header(WORKLOAD_HEADER)
    generation = validate_completion(body, context.gateway.directory, workload)
    return _prepare_generation(context, generation, CompletionFormat(echoes=bool(generation.body.get("echo"))))


def _prepare_generation(
    context: HandlerContext, generation: GenerationRequest, shape: ChoiceFormat
) -> GenerationHandler:
    writer = _make_writer(context, generation, shape, OpenAIWriter)
    _check_text_size(context, generation)
    return GenerationHandler(context, generation, shape.path, writer)


def _make_writer(context: HandlerContext, generation: GenerationRequest, shape: ChoiceFormat, kind: type[W]) -> W:
    options = ResponseOptions(
        generation.top_logprobs, generation.prompt_characters, generation.include_usage, generation.choices
    )
    envelope = _build_envelope(context, generation, shape.prefix)
    return kind(shape, envelope, options, stream=generation.stream)


def _check_text_size(context: HandlerContext, generation: GenerationRequest) -> None:
    """Raise ApiError 413 if the body exceeds the limit for text by text that looks like image data."""
    limit = context.response.limits.body_bytes
    if len(context.request.body) - generation.parts.data_bytes > limit:
        raise body_too_large(limit)


def _build_envelope(context: HandlerContext, generation: GenerationRequest, prefix: str) -> ResponseEnvelope:
    gateway = context.gateway
    reply_id = prefix + context.request.id[3:]
    return ResponseEnvelope(reply_id, int(gateway.clock()), generation.model, gateway.fingerprint)


def prepare_message(context: HandlerContext) -> GenerationHandler:
    generation = _parse_message(context, MessagesRequest)
    stops = (generation.native or {}).get("stop_sequences") or generation.body.get("stop") or ()
    writer = MessagesWriter(_build_envelope(context, generation, "msg_"), stops)
    return GenerationHandler(context, generation, ChatFormat.path, writer)


def _parse_message(context: HandlerContext, kind: type[MessagesRequest]) -> GenerationRequest:
    request = context.request
    workload, betas = request.header(WORKLOAD_HEADER), request.header(BETA_HEADER)
    body = decode_body(request.body)
    generation = translate_request(body, context.gateway.directory, workload, betas, kind)
    _check_text_size(context, generation)
    return generation


async def count_tokens(context: HandlerContext) -> HttpReply:
    """Count the tokens of a message's prompt, by the engine that would answer it."""
    gateway = context.gateway
    if not context.request.admitted.counted:
        gateway.accounting.count_request(context.request.principal)
    generation = _parse_message(context, CountTokensRequest)
    context.response.watch_disconnect()
    if generation.parts.urls:
        tenant = context.request.principal.tenant
        await gateway.images.insert_images(generation.parts.urls, context.response, tenant)
    content = generation.native or generation.body
    attempts = await start_attempts(gateway.router, context.request, context.response, generation, content)

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


def prepare_rerank(context: HandlerContext) -> RerankHandler:
    body, workload = decode_body(context.request.body), context.request.header(WORKLOAD_HEADER)
    return RerankHandler(context, validate_rerank(body, context.gateway.directory, workload))


def prepare_classification(context: HandlerContext) -> ClassificationHandler:
    wanted = parse_classification_request(context.request.body, context.gateway.directory, context.name)
    return ClassificationHandler(context, wanted)


async def list_models(context: HandlerContext) -> HttpReply:
    """List the names for generations. Classifiers are left out, since a client could not use them as a model."""
    names = await _list_names(context)
    data = [_describe_model(context, name) for name in names]
    if context.request.header(VERSION_HEADER) is None:
        return json_reply({"object": "list", "data": data})
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return json_reply({"data": data, "has_more": False, **ends})


async def _list_names(context: HandlerContext) -> list[str]:
    """The models, and the names for chats about the documents that the caller may read."""
    models = context.gateway.directory.names
    documents = await context.gateway.passages.list_models(context.request.principal.tenant)
    return list(dict.fromkeys((*models, *documents)))


async def get_model(context: HandlerContext) -> HttpReply:
    name = context.name
    if name not in await _list_names(context):
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
    Route("POST", "/v1/chat/completions", "inference.invoke", prepare_chat, images=True),
    Route("POST", "/v1/completions", "inference.invoke", prepare_completion),
    Route("POST", MESSAGES_PATH, "inference.invoke", prepare_message, images=True),
    Route("POST", f"{MESSAGES_PATH}/count_tokens", "inference.invoke", reply_with(count_tokens), images=True),
    Route("POST", "/v1/embeddings", "inference.invoke", prepare_embeddings),
    Route("POST", "/v1/rerank", "inference.invoke", prepare_rerank),
    Route("POST", "/v1/predict/", "inference.invoke", prepare_classification, tail=True),
    Route("GET", "/v1/models", "models.read", reply_with(list_models)),
    Route("GET", "/v1/models/", "models.read", reply_with(get_model), tail=True),
    Route("GET", "/metrics", "metrics.read", reply_with(get_metrics)),
    Route("GET", "/healthz", None, reply_with(healthz)),
    Route("GET", "/readyz", None, reply_with(readyz)),
    Route("HEAD", "/healthz", None, reply_with(healthz)),
    Route("HEAD", "/readyz", None, reply_with(readyz)),
)


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
    Route("GET", "/admin/tenants/{}/datasets", "data.read", admin_api.prepare(admin_api.list_tenant_datasets)),
    Route("GET", "/admin/tenants/{}/audit", "audit.read", admin_api.prepare(admin_api.get_tenant_audit)),
    Route("GET", "/admin/keys/{}", "keys.manage", admin_api.prepare(admin_api.get_key)),
    Route("DELETE", "/admin/keys/{}", "keys.manage", admin_api.prepare(admin_api.revoke_key)),
    Route("PUT", "/admin/keys/{}/limits", "keys.manage", admin_api.prepare(admin_api.set_key_limits)),
    Route("POST", "/admin/keys/{}/rotate", "keys.manage", admin_api.prepare(admin_api.rotate_key)),
)


class RouteMatch(NamedTuple):
    """The route of a request, if any; what it demands, None if it is open; the decoded names in the path, with "/"."""

    route: Route | None
    requirement: RouteRequirement | None
    name: str


class RouteTable:
    """Finds the route of a request. Only names are decoded; the rest of a path is compared as it was sent."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        paths = ((route, re.escape(route.path).replace(r"\{\}", "([^/]+)")) for route in routes)
        self._patterns = [(route, re.compile(path + "(.+)" * route.tail)) for route, path in paths]
        fixed = [route for route in routes if not route.tail and "{}" not in route.path]
        self._exact = {(route.method, route.path): self._match(route.method, route.path) for route in fixed}

    def find(self, method: str, path: str) -> RouteMatch:
        return self._exact.get((method, path)) or self._match(method, path)

    def _match(self, method: str, path: str) -> RouteMatch:
        matches = [(route, match.groups()) for route, pattern in self._patterns if (match := pattern.fullmatch(path))]
        names = [unquote(name) for name in matches[0][1]] if matches else []
        if matches and not matches[0][0].tail and any("/" in name for name in names):
            matches = []  # a name with an encoded "/" is not a name
        route = next((route for route, _ in matches if route.method == method), None)
        name = "/".join(names)
        if route is not None and route.permission is None:
            return RouteMatch(route, None, name)
        permission, methods = route.permission if route else None, tuple(route.method for route, _ in matches)
        suggestion = "" if matches else self._suggest_path(path)
        action = _describe_action(method, path, route or (matches[0][0] if matches else None))
        images = route is not None and route.images
        return RouteMatch(route, RouteRequirement(permission, methods, suggestion, images, action), name)

    def _suggest_path(self, path: str) -> str:
        """Return a hint for clients of another interface, or whose base URL lacks the version or has it twice."""
        tail = _SLASHES.sub("/", _VERSION_PREFIX.sub("", path, count=1)).removesuffix("/")
        if tail.startswith("/responses"):
            return _NO_RESPONSES
        suggested = f"/v1{tail}"
        if not any(pattern.fullmatch(suggested) for _, pattern in self._patterns):
            return ""
        ends = "before /v1" if suggested.startswith(MESSAGES_PATH) else "in /v1"
        return f" Did you mean {suggested}? The client's base URL must end {ends}."


def _describe_action(method: str, path: str, route: Route | None) -> str:
    """Return the method and the route's path; of other paths the length, and the first segment if routes have it."""
    method = method if method in HTTPMethod.__members__ else "other method"
    if route is not None:
        return f"{method} {route.path}" + "{}" * route.tail
    segment = path.split("/")[1] if path.count("/") > 1 else ""
    return f"{method} {f'/{segment}/' if segment in _FIRST_SEGMENTS else '/'}... ({len(path)} characters)"


_FIRST_SEGMENTS = {route.path.split("/")[1] for route in (*ROUTES, *ADMIN_ROUTES)}
_SLASHES = re.compile("//+")
_VERSION_PREFIX = re.compile("(?:/+v1(?=/))*")
_NO_RESPONSES = (
    " The Responses interface is not served. Set the client to chat completions, which are at /v1/chat/completions "
    "(such as `provider.chat(model)` or `set_default_openai_api('chat_completions')`)."
)


find_route = RouteTable(ROUTES).find
find_admin_route = RouteTable(ADMIN_ROUTES).find
