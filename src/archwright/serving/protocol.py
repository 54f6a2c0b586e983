"""The HTTP/1.1 connection: uvicorn's, with the limits it lacks on headers, on their arrival and on connections.

Also answers a request that is no HTTP in JSON like everything else, and lets the application drop a connection.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from archwright.serving.config import Limits
from archwright.serving.exchange import ABORT, request_id
from archwright.serving.refusal import Refusal


class LimitedHttp(HttpToolsProtocol):
    """`limits` is set by `limited`; uvicorn makes one instance per connection."""

    limits = Limits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_bytes = 0
        self._refusal: Refusal | None = None
        self._headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
            return
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_came()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(dict[str, Any], self.scope)[ABORT] = self.transport.abort
        self._header_bytes = 0
        if self._headers_due is None:
            self._expect_headers()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._weigh(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._weigh(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._headers_came()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Also reached when a callback above raised: then `_refusal` says what it was."""
        self._headers_came()
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            # A reply is under way on this connection: nothing may be written into it.
            self.transport.abort()
            return
        refusal = self._refusal or Refusal(HTTPStatus.BAD_REQUEST, "this is not valid HTTP", openai_code="bad_http")
        body = refusal.encoded()
        head = (
            f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {request_id()}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _weigh(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self.limits.header_bytes or len(self.headers) > self.limits.headers:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._refusal = Refusal(status, "the request's headers are too large", openai_code="headers_too_large")
            raise self._refusal

    def _expect_headers(self) -> None:
        self._headers_due = self.loop.call_later(self.limits.headers_s, self._headers_late)

    def _headers_came(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _headers_late(self) -> None:
        self._headers_due = None
        self._refusal = Refusal(HTTPStatus.REQUEST_TIMEOUT, "the headers did not arrive in time", openai_code="timeout")
        self.send_400_response("")


def limited(limits: Limits) -> type[LimitedHttp]:
    """The connection class for these limits."""
    return type("LimitedHttp", (LimitedHttp,), {"limits": limits})
