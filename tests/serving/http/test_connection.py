"""One connection on a transport that counts: what it holds, what it costs, and when it closes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from msgspec import structs

from archwright.access.api_keys import Principal
from archwright.engines.http_request_parser import RequestHead
from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.http.connection import KEYLESS_REQUESTS, READ_AHEAD, HttpConnection, HttpServer
from archwright.serving.http.connection_slots import STAGE_KNOWN
from archwright.serving.http.errors import ApiError
from archwright.serving.http.http_request import Admitted, HttpRequest
from archwright.serving.http.http_response import HttpResponse, ResponseBuffer

READ = 256 << 10  # of uvloop
MEMBER = Admitted(Principal(key_id="k", tenant="t", role="member"), 0)
UPLOAD = structs.replace(MEMBER, upload=True)
SMALL = b"GET /v1/models HTTP/1.1\r\nHost: g\r\nX-Key: yes\r\n\r\n"
CHUNKED = b"POST /v1/models HTTP/1.1\r\nHost: g\r\nX-Key: yes\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


class Answering:
    """Admits requests with the header X-Key, refuses others, and answers each with its body."""

    def __init__(self) -> None:
        self.answered = 0
        self.addresses: list[str] = []
        self.refused: list[tuple[str, int]] = []

    def on_headers(self, head: RequestHead, response: HttpResponse, **_: object) -> Admitted | None:
        self.addresses.append(response.client_address)
        if head.path == "/healthz":
            return Admitted(None, 0)
        if b"x-key" in head.headers:
            response.mark_key_accepted()
            if head.path != "/limited":
                return UPLOAD if head.path == "/upload" else MEMBER
            response.send_error(ApiError(429, "Too many requests.", "rate_limit_exceeded"))
            return None
        response.send_error(ApiError(401, "No key.", "invalid_api_key"))
        return None

    def on_request(self, request: HttpRequest, response: HttpResponse) -> None:
        self.answered += 1
        response.send(200, request.body, "text/plain")

    def on_refused(self, head: RequestHead | None, status: int) -> None:
        self.refused.append(("" if head is None else head.path, status))


class CountingTransport:
    """Reads are paused and resumed; what is written is kept."""

    def __init__(self) -> None:
        self.paused = self.closed = self.aborted = False
        self.written: list[bytes] = []

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused and not self.closed
        self.paused = False

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 1) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None: ...

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def write_eof(self) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True


class Wire:
    """A connection with its transport and its application."""

    def __init__(self, peer: str = "192.0.2.1", proxies: tuple[str, ...] = (), **limits: Any) -> None:
        self.application, self.transport = Answering(), CountingTransport()
        buffer = ResponseBuffer(ClientLimits(**limits), asyncio.get_running_loop().time, lambda: None)
        server = HttpServer(self.application, buffer, proxies)
        self.connection: HttpConnection = server.create_connection(server.slots.admit(peer))
        self.connection.connection_made(cast(asyncio.Transport, self.transport))

    @property
    def held_bytes(self) -> int:
        return len(self.connection._buffer)

    async def receive(self, data: bytes, read: int = READ) -> int:
        """Deliver `data` as an event loop does: a read in each tick, none while paused. Returns the most held."""
        most = at = 0
        while at < len(data) and not self.transport.closed:
            if not self.transport.paused:
                self.connection.data_received(data[at : at + read])
                at += read
            most = max(most, self.held_bytes)
            await asyncio.sleep(0)
        return most

    async def settle(self, answers: int) -> None:
        """Wait until `answers` requests are answered or the connection is closed."""
        while self.application.answered < answers and not self.transport.closed:
            await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.mark.parametrize("body", [b"", b"x" * 4_000])
def test_50_mb_pipelined_stay_within_the_bound_and_one_read(body: bytes) -> None:
    fill = b"" if body else b"X-Fill: %b\r\n" % (b"x" * 4_000)
    head = b"POST / HTTP/1.1\r\nHost: g\r\nX-Key: yes\r\n%bContent-Length: %d\r\n\r\n" % (fill, len(body))
    request = head + body
    count = 50_000_000 // len(request)

    async def run() -> tuple[int, int]:
        wire = Wire()
        most = await wire.receive(request * count)
        await wire.settle(count)
        return most, wire.application.answered

    most, answered = asyncio.run(run())
    assert most <= READ_AHEAD + READ
    assert answered == count


class CountedBytes(bytes):
    """Bytes that count what slices copy of them, and slices of slices."""

    copied = 0

    def __getitem__(self, key: Any) -> Any:
        piece = super().__getitem__(key)
        if not isinstance(piece, bytes):
            return piece
        CountedBytes.copied += len(piece)
        return CountedBytes(piece)


@pytest.mark.parametrize("request_", [SMALL, CHUNKED], ids=["small", "chunked"])
def test_the_rest_of_a_read_is_not_copied(request_: bytes) -> None:
    """Of 20,000 requests in one read, each is copied once. Copies of the rest would be 10,000 times the read."""
    count = 20_000
    data = CountedBytes(request_ * count)

    async def run() -> int:
        wire = Wire()
        wire.connection.data_received(data)
        await wire.settle(count)
        return wire.application.answered

    CountedBytes.copied, size = 0, len(data)
    assert asyncio.run(run()) == count
    assert CountedBytes.copied <= 2 * size


def test_a_client_that_does_not_read_gets_no_further_responses() -> None:
    """Its responses would fill the memory. Its requests are answered when it reads again."""
    count = 10_000

    async def run() -> None:
        wire = Wire()
        wire.connection.pause_writing()
        delivered = asyncio.ensure_future(wire.receive(SMALL * count, read=4_096))
        for _ in range(100):
            await asyncio.sleep(0)
        assert wire.application.answered <= 1
        assert wire.transport.paused and wire.held_bytes <= READ_AHEAD + 4_096
        wire.connection.resume_writing()
        await delivered
        wire.connection.pause_writing()
        await asyncio.sleep(0)
        assert wire.connection.eof_received()  # the half-closed connection stays open
        wire.connection.resume_writing()
        await wire.settle(count)
        assert wire.application.answered == count and not wire.transport.aborted

    asyncio.run(run())


def test_one_request_of_a_connection_in_a_tick() -> None:
    async def run() -> None:
        wire = Wire()
        wire.connection.data_received(SMALL * 1_000)
        for tick in range(20):
            assert wire.application.answered <= tick + 1
            await asyncio.sleep(0)

    asyncio.run(run())


@pytest.mark.parametrize("target", [b"/v1/models", b"/healthz"])
def test_a_connection_without_a_key_closes(target: bytes) -> None:
    keyless = b"GET %b HTTP/1.1\r\nHost: g\r\n\r\n" % target

    async def run(data: bytes) -> Wire:
        wire = Wire()
        await wire.receive(data, read=len(keyless))
        for _ in range(5):
            await asyncio.sleep(0)
        return wire

    wire = asyncio.run(run(keyless * 100))
    assert len(wire.transport.written) == KEYLESS_REQUESTS + 1 and wire.transport.closed
    assert [b"connection: close" in written for written in wire.transport.written] == [False] * KEYLESS_REQUESTS + [
        True
    ]
    # A request with a key in between keeps the connection open.
    wire = asyncio.run(run((keyless * KEYLESS_REQUESTS + SMALL) * 3))
    assert len(wire.transport.written) == 3 * (KEYLESS_REQUESTS + 1) and not wire.transport.closed


def test_a_valid_key_whose_requests_are_refused_keeps_its_connection() -> None:
    async def run() -> None:
        wire = Wire()
        for _ in range(3 * KEYLESS_REQUESTS):
            await wire.receive(b"GET /limited HTTP/1.1\r\nHost: g\r\nX-Key: yes\r\n\r\n")
        assert len(wire.transport.written) == 3 * KEYLESS_REQUESTS and not wire.transport.closed
        assert wire.connection._slot.stage == STAGE_KNOWN

    asyncio.run(run())


@pytest.mark.parametrize("framing", [b"Content-Length: 4000000", b"Transfer-Encoding: chunked"])
def test_a_path_without_a_key_takes_no_body(framing: bytes) -> None:
    async def run() -> None:
        wire = Wire()
        head = b"GET /healthz HTTP/1.1\r\nHost: g\r\n%b\r\n\r\n" % framing
        await wire.receive(head + b"0" * 1_000_000)
        assert wire.transport.written[0].startswith(b"HTTP/1.1 413 ")
        assert not wire.connection._pieces and wire.application.answered == 0

    asyncio.run(run())


def test_a_head_above_the_read_ahead_bound_is_read() -> None:
    large = SMALL[:-2] + b"X: " + b"x" * 300_000 + b"\r\n\r\n"

    async def run() -> int:
        wire = Wire(header_bytes=1 << 20)
        await wire.receive(SMALL + large + SMALL)
        await wire.settle(3)
        return wire.application.answered

    assert asyncio.run(run()) == 3


@pytest.mark.parametrize("read", [1, 2, 3, 7, 64, READ])
def test_the_split_of_the_bytes_changes_nothing(read: int) -> None:
    async def run(data: bytes, read: int) -> tuple[list[bytes], bool]:
        wire = Wire()
        await wire.receive(data, read)
        for _ in range(10):
            await asyncio.sleep(0)
        return [answer.partition(b"\r\n")[0] for answer in wire.transport.written], wire.transport.closed

    chunked = CHUNKED.replace(b"0\r\n\r\n", b"0;a=b\r\nX: 1\r\n\r\n")
    for data in (
        SMALL * 3 + chunked * 2 + b"\r\n" + SMALL,
        SMALL + b"\r\n\r\n" + SMALL,
        SMALL + b"GET / HTTP/1.2\r\n\r\n",
    ):
        assert asyncio.run(run(data, read)) == asyncio.run(run(data, READ))


PROXY = "10.0.0.1"


@pytest.mark.parametrize(("peer", "seen"), [(PROXY, ["203.0.113.7", "203.0.113.8"]), ("11.0.0.1", ["11.0.0.1"] * 2)])
def test_each_request_of_a_connection_has_its_client(peer: str, seen: list[str]) -> None:
    """Two clients share a proxy's connection; the same headers of an unknown sender change nothing."""

    async def run() -> list[str]:
        wire = Wire(peer, ("10.0.0.0/8",))
        for last in (7, 8):
            forwarded = b"X-Forwarded-For: 1.1.1.1, 203.0.113.%d\r\n\r\n" % last
            await wire.receive(SMALL[:-2] + forwarded)
            await wire.settle(last - 6)
        return wire.application.addresses

    assert asyncio.run(run()) == seen


