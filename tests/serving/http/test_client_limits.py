"""Slow, huge and broken clients get an error or a closed connection in time and do not affect other clients."""

from __future__ import annotations

import json
import select
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.tools.checks import WAIT_S

from archwright.serving.http.client_limits import ClientLimits

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def tight(start: Start) -> Platform:
    limits = ClientLimits(
        body_bytes=50_000, headers_s=0.5, body_s=0.5, connections=20, client_stall_s=0.5, request_s=600
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


def test_a_body_over_the_limit_is_refused_and_not_kept(null: Platform) -> None:
    before = null.memory_bytes
    for size in (200_001, *(5_000_000,) * 5):
        assert null.ask("POST", "/v1/chat/completions", b"[" * size).status == 413
    assert null.memory_bytes - before < 16 * 1024 * 1024
    assert null.ask("POST", "/v1/chat/completions", b"x" * 199_000).status == 400


def test_one_tenant_does_not_fill_the_memory_of_all(start: Start) -> None:
    """Bodies that never end: the bytes held for one tenant are bounded, and other tenants are served.

    A body that is above the limit by itself is served: a client that is told to retry would retry for ever.
    """
    platform = start([{}], [{}], limits=ClientLimits(tenant_bytes=250_000))
    other = platform.made_key("other")
    said: dict[str, Any] = {"messages": [{"role": "user", "content": "a" * 300_000}], "max_tokens": 1}
    for _ in range(2):
        slow = socket.create_connection(("127.0.0.1", platform.config.port), timeout=WAIT_S)
        platform.opened.append(slow)
        slow.sendall(head(platform, "content-length: 400000") + b"x" * 300_000)
    (refused,), _, _ = select.select(platform.opened, [], [], WAIT_S)
    status, error = parsed(refused.recv(4000))
    assert (status, error["code"]) == (429, "rate_limit_exceeded")
    assert platform.chat(max_tokens=1).status == 200, "what is small is served"
    assert platform.chat(other, **said).status == 200
    for slow in platform.opened:
        slow.close()
    platform.until(lambda: platform.chat(**said).status == 200)


def test_a_client_that_does_not_read_is_dropped(tight: Platform) -> None:
    connection = tight.open_chat(max_tokens=4000, stream=True)
    tight.until(lambda: tight.engine_metrics()["null:requests_cancelled_total"] == 1)
    tight.until(lambda: tight.in_flight() == 0)
    connection.close()
    assert tight.engine_metrics()["null:requests_processing"] == 0


def test_connections_are_limited(start: Start) -> None:
    """No timeout of a slow client closes a connection here."""
    platform = start([{}], [{}], limits=ClientLimits(connections=20, headers_s=600))
    address = ("127.0.0.1", platform.config.port)
    idle = [socket.create_connection(address, timeout=WAIT_S) for _ in range(30)]
    platform.until(lambda: sum(dropped(connection, 0.01) for connection in idle) >= 10)
    for connection in idle:
        connection.close()
    platform.until(lambda: platform._probe("/healthz"))


def test_connections_of_one_address_are_limited(start: Start) -> None:
    """Connections on which a key was accepted keep their slots; a fifth one is refused."""
    platform = start([{}], [{}], limits=ClientLimits(connections_per_address=4, headers_s=600))
    address = ("127.0.0.1", platform.config.port)
    held = []
    for _ in range(4):
        held.append(socket.create_connection(address, timeout=WAIT_S))
        held[-1].sendall(f"GET /v1/models HTTP/1.1\r\nhost: g\r\nx-api-key: {platform.key}\r\n\r\n".encode())
        assert b"200 OK" in held[-1].recv(1000)
    with socket.create_connection(address, timeout=WAIT_S) as fifth:
        assert dropped(fifth)
    with socket.create_connection(address, WAIT_S, source_address=("127.0.0.2", 0)) as neighbour:
        neighbour.sendall(b"GET /healthz HTTP/1.1\r\nhost: g\r\n\r\n")
        assert b"200 OK" in neighbour.recv(1000)
    held.pop().close()
    platform.until(lambda: platform._probe("/healthz"))
    for connection in held:
        connection.close()


def dropped(connection: socket.socket, wait_s: float = WAIT_S) -> bool:
    """True if the gateway closes the connection within `wait_s`."""
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
