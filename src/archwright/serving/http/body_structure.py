"""The structure of a JSON body, counted before anything decodes it.

Design: small values take up to 25 times their bytes in memory, so a body of a few MiB could fill the memory and hold
the event loop for seconds. The counts here run in C over the raw bytes. Only a body with many brackets or quotes needs
the exact count, which leaves out the contents of strings.
"""

import re
from itertools import accumulate

from archwright.serving.http.errors import bad_request

LARGE_BODY_BYTES = 16 * 1024  # the connection checks a larger body and counts its memory
MAX_DEPTH = 200
MAX_CONTAINERS = 100_000
MAX_STRINGS = 200_000
# Bytes of decoded values with their place in a list or object, measured with msgspec 0.21 on CPython 3.11.
_CONTAINER_BYTES, _STRING_BYTES, _NUMBER_BYTES = 200, 50, 40
_NO_MARKS = bytes(set(range(256)) - set(b'"{}[],\\'))
_NO_BRACKETS = bytes(set(range(256)) - set(b'"{}[]'))
_STRING = re.compile(rb'"[^"]*"')
# Brackets as signed bytes: 1 opens, -1 closes.
_STEPS = bytes(1 if code in b"{[" else 255 for code in range(256))


def check_small_body(data: bytes) -> None:
    """Raise ApiError 400 for a body that is nested too deeply; its size limits the rest.

    A typed decoder, which accepts only its own levels, needs no such check.
    """
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        _check_exactly(data)


def check_large_body(data: bytes) -> int:
    """Return an upper estimate of the memory for a body: as received, decoded, and encoded for the engine.

    Raises ApiError 400 for a body with too many objects, lists or strings, or nested too deeply.
    """
    marks = data.translate(None, _NO_MARKS)
    containers, strings = marks.count(b"{") + marks.count(b"["), marks.count(b'"') // 2
    if containers > MAX_DEPTH or strings > MAX_STRINGS:
        _check_exactly(data)
    # One character outside Latin-1 makes a string of four bytes per character.
    wide = not data.isascii() or (b"\\" in marks and b"\\u" in data)
    values = containers * _CONTAINER_BYTES + strings * _STRING_BYTES + marks.count(b",") * _NUMBER_BYTES
    return len(data) * (6 if wide else 3) + values


def _check_exactly(data: bytes) -> None:
    """Check without the contents of strings. Invalid JSON is checked up to its first error, where a decoder ends."""
    if b"\\" in data:  # escaped quotes end no string
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = data.translate(None, _NO_BRACKETS)
    if marks.count(b'"') > 2 * MAX_STRINGS:
        raise bad_request(f"the body contains more than {MAX_STRINGS} strings")
    # Two quotes without a bracket between them change nothing, whether they begin or end a string.
    brackets = _STRING.sub(b"", marks.replace(b'""', b"")).partition(b'"')[0]
    if brackets.count(b"{") + brackets.count(b"[") > MAX_CONTAINERS:
        raise bad_request(f"the body contains more than {MAX_CONTAINERS} objects and lists")
    if max(accumulate(memoryview(brackets.translate(_STEPS)).cast("b")), default=0) > MAX_DEPTH:
        raise bad_request("the body is nested too deeply")