@pytest.mark.parametrize("chunked", [False, True])
def test_a_form_may_be_larger_than_a_body_and_its_bytes_are_no_json(chunked: bool) -> None:
    limits: dict[str, Any] = {"body_bytes": 100_000, "upload_bytes": 200_000}

    async def statuses(path: bytes, size: int) -> tuple[int, bytes]:
        wire, body = Wire(**limits), b"[" * size
        head = b"POST %b HTTP/1.1\r\nHost: g\r\nX-Key: yes\r\n" % path
        framing, end = b"Content-Length: %d\r\n\r\n" % size, b""
        if chunked:
            framing, end = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size, b"\r\n0\r\n\r\n"
        await wire.receive(head + framing + body + end, read=4_096)
        for _ in range(3):
            await asyncio.sleep(0)
        return wire.application.answered, b"".join(wire.transport.written)[9:12]

    async def run() -> list[tuple[int, bytes]]:
        wanted = [(b"/upload", 150_000), (b"/upload", 200_001), (b"/other", 100_001), (b"/other", 50_000)]
        return [await statuses(*case) for case in wanted]

    # The last case: as JSON, the same bytes are nested too deeply.
    assert asyncio.run(run()) == [(1, b"200"), (0, b"413"), (0, b"413"), (0, b"400")]
