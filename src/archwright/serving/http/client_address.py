"""The address of a client: of the connection, or behind a trusted proxy the address in X-Forwarded-For.

Design: anybody can send X-Forwarded-For, and each proxy appends the address that it saw. So only entries that trusted
proxies appended are read, from the right.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

MAX_PROXIES = 16  # between a client and the gateway


class TrustedProxies:
    """Networks of the proxies in front of the gateway. Raises ValueError if a text is not a network."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(map(ip_network, networks))

    def include(self, address: str) -> bool:
        parsed = parse_address(address) if self._networks else None
        return parsed is not None and self._is_trusted(parsed)

    def find_client(self, proxy: str, forwarded: bytes | None) -> str:
        """Return the right-most address of X-Forwarded-For that is not a proxy; without an address that of `proxy`."""
        client = proxy
        for text in reversed((forwarded or b"").decode("latin-1").rsplit(",", MAX_PROXIES)):
            address = parse_address(text.strip())
            if address is None:
                break  # entries to the left of an invalid entry are not reliable
            client = str(address)
            if not self._is_trusted(address):
                break
        return client

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


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
