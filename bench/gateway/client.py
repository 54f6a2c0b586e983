"""HTTP/1.1 client for the gateway benches: kept connections, complete replies, streams that the client leaves early.

Design: it never retries, because a bench must know how each request ended. A request whose connection broke ends in
`Lost`, with the request's id if the head had arrived.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

PATH = "/v1/chat/completions"
PIECE = b'"content":"t'
DONE = b"data: [DONE]\n\n"
HEAD_BYTES = 1 << 16


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def whole(self) -> bool:
        """An answer, not a refusal, and all of it."""
        streamed = self.headers.get("content-type", "").startswith("text/event-stream")
        return self.status == 200 and (not streamed or (self.body.endswith(DONE) and b'"error"' not in self.body))

    @property
    def usage(self) -> dict[str, Any]:
        """The usage that the reply reports."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return dict(json.loads(self.body)["usage"])
        return next(dict(event["usage"]) for event in self._events() if event.get("usage"))

    def _events(self) -> Iterator[dict[str, Any]]:
        for line in self.body.split(b"\n\n"):
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])


class Lost(Exception):
    """The connection broke; `id` is the request's where its head had come."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.id = name


class Client:
    """Connections to one port of this machine. `asked` requests are under way."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked = 0
        self._kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, body: bytes, key: str, leave_after: int | None = None) -> Reply:
        """One chat. With `leave_after` the client is gone after so many pieces. Raises Lost."""
        self.asked += 1
        try:
            reader, writer = await self._connected()
            keep = False
            try:
                writer.write(head(key, len(body)) + body)
                reply, keep = await _reply(reader, leave_after)
            finally:
                if keep:
                    self._kept.append((reader, writer))
                else:
                    writer.transport.abort()
            return reply
        finally:
            self.asked -= 1

    def close(self) -> None:
        for _reader, writer in self._kept:
            writer.transport.abort()
        self._kept.clear()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._kept:
            reader, writer = self._kept.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        try:
            return await asyncio.open_connection("127.0.0.1", self.port, limit=HEAD_BYTES)
        except OSError as error:
            raise Lost from error


def head(key: str, length: int) -> bytes:
    return (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


def chat(model: str, text: str, max_tokens: int, **fields: Any) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": max_tokens, **fields}).encode()


async def _reply(reader: asyncio.StreamReader, leave_after: int | None) -> tuple[Reply, bool]:
    name = ""
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines if line)}
        name = headers.get("x-request-id", "")
        keep = headers.get("connection") != "close"
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            body = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
                if leave_after is not None and body.count(PIECE) >= leave_after:
                    keep = False
                    break
            else:
                await reader.readexactly(2)
    except (OSError, asyncio.IncompleteReadError) as error:
        raise Lost(name) from error
    return Reply(int(first.split()[1]), headers, body), keep
