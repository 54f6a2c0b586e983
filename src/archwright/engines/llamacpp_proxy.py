"""Reverse proxy before the server of llama.cpp: slots by tenant, and special tokens of users as text.

The gateway names the tenant in the field `cache_salt`, by a digest under a secret; requests of local programs have
none and count as one tenant. llama.cpp's server gets the number of a slot and whether its prompt may be used again.

Design: the proxy belongs to the engine, because all workers of a gateway, the old and the new ones of an upgrade, and
local programs share the slots. It is a process of its own, because it connects to a socket: code that a model file
brings into the engine may connect to none. Only the paths of this list are passed on. When a client disconnects, the
proxy ends its side of the connection and waits until llama.cpp closes the other: then the slot is free.
"""

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from archwright.engines.engine_server import EngineReply, make_error_reply, send_reply
from archwright.engines.http_request_parser import MalformedRequest, RequestHead, parse_head
from archwright.engines.special_tokens import SpecialTokens
from archwright.engines.tenant_slots import TenantSlots
from archwright.errors import EngineError
from archwright.http_client.client import EngineClient

TENANT_FIELD = "cache_salt"
BODY_LIMIT_BYTES = 64 << 20
READ_BYTES = 1 << 16
BACKLOG = 512
# Between two looks at a server that loads its model.
POLL_S = 0.02
METRICS_ROUTE = ("GET", "/metrics")
METRICS_TYPE = "text/plain; version=0.0.4"
# Requests that occupy a slot.
GENERATIONS = frozenset(
    ("POST", path)
    for path in ("/v1/chat/completions", "/chat/completions", "/v1/completions", "/completions", "/completion")
)
OTHERS = frozenset(
    (
        *(("GET", path) for path in ("/health", "/v1/models", "/models", "/props")),
        *(("POST", path) for path in ("/tokenize", "/detokenize", "/apply-template")),
        *(("POST", f"{prefix}/{name}") for prefix in ("", "/v1") for name in ("embeddings", "rerank")),
    )
)
_HEAD_END = b"\r\n\r\n"
_BEGUN = b"HTTP/1.1 200"
_IN_CHUNKS = b"\r\nTransfer-Encoding: chunked\r\n"
_LAST_EVENT = b"\ndata: [DONE]\n"
_DEFERRED = re.compile(r"^(llamacpp:requests_deferred) (\d+)", re.MULTILINE)
_CLOSED = (OSError, asyncio.IncompleteReadError)


