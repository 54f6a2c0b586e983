"""The reference: the least a Python gateway can cost on one core.

uvloop protocols on both sides, httptools as the parser, a keep-alive pool to the upstream, and per request only what
no gateway can leave out: a key looked up by its hash, the body parsed and written again, a rate counter, the usage
read back. No audit, no metrics, no validation, no limits, no cancellation: a lower bound, not a gateway.

    python raw_work.py PORT UPSTREAM_PORT KEY
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections import deque
from typing import cast

import httptools
import msgspec
import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: "


class Work:
    """The minimal work of a request; streams are passed through as bytes."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.idle: deque[Upstream] = deque()
        self.keys = {hashlib.sha256(key.encode()).digest(): "tenant"}
        self.allowance = 1e9
        self.at = time.monotonic()
        self.tokens = 0

    def request(self, client: Client, body: bytes) -> None:
        if hashlib.sha256(client.secret).digest() not in self.keys:
            client.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
            return
        now = time.monotonic()
        self.allowance = min(1e9, self.allowance + (now - self.at) * 1e9) - 1
        self.at = now
        wanted = msgspec.json.decode(body)
        wanted["user"] = "tenant"
        data = msgspec.json.encode(wanted)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\ncontent-length: %d\r\n\r\n" % len(data)
        while self.idle:
            upstream = self.idle.pop()
            if upstream.alive:
                upstream.ask(client, head + data)
                return
        client.opening = asyncio.get_running_loop().create_task(self._open(client, head + data))

    async def _open(self, client: Client, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, upstream = await loop.create_connection(lambda: Upstream(self), "127.0.0.1", self.port)
        upstream.ask(client, data)

    def account(self, body: bytes) -> None:
        self.tokens += msgspec.json.decode(body)["usage"]["total_tokens"]


class Upstream(asyncio.Protocol):
    """A connection to the mock; between requests it lies in the pool."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.alive = True
        self.pieces: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods without being subclasses.
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False

    def ask(self, client: Client, data: bytes) -> None:
        self.client, self.kind, self.streamed, self.pieces = client, b"", False, []
        self.parser = httptools.HttpResponseParser(self)
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)
        if self.streamed and self.pieces:
            piece = b"".join(self.pieces)
            self.pieces.clear()
            self.client.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self.kind, self.streamed = value, value.startswith(b"text/event-stream")

    def on_headers_complete(self) -> None:
        if self.streamed:
            self.client.write(HEAD + self.kind + b"\r\ntransfer-encoding: chunked\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self.pieces)
        self.pieces = []
        self.work.idle.append(self)
        if self.streamed:
            self.client.write((b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n")
        else:
            self.work.account(body)
            self.client.write(HEAD + self.kind + b"\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


class Client(asyncio.Protocol):
    """A connection of the load generator."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.secret = b""
        self.body: list[bytes] = []
        self.opening: asyncio.Task[None] | None = None
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods without being subclasses.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self.secret = value[7:]

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        body, self.body = b"".join(self.body), []
        self.work.request(self, body)

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)


async def main(port: int, upstream: int, key: str) -> None:
    work = Work(upstream, key)
    server = await asyncio.get_running_loop().create_server(lambda: Client(work), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
