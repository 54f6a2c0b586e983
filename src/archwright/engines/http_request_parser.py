"""HTTP/1.1 requests out of bytes (RFC 9112), for servers: what could be read in two ways is refused.

Design: strict where a proxy before us and we might differ, for there requests are smuggled. Lines end in CRLF, no
folding, no blank before a colon, one Host, one Content-Length of digits alone, never beside a Transfer-Encoding, of
which there is only `chunked`. A target is not decoded or normalised here: access is decided on the text that is routed.
"""

from __future__ import annotations

import re

_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TEXT = bytes(byte for byte in range(256) if byte in b"\t\r\n" or (byte >= 0x20 and byte != 0x7F))
_REQUEST = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) (/[!$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]*|\*) HTTP/1\.([01])"
)
_OTHER_VERSION = re.compile(rb"\S+ \S+ HTTP/[0-9](\.[0-9])?")
_PARTIAL_REQUEST = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}( [!-~]*( [HTP/0-9.]{0,8})?)?\r?")
_HOST = re.compile(rb"([A-Za-z0-9._~\-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t -~\x80-\xff]*)?")
# A field that is not repeated: two of them are two answers to one question.
_SINGLE_HEADERS = frozenset((b"host", b"content-length", b"transfer-encoding", b"content-type", b"expect"))
# What a gateway before us may have decided on under another spelling.
_ALIASED_HEADERS = re.compile(
    rb"(host|content.length|transfer.encoding|authorization|content.type|x.archwright.*|x.request.id)"
)
# The names of nearly every request, in the two spellings clients have.
_COMMON_HEADERS = {
    spelling: name
    for name in (
        *(b"host", b"accept", b"accept-encoding", b"authorization", b"connection", b"content-length", b"content-type"),
        *(b"user-agent", b"x-archwright-workload"),
    )
    for spelling in (name, name.title())
}
_LONGEST_LENGTH = 15  # digits of a content-length: a petabyte
_LINE_BYTES = 256  # of a chunk's size and its extensions


