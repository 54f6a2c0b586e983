"""Parser of HTTP/1.1 requests (RFC 9112) for servers; refuses every request that has two readings.

Design: the parser is strict, since a request that a proxy reads differently can be smuggled. Lines end in CRLF; there
is no folding and no blank before a colon; Host and Content-Length occur once; Content-Length has digits only and never
occurs together with Transfer-Encoding, whose only value is `chunked`. The target is not decoded or normalised: access
is decided on the same text that is routed.
"""

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
# Headers that must not be repeated: two values would contradict each other.
_SINGLE_HEADERS = frozenset((b"host", b"content-length", b"transfer-encoding", b"content-type", b"expect"))
# Headers that decide access or framing. A proxy may treat a spelling with underscores as the same header.
_ALIASED_HEADERS = re.compile(
    rb"(host|content.length|transfer.encoding|authorization|content.type|x.archwright.*|x.request.id)"
)
# The most frequent names, in the two spellings that clients use.
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
    """The request is refused; `status` is the HTTP status of RFC 9110."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class RequestHead:
    """A request without its body. `length` is the bytes of the body, None if the body is chunked.

    Names in `headers` are lower-case. Values of a repeated header are joined by ", "; its name is in `repeated`.
    """

    __slots__ = ("expects", "headers", "keep", "length", "method", "path", "repeated", "version")

    def __init__(self, method: str, path: str, version: int, headers: dict[bytes, bytes]) -> None:
        self.method, self.path, self.version, self.headers = method, path, version, headers
        self.repeated: tuple[bytes, ...] = ()
        self.length: int | None = 0
        self.keep = version == 1
        self.expects = False


def parse_head(data: bytes) -> RequestHead:
    """Parse `data`, everything before the empty line. Raises MalformedRequest."""
    if data.translate(None, _TEXT):
        raise MalformedRequest("the headers contain a control character")
    lines = data.split(b"\r\n")
    ends = len(lines) - 1
    if data.count(b"\n") != ends or data.count(b"\r") != ends:
        raise MalformedRequest("a header line does not end in CRLF")
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
                raise MalformedRequest(f"the header {name.decode()} occurs twice")
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
        raise MalformedRequest("a header name with an underscore may be mistaken for another header")
    return name


def check_partial_head(data: bytes) -> None:
    """Check an incomplete head. Raises MalformedRequest as soon as it cannot become valid.

    A client of another protocol gets an error at once, not after the timeout.
    """
    line, end, _ = data.partition(b"\r\n")
    if not (_REQUEST.fullmatch(line) if end else _PARTIAL_REQUEST.fullmatch(line)) and line:
        raise _request_line_error(line)


def _request_line_error(line: bytes) -> MalformedRequest:
    if _OTHER_VERSION.fullmatch(line) and not line.endswith((b" HTTP/1.1", b" HTTP/1.0")):
        return MalformedRequest("only HTTP/1.1 is supported", 505)
    return MalformedRequest("the first line is not 'METHOD /path HTTP/1.1'")


def _decide_framing(head: RequestHead) -> None:
    """Set the length of the body, `keep` (the connection stays open) and `expects`."""
    headers = head.headers
    host = headers.get(b"host")
    if not _HOST.fullmatch(host) if host is not None else head.version == 1:
        raise MalformedRequest("the Host header is missing or invalid")
    head.length = _parse_body_length(headers, head.version)
    connection = headers.get(b"connection")
    if connection is not None and b"close" in [option.strip(b" \t") for option in connection.lower().split(b",")]:
        head.keep = False
    expect = headers.get(b"expect")
    if expect is not None:
        if expect.lower() != b"100-continue":
            raise MalformedRequest("the Expect header supports only 100-continue", 417)
        head.expects = head.version == 1


def _parse_body_length(headers: dict[bytes, bytes], version: int) -> int | None:
    """The bytes of the body, None if the body is chunked."""
    coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    if coding is not None:
        if length is not None or version == 0 or coding.lower() != b"chunked":
            raise MalformedRequest("Transfer-Encoding must be chunked, without a Content-Length")
        return None
    if length is None:
        return 0
    if not length.isdigit():
        raise MalformedRequest("the Content-Length is not a number")
    digits = length.lstrip(b"0")
    return int(digits or b"0") if len(digits) <= _LONGEST_LENGTH else 10**_LONGEST_LENGTH


class ChunkedBody:
    """Decodes a chunked body as it arrives. `trailer_bytes` limits the trailer, which is dropped."""

    def __init__(self, chunks: int, trailer_bytes: int) -> None:
        self.done = False
        self.rest = b""  # bytes after the end of the body: the next request
        self._chunks = chunks
        self._trailer_bytes = trailer_bytes
        self._buffer = bytearray()
        self._left = 0  # missing bytes of the current chunk, without its CRLF
        self._in_chunk = False
        self._in_trailer = False

    def feed(self, data: bytes) -> bytes:
        """The body's bytes in `data`. Raises MalformedRequest 400 for an invalid chunk, 413 for too many chunks."""
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
                    raise MalformedRequest("the size line of a chunk is too long")
                break
            self._parse_line(bytes(buffer[at : end + 1]))
            at = end + 1
        del buffer[:at]
        if self.done:
            self.rest = bytes(buffer)
        return b"".join(found) if len(found) != 1 else found[0]

    def _parse_line(self, line: bytes) -> None:
        """Parse the CRLF after a chunk, the size of the next chunk, or a line of the trailer."""
        text = line[:-2]
        if not line.endswith(b"\r\n") or text.translate(None, _TEXT) or b"\r" in text:
            raise MalformedRequest("a line of the chunked body does not end in CRLF")
        if self._in_trailer:
            self._parse_trailer(text)
        elif self._in_chunk:
            if text:
                raise MalformedRequest("a chunk is longer than its declared size")
            self._in_chunk = False
        elif size := _CHUNK.fullmatch(text):
            self._left = int(size.group(1), 16)
            self._in_chunk, self._in_trailer = self._left > 0, self._left == 0
            self._chunks -= 1
            if self._chunks < 0:
                raise MalformedRequest("the body has too many chunks", 413)
        else:
            raise MalformedRequest("a chunk has no valid size")

    def _parse_trailer(self, text: bytes) -> None:
        self._trailer_bytes -= len(text) + 2
        name, colon, _ = text.partition(b":")
        if not text:
            self.done = True
        elif not colon or _parse_header_name(name) in _SINGLE_HEADERS or self._trailer_bytes < 0:
            raise MalformedRequest("the trailer is too large or contains a line that is not allowed in a trailer")
