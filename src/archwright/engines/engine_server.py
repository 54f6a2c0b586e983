"""HTTP server of the engines written in Python: on the home's Unix socket, one connection per request.

Only the home's owner can connect, so the clients are known and the server is small. It parses a request as strictly as
the gateway does, answers it, and closes the connection. A client that disconnects cancels the handler.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from archwright.engines.http_request_parser import MalformedRequest, parse_head
from archwright.engines.null_replies import ErrorReply, invalid_request_error
from archwright.engines.unix_socket import leave_on_terminate
from archwright.errors import ArchwrightError
from archwright.journal import Journal

BODY_LIMIT_BYTES = 16 << 20
JSON_TYPE = "application/json"
S = TypeVar("S", bound=msgspec.Struct)


class EngineReply(NamedTuple):
    """A complete reply; `kind` is its content type."""

    body: bytes
    kind: str = JSON_TYPE
    status: int = 200


class ServerRequest:
    """A request with its complete body; `write` streams a reply to it."""

    def __init__(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        self.body = body
        self.begun = False
        self._writer = writer

    async def write(self, data: bytes, kind: str = "text/event-stream") -> None:
        """Send one chunk of a streamed reply; waits while the client does not read."""
        if not self.begun:
            self.begun = True
            self._writer.write(_encode_head(200, kind, "transfer-encoding: chunked"))
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()


Handler = Callable[[ServerRequest], Awaitable[EngineReply | None]]
"""Returns the reply, or None if it has streamed one."""
Routes = Mapping[tuple[str, str], Handler]
"""Method and path to handler."""


class SlotCounter:
    """Runs at most `slots` requests at once, the others wait in order. `form` formats the metrics `counts`."""

    def __init__(self, engine: str, slots: int, counts: Iterable[str], form: str = "") -> None:
        self.counts: dict[str, float] = dict.fromkeys(("requests_processing", "requests_deferred", *counts), 0)
        self._engine, self._form = engine, form
        self._slots = asyncio.Semaphore(slots)

    @asynccontextmanager
    async def hold_slot(self) -> AsyncIterator[None]:
        state = "requests_deferred"
        self.counts[state] += 1
        try:
            async with self._slots:
                self.counts[state] -= 1
                state = "requests_processing"
                self.counts[state] += 1
                yield
        finally:
            self.counts[state] -= 1

    def build_routes(self, own: Routes) -> Routes:
        """The routes `own` of an engine, and the routes of health and metrics."""

        async def healthy(_: ServerRequest) -> EngineReply:
            return make_json_reply({"status": "ok"})

        async def measured(_: ServerRequest) -> EngineReply:
            lines = (f"{self._engine}:{name} {value:{self._form}}\n" for name, value in self.counts.items())
            return EngineReply("".join(lines).encode(), "text/plain; charset=utf-8")

        return {("GET", "/health"): healthy, ("GET", "/metrics"): measured, **own}


def make_json_reply(body: object, status: int = 200) -> EngineReply:
    return EngineReply(msgspec.json.encode(body), JSON_TYPE, status)


def parse_body(data: bytes, kind: type[S]) -> S:
    """The record of a request's body. Raises ErrorReply 400 that names the invalid field."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        raise invalid_request_error(f"{place.rstrip('`') or 'the body'}: {message}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_request_error(f"the body is not JSON: {error}") from error


def serve_until(
    wait: Callable[[], Awaitable[object]], served: Routes, path: Path, journal: Journal, model: str
) -> None:
    """Serve on the socket at `path` until `wait` returns, or SIGTERM ends the process."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _serve_connection(reader, writer, served)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client disconnected
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_unix_server(connected, str(path), backlog=512)
        async with server:
            woken = leave_on_terminate(path)
            asyncio.get_running_loop().add_reader(woken, os.read, woken, 1)
            journal.info("ready", model=model, socket=str(path))
            await wait()
        path.unlink(missing_ok=True)

    asyncio.run(run())


async def _serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, served: Routes) -> None:
    """Answer one request; a malformed request gets an error reply."""
    try:
        head = parse_head((await reader.readuntil(b"\r\n\r\n"))[:-4])
    except (MalformedRequest, asyncio.LimitOverrunError) as error:
        send_reply(writer, make_error_reply(HTTPStatus.BAD_REQUEST, str(error), "invalid_request_error"))
        return
    if head.length is None or head.length > BODY_LIMIT_BYTES:
        message = f"the body needs a Content-Length of at most {BODY_LIMIT_BYTES} bytes"
        send_reply(writer, make_error_reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, "invalid_request_error"))
        return
    request = ServerRequest(await reader.readexactly(head.length), writer)
    working = asyncio.ensure_future(_handle_request(request, served, head.method, head.path))
    disconnected = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait((working, disconnected), return_when=asyncio.FIRST_COMPLETED)
    finally:
        disconnected.cancel()
        working.cancel()
        await asyncio.wait((working,))
    if working.cancelled():
        return
    reply = working.result()
    if reply is not None:
        send_reply(writer, reply)
    elif request.begun:
        writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _handle_request(request: ServerRequest, served: Routes, method: str, path: str) -> EngineReply | None:
    """The handler's reply; an error becomes a reply in OpenAI's format."""
    handler = served.get((method, path))
    if handler is None:
        known = any(other == path for _, other in served)
        status = HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND
        return make_error_reply(status, status.phrase, "invalid_request_error" if known else "not_found_error")
    try:
        return await handler(request)
    except ErrorReply as refusal:
        return make_json_reply(refusal.body, refusal.status)
    except ArchwrightError as error:
        return make_error_reply(HTTPStatus.INTERNAL_SERVER_ERROR, error.message, "server_error")


def send_reply(writer: asyncio.StreamWriter, reply: EngineReply) -> None:
    writer.write(_encode_head(reply.status, reply.kind, f"content-length: {len(reply.body)}") + reply.body)


def _encode_head(status: int, kind: str, framing: str) -> bytes:
    first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
    return f"{first}\r\ncontent-type: {kind}\r\n{framing}\r\nconnection: close\r\n\r\n".encode()


def make_error_reply(status: int, message: str, kind: str) -> EngineReply:
    return make_json_reply({"error": {"code": int(status), "message": message, "type": kind}}, status)
