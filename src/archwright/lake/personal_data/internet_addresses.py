"""Finds e-mail and IP addresses; no versions, section numbers, OIDs, times, hardware addresses, or C++ names."""

import ipaddress
import re
from collections.abc import Iterator

DOMAIN = re.compile(r"(?:\w(?:[\w-]{0,61}\w)?\.)+[^\W\d_]{2,24}(?![\w-]|\.\w|/|:[\w/~])")
# The part before @, in reverse.
LOCAL_PART = re.compile(r"[\w%+-]+(?:\.[\w%+-]+)*")
LOCAL_CHARACTERS = 64  # RFC 5321


def find_emails(text: str) -> Iterator[tuple[int, int]]:
    at = text.find("@")
    while at >= 0:
        domain = DOMAIN.match(text, at + 1)
        local = LOCAL_PART.match(text[max(0, at - LOCAL_CHARACTERS - 1) : at][::-1]) if domain else None
        if domain and local and local.end() <= LOCAL_CHARACTERS:
            start = at - local.end()
            if not text.endswith(".", 0, start):
                yield start, domain.end()
        at = text.find("@", domain.end() if domain else at + 1)


# Two numbers between dots, from which a search goes to both sides.
IPV4_MIDDLE = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.(?=[0-9])")
IPV4 = re.compile(r"(?<![\w.-])(?<!\w/)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w-]|\.\w)")
# Words and signs after which four numbers are a version, a section or an object identifier.
VERSION_WORDS = (
    *("version", "versions", "ver", "v", "release", "released", "releases", "rev", "revision", "build"),
    *("firmware", "kernel", "update", "updated", "update to", "updated to", "upgrade to", "upgraded to"),
    *("os", "os x", "macos", "windows", "android", "patch", "oid", "jls", "jvms", "==", "~=", ">=", "<="),
    *("§", "第", "see", "sec", "spec", "section", "sections", "chapter", "clause", "subclause", "paragraph"),
    *("abschnitt", "kapitel", "sección", "table", "figure"),
)
# Words before an address, even one of four small numbers.
NETWORK_WORDS = (
    *("ip", "ipv4", "address", "address is", "adresse", "dirección", "host", "server", "server is", "client"),
    *("login", "login from", "dns", "inet", "ping", "gateway", "from", "to", "via", "src", "dst", "route"),
    *("@", "/"),
)
CONTEXT_CHARACTERS = 32  # before a value, which decide on it
BEFORE_TITLE = re.compile(r"\.[ \t]+\S|[ \t]+[A-Z@](?!\w*:)")
QUOTED_TITLE = re.compile(r"(?:,| [–—-])? ?[“”„«‘「]|, [\"'][A-Z]")
# An address of four numbers below 16 is rare, and a section or a version of them is frequent: the neighbours decide.
SMALL_NUMBER = 16
MASK_OR_PORT = re.compile(r"/[0-9]{1,2}\b|:[0-9]{2,5}\b")
# Three numbers: the section or the version of which four numbers are a part.
THREE_NUMBERS = re.compile(r"(?<![\w.-])[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,2}(?=\.?[^\w./])")


def find_ip_addresses(text: str) -> Iterator[tuple[int, int]]:
    yield from _find_ipv6(text)  # may end with an IPv4 address
    yield from _find_ipv4(text)


def _find_ipv4(text: str) -> Iterator[tuple[int, int]]:
    parents: set[str] | None = None
    for middle in IPV4_MIDDLE.finditer(text):
        for start in range(max(0, middle.start() - 3), middle.start()):
            match = IPV4.match(text, start)
            if match:
                break
        else:
            continue
        address = match.group()
        before = text[max(0, start - CONTEXT_CHARACTERS) : start]
        if not _is_personal_address(address) or follows_word(before, VERSION_WORDS):
            continue
        if len(address) <= 11 and max(map(int, address.split("."))) < 100:
            parents = set(THREE_NUMBERS.findall(text)) if parents is None else parents
            if _is_section(before, match, parents):
                continue
        yield match.span()


def follows_word(before: str, words: tuple[str, ...]) -> bool:
    """True if `before` ends with one of the words (lower case), or with it and a colon, bracket or equals sign."""
    text = before.lower()
    for end in (text, text.rstrip(" \t\n.:=(\"'`")):
        if end.endswith(words):
            found = max((word for word in words if end.endswith(word)), key=len)
            return not (found[0].isalpha() and end[: -len(found)][-1:].isalnum())
    return False


def _is_section(before: str, match: re.Match[str], parents: set[str]) -> bool:
    """True for a number at a line's start before a title, or before a quoted title, or if its parent is in the text."""
    address, text = match.group(), match.string
    if address.rpartition(".")[0] in parents or address.startswith(("2.5.4.", "2.5.29.")):  # arcs of X.509
        return True
    if QUOTED_TITLE.match(text, match.end()):
        return True
    numbers = [int(number) for number in address.split(".")]
    if max(numbers) < SMALL_NUMBER and numbers[0] != 10 and len(set(numbers)) > 1:
        return not (follows_word(before, NETWORK_WORDS) or MASK_OR_PORT.match(text, match.end()))
    begins = not before.rpartition("\n")[2].strip(" \t#*-")
    title = BEFORE_TITLE.match(text, match.end())
    return bool(begins and title and (title.group().startswith(".") or not address.startswith("10.")))


COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
IPV6_BEFORE = re.compile(r"[0-9A-Fa-f:]{0,40}")
IPV6 = re.compile(
    r"(?<![\w.:])[0-9A-Fa-f:]{2,40}+(?:(?<=:)[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\.[0-9]{1,3}(?:\.[0-9]{1,3}){2})?(%\w[\w.-]{0,15})?(?![\w:])"
)
# Global, unique local, link-local, multicast, mapped and translated addresses.
IPV6_PREFIX = re.compile(
    r"[23][0-9a-f]{3}:|f[cd][0-9a-f]{2}:|fe[89ab][0-9a-f]:|ff[0-9a-f]{2}:|::ffff:|64:ff9b:", re.IGNORECASE
)


def _find_ipv6(text: str) -> Iterator[tuple[int, int]]:
    end = 0
    for colons in COLONS.finditer(text):
        at = colons.start()
        if at < end:
            continue
        before = IPV6_BEFORE.match(text[max(0, at - 40) : at][::-1])
        start = at - (before.end() if before else 0)
        match = IPV6.match(text, start)
        end = match.end() if match else at + 1
        address = match.group() if match else ""
        if address.endswith(":") and not address.endswith("::"):  # punctuation
            address = address[:-1]
        is_slice = text.endswith("[", 0, start) and text[start - 2 : start - 1].isalnum()
        if address and not is_slice and _is_ipv6(address):
            yield start, start + len(address)


def _is_ipv6(text: str) -> bool:
    """True for an address that no time, hardware address or C++ name is."""
    address = text.partition("%")[0]
    groups = address.split(":")
    full = len(groups) == 8 - ("." in address)
    if full and "::" not in address:
        plausible = max(map(len, groups)) > 2
    else:
        plausible = "::" in address and (len(groups) >= 5 or IPV6_PREFIX.match(address) is not None)
    return plausible and _is_personal_address(address)


def _is_personal_address(text: str) -> bool:
    """True for a valid address that is not loopback, unspecified, multicast or a mask."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (
        address.is_loopback or address.is_unspecified or address.is_multicast or text.startswith(("0.", "255."))
    )
