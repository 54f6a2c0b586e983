"""The models that a caller may name: GET /v1/models and /v1/models/NAME, in the format of the client's interface."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from archwright.serving.handlers.request_handler import HandlerContext, HttpReply, json_reply
from archwright.serving.http.errors import ApiError
from archwright.serving.requests.typed_requests import MAX_MODEL_NAME_CHARACTERS

VERSION_HEADER = b"anthropic-version"  # sent by clients of the Messages interface, which has its own list of models


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
    started_at, tokens = context.gateway.started_at, context.gateway.directory.read_context(name)
    if context.request.header(VERSION_HEADER) is not None:
        created_at = datetime.fromtimestamp(started_at, UTC).isoformat()
        described = {"type": "model", "id": name, "display_name": name, "created_at": created_at, "lifecycle": "active"}
        # Required, and null if unknown.
        unknown = dict.fromkeys(("capabilities", "line", "max_tokens"))
        return {**unknown, "max_input_tokens": tokens, **described}
    listed = {"id": name, "object": "model", "created": started_at, "owned_by": "archwright"}
    # The name that engines with this interface give it.
    return listed if tokens is None else {**listed, "max_model_len": tokens}
