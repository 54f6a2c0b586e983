"""The Files and Batches interfaces: handlers of their routes. Files and batches of another tenant do not exist."""

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal
from urllib.parse import parse_qs

import msgspec

from archwright.serving.batches.batch_store import Batch, BatchStore, FileObject, StoredBatch, T
from archwright.serving.handlers.request_handler import HandlerContext, HttpReply, ReplyHandler, json_reply
from archwright.serving.http.errors import RESPONSES_PATH, invalid_value, unsupported_value
from archwright.serving.http.multipart import parse_form
from archwright.serving.requests.field_checks import decode_body
from archwright.serving.requests.typed_requests import RequestPart, check_types

BATCH_ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", RESPONSES_PATH)
MAX_FILENAME_CHARACTERS = 255
_FOLDERS = re.compile(r".*[/\\]", re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
FILES_LIMIT, BATCHES_LIMIT = 10_000, 100
_Name = Annotated[str, msgspec.Meta(max_length=64)]
_Value = Annotated[str, msgspec.Meta(max_length=512)]


class FileForm(RequestPart):
    """The form of an upload."""

    file: bytes
    purpose: Literal["batch"]


class BatchRequest(RequestPart):
    """The body of a request that creates a batch."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Annotated[dict[_Name, _Value], msgspec.Meta(max_length=16)] | None = None


class StoreCall:
    """A request about files or batches: the store of the caller's tenant, the name in the path."""

    def __init__(self, context: HandlerContext) -> None:
        self.request, self.response, self.name = context.request, context.response, context.name
        gateway = context.gateway
        self.store = BatchStore(gateway.home, self.request.principal.tenant, gateway.clock, gateway.config.port)

    def query(self, name: str, default: str = "") -> str:
        return parse_qs(self.request.head.query).get(name, [default])[-1]

    def list_page(self, kind: type[T], default: int, largest: int) -> tuple[list[T], bool]:
        """Return the objects that the query names, and whether more follow. Raises ApiError 400."""
        limit, order = self.query("limit", str(default)), self.query("order", "desc")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 6 and 1 <= int(limit) <= largest):
            raise invalid_value(f"'limit' must be from 1 to {largest}", "limit")
        if order not in ("asc", "desc"):
            raise invalid_value("'order' must be asc or desc", "order")
        after, purpose = self.query("after"), self.query("purpose")
        return self.store.list_objects(kind, int(limit), after, newest_first=order == "desc", purpose=purpose)


def count_call(context: HandlerContext) -> None:
    """Count a request about files or batches against the rates of its caller. Raises ApiError 429."""
    admitted, principal = context.request.admitted, context.request.principal
    if principal.limited and not admitted.counted:
        context.gateway.accounting.count_request(principal)


def prepare(act: Callable[[StoreCall], object]) -> Callable[[HandlerContext], ReplyHandler]:
    """Make handlers of an action, which runs in a thread and returns the object of the reply."""

    async def reply(context: HandlerContext) -> HttpReply:
        count_call(context)
        return json_reply(await asyncio.to_thread(act, StoreCall(context)))

    return partial(ReplyHandler, reply)


def clean_filename(name: str) -> str:
    """Return the last part of a path, without characters that change how a terminal shows it."""
    cleaned = _UNPRINTABLE.sub("", _FOLDERS.sub("", name)).strip()
    return "file" if cleaned in ("", ".", "..") else cleaned[:MAX_FILENAME_CHARACTERS]


def create_file(call: StoreCall) -> FileObject:
    fields, file = parse_form(call.request.body, call.request.header(b"content-type") or "")
    check_types(fields, FileForm)
    assert file is not None, "a form without its file"
    return call.store.add_file(clean_filename(file.filename), file.data)


def list_files(call: StoreCall) -> dict[str, object]:
    return _show_page(*call.list_page(FileObject, FILES_LIMIT, FILES_LIMIT))


def get_file(call: StoreCall) -> FileObject:
    return call.store.find(FileObject, call.name)


def delete_file(call: StoreCall) -> dict[str, object]:
    call.store.delete_file(call.name)
    return {"id": call.name, "object": "file", "deleted": True}


def create_batch(call: StoreCall) -> Batch:
    one = check_types(decode_body(call.request.body), BatchRequest)
    if one.endpoint not in BATCH_ENDPOINTS:
        raise unsupported_value(f"'endpoint' must be one of {', '.join(BATCH_ENDPOINTS)}", "endpoint")
    key_id = call.request.principal.key_id
    return _show_batch(call, call.store.create_batch(one.input_file_id, one.endpoint, key_id, one.metadata).id)


def list_batches(call: StoreCall) -> dict[str, object]:
    found, more = call.list_page(StoredBatch, 20, BATCHES_LIMIT)
    return _show_page([_show_batch(call, one.id) for one in found], more)


def get_batch(call: StoreCall) -> Batch:
    return _show_batch(call, call.name)


def cancel_batch(call: StoreCall) -> Batch:
    call.store.cancel_batch(call.name)
    return _show_batch(call, call.name)


def _show_batch(call: StoreCall, name: str) -> Batch:
    return call.store.find_batch(name, call.request.principal.key_id)


def _show_page(found: Sequence[FileObject | Batch], more: bool) -> dict[str, object]:
    ends = (found[0].id, found[-1].id) if found else (None, None)
    return {"object": "list", "data": found, "first_id": ends[0], "last_id": ends[1], "has_more": more}
