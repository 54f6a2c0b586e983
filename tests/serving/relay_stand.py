"""A relay without a gateway: its client's connection keeps what is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

from archwright.access.api_keys import Principal
from archwright.access.reservations import Reservation
from archwright.engines.http_request_parser import parse_head
from archwright.http_client.client import EngineClient
from archwright.serving.admission.metering import CostAccounting, RequestCharge, WorstCase
from archwright.serving.events.response_formats import (
    ChatFormat,
    OpenAIWriter,
    ResponseEnvelope,
    ResponseOptions,
    ResponseWriter,
)
from archwright.serving.events.timing import RequestTiming
from archwright.serving.handlers.stream_relay import BufferedRelay, StreamingRelay
from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.http.http_request import Admitted, HttpRequest
from archwright.serving.http.http_response import HttpResponse, ResponseBuffer
from archwright.serving.settings.config import Endpoint

HEAD = parse_head(b"POST /v1/chat/completions HTTP/1.1\r\nhost: g")
ENDPOINT = Endpoint(model="m", workload="w", targets=(), default_max_tokens=1)


class RecordingPeer:
    """A client's connection that keeps what is sent."""

    left = False

    address = "192.0.2.1"

    def __init__(self) -> None:
        self.sent = b""
        self.held: list[int] = []

    def send(self, data: bytes) -> None:
        self.sent += data

    def is_reusable(self) -> bool:
        return True

    def on_key_accepted(self) -> None: ...

    def on_response_sent(self) -> None:
        """Nothing follows."""

    def abort(self) -> None:
        raise AssertionError("nobody left")

    def release_bytes(self) -> None: ...

    def hold_bytes(self, tenant: str, size: int) -> None:
        self.held.append(size)


class RelayStand:
    """The objects that a relay needs, made inside a running event loop."""

    def __init__(self) -> None:
        self.peer = RecordingPeer()
        buffer = ResponseBuffer(ClientLimits(), asyncio.get_running_loop().time, lambda: None)
        self.response = HttpResponse(HEAD, self.peer, buffer)
        self.timing = RequestTiming(self.response.received_at)
        reservation = Reservation(Principal(key_id="k", tenant="t", role="member"), version=0)
        # Without a limit nothing of the accounts is used.
        request = HttpRequest("r", HEAD, 0.0, Admitted(reservation.principal, 0), b"")
        worst_case = WorstCase(0, 0.0, 0, 0)
        self.charge = RequestCharge(cast(CostAccounting, None), ENDPOINT, reservation, worst_case, request)

    def buffered(self, choices: int = 1) -> BufferedRelay:
        relay = BufferedRelay(self.response, self.charge, self.timing, EngineClient("http://e/v1"), lambda: None)
        relay.begin(b"text/event-stream")
        relay.expect(choices)
        return relay

    def streaming(self, writer: ResponseWriter | None = None, *, keeps: bool = False) -> StreamingRelay:
        relay = StreamingRelay(self.response, self.charge, self.timing, EngineClient("http://e/v1"), lambda: None)
        relay.begin(b"text/event-stream")
        chat = OpenAIWriter(ChatFormat(), ResponseEnvelope("id", 1, "m", ""), ResponseOptions(None))
        relay.configure(chat if writer is None else writer, [], logprobs=False, keeps=keeps)
        return relay


def read_chunks(sent: bytes) -> Iterator[bytes]:
    """Yield the chunks of a response's body."""
    body = sent.partition(b"\r\n\r\n")[2]
    while body:
        size, _, body = body.partition(b"\r\n")
        yield body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
