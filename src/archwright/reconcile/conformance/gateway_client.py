"""A small HTTP client for the gateway under test, of the standard library only.

Design: each request has a connection of its own. So a client leaves a reply as clients do, by closing its connection.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from http.client import HTTPMessage, parse_headers
from io import BytesIO
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

CONNECT_LIMIT_S = 10.0
HEAD_LIMIT_BYTES, PIECE_BYTES = 1 << 20, 1 << 16
REASON_CHARACTERS = 300
DEFAULT_PORTS = {"http": 80, "https": 443}
JSON_TYPE: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json"})
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})")


class GatewayError(Exception):
    """The gateway gave no reply that can be read."""


class GatewayRefused(GatewayError):
    """A reply with a status of 300 or more, or an error within a stream."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(f"HTTP {status}: {json.dumps(body)[:REASON_CHARACTERS]}")
        self.status = status


class GatewayReply(NamedTuple):
    """A complete reply of any status."""

    status: int
    headers: HTTPMessage
    body: bytes


class OpenReply(NamedTuple):
    """A reply whose body is still to come."""

    status: int
    headers: HTTPMessage
    pieces: AsyncGenerator[bytes, None]


class GatewayClient:
    """A client with one key. `address`: an http or https URL, with or without /v1. Paths state /v1.

    `headers`: further ones of each request. Raises ValueError if the address is no such URL."""

    def __init__(self, address: str, key: str, headers: Mapping[str, str] = NO_HEADERS) -> None:
        self.address = address.rstrip("/")
        parts = urlsplit(self.address)
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ValueError("the address must begin with http:// or https:// and name a host")
        self._host, self._port = parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._root = parts.path.rstrip("/").removesuffix("/v1")
        self.key = key
        self._headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "Accept-Encoding": "identity",
            "Connection": "close",
            "Authorization": f"Bearer {key}",
            **headers,
        }
        self._more_headers = headers

    def with_key(self, key: str) -> GatewayClient:
        """Return a client of the same gateway with another key."""
        return GatewayClient(self.address, key, self._more_headers)

    async def get(self, path: str) -> dict[str, Any]:
        return self._read_object(await self.request("GET", path))

    async def post(self, path: str, body: object, headers: Mapping[str, str] = NO_HEADERS) -> dict[str, Any]:
        reply = await self.request("POST", path, encode_json(body), {**JSON_TYPE, **headers})
        return self._read_object(reply)

    async def send_bytes(self, method: str, path: str, body: bytes, kind: str = "application/json") -> dict[str, Any]:
        """Send `body` as it is; `kind`: its content type."""
        return self._read_object(await self.request(method, path, body, {"Content-Type": kind}))

    async def get_bytes(self, path: str) -> bytes:
        reply = await self.request("GET", path)
        self._check_status(reply.status, reply.body)
        return reply.body

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = NO_HEADERS
    ) -> GatewayReply:
        """Return the whole reply, whatever its status. Raises GatewayError if there is none."""
        async with self._open(method, path, body, headers) as reply:
            data = b"".join([piece async for piece in reply.pieces])
        return GatewayReply(reply.status, reply.headers, data)

    async def stream(self, path: str, body: object) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the decoded events up to [DONE]. Closing the iterator closes the connection.

        Raises GatewayRefused, also for an error event, and GatewayError for an end without [DONE]."""
        async with self._open("POST", path, encode_json(body), JSON_TYPE) as reply:
            if reply.status >= 300:
                self._check_status(reply.status, b"".join([piece async for piece in reply.pieces]))
            async with aclosing(read_events(reply.pieces)) as events:
                async for data in events:
                    if data == b"[DONE]":
                        return
                    event = json.loads(data)
                    if "error" in event:
                        raise self._describe_error(event["error"])
                    yield event
            raise GatewayError("the stream ended without [DONE]")

    @asynccontextmanager
    async def _open(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[OpenReply]:
        """Send a request, and close its connection at the end of the block."""
        writer = None
        lines = {**self._headers, **headers, "Content-Length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, ssl=self._tls, limit=HEAD_LIMIT_BYTES
                )
            # Not drained: a gateway may reply, and close, before it has read a body that it refuses.
            writer.write(f"{method} {self._root}{path} HTTP/1.1\r\n{head}\r\n".encode() + body)
            status, fields = await read_head(reader)
            async with aclosing(read_pieces(reader, fields)) as pieces:
                yield OpenReply(status, fields, pieces)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise GatewayError(str(error) or type(error).__name__) from error
        finally:
            if writer is not None:
                writer.transport.abort()

    def _read_object(self, reply: GatewayReply) -> dict[str, Any]:
        self._check_status(reply.status, reply.body)
        try:
            body = json.loads(reply.body)
        except ValueError as error:
            raise GatewayError(f"the reply is not valid JSON: {error}") from error
        if not isinstance(body, dict):
            raise GatewayError("the reply is not an object")
        return body

    def _check_status(self, status: int, body: bytes) -> None:
        """Raise GatewayRefused for a status of 300 or more."""
        if status < 300:
            return
        try:
            detail: object = json.loads(body)
        except ValueError:
            detail = body.decode("utf-8", "replace")
        raise GatewayRefused(status, self._redact_key(detail))

    def _describe_error(self, detail: object) -> GatewayRefused:
        code = detail.get("code") if isinstance(detail, dict) else None
        status = code if isinstance(code, int) and 400 <= code <= 599 else 500
        return GatewayRefused(status, self._redact_key({"error": detail}))

    def _redact_key(self, detail: object) -> object:
        """Remove our key, which some gateways quote in an error."""
        redacted: object = json.loads(json.dumps(detail).replace(self.key, "...")) if self.key else detail
        return redacted


def encode_json(body: object) -> bytes:
    """Encode without blanks, as the bound of a request counts its bytes."""
    return json.dumps(body, separators=(",", ":")).encode()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, HTTPMessage]:
    """Read status and headers of the final reply. Raises ValueError if they are invalid, EOFError at an early end."""
    status = 100
    while status < 200:
        line, _, rest = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
        match = STATUS_LINE.match(line)
        if match is None:
            raise ValueError("the reply is not HTTP/1.1")
        status = int(match[1])
    return status, parse_headers(BytesIO(rest))


async def read_pieces(reader: asyncio.StreamReader, headers: HTTPMessage) -> AsyncGenerator[bytes, None]:
    """Yield a body of either framing as it arrives. Raises EOFError at an early end."""
    length = headers.get("Content-Length")
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        while size := int((await reader.readline()).partition(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readline()
    elif length is not None:
        yield await reader.readexactly(int(length))
    else:
        while piece := await reader.read(PIECE_BYTES):
            yield piece


async def read_events(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield the data of each server-sent event."""
    rest, data = b"", []
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            text = line.removesuffix(b"\r")
            if text.startswith(b"data:"):
                data.append(text.removeprefix(b"data:").removeprefix(b" "))
            elif not text and data:
                yield b"\n".join(data)
                data = []
