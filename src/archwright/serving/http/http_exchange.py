"""One request and its reply: headers and body in, bytes out, and how it may end early.

Design: no reply leaves before its records. The records of all replies of one event-loop turn (authorisation, usage) are
made durable once, at the end of the turn; if that fails, the replies become errors. A client that disconnects ends the
work at once, and every phase has a deadline, kept by one sweep over all connections and not by a timer each.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol

from archwright.access.api_keys import Principal
from archwright.contract.served import make_request_id
from archwright.engines.http_request_parser import RequestHead
from archwright.errors import ArchwrightError, StoreError
from archwright.http_client.connection_pool import ResponseSink
from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.http.errors import (
    MESSAGES_PATH,
    ApiError,
    audit_unavailable,
    gateway_timeout,
    service_unavailable,
)

JSON_CONTENT_TYPE = "application/json"

CLIENT_GONE = "gone"
STOPPED = "stopped"
SHUTDOWN = "shutdown"
UNRECORDED = "unrecorded"
# Phases: what is waited for.
PHASE_BODY, PHASE_FIRST_TOKEN, PHASE_STALL, PHASE_CLIENT, PHASE_REQUEST = "body", "first", "stall", "client", "whole"

# Request ids are no secrets: the system's entropy once per process saves a system call per request.
_ID_RANDOM = random.Random()
os.register_at_fork(after_in_child=_ID_RANDOM.seed)
_STATUS_LINES = {int(status): f"HTTP/1.1 {status:d} {status.phrase}\r\n".encode() for status in HTTPStatus}
_LAST_CHUNK = b"0\r\n\r\n"

HeaderField = tuple[bytes, bytes]


def generate_request_id() -> str:
    return make_request_id(time.time(), _ID_RANDOM.getrandbits(52))


class Peer(Protocol):
    """The connection a request came on."""

    left: bool  # the client has closed its side

    def send(self, data: bytes) -> None: ...

    def is_reusable(self) -> bool:
        """True if another request may follow after this reply."""

    def on_response_sent(self) -> None:
        """The reply is whole and sent."""

    def abort(self) -> None: ...


class SpendCap(Protocol):
    """What the request may cost (RequestCharge): `most` pieces may be delivered, and `look_at` is the next check."""

    most: int
    look_at: float

    def check_spend(self, delivered: int, now: float) -> None: ...
    def covers(self, input_tokens: int, output_tokens: int) -> bool: ...
    def settle(self, status: str, figures: dict[str, Any]) -> None: ...
    def headers(self) -> list[HeaderField]: ...


class ResponseBuffer:
    """The replies of this turn of the event loop. `flush` makes their records durable or raises StoreError."""

    def __init__(self, limits: ClientLimits, now: Callable[[], float], flush: Callable[[], None]) -> None:
        self.limits = limits
        self.now = now
        self.date = b""
        self._flush = flush
        self._loop = asyncio.get_running_loop()
        self._waiting: list[HttpExchange] = []
        self.refresh_date()

    def refresh_date(self) -> None:
        self.date = b"date: " + formatdate(usegmt=True).encode() + b"\r\n"

    def enqueue(self, exchange: HttpExchange) -> None:
        if not self._waiting:
            self._loop.call_soon(self._flush_waiting)
        self._waiting.append(exchange)

    def _flush_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            self._flush()
        except StoreError:
            for exchange in waiting:
                exchange.fail_unrecorded(audit_unavailable())
        except BaseException:  # a bug must not leave clients waiting
            for exchange in waiting:
                exchange.abort()
            raise
        for exchange in waiting:
            exchange.flush()


class HttpExchange:
    """`received_at` is a reading of the monotonic clock `now` when the headers were whole."""

    __slots__ = (
        *("asks", "begun", "bill", "body", "ended", "finished", "found", "head", "id", "keys_version", "limits"),
        *("method", "model", "now", "path", "principal", "received_at", "recorded", "reserved", "route", "sink"),
        *("started", "status", "task", "why", "_departed", "_line", "_outbox", "_outgoing", "_phase"),
        *("_phase_until", "_watched", "_whole_until"),
    )

    def __init__(self, head: RequestHead, line: Peer, outbox: ResponseBuffer) -> None:
        self.id = generate_request_id()
        self.head = head
        self.method = head.method
        self.path = head.path
        self.body = b""
        self.limits = outbox.limits
        self.now = outbox.now
        self.received_at = now = outbox.now()
        self.model = self.route = ""
        self.started = self.finished = self.begun = False
        self.recorded = False  # its end is recorded
        self.ended: str | None = None
        self.why: ArchwrightError | None = None  # it was stopped
        self.status = 0
        self.task: asyncio.Task[None] | None = None
        self.sink: ResponseSink | None = None  # fed by the engine; paused while the client does not read
        self.found: Any = None  # a RouteMatch
        self.principal: Principal | None = None
        self.keys_version = 0  # of the key store when it was authorised
        self.asks: Any = None  # a WorstCase
        self.reserved: Any = None  # the accounts' answer to `asks`, until `bill` is set
        self.bill: SpendCap | None = None
        self._line = line
        self._outbox = outbox
        self._outgoing: list[bytes] = []
        self._departed = self._watched = False
        self._whole_until = now + outbox.limits.request_s
        self._phase, self._phase_until = PHASE_REQUEST, self._whole_until

    def header(self, name: bytes) -> str | None:
        value = self.head.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def require_principal(self) -> Principal:
        assert self.principal is not None, "let in without a principal"
        return self.principal

    def start_phase(self, name: str, limit_s: float) -> None:
        """Wait for `name` from now on, at most `limit_s`."""
        self._phase, self._phase_until = name, self.now() + limit_s

    def extend_stall_deadline(self, now: float) -> None:
        """The engine sent something; more must follow in time."""
        self._phase, self._phase_until = PHASE_STALL, now + self.limits.stall_s

    def check_deadlines(self, now: float) -> None:
        if now >= self._phase_until:
            self.end(self._phase)
        elif now >= self._whole_until:
            self.end(PHASE_REQUEST)
        elif self.bill is not None and now >= self.bill.look_at and self.task is not None:
            try:
                self.bill.check_spend(0, now)
            except ArchwrightError as error:
                self.why = error
                self.end(STOPPED)

    def watch_disconnect(self) -> None:
        """End the work if the client closes its side from now on or already has."""
        self._watched = True
        if self._line.left:
            self.end(CLIENT_GONE)

    def on_client_closed(self) -> None:
        """The client closed its side; before an engine works for it, it may still want its answer."""
        if self._watched:
            self.end(CLIENT_GONE)

    def is_engine_timeout(self) -> bool:
        """True if the work ended because the engine was silent for too long."""
        return self.ended in (PHASE_FIRST_TOKEN, PHASE_STALL)

    def end(self, reason: str) -> None:
        """Stop the work. Work that has not begun is not cancelled but ends as it begins, to free its reservation."""
        if self.ended is None and self.task is not None:
            self.ended = reason
            if self.begun:
                self.task.cancel()

    def abort(self) -> None:
        self.finished = True
        self._line.abort()

    def reply(self, status: int, body: bytes, content_type: str, headers: Iterable[HeaderField] = ()) -> None:
        found = [*headers, (b"content-length", b"%d" % len(body))]
        head = self._encode_head(status, content_type, found)
        self._enqueue(head if self.method == "HEAD" else head + body)
        self.finished = True

    def reply_error(self, refusal: ApiError) -> None:
        self.model = self.route = ""  # no model says no
        self.reply(refusal.status, refusal.encode_body(self.path), JSON_CONTENT_TYPE, refusal.headers())

    def start_stream(self, status: int, content_type: str, headers: Iterable[HeaderField] = ()) -> None:
        framing = [(b"transfer-encoding", b"chunked")] if self.head.version else []
        self._enqueue(self._encode_head(status, content_type, [*headers, *framing]))

    def write(self, data: bytes) -> None:
        """Send a piece of a streamed reply. Dropped after the reply's end, and if empty: an empty chunk is the end."""
        if self.finished or not data:
            return
        framed = b"%x\r\n%b\r\n" % (len(data), data) if self.head.version else data
        if self._departed and not self._outgoing:
            self._line.send(framed)
        else:
            self._enqueue(framed)

    def finish(self, data: bytes = b"") -> None:
        """Send the last piece of a streamed reply, after the records of its turn."""
        if self.finished:
            return
        if not self.head.version:
            self._enqueue(data)
        else:
            self._enqueue(b"%x\r\n%b\r\n%b" % (len(data), data, _LAST_CHUNK) if data else _LAST_CHUNK)
        self.finished = True

    def fail_unrecorded(self, refusal: ApiError) -> None:
        """Replace the output of this turn by an error: it could not be recorded."""
        self._outgoing, self.finished = [b""], False
        if self._departed:
            self.finish(refusal.encode_event(self.path))
        else:
            self.reply_error(refusal)
        self.end(UNRECORDED)

    def flush(self) -> None:
        outgoing = self._outgoing
        data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
        outgoing.clear()
        self._departed = True
        self._line.send(data)
        if self.finished:
            if self.recorded:  # else the charge is still to be settled
                self.bill = None  # breaks a reference cycle, which would wait for the garbage collector
            self._line.on_response_sent()

    def _enqueue(self, data: bytes) -> None:
        if not self._outgoing:
            self._outbox.enqueue(self)
        self._outgoing.append(data)

    def _encode_head(self, status: int, content_type: str, headers: Iterable[HeaderField]) -> bytes:
        self.started, self.status = True, status
        said = f"content-type: {content_type}\r\nx-request-id: {self.id}\r\n"
        if self.path.startswith(MESSAGES_PATH):
            said += f"request-id: {self.id}\r\n"
        if self.model:
            said += f"x-archwright-model: {self.model}\r\n"
        if self.route:
            said += f"x-archwright-route: {self.route}\r\n"
        fields = b"".join([b"%b: %b\r\n" % field for field in headers])
        end = b"\r\n" if self._line.is_reusable() else b"connection: close\r\n\r\n"
        return b"%b%b%b%b%b" % (_STATUS_LINES[status], self._outbox.date, said.encode(), fields, end)


def encode_bare_response(refusal: ApiError, date: bytes) -> bytes:
    """The reply to bytes that are no request."""
    body = refusal.encode_body()
    return (
        b"%b%bcontent-type: application/json\r\nx-request-id: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
        % (_STATUS_LINES[refusal.status], date, generate_request_id().encode(), len(body), body)
    )


def body_too_large(limit: int) -> ApiError:
    message = f"the body is larger than {limit} bytes"
    return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, "request_too_large")


def early_end_error(reason: str) -> ApiError:
    """The error sent for an exchange that ended early."""
    if reason == PHASE_BODY:
        return ApiError(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time", "timeout")
    if reason == SHUTDOWN:
        return service_unavailable("the service is shutting down; try again", "shutting_down")
    return gateway_timeout(_TIMEOUT_MESSAGES.get(reason, "the request took longer than this service allows"))


_TIMEOUT_MESSAGES = {
    PHASE_FIRST_TOKEN: "the model did not begin to answer in time",
    PHASE_STALL: "the model stopped answering",
}
