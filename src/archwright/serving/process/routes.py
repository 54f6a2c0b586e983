"""The routes of the gateway and of its administration: (method, path) -> permission, handler."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache, partial
from http import HTTPStatus
from typing import Any

import msgspec

from archwright.monitor.metrics.exposition import CONTENT_TYPE
from archwright.serving.batches import batch_api
from archwright.serving.batches.batch_api import BATCH_ENDPOINTS, BatchRequest, FileForm, StoreCall
from archwright.serving.batches.batch_store import Batch, FileObject
from archwright.serving.batches.file_download import FILE_TYPE, FileDownload
from archwright.serving.handlers import admin_api
from archwright.serving.handlers.classification import PredictRequest
from archwright.serving.handlers.model_listing import get_model, list_models
from archwright.serving.handlers.request_handler import HandlerContext, HttpReply, ReplyHandler, json_reply
from archwright.serving.handlers.request_preparation import (
    count_tokens,
    prepare_chat,
    prepare_classification,
    prepare_completion,
    prepare_embeddings,
    prepare_message,
    prepare_rerank,
    prepare_response,
)
from archwright.serving.handlers.transcription import TranscriptionHandler
from archwright.serving.http.errors import MESSAGES_PATH, RESPONSES_PATH
from archwright.serving.messages_api.schema import CountTokensRequest, MessagesRequest
from archwright.serving.process import reply_records as replies
from archwright.serving.process.api_page import HTML_CONTENT_TYPE, PAGE_HEADERS, PAGE_PATH, render_page
from archwright.serving.process.openapi import OPENAPI_PATH, build_document
from archwright.serving.process.route_table import METERED_PERMISSION, Prepare, Route, RouteTable
from archwright.serving.requests.transcription import TranscriptionRequest
from archwright.serving.requests.typed_requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    RerankRequest,
)
from archwright.serving.responses_api.schema import ResponsesRequest


def reply_with(make_reply: Callable[[HandlerContext], Awaitable[HttpReply]]) -> Prepare:
    """Make handlers of a function that costs nothing and returns the complete reply."""
    return partial(ReplyHandler, make_reply)


async def get_metrics(context: HandlerContext) -> HttpReply:
    # In a thread, since tens of thousands of series take long to render.
    return HttpReply(await asyncio.to_thread(context.gateway.render_metrics), content_type=CONTENT_TYPE)


async def healthz(_context: HandlerContext) -> HttpReply:
    return json_reply({"status": "ok"})


async def readyz(context: HandlerContext) -> HttpReply:
    """Tell if every endpoint has an engine; with the query `pools=any`, if one pool has.

    A load balancer asks for any: one pool without an engine is no reason to refuse requests for the others. The reply
    has only counts of pools, since this route is open to everyone.
    """
    gateway = context.gateway
    counts = {"ready": gateway.ready_pool_count, "total": len(gateway.pools)}
    wants_any = context.request.head.query == ANY_POOL
    ready = gateway.is_ready or (wants_any and gateway.ready_pool_count > 0)
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return json_reply({"ready": ready, "pools": counts}, status)


@cache  # the document never changes
def _render_document(render: Callable[[dict[str, Any]], bytes]) -> bytes:
    return render(build_document(ROUTES))


async def get_openapi(_context: HandlerContext) -> HttpReply:
    return HttpReply(_render_document(msgspec.json.encode))


async def get_page(_context: HandlerContext) -> HttpReply:
    return HttpReply(_render_document(render_page), content_type=HTML_CONTENT_TYPE, headers=PAGE_HEADERS)


INVOKE, READ_MODELS = METERED_PERMISSION, "models.read"
BATCHES, BATCH, FILES, FILE = "/v1/batches", "/v1/batches/{}", "/v1/files", "/v1/files/{}"
PAGE_QUERY = ("limit", "after", "order")
ANY_POOL = "pools=any"
COUNT_PATH = f"{MESSAGES_PATH}/count_tokens"


def _infer(path: str, prepare: Prepare, summary: str, body: type, reply: type, **more: Any) -> Route:
    """Make a route whose requests a model answers."""
    return Route("POST", path, INVOKE, prepare, summary, body, reply, by_model=True, **more)


def _store(
    method: str, path: str, act: Callable[[StoreCall], object], summary: str, reply: type | None = None, **more: Any
) -> Route:
    """Make a route of files or batches."""
    return Route(method, path, INVOKE, batch_api.prepare(act), summary, reply=reply, **more)


ROUTES: tuple[Route, ...] = (
    _infer("/v1/chat/completions", prepare_chat, "Chat", ChatRequest, replies.ChatReply, images=True),
    _infer("/v1/completions", prepare_completion, "Complete a text", CompletionRequest, replies.CompletionReply),
    _infer(MESSAGES_PATH, prepare_message, "Message", MessagesRequest, replies.MessageReply, images=True),
    _infer(RESPONSES_PATH, prepare_response, "Response", ResponsesRequest, replies.ResponseReply, images=True),
    _infer(
        COUNT_PATH, reply_with(count_tokens), "Count tokens", CountTokensRequest, replies.TokenCountReply, images=True
    ),
    _infer("/v1/embeddings", prepare_embeddings, "Embed texts", EmbeddingRequest, replies.EmbeddingReply),
    _infer("/v1/rerank", prepare_rerank, "Rank documents", RerankRequest, replies.RerankReply),
    _infer(
        "/v1/audio/transcriptions",
        TranscriptionHandler,
        "Transcribe",
        TranscriptionRequest,
        replies.TranscriptionReply,
        upload=True,
    ),
    _infer("/v1/predict/", prepare_classification, "Classify", PredictRequest, replies.PredictReply, tail=True),
    Route("GET", "/v1/models", READ_MODELS, reply_with(list_models), "List models", reply=replies.ListReply),
    Route(
        "GET", "/v1/models/", READ_MODELS, reply_with(get_model), "Show a model", reply=replies.ModelReply, tail=True
    ),
    Route("GET", "/metrics", "metrics.read", reply_with(get_metrics), "Show metrics", reply_type=CONTENT_TYPE),
    Route("GET", "/healthz", None, reply_with(healthz), "Tell that the process responds"),
    Route("GET", "/health", None, reply_with(healthz), "The same, for clients of engines"),
    Route("GET", "/readyz", None, reply_with(readyz), "Tell if every model has an engine", query=("pools",)),
    Route("HEAD", "/healthz", None, reply_with(healthz)),
    Route("HEAD", "/health", None, reply_with(healthz)),
    Route("HEAD", "/readyz", None, reply_with(readyz)),
    Route("GET", OPENAPI_PATH, None, reply_with(get_openapi)),
    Route("GET", PAGE_PATH, None, reply_with(get_page)),
    _store("POST", FILES, batch_api.create_file, "Upload a file", FileObject, body=FileForm, upload=True),
    _store("GET", FILES, batch_api.list_files, "List files", replies.ListReply, query=(*PAGE_QUERY, "purpose")),
    _store("GET", FILE, batch_api.get_file, "Show a file", FileObject),
    Route("GET", f"{FILE}/content", INVOKE, FileDownload, "Read a file", reply_type=FILE_TYPE, errors=(416,)),
    _store("DELETE", FILE, batch_api.delete_file, "Delete a file", errors=(409,)),
    _store("POST", BATCHES, batch_api.create_batch, "Create a batch", Batch, body=BatchRequest, errors=(404,)),
    _store("GET", BATCHES, batch_api.list_batches, "List batches", replies.ListReply, query=PAGE_QUERY),
    _store("GET", BATCH, batch_api.get_batch, "Show a batch", Batch),
    _store("POST", f"{BATCH}/cancel", batch_api.cancel_batch, "Cancel a batch", Batch, errors=(409,)),
)

LINE_ROUTES = {route.path: (route.prepare, route.images) for route in ROUTES if route.path in BATCH_ENDPOINTS}


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


find_route = RouteTable(ROUTES).find
find_admin_route = RouteTable(ADMIN_ROUTES).find
