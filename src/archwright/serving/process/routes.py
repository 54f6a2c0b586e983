"""The interface in one table: (method, path) -> permission, handler. What is not here does not exist.

`permission` None is open to everyone; the two probes (load balancers ask them by HEAD too) are the only such rows.
"""

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
from archwright.serving.admission.authorization import Wish
from archwright.serving.events.messages_writer import MessagesWriter
from archwright.serving.events.response_formats import ChatShape, Chunks, CompletionShape, Envelope, Shape, Wanted
from archwright.serving.handlers import admin_api
from archwright.serving.handlers.classification import predict, question_of
from archwright.serving.handlers.embeddings import embed
from archwright.serving.handlers.gateway_context import Gateway
from archwright.serving.handlers.generation import Generation
from archwright.serving.http.errors import MESSAGES, Refusal
from archwright.serving.http.http_exchange import JSON, Exchange
from archwright.serving.messages_api import request_translation
from archwright.serving.requests import fast_path, request_validation
from archwright.serving.requests.field_checks import decode
from archwright.serving.requests.model_resolution import MODEL_NAME
from archwright.serving.requests.request_validation import WORKLOAD, Question
from archwright.serving.routing.attempts import set_out
from archwright.serving.routing.replica import Replica

VERSION = b"anthropic-version"
"""Clients of the Messages interface send it with everything, and read models in other words."""


class Route(NamedTuple):
    """`tail` true: the path is followed by one name, which the handler gets."""

    method: str
    path: str
    permission: str | None
    handler: Callable[[Gateway, Exchange, str], Coroutine[Any, Any, None]]
    tail: bool = False


def chat(gateway: Gateway, exchange: Exchange, _name: str) -> Coroutine[Any, Any, None]:
    question = fast_path.chat(exchange.body, gateway.directory, exchange.header(WORKLOAD))
    return _generated(gateway, exchange, question, ChatShape())


def completion(gateway: Gateway, exchange: Exchange, _name: str) -> Coroutine[Any, Any, None]:
    body = decode(exchange.body)
    question = request_validation.completion(body, gateway.directory, exchange.header(WORKLOAD))
    return _generated(gateway, exchange, question, CompletionShape(echoes=bool(question.body.get("echo"))))


def message(gateway: Gateway, exchange: Exchange, _name: str) -> Coroutine[Any, Any, None]:
    """The Messages interface, in front of whatever answers."""
    body = decode(exchange.body)
    question = request_translation.question(
        body, gateway.directory, exchange.header(WORKLOAD), exchange.header(request_translation.BETA_FIELD)
    )
    gateway.till.weigh(exchange, question)
    writer = MessagesWriter(_envelope(gateway, exchange, question, "msg_"), body.get("stop_sequences") or ())
    return Generation(gateway, exchange, question, ChatShape.path, writer).run()


async def counting(gateway: Gateway, exchange: Exchange, _name: str) -> None:
    """How many tokens a message's prompt has, as the engine that would answer counts them."""
    body = {**decode(exchange.body), "max_tokens": 1, "stream": False}
    question = request_translation.question(
        body, gateway.directory, exchange.header(WORKLOAD), exchange.header(request_translation.BETA_FIELD)
    )
    exchange.watch()
    gateway.till.admit(exchange)
    course = set_out(gateway.router, exchange, question, question.native or question.body)

    async def count(replica: Replica) -> int:
        named = replica.client.named
        native = None if question.native is None else {**question.native, **named}
        return await replica.provider.count(replica.client, {**question.body, **named}, native, question.betas)

    counted = await course.answer(gateway.router.work(question, course.tenant, course.data_class, course.until), count)
    _json(exchange, HTTPStatus.OK, {"input_tokens": counted})


def _generated(gateway: Gateway, exchange: Exchange, question: Question, shape: Shape) -> Coroutine[Any, Any, None]:
    gateway.till.weigh(exchange, question)
    wanted = Wanted(question.top_logprobs, question.prompt_characters, question.include_usage, question.choices)
    writer = Chunks(shape, _envelope(gateway, exchange, question, shape.prefix), wanted, stream=question.stream)
    return Generation(gateway, exchange, question, shape.path, writer).run()


