"""The response to one request: its bytes, its deadlines, and how its work ends early.

Design: no response leaves before its records. The records of all responses of one event-loop tick (authorisation,
usage) are made durable once, at the end of the tick; if that fails, the responses become errors. The disconnect of a
client ends the work at once. Every phase has a deadline, which one sweep over all connections checks without timers.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol

from archwright.contract.served import make_request_id
from archwright.engines.http_request_parser import RequestHead
from archwright.errors import ArchwrightError, StoreError
from archwright.http_client.connection_pool import ResponseSink
from archwright.serving.http.client_limits import BodyTotals, ClientLimits
from archwright.serving.http.errors import (
    MESSAGES_PATH,
    ApiError,
    audit_unavailable,
    gateway_timeout,
    service_unavailable,
)

JSON_CONTENT_TYPE = "application/json"

# Why work was stopped, beside the phase whose deadline passed.
CLIENT_GONE, SHUTDOWN, UNRECORDED, WITHDRAWN = "gone", "shutdown", "unrecorded", "withdrawn"
# Phases: what the response waits for.
PHASE_BODY, PHASE_FIRST_TOKEN, PHASE_STALL, PHASE_REQUEST = "body", "first", "stall", "whole"

# Request ids are no secrets: the system's entropy once per process saves a system call per request.
_ID_RANDOM = random.Random()
os.register_at_fork(after_in_child=_ID_RANDOM.seed)
_STATUS_LINES = {int(status): f"HTTP/1.1 {status:d} {status.phrase}\r\n".encode() for status in HTTPStatus}
_LAST_CHUNK = b"0\r\n\r\n"
_SHARED = b"access-control-allow-origin: %b\r\naccess-control-expose-headers: *\r\nvary: origin\r\n"

HeaderField = tuple[bytes, bytes]
# How the end of a body is found: by chunks, by the end of the connection, by its stated length.
CHUNKED, UNTIL_CLOSE, SIZED = range(3)


def generate_request_id() -> str:
    return make_request_id(time.time(), _ID_RANDOM.getrandbits(52))


class Peer(Protocol):
    """The connection of a request."""

    left: bool  # the client has closed its side

    @property
    def address(self) -> str:
        """The client's IP address; empty for a Unix socket."""

    def send(self, data: bytes) -> None: ...

    def is_reusable(self) -> bool:
        """True if another request may follow after this response."""

    def on_key_accepted(self) -> None:
        """The request has a valid key, even if the request is refused."""

    def on_response_sent(self) -> None:
        """The response is complete and sent."""

    def abort(self) -> None: ...

    def release_bytes(self) -> None:
        """Count the request's bytes no longer. Called when stopped work ends."""

    def hold_bytes(self, tenant: str, size: int) -> None:
        """Count `size` more bytes of the request (negative: fewer) until its end. Raises ApiError 429 and 503."""


class ResponseBuffer:
    """The responses of one event-loop tick. `flush` makes their records durable or raises StoreError.

    `bodies`: the memory of large bodies of requests whose responses are not sent yet."""

    def __init__(self, limits: ClientLimits, now: Callable[[], float], flush: Callable[[], None]) -> None:
        self.limits = limits
        self.now = now
        self.date = b""
        self.bodies = BodyTotals()
        self.unread: set[HttpResponse] = set()  # the clients are gone, and their replies are read to the end
        self._flush = flush
        self.loop = asyncio.get_running_loop()
        self._waiting: list[HttpResponse] = []
        self.refresh_date()

    def refresh_date(self) -> None:
        self.date = b"date: " + formatdate(usegmt=True).encode() + b"\r\n"

    def enqueue(self, response: HttpResponse) -> None:
        if not self._waiting:
            self.loop.call_soon(self._flush_waiting)
        self._waiting.append(response)

    def _flush_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            self._flush()
        except StoreError:
            for response in waiting:
                response.fail_unrecorded(audit_unavailable())
        except BaseException:  # a bug must not leave clients waiting
            for response in waiting:
                response.abort()
            raise
        for response in waiting:
            response.flush()


