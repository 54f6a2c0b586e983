"""Which address counts as the client's: forged headers, chains of proxies, odd forms of addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.serving.http.client_address import TrustedProxies, find_client_network

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
