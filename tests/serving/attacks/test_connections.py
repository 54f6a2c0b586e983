"""Strangers hold connections: silent, in a TLS handshake, or with slow headers. Clients with a key are served."""

from __future__ import annotations

import http.client
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import pytest
from tests.serving.conftest import Reply, endpoint, free_port, null_engine, running, table
from tests.tools.checks import WAIT_S

from archwright.home import Home
from archwright.serving.http.client_limits import ClientLimits

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket

STRANGERS, HANDSHAKES = 2048, 6000
HALF_RECORD = b"\x16\x03\x01\x02\x00\x01"  # of TLS
PROBE = b"GET /healthz HTTP/1.1\r\nhost: g\r\n\r\n"
TIGHT = ClientLimits(connections=64, connections_per_address=40, headers_s=60.0, stranger_idle_s=0.5)


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """Let this process open the attacker's sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = HANDSHAKES + 1024
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def tight(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    config = table(endpoint(), port=free_port(), limits=TIGHT)
    with running(Home(tmp_path_factory.mktemp("tight")), config, null_engine()) as platform:
        yield platform


@pytest.fixture
def attacker() -> Iterator[ExitStack]:
    """Holds the attacker's sockets until the end of the test."""
    with ExitStack() as held:
        yield held


def hold(attacker: ExitStack, port: int, count: int, data: bytes = b"", sources: int = 8) -> list[socket.socket]:
    """Open connections from several loopback addresses, 127.0.1.x, and send `data` on each."""
    opened = []
    for index in range(count):
        source = (f"127.0.1.{index % sources + 1}", 0)
        connection = attacker.enter_context(
            socket.create_connection(("127.0.0.1", port), WAIT_S, source_address=source)
        )
        with suppress(ConnectionError):
            connection.sendall(data)
        opened.append(connection)
    return opened


def is_open(connection: socket.socket) -> bool:
    """True if the gateway has not closed the connection."""
    connection.setblocking(False)
    try:
        while data := connection.recv(65536):
            assert data, "unreachable"
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    return False


def ask_often(platform: Platform, count: int = 20) -> None:
    """Send requests with a key, each on a new connection."""
    for _ in range(count):
        assert platform.get("/v1/models").status == 200


def ask_beside(platform: Platform, strangers: list[socket.socket], count: int = 20) -> None:
    """Send requests with a key; they are answered before the strangers have left their connections."""
    ask_often(platform, count)
    assert any(map(is_open, strangers)), "a client waited for the strangers' timeout"


def ask_again(kept: http.client.HTTPConnection, platform: Platform) -> int:
    kept.request("GET", "/v1/models", headers={"authorization": f"Bearer {platform.key}"})
    return Reply.read(kept).status


def open_files(platform: Platform) -> int:
    """The most file descriptors that a worker has open."""
    return max(len(os.listdir(f"/proc/{pid}/fd")) for pid in platform.workers)


