"""Parser of HTTP/1.1 requests (RFC 9112) for servers: llhttp in its strict mode, and the checks that llhttp lacks.

Design: a request that a proxy may read differently can be smuggled, so it is refused. llhttp checks the grammar: line
endings, methods, header names and values, folding, Content-Length (digits, once, without Transfer-Encoding), the sizes
and ends of chunks. These checks are ours:

- the request line: single blanks, the characters and the form of the target, version 1.0 or 1.1 (505 otherwise), no
  empty line before. The target is not decoded or normalised: access is decided on the text that is routed.
- Host is present and valid; Host, Content-Type and Expect occur once; Expect is `100-continue` (417 otherwise).
- No header name with underscores that a proxy may treat as a header of access or framing.
- Transfer-Encoding is only `chunked`, and only in HTTP/1.1.
- llhttp reports as many headers as the head has lines.
- Chunked bodies: the number of chunks, the bytes of extensions and trailer, no single header in the trailer.
- The connection limits the bytes and the number of headers (431), and counts the bytes of a Content-Length.
"""

import re

import httptools

_REQUEST_LINE = re.compile(rb"([A-Z\-]+) (/[!$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]*|\*) HTTP/1\.([01])\r\n")
_OTHER_VERSION = re.compile(rb"\S+ \S+ HTTP/(0\.9|2\.0)\r\n")
_HOST = re.compile(rb"([A-Za-z0-9._~\-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
# Headers that must not be repeated: two values would contradict each other. llhttp refuses a second length or coding.
_SINGLE_HEADERS = frozenset((b"host", b"content-type", b"expect"))
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
_OTHER_VERSION_ERROR = "Only HTTP/1.1 is supported. Send the request with HTTP/1.1.", 505
# Errors of llhttp whose status is not 400.
_REFUSALS = {
    "Invalid HTTP version": _OTHER_VERSION_ERROR,
    "Expected HTTP/2 Connection Preface": _OTHER_VERSION_ERROR,
    "Content-Length overflow": ("The Content-Length is too large. Send a smaller request.", 413),
}
_HEAD_END = b"\r\n\r\n"
_PARTIAL_BYTES = 2_048
# The head of a message that has only a chunked body; bytes behind its end are an error.
_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
_CHUNK_LINE_BYTES = 16  # of a chunk's size and its line ends


class MalformedRequest(Exception):
    """The request is refused; `status` is the HTTP status of RFC 9110."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class RequestHead:
    """A request without its body. `length` is the bytes of the body, None if the body is chunked; `query`: as sent.

    Names in `headers` are lower-case. Values of a repeated header are joined by ", "; its name is in `repeated`.
    """

    __slots__ = ("expects", "headers", "keep", "length", "method", "path", "query", "repeated", "version")

    def __init__(self, method: str, path: str, version: int, headers: dict[bytes, bytes]) -> None:
        self.method, self.path, self.version, self.headers = method, path, version, headers
        self.repeated: tuple[bytes, ...] = ()
        self.length: int | None = 0
        self.query = ""
        self.keep = version == 1
        self.expects = False

    def on_header(self, sent: bytes, value: bytes) -> None:
        """Add a header; called by httptools. Raises MalformedRequest."""
        name = _COMMON_HEADERS.get(sent) or _normalize_name(sent)
        value = value.rstrip(b" \t")
        if name in self.headers:
            if name in _SINGLE_HEADERS:
                raise MalformedRequest(f"the header {name.decode()} occurs twice")
            self.repeated += (name,)
            value = b"%b, %b" % (self.headers[name], value)
        self.headers[name] = value


def parse_head(data: bytes) -> RequestHead:
    """Parse `data`, everything before the empty line. Raises MalformedRequest."""
    data += _HEAD_END
    line = _REQUEST_LINE.match(data)
    if line is None:
        _feed(httptools.HttpRequestParser(None), data)
        if _OTHER_VERSION.match(data):
            raise MalformedRequest(*_OTHER_VERSION_ERROR)
        raise MalformedRequest("the first line is not 'METHOD /path HTTP/1.1'")
    method, target, minor = line.groups()
    path, _, query = target.decode().partition("?")
    head = RequestHead(method.decode(), path, int(minor), {})
    head.query = query
    _feed(httptools.HttpRequestParser(head), data)
    if len(head.headers) + len(head.repeated) + 2 != data.count(b"\n"):
        raise MalformedRequest("a header line is not 'name: value'")
    _decide_framing(head)
    return head


def _feed(parser: httptools.HttpRequestParser, data: bytes | memoryview) -> None:
    """Feed `data` to llhttp. Raises MalformedRequest."""
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # not taken: RFC 9110 lets a server ignore an upgrade
    except httptools.HttpParserError as error:
        if isinstance(error.__context__, MalformedRequest):  # raised by a callback
            raise error.__context__ from None
        reason = str(error)
        raise MalformedRequest(*_REFUSALS.get(reason, (reason, 400))) from None


def _normalize_name(sent: bytes) -> bytes:
    name = sent.lower()
    if b"_" in name and _ALIASED_HEADERS.fullmatch(name):
        raise MalformedRequest("a header name with an underscore may be mistaken for another header")
    return name


def check_partial_head(data: bytes) -> None:
    """Check the beginning of an incomplete head. Raises MalformedRequest as soon as it cannot become valid.

    A client of another protocol gets an error at once, not after the timeout.
    """
    _feed(httptools.HttpRequestParser(None), data[:_PARTIAL_BYTES])


def _decide_framing(head: RequestHead) -> None:
    """Set the length of the body, `keep` (the connection stays open) and `expects`."""
    headers = head.headers
    host = headers.get(b"host")
    if not _HOST.fullmatch(host) if host is not None else head.version == 1:
        raise MalformedRequest("the Host header is missing or invalid")
    coding = headers.get(b"transfer-encoding")
    if coding is not None:
        if head.version == 0 or coding.lower() != b"chunked":
            raise MalformedRequest("Transfer-Encoding must be chunked")
        head.length = None
    else:
        head.length = int(headers.get(b"content-length", b"").lstrip(b"0") or b"0")
    connection = headers.get(b"connection", b"").lower()
    if b"close" in connection and b"close" in [option.strip(b" \t") for option in connection.split(b",")]:
        head.keep = False
    expect = headers.get(b"expect")
    if expect is not None:
        if expect.lower() != b"100-continue":
            raise MalformedRequest("the Expect header supports only 100-continue", 417)
        head.expects = head.version == 1


class ChunkedBody:
    """Decodes a chunked body as it arrives. `chunks` and `trailer_bytes` are limits; the trailer is dropped.

    Extensions count as part of the trailer, empty lines in the body as chunks.

    Design: httptools does not stop at the end of a message. Only CRLF CRLF can end a message, so llhttp is fed up to
    each CRLF CRLF, and says whether the message is complete.
    """

    def __init__(self, chunks: int, trailer_bytes: int) -> None:
        self.done = False
        self._chunks = chunks
        # That may still come: of sizes, extensions and the trailer.
        self._framing_bytes = trailer_bytes + _CHUNK_LINE_BYTES * chunks
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._parser.feed_data(_CHUNKED_HEAD)

    def feed(self, data: bytes, start: int) -> tuple[bytes, int]:
        """Decode `data` from `start`. Returns bytes of the body, and the position to continue at with more data.

        If the body is `done`, the next request is at that position. Raises MalformedRequest 400 for an invalid chunk,
        413 for too many chunks.
        """
        view, at = memoryview(data), start
        while self._parser is not None and not self.done:
            end = data.find(_HEAD_END, at)
            stop = end + 4 if end >= 0 else len(data) - _count_partial_end(data)
            if stop <= at:
                break
            _feed(self._parser, view[at:stop])
            at = stop
            if end >= 0 and not self.done:
                self.on_chunk_header()  # an empty line costs as much as a chunk
        found = b"".join(self._pieces)
        self._pieces.clear()
        self._framing_bytes -= at - start - len(found)
        if self._framing_bytes < 0:
            raise MalformedRequest("the chunk extensions or the trailer are too large")
        if self.done:
            self._parser = None  # it refers to this object
        return found, at

    # httptools calls the following methods while it parses.

    def on_header(self, name: bytes, value: bytes) -> None:
        if _normalize_name(name) in _SINGLE_HEADERS:
            raise MalformedRequest("the trailer has a header that is not allowed in a trailer")

    def on_chunk_header(self) -> None:
        self._chunks -= 1
        if self._chunks < 0:
            raise MalformedRequest("The body has too many chunks or empty lines. Send it with a Content-Length.", 413)

    def on_message_complete(self) -> None:
        self.done = True


def _count_partial_end(data: bytes) -> int:
    """The bytes at the end of `data` that may be the beginning of CRLF CRLF."""
    return next((count for count in (3, 2, 1) if data.endswith(_HEAD_END[:count])), 0)