class HttpResponse:
    """Writes the response to one request; `started` once its head is written, `finished` once its last byte is.

    `received_at`: when the request's headers were complete, on the monotonic clock `now`. `client_address`: the IP
    address of the client. `stop_reason`: why the work was stopped, `stop_error`: the error for the client in that case.
    Only this class sets its attributes.
    """

    __slots__ = (
        *("client_address", "finished", "id", "is_client_gone", "limits", "now", "received_at", "source", "started"),
        *("stop_error", "stop_reason"),
        *("_begun", "_buffer", "_check", "_encode_failure", "_flushed", "_framing", "_head", "_outgoing"),
        *("_peer", "_phase", "_phase_until", "_request_until", "_sharing", "_task", "_watching"),
    )

    def __init__(self, head: RequestHead, peer: Peer, buffer: ResponseBuffer) -> None:
        self.id = generate_request_id()
        self.client_address = peer.address
        self.limits = buffer.limits
        self.now = buffer.now
        self.received_at = now = buffer.now()
        self.started = self.finished = self.is_client_gone = False
        self.stop_reason: str | None = None
        self.stop_error: ArchwrightError | None = None
        self._head = head
        self._framing = CHUNKED if head.version else UNTIL_CLOSE
        self._peer = peer
        self._buffer = buffer
        self._outgoing: list[bytes] = []
        self._sharing = b""
        self._begun = self._flushed = self._watching = False
        self._task: asyncio.Task[None] | None = None
        self._check: Callable[[float], None] | None = None
        self.source: ResponseSink | None = None
        self._encode_failure: Callable[[ApiError], bytes] | None = None
        self._request_until = now + buffer.limits.request_s
        self._phase, self._phase_until = PHASE_REQUEST, self._request_until

    def mark_key_accepted(self) -> None:
        """Let the connection know that its client has a valid key."""
        self._peer.on_key_accepted()

    def start_work(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as the task that `stop` cancels."""
        # asyncio.get_running_loop() would cost a system call (getpid) per request.
        self._task = self._buffer.loop.create_task(work)
        return self._task

    def begin_work(self) -> bool:
        """The work's first step. False if the work was stopped before: it then only frees its reservation."""
        self._begun = True
        return self.stop_reason is None

    def end_work(self) -> None:
        self._task = self._check = None
        if self.stop_reason is not None:
            self._buffer.unread.discard(self)
            self._peer.release_bytes()

    @property
    def is_working(self) -> bool:
        return self._task is not None

    def stop(self, reason: str, error: ArchwrightError | None = None) -> None:
        """Stop the work. Work that has not begun is not cancelled: `begin_work` tells it."""
        if self.stop_reason is None and self._task is not None:
            self.stop_reason, self.stop_error = reason, error
            self.is_client_gone = reason == CLIENT_GONE
            if self._begun:
                self._task.cancel()

    def leave_client(self) -> float:
        """Close the connection of a client that is gone; the work goes on. Return the seconds that it may still take.

        0: the work was stopped for another reason, or the time of the request is over."""
        if not self.is_client_gone:
            return 0.0
        if not self.finished:
            self.abort()
        self._buffer.unread.add(self)
        return self._request_until - self.now()

    def give_up(self) -> None:
        """End work whose client is gone."""
        if self._task is not None:
            self._task.cancel()

    def is_engine_timeout(self) -> bool:
        """True if the work ended because the engine was silent for too long."""
        return self.stop_reason in (PHASE_FIRST_TOKEN, PHASE_STALL)

    def start_phase(self, name: str, limit_s: float) -> None:
        """Wait for `name` from now on, at most `limit_s`."""
        self._phase, self._phase_until = name, self.now() + limit_s

    def extend_stall_deadline(self, now: float) -> None:
        """The engine sent something; more must follow in time."""
        self._phase, self._phase_until = PHASE_STALL, now + self.limits.stall_s

    def check_regularly(self, check: Callable[[float], None]) -> None:
        """Call `check` with the time at every sweep; the ArchwrightError that it raises ends the work."""
        self._check = check

    def check_deadlines(self, now: float) -> None:
        if now >= self._phase_until:
            self.stop(self._phase)
        elif now >= self._request_until:
            self.stop(PHASE_REQUEST)
        elif self._check is not None:
            try:
                self._check(now)
            except ArchwrightError as error:
                self.stop(WITHDRAWN, error)

    def watch_disconnect(self) -> None:
        """Stop the work if the client closes its side from now on or already has."""
        self._watching = True
        if self._peer.left:
            self.stop(CLIENT_GONE)

    def on_client_closed(self) -> None:
        """The client closed its side; before an engine works for it, it may still want its response."""
        if self._watching:
            self.stop(CLIENT_GONE)

    def on_connection_lost(self) -> None:
        self.stop(CLIENT_GONE)
        self.finished = True

    def abort(self) -> None:
        self.finished = True
        self._peer.abort()

    def hold_bytes(self, tenant: str, size: int) -> None:
        """Count bytes that the request takes beside its body; see `Peer.hold_bytes`."""
        self._peer.hold_bytes(tenant, size)

    def attach_source(self, source: ResponseSink | None) -> None:
        """Set what the engine's bytes go through; it is paused while the client does not read."""
        self.source = source

    def set_failure_format(self, encode: Callable[[ApiError], bytes]) -> None:
        """Let `encode` write the error that ends a stream."""
        self._encode_failure = encode

    def send(self, status: int, body: bytes, content_type: str, headers: Iterable[HeaderField] = ()) -> None:
        if self.is_client_gone:
            if not self.finished:
                self.abort()
            return
        head = self._encode_head(status, content_type, [*headers, (b"content-length", b"%d" % len(body))])
        self._enqueue(head if self._head.method == "HEAD" else head + body)
        self.finished = True

    def share(self, head: RequestHead) -> bool:
        """Let a web page of the request's origin read the response; True if it is a preflight, which is answered.

        Design: no cookie counts here, so credentials are not allowed; a page needs the key itself."""
        self._sharing = _SHARED % head.headers[b"origin"]
        if head.method != "OPTIONS" or b"access-control-request-method" not in head.headers:
            return False
        asked = head.headers.get(b"access-control-request-headers", b"")
        allowed = [(b"methods", b"GET, POST, DELETE"), (b"headers", asked)]
        self.send(
            HTTPStatus.OK, b"", "text/plain", [(b"access-control-allow-" + name, value) for name, value in allowed]
        )
        return True

    def send_error(self, error: ApiError) -> None:
        """Write the error as the response, or as the last event of a stream that has begun."""
        path = self._head.path
        if self.started and self._framing == SIZED:
            self.abort()  # the error would be read as a part of the body
        elif self.started:
            encode = self._encode_failure
            self.finish(error.encode_event(path) if encode is None else encode(error))
        else:
            self.send(error.status, error.encode_body(path), JSON_CONTENT_TYPE, error.headers(path))

    def start_stream(self, status: int, content_type: str, headers: Iterable[HeaderField] = ()) -> None:
        if self.finished:
            return  # the client is gone
        framing = [(b"transfer-encoding", b"chunked")] if self._framing == CHUNKED else []
        self._enqueue(self._encode_head(status, content_type, [*headers, *framing]))

    def start_sized(self, status: int, content_type: str, size: int, headers: Iterable[HeaderField] = ()) -> None:
        """Begin a body of `size` bytes, which `write` sends in pieces."""
        self._framing = SIZED
        length = (b"content-length", b"%d" % size)
        self._enqueue(self._encode_head(status, content_type, [*headers, length]))

    def write(self, data: bytes) -> None:
        """Write a piece of a stream. Dropped after the response's end, and if empty: an empty chunk is the end."""
        if self.finished or not data:
            return
        framed = data if self._framing else b"%x\r\n%b\r\n" % (len(data), data)
        if self._flushed and not self._outgoing:
            self._peer.send(framed)
        else:
            self._enqueue(framed)

    def finish(self, data: bytes = b"") -> None:
        """Write the last piece of a stream; it leaves after the records of its tick."""
        if self.finished:
            return
        if self._framing:
            self._enqueue(data)
        else:
            self._enqueue(b"%x\r\n%b\r\n%b" % (len(data), data, _LAST_CHUNK) if data else _LAST_CHUNK)
        self.finished = True

    def fail_unrecorded(self, error: ApiError) -> None:
        """Replace the bytes of this tick by an error, since their records are not durable."""
        self._outgoing, self.finished, self.started = [b""], False, self._flushed
        self.send_error(error)
        self.stop(UNRECORDED)

    def flush(self) -> None:
        outgoing = self._outgoing
        data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
        outgoing.clear()
        self._flushed = True
        self._peer.send(data)
        if self.finished:
            self._peer.on_response_sent()

    def _enqueue(self, data: bytes) -> None:
        if not self._outgoing:
            self._buffer.enqueue(self)
        self._outgoing.append(data)

    def _encode_head(self, status: int, content_type: str, headers: Iterable[HeaderField]) -> bytes:
        self.started = True
        first = f"content-type: {content_type}\r\nx-request-id: {self.id}\r\n"
        if self._head.path.startswith(MESSAGES_PATH):
            first += f"request-id: {self.id}\r\n"
        fields = b"\r\n".join(map(b": ".join, headers))  # never empty
        end = b"\r\n\r\n" if self._peer.is_reusable() else b"\r\nconnection: close\r\n\r\n"
        return b"%b%b%b%b%b%b" % (_STATUS_LINES[status], self._buffer.date, first.encode(), self._sharing, fields, end)


def encode_bare_response(error: ApiError, date: bytes) -> bytes:
    """Return the response to bytes that are no request."""
    body = error.encode_body()
    return (
        b"%b%bcontent-type: application/json\r\nx-request-id: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
        % (_STATUS_LINES[error.status], date, generate_request_id().encode(), len(body), body)
    )


def body_too_large(limit: int) -> ApiError:
    message = f"The request body exceeds the limit of {limit} bytes. Send a smaller request."
    return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, "request_too_large")


def unexpected_body() -> ApiError:
    message = "This path takes no request body. Send the request without a body."
    return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, "request_too_large")


def early_end_error(reason: str, limits: ClientLimits) -> ApiError:
    if reason == PHASE_BODY:
        return arrival_timeout("body", limits.body_s)
    if reason == SHUTDOWN:
        return service_unavailable("The gateway is shutting down. Retry the request.", "shutting_down")
    if reason == PHASE_FIRST_TOKEN:
        return gateway_timeout("The model did not start to respond in time. Retry, or send a shorter request.")
    if reason == PHASE_STALL:
        return gateway_timeout(f"The model sent nothing for {limits.stall_s:g} s. Retry the request.")
    return gateway_timeout(f"The request took longer than the limit of {limits.request_s:g} s. Request fewer tokens.")


def arrival_timeout(part: str, limit_s: float) -> ApiError:
    message = f"The request {part} did not arrive within {limit_s:g} s. Send the request again."
    return ApiError(HTTPStatus.REQUEST_TIMEOUT, message, "timeout")
