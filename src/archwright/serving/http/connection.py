"""The server side of HTTP/1.1: connections and their limits.

A connection handles one request at a time. Pipelined requests wait, unread beyond READ_AHEAD, so responses keep their
order. A request is refused when its headers are complete, before its body is read. The rest of a small refused body is
skipped and the connection stays open. A larger refused body closes the connection, after a moment in which the client
can read the error instead of a reset. Every wait (headers, body, next request, a client that does not read) has a
deadline, which one sweep checks.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from http import HTTPStatus
from typing import Protocol, cast

from archwright.engines.http_request_parser import (
    ChunkedBody,
    MalformedRequest,
    RequestHead,
    check_partial_head,
    parse_head,
)
from archwright.serving.http.client_limits import BodyQuota, ClientLimits
from archwright.serving.http.errors import ApiError, too_many_requests
from archwright.serving.http.http_request import Admitted, HttpRequest
from archwright.serving.http.http_response import (
    PHASE_BODY,
    HttpResponse,
    ResponseBuffer,
    arrival_timeout,
    body_too_large,
    early_end_error,
    encode_bare_response,
)

KEEP_ALIVE_S = 75.0
READ_AHEAD = 64 * 1024
SKIP_BYTES = 64 * 1024  # part of a refused body that is still read to keep the connection
# Closing with unread bytes resets the connection, and the client loses the response. So read on for a moment.
LINGER_S = 2.0
LINGER_BYTES = 64 * 1024 * 1024
WRITE_AHEAD = 256 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# States: the connection waits for the next request, headers, a body, the response, or the end of its closing.
STATE_NEXT, STATE_HEAD, STATE_BODY, STATE_REPLY, STATE_END = range(5)
_MALFORMED_CODES = {413: "request_too_large", 431: "headers_too_large"}


class Application(Protocol):
    """Decides on requests and answers them."""

    def on_headers(self, head: RequestHead, response: HttpResponse) -> Admitted | None:
        """The headers are complete: admit the request, or write an error and return None."""

    def on_request(self, request: HttpRequest, response: HttpResponse) -> None:
        """The body is complete: write the response."""


class HttpServer:
    """The connections of one listener. Once `closing`, each new response closes its connection and says so; once
    `ending`, responses that have begun close it too."""

    def __init__(self, application: Application, buffer: ResponseBuffer) -> None:
        self.application = application
        self.buffer = buffer
        self.limits: ClientLimits = buffer.limits
        self.connections: set[HttpConnection] = set()
        self.addresses: Counter[str] = Counter()
        self.body_bytes: Counter[str] = Counter()  # of large bodies, by tenant
        self.closing = self.ending = False
        self.loop = asyncio.get_running_loop()

    def create_connection(self) -> HttpConnection:
        return HttpConnection(self)

    def check_deadlines(self) -> None:
        now = self.buffer.now()
        self.buffer.refresh_date()
        for connection in tuple(self.connections):
            connection.check_deadlines(now)

    def close_gradually(self, *, at_once: bool = False) -> None:
        """Close each connection with its next response; `at_once`: also with the response that is being sent."""
        self.closing, self.ending = True, self.ending or at_once


class HttpConnection(asyncio.Protocol):
    """A client's connection. `left`: the client has closed its side."""

    def __init__(self, server: HttpServer) -> None:
        self.left = False
        self._server = server
        self._now = server.buffer.now
        self._limits = server.limits
        self.address = ""
        self._state = STATE_NEXT
        self._buffer = b""
        self._searched = 0
        self._head: RequestHead | None = None  # of the request being received
        self._admitted: Admitted | None = None  # None also if the request was refused
        self._response: HttpResponse | None = None
        self._fresh = True  # no request received yet
        self._closing = self._paused = False
        self._stalled_at: float | None = None
        self._due = 0.0
        self._quota = BodyQuota(server.body_bytes)
        self._reset_body()

    def _reset_body(self) -> None:
        self._pieces: list[bytes] = []
        self._chunks: ChunkedBody | None = None
        self._left_bytes = 0  # still to be read: of the body, or before closing
        self._size = 0

    # Calls of the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods without being subclasses.
        self._transport = cast(asyncio.Transport, transport)
        server = self._server
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        server.connections.add(self)
        server.addresses[self.address] += 1
        crowded = server.addresses[self.address] > self._limits.connections_per_address
        if crowded or len(server.connections) > self._limits.connections:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(WRITE_AHEAD)
        self._due = self._now() + self._limits.headers_s

    def connection_lost(self, exc: Exception | None) -> None:
        server = self._server
        server.connections.discard(self)
        server.addresses[self.address] -= 1
        if not server.addresses[self.address]:
            del server.addresses[self.address]
        self._closing = True
        self._quota.release()
        if self._response is not None:
            self._response.on_connection_lost()
            self._response = None

    def eof_received(self) -> bool:
        self.left = True
        response = self._response
        if response is None or (self._state == STATE_BODY and not response.finished):
            return False  # the request will never be complete
        response.on_client_closed()
        return not self._tls  # TLS has no half-closed state

    def pause_writing(self) -> None:
        self._stalled_at = self._now()
        if self._response is not None and self._response.source is not None:
            self._response.source.pause()

    def resume_writing(self) -> None:
        self._stalled_at = None
        if self._response is not None and self._response.source is not None:
            self._response.source.resume()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if self._state == STATE_REPLY:
            if len(self._buffer) > READ_AHEAD and not self._paused:
                self._paused = True
                self._transport.pause_reading()
            return
        self._process_buffer()

    # Reading requests.

    def _process_buffer(self) -> None:
        try:
            while self._step():
                continue
        except MalformedRequest as error:
            message = error.reason
            if error.status == HTTPStatus.BAD_REQUEST:
                message = f"The request is not valid HTTP: {message}. Correct the request."
            self._refuse_and_close(ApiError(error.status, message, _MALFORMED_CODES.get(error.status, "bad_http")))
        if self.left and self._response is None and self._state != STATE_END:
            self._transport.close()

    def _step(self) -> bool:
        """Process the buffer. Returns False if more data is needed first."""
        if self._state in (STATE_NEXT, STATE_HEAD):
            return self._read_head()
        if self._state == STATE_BODY:
            return self._read_body()
        if self._state == STATE_END:
            self._left_bytes -= len(self._buffer)
            self._buffer = b""
            if self._left_bytes < 0:
                self._transport.abort()
        return False

    def _read_head(self) -> bool:
        data = self._buffer
        if self._state == STATE_NEXT:
            # Old clients send an empty line after a body (RFC 9112, 2.2).
            if data == b"\r":
                return False
            data = self._buffer = data.removeprefix(b"\r\n")
            if not data:
                return False
            self._state, self._searched = STATE_HEAD, 0
            self._due = self._now() + self._limits.headers_s
        end = data.find(b"\r\n\r\n", self._searched)
        if end > self._limits.header_bytes or (end < 0 and len(data) > self._limits.header_bytes):
            message = f"The request headers exceed the limit of {self._limits.header_bytes} bytes. Send fewer headers."
            raise MalformedRequest(message, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if end < 0:
            check_partial_head(data[:2048])
            self._searched = max(0, len(data) - 3)
            return False
        head = parse_head(data[:end])
        if len(head.headers) + len(head.repeated) > self._limits.headers:
            message = f"The request has more than {self._limits.headers} headers. Send fewer headers."
            raise MalformedRequest(message, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        self._buffer = data[end + 4 :]
        self._searched = 0
        self._begin_request(head)
        return True

    def _begin_request(self, head: RequestHead) -> None:
        self._reset_body()
        self._state, self._fresh = STATE_BODY, False
        if head.length is None:
            self._chunks = ChunkedBody(self._limits.chunks, self._limits.header_bytes)
        else:
            self._left_bytes = head.length
        if not head.keep:
            self._closing = True
        self._due = self._now() + self._limits.body_s
        response = self._response = HttpResponse(head, self, self._server.buffer)
        self._head, self._admitted = head, None
        limit = self._limits.body_bytes
        admitted = self._admitted = self._server.application.on_headers(head, response)
        if admitted is None:
            return
        if self._left_bytes > limit:
            self._refuse_body(body_too_large(limit))
        elif head.expects and not self._buffer and (self._left_bytes or self._chunks):
            self._transport.write(CONTINUE)

    def _read_body(self) -> bool:
        data, self._buffer = self._buffer, b""
        chunks = self._chunks
        if chunks is not None:
            piece = chunks.feed(data)
            self._buffer = chunks.rest
            whole = chunks.done
        else:
            piece, self._buffer = data[: self._left_bytes], data[self._left_bytes :]
            self._left_bytes -= len(piece)
            whole = not self._left_bytes
        if self._admitted is None:
            self._size += len(piece)
            if not whole and self._size > SKIP_BYTES:
                self._closing = True
        else:
            self._take_body(self._admitted, piece)
        if not whole or self._state != STATE_BODY:
            return False
        self._complete_request()
        return self._state != STATE_REPLY

    def _take_body(self, admitted: Admitted, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limits.body_bytes:
            self._refuse_body(body_too_large(self._limits.body_bytes))
        elif piece:
            self._pieces.append(piece)
            if self._size > SKIP_BYTES:
                principal = admitted.principal
                tenant_bytes = self._quota.set_size("" if principal is None else principal.tenant, self._size)
                # A single body never exceeds the tenant's quota: its client would retry for ever.
                if tenant_bytes > max(self._size, self._limits.tenant_bytes):
                    limit = self._limits.tenant_bytes
                    message = f"This tenant has too many large requests in flight (limit: {limit} bytes)."
                    message += " Retry when some of them finish."
                    self._refuse_body(too_many_requests(message, "rate_limit_exceeded", 1))

    def _complete_request(self) -> None:
        """Pass the complete request on, unless it was refused."""
        response, head, admitted, pieces = self._response, self._head, self._admitted, self._pieces
        if response is None or head is None:  # the request was refused and the error is sent
            self._await_request()
            return
        self._state = STATE_REPLY
        if admitted is not None:
            self._pieces = []
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            request = HttpRequest(response.id, head, response.received_at, admitted, body)
            self._server.application.on_request(request, response)

    def _refuse_body(self, refusal: ApiError) -> None:
        self._admitted = None
        self._pieces = []
        self._quota.release()
        if self._response is not None and not self._response.finished:
            self._response.send_error(refusal)

    def _refuse_and_close(self, refusal: ApiError) -> None:
        self._closing = True
        self._buffer = b""
        if self._response is None:
            self._transport.write(encode_bare_response(refusal, self._server.buffer.date))
            self._close_gracefully()
        else:
            self._refuse_body(refusal)
            self._state = STATE_END
            self._left_bytes = LINGER_BYTES

    # Sending responses (http_response.Peer).

    def send(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def is_reusable(self) -> bool:
        if self._closing or self._server.closing:
            self._closing = True
            return False
        if self._state == STATE_BODY:
            # Keep the connection only if the rest of the body is small and certain to arrive: it is skipped.
            left = self._left_bytes - len(self._buffer)
            expects = self._head is not None and self._head.expects
            self._closing = self._chunks is not None or left > SKIP_BYTES or (expects and left > 0)
        return not self._closing

    def on_response_sent(self) -> None:
        self._response = self._head = None  # an idle connection keeps no credential in memory
        self._quota.release()
        if self._closing or self._server.ending:
            self._close_gracefully()
        elif self._state == STATE_REPLY:
            self._await_request()
        elif self.left:
            self._transport.close()

    def _await_request(self) -> None:
        """Wait for another request, which may already be in the buffer."""
        self._state, self._searched = STATE_NEXT, 0
        self._due = self._now() + KEEP_ALIVE_S
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._buffer:
            self._process_buffer()
        elif self.left:
            self._transport.close()

    def _close_gracefully(self) -> None:
        """Close once the client has the response, or at once if no unread bytes would cause a reset."""
        if (self._state == STATE_REPLY and not self._buffer) or self.left:
            self._transport.close()
            self._due = self._now() + self._limits.client_stall_s
        else:
            self._left_bytes, self._buffer = LINGER_BYTES, b""
            self._due = self._now() + LINGER_S
            if not self._tls and not self._transport.is_closing():
                self._transport.write_eof()
            if self._paused:
                self._transport.resume_reading()
        self._state = STATE_END

    # Deadlines.

    def check_deadlines(self, now: float) -> None:
        if self._stalled_at is not None:
            if now >= self._stalled_at + self._limits.client_stall_s:
                self.abort()
        elif self._state == STATE_REPLY and self._response is not None:
            self._response.check_deadlines(now)
        elif now < self._due:
            return
        elif self._state == STATE_HEAD or self._fresh:
            self._refuse_and_close(arrival_timeout("headers", self._limits.headers_s))
        elif self._state == STATE_BODY and self._response is not None and not self._response.finished:
            self._refuse_and_close(early_end_error(PHASE_BODY, self._limits))
        elif self._state == STATE_NEXT and not self._transport.get_write_buffer_size():
            self._transport.close()
        else:
            self._transport.abort()

    def close_if_idle(self, silent_s: float) -> None:
        """Close a connection that was silent for `silent_s`; until then its client may be sending a request."""
        if self._response is None and self._state in (STATE_NEXT, STATE_HEAD):
            limit_s = KEEP_ALIVE_S if self._state == STATE_NEXT and not self._fresh else self._limits.headers_s
            if self._now() >= self._due - limit_s + silent_s:
                self._transport.close()

    def end(self, reason: str) -> None:
        response = self._response
        if response is not None and response.is_working:
            response.stop(reason)
        elif response is not None and not response.finished:
            self._refuse_and_close(early_end_error(reason, self._limits))

    def abort(self) -> None:
        self._transport.abort()

    @property
    def _tls(self) -> bool:
        return self._transport.get_extra_info("ssl_object") is not None
