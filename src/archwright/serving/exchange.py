"""One request and its reply on the wire: body in, bytes out, and three ways to end early.

Decides that nothing leaves before the audit record of the decision is written down (the last bytes of an answer do
not before the record of the request: `Gateway.served`); that a client who is gone ends the
work at once, and that no phase (reading the body, waiting for the engine, a client that does not read) is without
a deadline. Deadlines are kept by one sweep over all exchanges, not by a timer each.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from archwright.access.identity import Principal
from archwright.contract.served import request_name
from archwright.errors import StoreError
from archwright.serving.config import Limits
from archwright.serving.refusal import Refusal, timed_out, unavailable

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

GONE = "gone"
SHUTDOWN = "shutdown"
# Phases; each names what was waited for when it ended there.
BODY, FIRST, STALL, CLIENT, WHOLE = "body", "first", "stall", "client", "whole"

# How much of a refused body is still read, and how long, so that the client sees the refusal and not a reset.
DRAIN_S = 0.1
DRAIN_BYTES = 64 * 1024
LINGER_S = 2.0
LINGER_BYTES = 64 * 1024 * 1024

ABORT = "archwright.abort"
"""The key in the ASGI scope under which the server offers to drop the connection, unsent bytes and all."""


# Names, not secrets: the system's entropy once per process is enough, a system call per request is not cheap.
_NAMES = random.Random()


def request_id() -> str:
    return request_name(time.time(), _NAMES.getrandbits(52))


class Exchange:
    """Lives as long as one ASGI call. `now` is a monotonic clock; `received_at` is its reading at the start."""

    def __init__(self, scope: Message, receive: Receive, send: Send, limits: Limits, now: Callable[[], float]) -> None:
        self.id = request_id()
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.now = now
        self.received_at = now()
        self.audit: Callable[[], None] | None = None
        self.principal: Principal | None = None
        self.model = ""
        self.recorded = False
        self.ended: str | None = None
        self.started = False
        self.finished = False
        self.status = 0
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._receive = receive
        self._send = send
        self._limits = limits
        self._task = asyncio.current_task()
        self._abort: Callable[[], None] | None = scope.get(ABORT)
        self._body_done = not self.header("content-length") and not self.header("transfer-encoding")
        self._whole_until = self.received_at + limits.request_s
        self._phase, self._phase_until = WHOLE, self._whole_until

    def headers(self, name: str) -> list[str]:
        wanted = name.encode()
        return [value.decode("latin-1") for key, value in self._headers if key == wanted]

    def header(self, name: str) -> str | None:
        return next(iter(self.headers(name)), None)

    def phase(self, name: str, limit_s: float) -> None:
        """From now on waiting for `name`, at most `limit_s`."""
        self._phase, self._phase_until = name, self.now() + limit_s

    def sweep(self, now: float) -> None:
        """Called every moment for every live exchange."""
        if now >= self._phase_until:
            self.end(self._phase)
        elif now >= self._whole_until:
            self.end(WHOLE)

    def end(self, reason: str) -> None:
        """Stop the work of this exchange wherever it waits."""
        if self.ended is None and self._task is not None:
            self.ended = reason
            self._task.cancel()

    def abort(self) -> None:
        """Drop the connection: the client is gone or does not read."""
        if self._abort is not None:
            self._abort()

    async def read(self) -> bytes:
        """The whole body. Raises Refusal 413."""
        limit = self._limits.body_bytes
        announced = self.header("content-length")
        if announced is not None and (not announced.isdigit() or int(announced) > limit):
            raise too_large(limit)
        self.phase(BODY, self._limits.body_s)
        pieces: list[bytes] = []
        size = 0
        while not self._body_done:
            message = await self._next()
            size += len(message["body"])
            if size > limit:
                raise too_large(limit)
            pieces.append(message["body"])
        self.phase(WHOLE, self._limits.request_s)
        return b"".join(pieces)

    async def reply(
        self, status: int, body: bytes, content_type: str, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """A whole reply at once."""
        if not self._body_done:
            await self._drain()
        found = [(b"content-length", str(len(body)).encode()), *(headers or [])]
        if not self._body_done:
            found.append((b"connection", b"close"))
        await self.start(status, content_type, found)
        await self._write(body, more=not self._body_done)
        if not self._body_done:
            await self._linger()
        self.finished = True

    async def refuse(self, refusal: Refusal) -> None:
        self.model = ""  # no model says no
        await self.reply(refusal.status, refusal.encoded(), "application/json", refusal.headers())

    async def start(self, status: int, content_type: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head of the reply, once the decision behind it is written down."""
        self._durable()
        self.started, self.status = True, status
        own = [(b"content-type", content_type.encode()), (b"x-request-id", self.id.encode())]
        if self.model:
            own.append((b"x-archwright-model", self.model.encode()))
        await self._deliver({"type": "http.response.start", "status": status, "headers": [*own, *headers]})

    async def write(self, data: bytes) -> None:
        """A piece of a streamed reply; waits while the client does not read."""
        await self._write(data, more=True)
        self.phase(STALL, self._limits.stall_s)

    async def finish(self) -> None:
        await self._write(b"", more=False)
        self.finished = True

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """While inside, a client that goes away ends the work."""
        watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watcher.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        if not self.finished:
            self.end(GONE)

    def _durable(self) -> None:
        flush, self.audit = self.audit, None
        if flush is not None:
            try:
                flush()
            except StoreError as error:
                raise unrecorded() from error

    async def _write(self, data: bytes, *, more: bool) -> None:
        await self._deliver({"type": "http.response.body", "body": data, "more_body": more})

    async def _deliver(self, message: Message) -> None:
        self.phase(CLIENT, self._limits.client_stall_s)
        await self._send(message)

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.end(GONE)
            raise asyncio.CancelledError
        self._body_done = not message.get("more_body", False)
        return message

    async def _drain(self) -> None:
        """Read the rest of a small body, so that the connection can be kept."""
        size = 0
        try:
            async with asyncio.timeout(DRAIN_S):
                while not self._body_done and size <= DRAIN_BYTES:
                    size += len((await self._next())["body"])
        except TimeoutError:
            return

    async def _linger(self) -> None:
        """Closing on unread bytes resets the connection and the client loses the reply: read on for a moment."""
        size = 0
        try:
            async with asyncio.timeout(LINGER_S):
                while not self._body_done and size <= LINGER_BYTES:
                    size += len((await self._next())["body"])
        except TimeoutError:
            self._body_done = True
        await self._write(b"", more=False)


def unrecorded() -> Refusal:
    return unavailable("the access decision could not be recorded; try again", "audit_unavailable")


def too_large(limit: int) -> Refusal:
    message = f"the body is larger than {limit} bytes"
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, openai_code="request_too_large")


def why_ended(reason: str) -> Refusal:
    """What a client still listening is told about an exchange ended early."""
    if reason == BODY:
        return Refusal(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time", openai_code="timeout")
    if reason == SHUTDOWN:
        return unavailable("the service is shutting down; try again", "shutting_down")
    if reason == FIRST:
        return timed_out("the model did not begin to answer in time")
    if reason == STALL:
        return timed_out("the model stopped answering")
    return timed_out("the request took longer than this service allows")
