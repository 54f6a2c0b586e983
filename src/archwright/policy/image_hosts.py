"""Rules for images that a request names by URL: the hosts an operator allows, and the addresses a name may have.

Design: one strict pattern reads a URL, and the request is built from what it matched. No second reader of the URL can
see another host. A host is a name of at least two labels, and the last begins with a letter, so that no form of an IP
address is a host.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

MAX_URL_CHARACTERS = 2_048
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = rf"(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?"
_PORT = "(?::([1-9][0-9]{0,4}))?"
_HOST_PATTERN = re.compile(rf"(?:(https?)://)?((?:\*\.)?{_NAME}){_PORT}")
# The characters of RFC 3986 in a path and a query. A fragment is refused: nobody would receive it.
_TARGET = r"(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?)?"
_URL_PATTERN = re.compile(rf"(https?)://({_NAME}){_PORT}{_TARGET}", re.ASCII | re.IGNORECASE)
_DEFAULT_PORTS = {"https": 443, "http": 80}

# IANA's registries of special-purpose addresses, and 168.63.129.16, where a cloud answers its guests.
_SPECIAL_V4 = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/3", "168.63.129.16/32"),
]
# Only 2000::/3 is routed globally, without these: protocol assignments with Teredo, documentation, 6to4.
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_SPECIAL_V6 = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"]
_SPECIAL = [ipaddress.ip_network(text) for text in (*_SPECIAL_V4, *_SPECIAL_V6)]


class ImageUrl(NamedTuple):
    """A URL in its parts; `target`: path and query. As an entry of a list, `host` may begin with `*.`."""

    scheme: str
    host: str
    port: int
    target: str = "/"


def parse_image_host(text: str) -> ImageUrl | None:
    """Parse an entry such as `images.example.org`, `*.example.org:8443` or `http://host.example`; None if invalid."""
    match = _HOST_PATTERN.fullmatch(text)
    return None if match is None else _build_url(match[1] or "https", match[2], match[3])


def match_image_url(url: str, hosts: Iterable[str]) -> ImageUrl | None:
    """Return the parts of a URL whose scheme, host and port are in `hosts`; None for every other text."""
    match = _URL_PATTERN.fullmatch(url) if len(url) <= MAX_URL_CHARACTERS else None
    if match is None:
        return None
    found = _build_url(match[1].lower(), match[2].lower(), match[3], match[4] or "/")
    return found if any(_covers(parse_image_host(text), found) for text in hosts) else None


def is_public_address(text: str) -> bool:
    """True for an IP address that is routed globally and embeds no other address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    is_global = address.version == 4 or address in _GLOBAL_V6
    return is_global and not any(address in network for network in _SPECIAL)


def _build_url(scheme: str, host: str, port: str | None, target: str = "/") -> ImageUrl | None:
    number = int(port or _DEFAULT_PORTS[scheme])
    return ImageUrl(scheme, host, number, target) if number < 65_536 and len(host) <= 253 else None


def _covers(entry: ImageUrl | None, url: ImageUrl | None) -> bool:
    if entry is None or url is None or (entry.scheme, entry.port) != (url.scheme, url.port):
        return False
    return url.host == entry.host or (entry.host[0] == "*" and url.host.endswith(entry.host[1:]))
