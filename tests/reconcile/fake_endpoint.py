"""A small HTTP server for fake endpoints; a handler writes every reply, correct or not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from tests.tools.checks import WAIT_S

ROUTE = tuple[str, str]


class Request:
    """A complete request; all requests of a connection share its `transport`."""

    def __init__(self, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        self.headers = headers
        self.writer = writer
        self.transport: asyncio.WriteTransport = writer.transport
        self._body = body

    async def json(self) -> Any:
        return json.loads(self._body)


class Response:
    def __init__(
        self,
        *,
        status: int = 200,
        text: str = "",
        content_type: str = "text/plain",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self._body = text.encode()
        length = {"Content-Type": content_type, "Content-Length": str(len(self._body))}
        self._headers = {**length, **(headers or {})}

    async def send(self, request: Request) -> None:
        first = f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n"
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._headers.items())
        request.writer.write(f"{first}{lines}\r\n".encode() + self._body)
        await request.writer.drain()


class StreamResponse(Response):
    """A chunked reply, started by `prepare`."""

    async def prepare(self, request: Request) -> None:
        self._writer = request.writer
        self._writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def write(self, data: bytes) -> None:
        if self._writer.is_closing():
            raise ConnectionResetError
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def send(self, request: Request) -> None:
        request.writer.write(b"0\r\n\r\n")


Handler = Callable[[Request], Awaitable[Response]]


def json_response(body: object, status: int = 200) -> Response:
    return Response(status=status, text=json.dumps(body), content_type="application/json")


class Server:
    """A server in its own thread, on a free port; `url` ends in /v1."""

    def __init__(self, routes: Mapping[ROUTE, Handler], tls: ssl.SSLContext | None) -> None:
        self._routes = routes
        self._tls = tls
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.port = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(WAIT_S)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    def stop(self) -> None:
        assert self._end is not None and self._loop is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(WAIT_S)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        # `asyncio.run` cancels and awaits what is open, also a connection that was taken a moment ago

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._connected(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # a task that is cancelled before its first step runs no `finally`: the callback closes the socket then, too
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():  # until the client goes, or the test is over
                await self._answer(reader, writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begin = await reader.readexactly(1)
        if not begin.isalpha():
            await Response(status=400).send(Request({}, b"", writer))
            raise ConnectionAbortedError  # TLS, say
        lines = (begin + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        body = await reader.readexactly(int(headers.get("Content-Length", 0)))
        request = Request(headers, body, writer)
        await (await self._routes[method, path](request)).send(request)