class MalformedRequest(Exception):
    """Not a request we read; `status` is what RFC 9110 has for it."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class RequestHead:
    """A request without its body. `length` is the body's, None when it comes in chunks. `headers` are lower-case;
    values of a repeated one are joined by ", " and its name is in `repeated`."""

    __slots__ = ("expects", "headers", "keep", "length", "method", "path", "repeated", "version")

    def __init__(self, method: str, path: str, version: int, headers: dict[bytes, bytes]) -> None:
        self.method, self.path, self.version, self.headers = method, path, version, headers
        self.repeated: tuple[bytes, ...] = ()
        self.length: int | None = 0
        self.keep = version == 1
        self.expects = False


def parse_head(data: bytes) -> RequestHead:
    """`data` is everything before the empty line. Raises Malformed."""
    if data.translate(None, _TEXT):
        raise MalformedRequest("a control character in the headers")
    lines = data.split(b"\r\n")
    ends = len(lines) - 1
    if data.count(b"\n") != ends or data.count(b"\r") != ends:
        raise MalformedRequest("a line does not end in CRLF")
    first = _REQUEST.fullmatch(lines[0])
    if first is None:
        raise _request_line_error(lines[0])
    method, target, minor = first.groups()
    headers: dict[bytes, bytes] = {}
    repeated: tuple[bytes, ...] = ()
    for line in lines[1:]:
        sent, colon, value = line.partition(b":")
        name = _COMMON_HEADERS.get(sent) or _parse_header_name(sent)
        if not colon:
            raise MalformedRequest("a header line is not 'name: value'")
        if name in headers:
            if name in _SINGLE_HEADERS:
                raise MalformedRequest(f"the header {name.decode()} is there twice")
            repeated += (name,)
            headers[name] += b", " + value.strip(b" \t")
        else:
            headers[name] = value.strip(b" \t")
    path = target.partition(b"?")[0].decode()
    found = RequestHead(method.decode(), path, 1 if minor == b"1" else 0, headers)
    found.repeated = repeated
    _decide_framing(found)
    return found


def _parse_header_name(sent: bytes) -> bytes:
    name = sent.lower()
    if not name or name.translate(None, _TOKEN):
        raise MalformedRequest("a header line is not 'name: value'")
    if b"_" in name and _ALIASED_HEADERS.fullmatch(name):
        raise MalformedRequest("a header name with an underscore stands for another")
    return name


def check_partial_head(data: bytes) -> None:
    """Of a head not yet whole: raises Malformed as soon as it cannot become one, so that who speaks another protocol
    is told at once and not when the time is over."""
    line, end, _ = data.partition(b"\r\n")
    if not (_REQUEST.fullmatch(line) if end else _PARTIAL_REQUEST.fullmatch(line)) and line:
        raise _request_line_error(line)


def _request_line_error(line: bytes) -> MalformedRequest:
    if _OTHER_VERSION.fullmatch(line) and not line.endswith((b" HTTP/1.1", b" HTTP/1.0")):
        return MalformedRequest("only HTTP/1.1 is spoken here", 505)
    return MalformedRequest("the first line is not 'METHOD /path HTTP/1.1'")


def _decide_framing(head: RequestHead) -> None:
    """How the body comes and whether the connection stays."""
    headers = head.headers
    host = headers.get(b"host")
    if not _HOST.fullmatch(host) if host is not None else head.version == 1:
        raise MalformedRequest("there is no Host, or it is none")
    head.length = _parse_body_length(headers, head.version)
    connection = headers.get(b"connection")
    if connection is not None and b"close" in [option.strip(b" \t") for option in connection.lower().split(b",")]:
        head.keep = False
    expect = headers.get(b"expect")
    if expect is not None:
        if expect.lower() != b"100-continue":
            raise MalformedRequest("nothing but 100-continue can be expected", 417)
        head.expects = head.version == 1


def _parse_body_length(headers: dict[bytes, bytes], version: int) -> int | None:
    """Bytes of the body, None for chunks."""
    coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    if coding is not None:
        if length is not None or version == 0 or coding.lower() != b"chunked":
            raise MalformedRequest("a Transfer-Encoding other than chunked, or beside a Content-Length")
        return None
    if length is None:
        return 0
    if not length.isdigit():
        raise MalformedRequest("the Content-Length is no number")
    digits = length.lstrip(b"0")
    return int(digits or b"0") if len(digits) <= _LONGEST_LENGTH else 10**_LONGEST_LENGTH


class ChunkedBody:
    """A chunked body, decoded as it comes. `trailer_bytes` limits what may follow the last chunk; it is dropped."""

    def __init__(self, chunks: int, trailer_bytes: int) -> None:
        self.done = False
        self.rest = b""  # what came behind the end: the next request
        self._chunks = chunks
        self._trailer_bytes = trailer_bytes
        self._buffer = bytearray()
        self._left = 0  # bytes of the chunk under way, its CRLF not counted
        self._in_chunk = False
        self._in_trailer = False

    def feed(self, data: bytes) -> bytes:
        """The body's bytes in `data`. Raises Malformed: 400 for what is no chunk, 413 for too many of them."""
        buffer = self._buffer
        buffer += data
        found: list[bytes] = []
        at = 0
        while not self.done:
            if self._left:
                piece = bytes(buffer[at : at + self._left])
                if not piece:
                    break
                found.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            end = buffer.find(b"\n", at, at + _LINE_BYTES)
            if end < 0:
                if len(buffer) - at >= _LINE_BYTES:
                    raise MalformedRequest("a chunk's first line is too long")
                break
            self._parse_line(bytes(buffer[at : end + 1]))
            at = end + 1
        del buffer[:at]
        if self.done:
            self.rest = bytes(buffer)
        return b"".join(found) if len(found) != 1 else found[0]

    def _parse_line(self, line: bytes) -> None:
        """The CRLF behind a chunk, the size of the next, or a line of the trailer."""
        text = line[:-2]
        if not line.endswith(b"\r\n") or text.translate(None, _TEXT) or b"\r" in text:
            raise MalformedRequest("a line of the chunked body does not end in CRLF")
        if self._in_trailer:
            self._parse_trailer(text)
        elif self._in_chunk:
            if text:
                raise MalformedRequest("a chunk is longer than it said")
            self._in_chunk = False
        else:
            self._parse_size(text)

    def _parse_size(self, text: bytes) -> None:
        size = _CHUNK.fullmatch(text)
        if size is None:
            raise MalformedRequest("a chunk has no size")
        self._left = int(size.group(1), 16)
        self._in_chunk, self._in_trailer = self._left > 0, self._left == 0
        self._chunks -= 1
        if self._chunks < 0:
            raise MalformedRequest("the body comes in too many pieces", 413)

    def _parse_trailer(self, text: bytes) -> None:
        self._trailer_bytes -= len(text) + 2
        name, colon, _ = text.partition(b":")
        if not text:
            self.done = True
        elif not colon or _parse_header_name(name) in _SINGLE_HEADERS or self._trailer_bytes < 0:
            raise MalformedRequest("the trailer is too large, or not made of headers that may stand there")