class _Client:
    """The connection of one request, whose body has been read. `gone` ends when the client disconnects."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.gone = asyncio.ensure_future(reader.read(1))

    async def send(self, data: bytes) -> None:
        """Send bytes; nothing if the client is gone."""
        if self.gone.done():
            return
        self._writer.write(data)
        try:
            await self._writer.drain()
        except OSError:
            self.gone.cancel()

    def reply(self, reply: EngineReply) -> None:
        send_reply(self._writer, reply)


class LlamaProxy:
    """`server`: the socket of llama.cpp. `keeps_prompts` False: no prompt is used again.

    That is for engines that embed: an embedded text fills any slot, and its tenant is not known.
    """

    def __init__(self, server: Path, slots: int, special: SpecialTokens, *, keeps_prompts: bool = True) -> None:
        self._server = server
        self._slots = TenantSlots(slots)
        self._special = special
        self._keeps_prompts = keeps_prompts
        self._own_client = EngineClient(f"unix:{server}")

    def run(self, path: Path) -> None:
        """Serve on the socket at `path` from the moment at which llama.cpp is ready."""
        asyncio.run(self._serve(path))

    async def _serve(self, path: Path) -> None:
        while not await self._own_client.healthy():
            await asyncio.sleep(POLL_S)
        server = await asyncio.start_unix_server(self._on_connection, path=path, backlog=BACKLOG)
        await server.serve_forever()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve_connection(reader, writer)
            await writer.drain()
        except _CLOSED:
            pass  # the client disconnected
        finally:
            writer.close()

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = parse_head((await reader.readuntil(_HEAD_END))[: -len(_HEAD_END)])
        except (MalformedRequest, asyncio.LimitOverrunError) as error:
            send_reply(writer, make_error_reply(HTTPStatus.BAD_REQUEST, str(error), "invalid_request_error"))
            return
        if head.length is None or head.length > BODY_LIMIT_BYTES:
            message = f"the body needs a Content-Length of at most {BODY_LIMIT_BYTES} bytes"
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            send_reply(writer, make_error_reply(status, message, "invalid_request_error"))
            return
        body = await reader.readexactly(head.length)
        client = _Client(reader, writer)
        try:
            await self._answer(head, body, client)
        except (OSError, EngineError) as error:
            client.reply(make_error_reply(HTTPStatus.SERVICE_UNAVAILABLE, str(error), "unavailable_error"))
        finally:
            client.gone.cancel()

    async def _answer(self, head: RequestHead, body: bytes, client: _Client) -> None:
        route = (head.method, head.path)
        if route == METRICS_ROUTE:
            client.reply(EngineReply(await self._read_metrics(), METRICS_TYPE))
        elif route not in OTHERS and route not in GENERATIONS:
            client.reply(make_error_reply(HTTPStatus.NOT_FOUND, "Not Found", "not_found_error"))
        elif head.method == "GET":
            await self._forward(route, b"", client)
        else:
            await self._answer_post(route, body, client)

    async def _answer_post(self, route: tuple[str, str], data: bytes, client: _Client) -> None:
        try:
            body = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            message = f"the body is not a JSON object: {error}"
            client.reply(make_error_reply(HTTPStatus.BAD_REQUEST, message, "invalid_request_error"))
            return
        body = self._special.break_body(body)
        if route in GENERATIONS:
            await self._generate(route, body, client)
        else:
            await self._forward(route, msgspec.json.encode(body), client)

    async def _generate(self, route: tuple[str, str], body: dict[str, Any], client: _Client) -> None:
        tenant = str(body.pop(TENANT_FIELD, ""))
        if body.get("n") not in (None, 1) or "n_cmpl" in body:
            message = "n: more than one choice would copy the prompt into slots of other tenants"
            client.reply(make_error_reply(HTTPStatus.BAD_REQUEST, message, "invalid_request_error"))
            return
        prompt = msgspec.json.encode(body.get("messages", body.get("prompt")))
        waiting = asyncio.ensure_future(self._slots.acquire(tenant, prompt))
        await asyncio.wait((waiting, client.gone), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            return
        slot = waiting.result()
        try:
            body["id_slot"] = slot.number
            if not (slot.keeps and self._keeps_prompts):
                body["cache_prompt"] = False
            await self._forward(route, msgspec.json.encode(body), client, slot.confirm)
        finally:
            self._slots.release(slot)

    async def _forward(
        self, route: tuple[str, str], body: bytes, client: _Client, on_begin: Callable[[], object] = bool
    ) -> None:
        """Pass on a request and its reply. `on_begin` is called when llama.cpp has accepted the request.

        Measured: llama.cpp sends the status 200 only when a slot has begun to read the prompt and cut its former one.

        The end of a reply waits until llama.cpp has closed the connection, so the next request of a client that has
        its whole reply finds the slot free, and with it its prompt.
        """
        reader, writer = await asyncio.open_unix_connection(self._server)
        client.gone.add_done_callback(lambda _: writer.write_eof())
        try:
            writer.write(_encode_request(route, body))
            data = await reader.read(READ_BYTES)
            if data.startswith(_BEGUN):
                on_begin()
            in_events = _IN_CHUNKS in data
            while data:
                if not in_events or _LAST_EVENT in data:
                    data += await reader.read()
                await client.send(data)
                data = await reader.read(READ_BYTES)
        finally:
            writer.close()

    async def _read_metrics(self) -> bytes:
        """Return llama.cpp's metrics. Requests that wait for a slot wait here, so they are added to its number."""
        text = await self._own_client.get_text(METRICS_ROUTE[1])
        waiting = self._slots.waiting
        return _DEFERRED.sub(lambda found: f"{found[1]} {int(found[2]) + waiting}", text).encode()


def _encode_request(route: tuple[str, str], body: bytes) -> bytes:
    method, path = route
    head = f"{method} {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
