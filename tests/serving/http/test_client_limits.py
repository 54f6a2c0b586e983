"""Slow, huge and broken clients get an error or a closed connection in time and do not affect other clients."""

from __future__ import annotations

import json
import select
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from archwright.serving.http.client_limits import ClientLimits

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def tight(start: Start) -> Platform:
    limits = ClientLimits(
        body_bytes=50_000, headers_s=0.5, body_s=0.5, connections=20, client_stall_s=0.5, request_s=20
    )
    return start([{}], [{"text": "x" * 100_000 + " y"}], limits=limits)


def head(platform: Platform, *lines: str) -> bytes:
    first = f"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {platform.key}\r\n"
    return (first + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode()


def parsed(said: bytes) -> tuple[int, dict[str, str]]:
    """Status and error of a reply that must be JSON with a request id."""
    top, _, body = said.partition(b"\r\n\r\n")
    assert b"x-request-id: aw-" in top
    error: dict[str, str] = json.loads(body)["error"]
    return int(top.split()[1]), error


def test_a_body_over_the_limit(null: Platform) -> None:
    for size in (200_001, 3_000_000):
        reply = null.ask("POST", "/v1/chat/completions", b"x" * size)
        assert (reply.status, reply.error["code"]) == (413, "request_too_large")
    assert null.ask("POST", "/v1/chat/completions", b"x" * 199_000).status == 400


def test_one_tenant_does_not_fill_the_memory_of_all(start: Start) -> None:
    """Bodies that never end: the bytes held for one tenant are bounded, and other tenants are served."""
    platform = start([{}], [{}], limits=ClientLimits(tenant_bytes=1_000_000))
    other = platform.made_key("other")
    said: dict[str, Any] = {"messages": [{"role": "user", "content": "a" * 300_000}], "max_tokens": 1}
    for _ in range(4):
        slow = socket.create_connection(("127.0.0.1", platform.config.port), timeout=20)
        platform.opened.append(slow)
        slow.sendall(head(platform, "content-length: 400000") + b"x" * 300_000)
    (refused,), _, _ = select.select(platform.opened, [], [], 20)
    status, error = parsed(refused.recv(4000))
    assert (status, error["code"]) == (429, "rate_limit_exceeded")
    assert platform.chat(max_tokens=1).status == 200, "what is small is served"
    assert platform.chat(other, **said).status == 200
    for slow in platform.opened:
        slow.close()
    platform.until(lambda: platform.chat(**said).status == 200)


def test_one_body_alone_is_never_too_much_at_once(start: Start) -> None:
    """A client that is told to retry when other requests finish would retry for ever."""
    platform = start([{}], [{}], limits=ClientLimits(tenant_bytes=100_000))
    said: dict[str, Any] = {"messages": [{"role": "user", "content": "a" * 300_000}], "max_tokens": 1}
    assert platform.chat(**said).status == 200


def test_an_announced_body_is_refused_before_it_comes(null: Platform) -> None:
    with socket.create_connection(("127.0.0.1", null.config.port), timeout=5) as plain:
        plain.sendall(head(null, "content-length: 99999999999"))
        said = b""
        while not said.endswith(b"}}"):
            said += plain.recv(4000)
    assert parsed(said)[0] == 413


def test_a_chunked_body_is_counted_too(null: Platform) -> None:
    data = head(null, "transfer-encoding: chunked")
    data += b"".join(b"6\r\naaaaaa\r\n" for _ in range(40_000)) + b"0\r\n\r\n"
    status, _ = parsed(null.raw(data, wait_s=3))
    assert status == 413


def test_memory_stays(null: Platform) -> None:

    before = null.memory_bytes
    for _ in range(5):
        assert null.ask("POST", "/v1/chat/completions", b"[" * 5_000_000).status == 413
    assert null.memory_bytes - before < 16 * 1024 * 1024


def test_slow_headers_and_slow_bodies(tight: Platform) -> None:
    assert parsed(tight.raw(b"GET /v1/models HTTP/1.1\r\nhost: g\r\nx: "))[0] == 408
    assert parsed(tight.raw(b""))[0] == 408
    assert parsed(tight.raw(head(tight, "content-length: 100") + b'{"model"'))[0] == 408
    assert tight.chat(max_tokens=2).status == 200


def test_slow_headers_of_a_second_request(tight: Platform) -> None:
    said = tight.raw(b"GET /healthz HTTP/1.1\r\nhost: g\r\n\r\nGET /healthz HTTP/1.1\r\nho")
    assert b"200 OK" in said
    assert b"408 Request Timeout" in said


def test_a_client_that_does_not_read_is_dropped(tight: Platform) -> None:
    connection = tight.open_chat(max_tokens=4000, stream=True)
    tight.until(lambda: tight.in_flight() == 1)
    tight.until(lambda: tight.in_flight() == 0, 5.0)
    connection.close()
    tight.until(lambda: tight.engine_metrics()["null:requests_processing"] == 0)


def test_connections_are_limited(tight: Platform) -> None:
    idle = [socket.create_connection(("127.0.0.1", tight.config.port), timeout=5) for _ in range(30)]
    time.sleep(0.1)
    assert sum(dropped(connection, 0.01) for connection in idle) >= 10
    for connection in idle:
        connection.close()
    tight.until(lambda: tight.get("/healthz", key=None).status == 200)


def test_connections_of_one_address_are_limited(start: Start) -> None:
    platform = start([{}], [{}], limits=ClientLimits(connections_per_address=4))
    address = ("127.0.0.1", platform.config.port)
    held = [socket.create_connection(address, timeout=5) for _ in range(4)]
    with socket.create_connection(address, timeout=5) as fifth:
        assert dropped(fifth)
    with socket.create_connection(address, 5, source_address=("127.0.0.2", 0)) as neighbour:
        neighbour.sendall(b"GET /healthz HTTP/1.1\r\nhost: g\r\n\r\n")
        assert b"200 OK" in neighbour.recv(1000)
    held.pop().close()
    platform.until(lambda: platform.get("/healthz", key=None).status == 200)
    for connection in held:
        connection.close()


def dropped(connection: socket.socket, wait_s: float = 5.0) -> bool:
    """True if the gateway closes the connection in time."""
    connection.settimeout(wait_s)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_client_that_does_not_read_holds_the_engine_back(start: Start) -> None:
    """Unread bytes do not pile up in the gateway: the engine stops when the buffers between are full."""
    platform = start([{}], [{"text": "x" * 100_000}], limits=ClientLimits(client_stall_s=30.0))
    with platform.open_chat(max_tokens=4000, stream=True) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert b"200 OK" in connection.recv(1000)
        written = -1.0
        while written < (now := platform.engine_metrics()["null:tokens_predicted_total"]):
            written = now
            time.sleep(0.3)
        assert 0 < written < 400, "400 MB in all, a fraction of it written"
        assert platform.memory_bytes < 120 << 20
        assert platform.chat(max_tokens=1).status == 200
    platform.until(lambda: platform.engine_metrics()["null:requests_processing"] == 0)


@pytest.mark.parametrize(
    "headers", [["x: " + "a" * 40_000], [f"x{number}: 1" for number in range(200)]], ids=["large", "many"]
)
def test_headers_are_limited(null: Platform, headers: list[str]) -> None:
    status, error = parsed(null.raw(head(null, *headers, "content-length: 0"), wait_s=2))
    assert (status, error["code"]) == (431, "headers_too_large")


def test_a_long_path_is_limited(null: Platform) -> None:
    assert parsed(null.raw(b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n", wait_s=2))[0] == 431


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"FROB / HTTP/1.1\r\nhost: g\r\n\r\n",
        b"CONNECT g:80 HTTP/1.1\r\nhost: g\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\ncontent-length: -3\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nna me: x\r\n\r\n",
    ],
    ids=range(11),
)
def test_what_is_no_http(null: Platform, data: bytes) -> None:
    said = null.raw(data, wait_s=2)
    status, _ = parsed(said)
    assert status in (400, 401)
    assert b"200 OK" not in said


def test_garbage_behind_a_running_request_breaks_only_itself(null: Platform) -> None:
    with null.open_chat(model="slow", max_tokens=20, stream=True) as connection:
        assert b"200 OK" in connection.recv(1000)
        connection.sendall(b"garbage\r\n\r\n")
        said = b""
        while piece := connection.recv(65536):
            said += piece
    streamed, _, behind = said.partition(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert b"error" not in streamed
    assert parsed(behind)[0] == 400


def test_a_body_that_is_not_needed_does_not_hide_the_answer(null: Platform) -> None:
    for size in (10, 60_000, 3_000_000):
        reply = null.ask("POST", "/v1/chat/completions", b"x" * size, key=None)
        assert reply.status == 401


def test_a_kept_connection_is_reused_after_errors(null: Platform) -> None:
    connection = null.connection()
    for body, status in [(b"{}", 404), (b"no", 400), (b'{"model":"m"}', 400)]:
        connection.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {null.key}"})
        reply = connection.getresponse()
        reply.read()
        assert reply.status in (400, status)
        assert reply.getheader("connection") is None
    connection.close()


def test_expect_continue(null: Platform) -> None:
    with socket.create_connection(("127.0.0.1", null.config.port), timeout=5) as plain:
        body = json.dumps({"model": "m", "prompt": "x", "max_tokens": 1}).encode()
        start = f"POST /v1/completions HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {null.key}\r\n"
        plain.sendall(f"{start}expect: 100-continue\r\ncontent-length: {len(body)}\r\n\r\n".encode())
        assert b"100 Continue" in plain.recv(1000)
        plain.sendall(body)
        assert b"200 OK" in plain.recv(4000)