def _envelope(gateway: Gateway, exchange: Exchange, question: Question, prefix: str) -> Envelope:
    return Envelope(prefix + exchange.id[3:], int(gateway.clock()), question.model, gateway.fingerprint)


def embeddings(gateway: Gateway, exchange: Exchange, _name: str) -> Coroutine[Any, Any, None]:
    body = decode(exchange.body)
    question = request_validation.embedding(body, gateway.directory, exchange.header(WORKLOAD))
    gateway.till.weigh(exchange, question)
    return embed(gateway, exchange, question)


def prediction(gateway: Gateway, exchange: Exchange, name: str) -> Coroutine[Any, Any, None]:
    return predict(gateway, exchange, question_of(exchange.body, gateway.directory, name))


async def models(gateway: Gateway, exchange: Exchange, _name: str) -> None:
    """What a generation may name. Classifiers are not among them: a client that picks one could only be refused."""
    data = [_model(gateway, exchange, name) for name in gateway.directory.names]
    page: dict[str, Any] = {"object": "list", "data": data}
    if exchange.header(VERSION) is not None:
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        page = {"data": data, "has_more": False, **ends}
    _json(exchange, HTTPStatus.OK, page)


async def model(gateway: Gateway, exchange: Exchange, name: str) -> None:
    if name not in gateway.directory.names:
        message = f"the model {name[:MODEL_NAME]!r} does not exist"
        raise Refusal(HTTPStatus.NOT_FOUND, message, openai_code="model_not_found", param="model")
    _json(exchange, HTTPStatus.OK, _model(gateway, exchange, name))


async def metrics(gateway: Gateway, exchange: Exchange, _name: str) -> None:
    # Tens of thousands of series take long to write out: not on the loop that streams.
    page = await asyncio.to_thread(gateway.metrics)
    exchange.reply(HTTPStatus.OK, page, CONTENT_TYPE)


async def healthz(_gateway: Gateway, exchange: Exchange, _name: str) -> None:
    """The process answers."""
    _json(exchange, HTTPStatus.OK, {"status": "ok"})


async def readyz(gateway: Gateway, exchange: Exchange, _name: str) -> None:
    """Every endpoint has an engine. Counts of pools only: this page is open to everyone."""
    ready = gateway.answers
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    _json(exchange, status, {"ready": ready, "pools": {"ready": gateway.ready, "total": len(gateway.pools)}})


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/chat/completions", "inference.invoke", chat),
    Route("POST", "/v1/completions", "inference.invoke", completion),
    Route("POST", MESSAGES, "inference.invoke", message),
    Route("POST", f"{MESSAGES}/count_tokens", "inference.invoke", counting),
    Route("POST", "/v1/embeddings", "inference.invoke", embeddings),
    Route("POST", "/v1/predict/", "inference.invoke", prediction, tail=True),
    Route("GET", "/v1/models", "models.read", models),
    Route("GET", "/v1/models/", "models.read", model, tail=True),
    Route("GET", "/metrics", "metrics.read", metrics),
    Route("GET", "/healthz", None, healthz),
    Route("GET", "/readyz", None, readyz),
    Route("HEAD", "/healthz", None, healthz),
    Route("HEAD", "/readyz", None, readyz),
)


# What stands for {} is one name each.
ADMIN_ROUTES: tuple[Route, ...] = (
    Route("GET", "/admin/tenants", "tenants.manage", admin_api.tenants),
    Route("POST", "/admin/tenants", "tenants.manage", admin_api.tenant_create),
    Route("GET", "/admin/tenants/{}", "keys.manage", admin_api.tenant),
    Route("PUT", "/admin/tenants/{}/limits", "tenants.manage", admin_api.tenant_limits),
    Route("PUT", "/admin/tenants/{}/content", "content.manage", admin_api.tenant_content),
    Route("GET", "/admin/tenants/{}/keys", "keys.manage", admin_api.tenant_keys),
    Route("POST", "/admin/tenants/{}/keys", "keys.manage", admin_api.key_create),
    Route("GET", "/admin/tenants/{}/users", "keys.manage", admin_api.tenant_users),
    Route("PUT", "/admin/tenants/{}/users/{}/limits", "keys.manage", admin_api.user_limits),
    Route("GET", "/admin/tenants/{}/usage", "usage.read", admin_api.tenant_usage),
    Route("GET", "/admin/tenants/{}/audit", "audit.read", admin_api.tenant_audit),
    Route("GET", "/admin/keys/{}", "keys.manage", admin_api.key),
    Route("DELETE", "/admin/keys/{}", "keys.manage", admin_api.key_revoke),
    Route("PUT", "/admin/keys/{}/limits", "keys.manage", admin_api.key_limits),
    Route("POST", "/admin/keys/{}/rotate", "keys.manage", admin_api.key_rotate),
)