@pytest.mark.parametrize("count", [512, pytest.param(STRANGERS, marks=pytest.mark.nightly)])
def test_idle_strangers_do_not_lock_out_clients(start: Start, attacker: ExitStack, count: int) -> None:
    """As many keyless connections as two workers have slots; half of them have sent a keyless request."""
    limits = ClientLimits(connections=count // 2, connections_per_address=count // 4)
    platform = start([{}], [{}], workers=2, limits=limits)
    with closing(platform.connection()) as kept:
        assert ask_again(kept, platform) == 200
        strangers = hold(attacker, platform.config.port, count // 2, PROBE)
        strangers += hold(attacker, platform.config.port, count // 2)
        ask_beside(platform, strangers)
        assert ask_again(kept, platform) == 200, "a connection on which a key was accepted stays"
    name = 'archwright_connections_dropped_total{reason="evicted"}'
    platform.until(lambda: platform.metrics().get(name, 0) >= count // 4)
    held = sum(map(is_open, strangers))
    assert count // 4 < held <= count * 3 // 4, "a quarter of the slots is reserved"


def test_handshakes_that_never_end_are_bounded(start: Start, attacker: ExitStack, tls_pair: tuple[str, str]) -> None:
    """The worker may open 100 more files. Strangers open 400 connections and send half of a TLS record."""
    certificate, key = tls_pair
    platform = start([{}], [{}], tls_certificate=certificate, tls_key=key, limits=TIGHT)
    ask_often(platform, 5)
    used = open_files(platform)
    for pid in platform.workers:
        hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 100, hard))
    strangers = hold(attacker, platform.config.port, 400, HALF_RECORD)
    ask_beside(platform, strangers)
    assert open_files(platform) <= used + TIGHT.connections // 2 + 8


@pytest.mark.nightly
def test_six_thousand_handshakes(start: Start, attacker: ExitStack, tls_pair: tuple[str, str]) -> None:
    """Half of the slots of two workers are for handshakes; the strangers give up no connection by themselves."""
    certificate, key = tls_pair
    limits = ClientLimits(handshake_s=60.0)
    platform = start([{}], [{}], workers=2, tls_certificate=certificate, tls_key=key, limits=limits)
    strangers = hold(attacker, platform.config.port, HANDSHAKES, HALF_RECORD)
    ask_beside(platform, strangers)
    assert open_files(platform) <= limits.connections // 2 + 64
    assert sum(map(is_open, strangers)) <= limits.connections


def test_slow_headers_do_not_lock_out_clients(tight: Platform, attacker: ExitStack) -> None:
    strangers = hold(attacker, tight.config.port, 100, b"GET /healthz HTTP/1.1\r\n")
    for _ in range(3):
        for connection in strangers:
            with suppress(ConnectionError):
                connection.sendall(b"x: y\r\n")
        ask_beside(tight, strangers, 5)


def test_a_stranger_loses_its_idle_connection_early(tight: Platform) -> None:
    """After a keyless response the connection may be idle for 0.5 s; after an accepted key for 75 s."""
    with closing(tight.connection()) as kept, closing(tight.connection()) as stranger:
        assert ask_again(kept, tight) == 200
        stranger.request("GET", "/v1/models")
        assert Reply.read(stranger).status == 401
        assert stranger.sock is not None and stranger.sock.recv(1) == b"", "closed by the gateway"
        assert ask_again(kept, tight) == 200


def test_a_forged_address_escapes_no_limit_and_a_trusted_proxy_has_none(start: Start, attacker: ExitStack) -> None:
    """An address may hold 8 connections. X-Forwarded-For of an unknown sender is ignored."""
    limits = ClientLimits(connections_per_address=8)
    platform = start([{}], [{}], limits=limits, trusted_proxies=("127.0.0.1/32",))
    key = f"authorization: Bearer {platform.key}\r\n"

    def open_with_key(source: str) -> list[socket.socket]:
        """Open 20 connections with a key and a different X-Forwarded-For each."""
        opened = []
        for index in range(20):
            connection = socket.create_connection(
                ("127.0.0.1", platform.config.port), WAIT_S, source_address=(source, 0)
            )
            opened.append(attacker.enter_context(connection))
            head = f"GET /v1/models HTTP/1.1\r\nhost: g\r\nx-forwarded-for: 10.0.0.{index}\r\n{key}\r\n"
            with suppress(ConnectionError):
                connection.sendall(head.encode())
                connection.recv(65536)
        return opened

    strangers = open_with_key("127.0.0.2")
    platform.until(lambda: sum(map(is_open, strangers)) == 8)
    assert sum(map(is_open, open_with_key("127.0.0.1"))) == 20


def test_connections_follow_the_limit_of_open_files(start: Start) -> None:
    """A limit of 300 open files leaves fewer connections than the 4,096 of the configuration; the journal says so."""
    limits = ClientLimits(connections=4096, connections_per_address=4096)
    platform = start([{}], [{}], limits=limits, admin_port=free_port())
    master = platform.master
    resource.prlimit(master.pid, resource.RLIMIT_NOFILE, (300, 300))
    (old,) = platform.workers
    master.send_signal(1)
    platform.until(lambda: len(platform.workers) == 1 and platform.workers != [old])
    platform.until(lambda: '"files": 300' in platform.home.log("gateway").read_text())
    with ExitStack() as attacker:
        strangers = hold(attacker, platform.config.port, 400)
        ask_beside(platform, strangers)
        assert open_files(platform) < 250
