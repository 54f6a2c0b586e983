"""The routes of the gateway and of its administration: (method, path) -> permission, handler."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache, partial
from http import HTTPStatus
from typing import Any

import msgspec

from archwright.monitor.metrics.exposition import CONTENT_TYPE
from archwright.serving.batches import batch_api
from archwright.serving.batches.batch_api import BATCH_ENDPOINTS, FILE_TYPE, BatchRequest, FileForm
from archwright.serving.batches.batch_store import Batch, FileObject
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
from archwright.serving.process.api_page import HTML_CONTENT_TYPE, PAGE_HEADERS, PAGE_PATH, render_page
from archwright.serving.process.openapi import OPENAPI_PATH, build_document
from archwright.serving.process.reply_records import (
    ChatReply,
    CompletionReply,
    EmbeddingReply,
    ListReply,
    MessageReply,
    ModelReply,
    PredictReply,
    RerankReply,
    ResponseReply,
    TokenCountReply,
    TranscriptionReply,
)
from archwright.serving.process.route_table import METERED_PERMISSION, Prepare, Route, RouteTable
from archwright.serving.requests.transcription import TranscriptionForm
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
    """Tell if every endpoint has an engine. Only counts of pools, since this route is open to everyone."""
    gateway = context.gateway
    counts = {"ready": gateway.ready_pool_count, "total": len(gateway.pools)}
    status = HTTPStatus.OK if gateway.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    return json_reply({"ready": gateway.is_ready, "pools": counts}, status)


@cache  # the document never changes
def _render_document(render: Callable[[dict[str, Any]], bytes]) -> bytes:
    return render(build_document(ROUTES))


async def get_openapi(_context: HandlerContext) -> HttpReply:
    return HttpReply(_render_document(msgspec.json.encode))


async def get_page(_context: HandlerContext) -> HttpReply:
    return HttpReply(_render_document(render_page), content_type=HTML_CONTENT_TYPE, headers=PAGE_HEADERS)


INVOKE, READ_MODELS = METERED_PERMISSION, "models.read"
BATCHES, FILES = "/v1/batches", "/v1/files"
PAGE_QUERY = ("limit", "after", "order")
COUNT_PATH = f"{MESSAGES_PATH}/count_tokens"

ROUTES: tuple[Route, ...] = (
    Route(
        *("POST", "/v1/chat/completions", INVOKE, prepare_chat),
        images=True,
        summary="Chat",
        body=ChatRequest,
        reply=ChatReply,
    ),
    Route(
        *("POST", "/v1/completions", INVOKE, prepare_completion),
        summary="Complete a text",
        body=CompletionRequest,
        reply=CompletionReply,
    ),
    Route(
        *("POST", MESSAGES_PATH, INVOKE, prepare_message),
        images=True,
        summary="Message",
        body=MessagesRequest,
        reply=MessageReply,
    ),
    Route(
        *("POST", RESPONSES_PATH, INVOKE, prepare_response),
        images=True,
        summary="Response",
        body=ResponsesRequest,
        reply=ResponseReply,
    ),
    Route(
        *("POST", COUNT_PATH, INVOKE, reply_with(count_tokens)),
        images=True,
        summary="Count the tokens of a message",
        body=CountTokensRequest,
        reply=TokenCountReply,
    ),
    Route(
        *("POST", "/v1/embeddings", INVOKE, prepare_embeddings),
        summary="Embed texts",
        body=EmbeddingRequest,
        reply=EmbeddingReply,
    ),
    Route(
        "POST", "/v1/rerank", INVOKE, prepare_rerank, summary="Rank documents", body=RerankRequest, reply=RerankReply
    ),
    Route(
        *("POST", "/v1/audio/transcriptions", INVOKE, TranscriptionHandler),
        upload=True,
        summary="Transcribe sound",
        body=TranscriptionForm,
        reply=TranscriptionReply,
    ),
    Route(
        *("POST", "/v1/predict/", INVOKE, prepare_classification),
        tail=True,
        summary="Classify rows or images",
        body=PredictRequest,
        reply=PredictReply,
    ),
    Route("GET", "/v1/models", READ_MODELS, reply_with(list_models), summary="List models", reply=ListReply),
    Route(
        "GET", "/v1/models/", READ_MODELS, reply_with(get_model), tail=True, summary="Show a model", reply=ModelReply
    ),
    Route(
        *("GET", "/metrics", "metrics.read", reply_with(get_metrics)),
        summary="Metrics for Prometheus",
        reply_type=CONTENT_TYPE,
    ),
    Route("GET", "/healthz", None, reply_with(healthz), summary="Tell that the process responds"),
    Route("GET", "/health", None, reply_with(healthz), summary="The same, for clients of engines"),
    Route("GET", "/readyz", None, reply_with(readyz), summary="Tell if every model has an engine"),
    Route("HEAD", "/healthz", None, reply_with(healthz)),
    Route("HEAD", "/health", None, reply_with(healthz)),
    Route("HEAD", "/readyz", None, reply_with(readyz)),
    Route("GET", OPENAPI_PATH, None, reply_with(get_openapi)),
    Route("GET", PAGE_PATH, None, reply_with(get_page)),
    Route(
        *("POST", FILES, INVOKE, batch_api.prepare(batch_api.create_file)),
        upload=True,
        free=True,
        summary="Upload the requests of a batch",
        body=FileForm,
        reply=FileObject,
    ),
    Route(
        *("GET", FILES, INVOKE, batch_api.prepare(batch_api.list_files)),
        summary="List files",
        reply=ListReply,
        query=(*PAGE_QUERY, "purpose"),
    ),
    Route(
        "GET", f"{FILES}/{{}}", INVOKE, batch_api.prepare(batch_api.get_file), summary="Show a file", reply=FileObject
    ),
    Route(
        *("GET", f"{FILES}/{{}}/content", INVOKE, batch_api.prepare(batch_api.get_content)),
        summary="Read a file",
        reply_type=FILE_TYPE,
    ),
    Route(
        *("DELETE", f"{FILES}/{{}}", INVOKE, batch_api.prepare(batch_api.delete_file)),
        summary="Delete a file",
        errors=(409,),
    ),
    Route(
        *("POST", BATCHES, INVOKE, batch_api.prepare(batch_api.create_batch)),
        free=True,
        summary="Answer the requests of a file within a day",
        body=BatchRequest,
        reply=Batch,
        errors=(404,),
    ),
    Route(
        *("GET", BATCHES, INVOKE, batch_api.prepare(batch_api.list_batches)),
        summary="List batches",
        reply=ListReply,
        query=PAGE_QUERY,
    ),
    Route(
        "GET", f"{BATCHES}/{{}}", INVOKE, batch_api.prepare(batch_api.get_batch), summary="Show a batch", reply=Batch
    ),
    Route(
        *("POST", f"{BATCHES}/{{}}/cancel", INVOKE, batch_api.prepare(batch_api.cancel_batch)),
        free=True,
        summary="Begin no further request of a batch",
        reply=Batch,
        errors=(409,),
    ),
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