class Found(NamedTuple):
    """The route of a request, if any; what it wants of the guard (None: it is open to everyone); the name in the path,
    decoded (two are joined by "/"). Nothing but that is: the rest of a path is compared as it was sent, so no spelling
    of it leads elsewhere."""

    route: Route | None
    wish: Wish | None
    name: str


def _found(route: Route | None, methods: tuple[str, ...], name: str = "", instead: str = "") -> Found:
    open_to_all = route is not None and route.permission is None
    wish = None if open_to_all else Wish(route.permission if route else None, bool(methods), methods, instead)
    return Found(route, wish, name)


_PLAIN = {(route.method, route.path): _found(route, (route.method,)) for route in ROUTES if not route.tail}


def find(method: str, path: str) -> Found:
    plain = _PLAIN.get((method, path))
    if plain is not None:
        return plain
    fit = [route for route in ROUTES if _fits(route, path)]
    route = next((route for route in fit if route.method == method), None)
    name = unquote(path[len(fit[0].path) :]) if fit else ""
    return _found(route, tuple(route.method for route in fit), name, "" if fit else _instead(path))


_SLASHES = re.compile("//+")
_VERSIONS = re.compile("(?:/+v1(?=/))*")
_NO_RESPONSES = (
    "; the Responses interface is not served: set the client to chat completions, which are at /v1/chat/completions "
    "(such as `provider.chat(model)` or `set_default_openai_api('chat_completions')`)"
)


def _instead(path: str) -> str:
    """For clients of another interface, or whose base URL lacks the version or says it twice. Only told: a path is
    compared as it was sent."""
    tail = _SLASHES.sub("/", _VERSIONS.sub("", path, count=1)).removesuffix("/")
    if tail.startswith("/responses"):
        return _NO_RESPONSES
    meant = f"/v1{tail}"
    if not any(_fits(route, meant) for route in ROUTES):
        return ""
    ends = "before /v1" if meant.startswith(MESSAGES) else "in /v1"
    return f"; did you mean {meant}? The client's base URL ends {ends}"


_PATTERNS = [(route, re.compile("([^/]+)".join(map(re.escape, route.path.split("{}"))))) for route in ADMIN_ROUTES]


def find_admin(method: str, path: str) -> Found:
    """As `find`, among the routes of administration. A name that hides a "/" fits nothing."""
    fit = [(route, found.groups()) for route, pattern in _PATTERNS if (found := pattern.fullmatch(path))]
    names = [unquote(name) for name in fit[0][1]] if fit else []
    if any("/" in name for name in names):
        fit = []
    route = next((route for route, _names in fit if route.method == method), None)
    return _found(route, tuple(route.method for route, _names in fit), "/".join(names))


def _fits(route: Route, path: str) -> bool:
    if not route.tail:
        return path == route.path
    return path.startswith(route.path) and len(path) > len(route.path)


def _model(gateway: Gateway, exchange: Exchange, name: str) -> dict[str, Any]:
    if exchange.header(VERSION) is not None:
        made = datetime.fromtimestamp(gateway.started_at, UTC).isoformat()
        return {"type": "model", "id": name, "display_name": name, "created_at": made}
    return {"id": name, "object": "model", "created": gateway.started_at, "owned_by": "archwright"}


def _json(exchange: Exchange, status: int, body: object) -> None:
    exchange.reply(status, msgspec.json.encode(body), JSON)
