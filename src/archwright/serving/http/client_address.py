"""The address of a client: of the connection, or behind a trusted proxy the address in X-Forwarded-For.

Design: anybody can send X-Forwarded-For, and each proxy appends the address that it saw. So only entries that trusted
proxies appended are read, from the right.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

MAX_PROXIES = 16  # between a client and the gateway
ADDRESS_CHARACTERS = 64  # more than any address with brackets, zone and port has
CACHED_ADDRESSES = 4096  # to parse and match one takes 10 us


class TrustedProxies:
    """Networks of the proxies in front of the gateway. Raises ValueError if a text is not a network."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(map(ip_network, networks))
        self._find = lru_cache(CACHED_ADDRESSES)(self._parse_and_match)

    def include(self, address: str) -> bool:
        return bool(self._networks) and self._find(address)[1]

    def find_client(self, proxy: str, forwarded: bytes | None) -> str:
        """Return the right-most address of X-Forwarded-For that is not a proxy; without an address that of `proxy`."""
        client = proxy
        for text in reversed((forwarded or b"").decode("latin-1").rsplit(",", MAX_PROXIES)):
            address, trusted = self._find(text.strip()[:ADDRESS_CHARACTERS])
            client = address or client
            if not trusted:
                break  # a client, or an invalid entry: entries to the left of it are not reliable
        return client

    def _parse_and_match(self, text: str) -> tuple[str, bool]:
        """Return the address in its usual form, empty if it is invalid, and True if it is a trusted proxy."""
        address = parse_address(text)
        if address is None:
            return "", False
        return str(address), any(address in network for network in self._networks)


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address without port, brackets and zone; an IPv4 address inside IPv6 as IPv4. None if invalid."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def find_client_network(address: str) -> str:
    """Return what one client controls: an IPv4 address, or the /64 network of an IPv6 address."""
    parsed = parse_address(address) if ":" in address else None
    if isinstance(parsed, IPv6Address):
        return f"{int(parsed) >> 64:x}"
    return address if parsed is None else str(parsed)
