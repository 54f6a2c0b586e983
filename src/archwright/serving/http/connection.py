"""The server side of HTTP/1.1: connections and their limits.

A connection handles one request at a time, and begins at most one in a tick of the event loop. Pipelined requests wait,
so responses keep their order; beyond READ_AHEAD and one read they stay with the client. A request is refused when its
headers are complete, before its body is read. The rest of a small refused body is skipped and the connection stays
open. A larger refused body closes the connection, after a moment in which the client can read the error instead of a
reset. A connection without an accepted key closes after KEYLESS_REQUESTS: a stranger has to connect again, where the
limits of connections apply. Every wait (headers, body, next request, a client that does not read) has a
deadline, which one sweep checks.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Protocol, cast

from archwright.engines.http_request_parser import (
    ChunkedBody,
    MalformedRequest,
    RequestHead,
    check_partial_head,
    parse_head,
)
from archwright.serving.http.body_structure import LARGE_BODY_BYTES, check_large_body
from archwright.serving.http.client_address import TrustedProxies
from archwright.serving.http.client_limits import BodyQuota, ClientLimits
from archwright.serving.http.connection_slots import STAGE_KNOWN, STAGE_STRANGER, ConnectionSlot, ConnectionSlots
from archwright.serving.http.errors import ApiError
from archwright.serving.http.http_request import Admitted, HttpRequest
from archwright.serving.http.http_response import (
    PHASE_BODY,
    HttpResponse,
    ResponseBuffer,
    arrival_timeout,
    body_too_large,
    early_end_error,
    encode_bare_response,
    unexpected_body,
)
from archwright.serving.http.image_data import ImageScan

KEEP_ALIVE_S = 75.0  # after an accepted key, and for trusted proxies
READ_AHEAD = 64 * 1024
KEYLESS_REQUESTS = 16  # one after the other, without an accepted key
SKIP_BYTES = 64 * 1024  # part of a refused body that is still read to keep the connection
# Closing with unread bytes resets the connection, and the client loses the response. So read on for a moment.
LINGER_S = 2.0
LINGER_BYTES = 64 * 1024 * 1024
UPLOAD_COPIES = 4  # of a form: as received, its parts, and twice what an engine gets
WRITE_AHEAD = 256 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# States: the connection waits for the next request, headers, a body, the response, or the end of its closing.
STATE_NEXT, STATE_HEAD, STATE_BODY, STATE_REPLY, STATE_END = range(5)
_MALFORMED_CODES = {413: "request_too_large", 431: "headers_too_large"}


class Application(Protocol):
    """Decides on requests and answers them."""

    def on_headers(self, head: RequestHead, response: HttpResponse, *, complete: bool) -> Admitted | None:
        """The headers are complete: admit the request, or write an error and return None.

        `complete`: the body is small and has arrived too."""

    def on_request(self, request: HttpRequest, response: HttpResponse) -> None:
        """The body is complete: write the response."""

    def on_refused(self, head: RequestHead | None, status: int) -> None:
        """The connection refused a request by itself; None: its headers were not valid or late."""


class HttpServer:
    """The connections of one listener. Once `closing`, each new response closes its connection and says so; once
    `ending`, responses that have begun close it too."""

    def __init__(self, application: Application, buffer: ResponseBuffer, proxies: tuple[str, ...] = ()) -> None:
        self.application = application
        self.buffer = buffer
        self.limits: ClientLimits = buffer.limits
        self.proxies = TrustedProxies(proxies)
        self.slots = ConnectionSlots(self.limits.connections, self.limits.connections_per_address, self.proxies)
        self.connections: set[HttpConnection] = set()
        self.closing = self.ending = False
        self.loop = asyncio.get_running_loop()

    def create_connection(self, slot: ConnectionSlot | None = None) -> HttpConnection:
        """Create the protocol of a connection; without a slot it is not counted."""
        return HttpConnection(self, slot or ConnectionSlot())

    def check_deadlines(self) -> None:
        now = self.buffer.now()
        self.buffer.refresh_date()
        for connection in tuple(self.connections):
            connection.check_deadlines(now)

    def close_gradually(self, *, at_once: bool = False) -> None:
        """Close each connection with its next response; `at_once`: also with the response that is being sent."""
        self.closing, self.ending = True, self.ending or at_once


class HttpConnection(asyncio.Protocol):
    """A client's connection. `left`: the client has closed its side. `address`: of the client of the last request."""

    def __init__(self, server: HttpServer, slot: ConnectionSlot) -> None:
        self.left = False
        self._server = server
        self._now = server.buffer.now
        self._limits = server.limits
        self._slot = slot
        self.address = slot.address
        self._keep_alive_s = KEEP_ALIVE_S if slot.proxied else server.limits.stranger_idle_s
        self._state = STATE_NEXT
        self._buffer = b""  # empty if each received byte is processed
        self._at = 0  # position of the first unprocessed byte in the buffer
        self._searched = 0
        self._skipped_line = False  # an empty line before the next request
        self._keyless = 0  # requests since the last accepted key
        self._head: RequestHead | None = None  # of the request being received
        self._admitted: Admitted | None = None  # None also if the request was refused
        self._response: HttpResponse | None = None
        self._fresh = True  # no request received yet
        self._closing = self._paused = False
        self._stalled_at: float | None = None
        self._due = 0.0
        self._quota = BodyQuota(server.buffer.bodies)
        self._reset_body()

    def _reset_body(self) -> None:
        self._pieces: list[bytes] = []
        self._chunks: ChunkedBody | None = None
        self._images: ImageScan | None = None  # of a body above the limit for text
        self._left_bytes = 0  # still to be read: of the body, or before closing
        self._size = 0

    # Calls of the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods without being subclasses.
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        self._server.slots.attach(self._slot, self.abort)
        self._server.slots.enter_stage(self._slot, STAGE_STRANGER)
        self._transport.set_write_buffer_limits(WRITE_AHEAD)
        self._due = self._now() + self._limits.headers_s

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._server.slots.release(self._slot)
        self._closing = True
        response, self._response = self._response, None
        if response is None or not response.is_working:
            self._quota.release()
        if response is not None:
            response.on_connection_lost()  # its work may go on with the body

    def eof_received(self) -> bool:
        self.left = True
        response = self._response
        if response is None and self._stalled_at is not None and self._buffer:
            return not self._tls  # the requests in the buffer are answered when the client reads
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
        if self._buffer and self._state in (STATE_NEXT, STATE_HEAD):
            self._process_buffer()

    def data_received(self, data: bytes) -> None:
        self._buffer, self._at = self._buffer[self._at :] + data if self._buffer else data, 0
        if self._state == STATE_REPLY:
            self._limit_read_ahead()
        else:
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
        if self.left and self._response is None and self._stalled_at is None and self._state != STATE_END:
            self._transport.close()
        elif self._buffer or self._paused:
            self._limit_read_ahead()

    def _limit_read_ahead(self) -> None:
        """Read on unless more than READ_AHEAD waits behind the present request or its response."""
        waits = self._state == STATE_REPLY or self._stalled_at is not None
        full = waits and len(self._buffer) - self._at > READ_AHEAD
        if full != self._paused and not self._transport.is_closing():
            self._paused = full
            if full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _advance(self, end: int) -> None:
        """Continue at `end`. The rest of the buffer is not copied: it may hold thousands of requests."""
        if end < len(self._buffer):
            self._at = end
        else:
            self._buffer, self._at = b"", 0

    def _step(self) -> bool:
        """Process the buffer. Returns False if more data is needed first."""
        if self._state in (STATE_NEXT, STATE_HEAD):
            # A client that does not read its responses gets no further ones: they would fill the memory.
            return self._stalled_at is None and self._read_head()
        if self._state == STATE_BODY:
            return self._read_body()
        if self._state == STATE_END:
            self._left_bytes -= len(self._buffer)
            self._buffer = b""
            if self._left_bytes < 0:
                self._transport.abort()
        return False

    def _read_head(self) -> bool:
        if self._state == STATE_NEXT:
            # Old clients send an empty line after a body (RFC 9112, 2.2).
            if self._buffer.startswith(b"\r\n", self._at) and not self._skipped_line:
                self._skipped_line = True
                self._advance(self._at + 2)
            if len(self._buffer) - self._at < 2:
                return False
            self._state, self._searched, self._skipped_line = STATE_HEAD, self._at, False
            self._due = self._now() + self._limits.headers_s
        end = self._buffer.find(b"\r\n\r\n", self._searched)
        size = (len(self._buffer) if end < 0 else end) - self._at
        if size > self._limits.header_bytes:
            message = f"The request headers exceed the limit of {self._limits.header_bytes} bytes. Send fewer headers."
            raise MalformedRequest(message, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if end < 0:
            # Keep only the head's beginning: it would hold the memory of the requests before it.
            self._buffer, self._at = self._buffer[self._at :], 0
            check_partial_head(self._buffer)
            self._searched = max(0, size - 3)
            return False
        if self._buffer.count(b"\n", self._at, end) > self._limits.headers:
            message = f"The request has more than {self._limits.headers} headers. Send fewer headers."
            raise MalformedRequest(message, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        head = parse_head(self._buffer[self._at : end])
        self._advance(end + 4)
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
        if self._slot.proxied:
            forwarded = head.headers.get(b"x-forwarded-for")
            self.address = self._server.proxies.find_client(self._slot.address, forwarded)
        response = self._response = HttpResponse(head, self, self._server.buffer)
        self._head, self._admitted = head, None
        self._keyless += 1
        arrived = len(self._buffer) - self._at
        complete = head.length is not None and head.length <= min(arrived, LARGE_BODY_BYTES)
        admitted = self._admitted = self._server.application.on_headers(head, response, complete=complete)
        if admitted is None:
            return
        limit = self._limits.largest_body(images=admitted.images, upload=admitted.upload)
        if admitted.principal is None and (self._left_bytes or self._chunks):
            self._refuse_body(unexpected_body())  # else strangers could fill the memory with bodies
        elif self._left_bytes > limit:
            self._refuse_body(body_too_large(limit))
        elif head.expects and not self._buffer and (self._left_bytes or self._chunks):
            self._transport.write(CONTINUE)

    def _read_body(self) -> bool:
        chunks = self._chunks
        if chunks is not None:
            piece, end = chunks.feed(self._buffer, self._at)
            whole = chunks.done
        else:
            end = self._at + self._left_bytes
            piece = self._buffer[self._at : end]
            self._left_bytes -= len(piece)
            whole = not self._left_bytes
        self._advance(end)
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
        if piece:
            self._pieces.append(piece)
        try:
            if self._size > min(self._limits.body_bytes, self._limits.upload_bytes):
                self._check_images(admitted, piece)
            if self._size > LARGE_BODY_BYTES:
                self._hold_memory(admitted, self._size)
        except ApiError as error:
            self._refuse_body(error)

    def _check_images(self, admitted: Admitted, piece: bytes) -> None:
        """Raise ApiError 413 unless image data alone makes the body larger than the limit for text."""
        limits, scan = self._limits, self._images
        limit = limits.largest_body(images=admitted.images, upload=admitted.upload)
        if self._size > limit:
            raise body_too_large(limit)
        if admitted.upload:
            return
        if scan is None:
            scan, piece = ImageScan(), b"".join(self._pieces)
            self._images = scan
        scan.feed(piece)
        if scan.other_bytes > limits.body_bytes:
            raise body_too_large(limits.body_bytes)

    def _hold_memory(self, admitted: Admitted, size: int) -> None:
        """Count the body's bytes of memory. Raises ApiError 429 and 503 if a limit has no room for them."""
        assert admitted.principal is not None, "a request without a key has no body"
        self._quota.set_size(admitted.principal.tenant, size, self._limits)

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
            if len(body) > LARGE_BODY_BYTES:
                try:
                    size = UPLOAD_COPIES * len(body) if admitted.upload else check_large_body(body)
                    self._hold_memory(admitted, size)
                except ApiError as error:
                    self._refuse_body(error)
                    return
            request = HttpRequest(response.id, head, response.received_at, admitted, body)
            self._server.application.on_request(request, response)

    def _refuse_body(self, refusal: ApiError) -> None:
        self._admitted = None
        self._pieces = []
        self._quota.release()
        if self._response is not None and not self._response.finished:
            self._server.application.on_refused(self._head, refusal.status)
            self._response.send_error(refusal)

    def _refuse_and_close(self, refusal: ApiError) -> None:
        self._closing = True
        self._buffer, self._at = b"", 0
        if self._response is None:
            self._server.application.on_refused(None, refusal.status)
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
        if self._closing or self._server.closing or self._keyless > KEYLESS_REQUESTS:
            self._closing = True
            return False
        if self._state == STATE_BODY:
            # Keep the connection only if the rest of the body is small and certain to arrive: it is skipped.
            left = self._left_bytes - len(self._buffer) + self._at
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
        self._due = self._now() + self._keep_alive_s
        if self._slot.stage == STAGE_STRANGER:
            self._server.slots.enter_stage(self._slot, STAGE_STRANGER)
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
            self._left_bytes = LINGER_BYTES if self._keyless <= KEYLESS_REQUESTS else READ_AHEAD
            self._buffer, self._at = b"", 0
            self._due = self._now() + LINGER_S
            if not self._tls and not self._transport.is_closing():
                self._transport.write_eof()
        self._state = STATE_END
        self._limit_read_ahead()

    def on_key_accepted(self) -> None:
        self._keyless = 0
        if self._slot.stage == STAGE_STRANGER:
            self._server.slots.enter_stage(self._slot, STAGE_KNOWN)
            self._keep_alive_s = KEEP_ALIVE_S

    def release_bytes(self) -> None:
        self._quota.release()

    def hold_bytes(self, tenant: str, size: int) -> None:
        self._quota.set_size(tenant, max(0, self._quota.size + size), self._limits)

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
            limit_s = self._keep_alive_s if self._state == STATE_NEXT and not self._fresh else self._limits.headers_s
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
