"""Which address counts as the client's: forged headers, chains of proxies, odd forms of addresses."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.engines.http_request_parser import RequestHead
from archwright.serving.http.client_address import TrustedProxies, find_client_network
from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.http.connection import HttpServer
from archwright.serving.http.http_request import Admitted, HttpRequest
from archwright.serving.http.http_response import HttpResponse, ResponseBuffer

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8::/32"])
PROXY = "10.0.0.1"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (None, PROXY),
        (b"", PROXY),
        (b"203.0.113.7", "203.0.113.7"),
        (b"1.1.1.1, 203.0.113.7", "203.0.113.7"),
        (b"1.1.1.1,203.0.113.7 , 10.2.2.2", "203.0.113.7"),
        (b"10.3.3.3, 10.2.2.2", "10.3.3.3"),
        (b"1.1.1.1, unknown, 10.2.2.2", "10.2.2.2"),
        (b"1.1.1.1, unknown", PROXY),
        (b"203.0.113.7:4711", "203.0.113.7"),
        (b"[2a00::1]:443", "2a00::1"),
        (b"1.1.1.1, [2001:DB8::5]", "1.1.1.1"),
        (b"::ffff:203.0.113.7", "203.0.113.7"),
        (b"1.1.1.1, ::ffff:10.0.0.3", "1.1.1.1"),
        (b"fe80::1%eth0", "fe80::1"),
        (b"1.1.1.1" + b",10.0.0.2" * 40, "10.0.0.2"),
    ],
)
def test_the_right_most_address_that_is_not_a_proxy(forwarded: bytes | None, client: str) -> None:
    assert PROXIES.find_client(PROXY, forwarded) == client


@given(st.binary(max_size=60))
def test_what_the_client_sends_is_never_read_beyond_its_own_address(sent: bytes) -> None:
    assert PROXIES.find_client(PROXY, sent + b", 203.0.113.7") == "203.0.113.7"


@given(st.binary(max_size=60))
def test_any_header_gives_an_address(sent: bytes) -> None:
    assert PROXIES.find_client(PROXY, sent)


def test_only_configured_networks_are_trusted() -> None:
    assert PROXIES.include("10.9.9.9") and PROXIES.include("::ffff:10.9.9.9") and PROXIES.include("2001:db8::1")
    assert not PROXIES.include("11.0.0.1") and not PROXIES.include("") and not TrustedProxies([]).include(PROXY)


@pytest.mark.parametrize("network", ["10.0.0.1/8", "proxy.example.org", "10.0.0.0/33", " "])
def test_a_text_that_is_no_network_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match=network):
        TrustedProxies([network])


def test_clients_are_counted_by_what_one_client_controls() -> None:
    assert find_client_network("192.0.2.1") == find_client_network("::ffff:192.0.2.1") == "192.0.2.1"
    assert find_client_network("2001:db8:0:1::1") == find_client_network("2001:db8:0:1:ffff::") != "192.0.2.1"
    assert find_client_network("") == ""


class Recorder:
    """An application that keeps the address of each request."""

    def __init__(self) -> None:
        self.addresses: list[str] = []

    def on_headers(self, head: RequestHead, response: HttpResponse, *, complete: bool) -> Admitted | None:
        self.addresses.append(response.client_address)
        response.send(200, b"", "text/plain")
        return None

    def on_request(self, request: HttpRequest, response: HttpResponse) -> None: ...


@pytest.mark.parametrize(("peer", "seen"), [(PROXY, ["203.0.113.7", "203.0.113.8"]), ("11.0.0.1", ["11.0.0.1"] * 2)])
def test_each_request_of_a_connection_has_its_client(peer: str, seen: list[str]) -> None:
    """Two clients share a proxy's connection; the same headers of an unknown sender change nothing."""

    async def scenario() -> list[str]:
        recorder = Recorder()
        buffer = ResponseBuffer(ClientLimits(), asyncio.get_running_loop().time, lambda: None)
        server = HttpServer(recorder, buffer, ("10.0.0.0/8",))
        ours, theirs = socket.socketpair()
        connection = server.create_connection(server.slots.admit(peer))
        await server.loop.connect_accepted_socket(lambda: connection, ours)
        reader, writer = await asyncio.open_connection(sock=theirs)
        for last in (7, 8):
            writer.write(b"GET / HTTP/1.1\r\nhost: g\r\nx-forwarded-for: 1.1.1.1, 203.0.113.%d\r\n\r\n" % last)
            await reader.readuntil(b"\r\n\r\n")
        connection.abort()
        writer.close()
        return recorder.addresses

    assert asyncio.run(scenario()) == seen
