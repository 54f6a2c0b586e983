"""Bytes that clients and attackers send, and the responses that must come back.

A case has the pieces to send (bytes, pauses in seconds, HALF: our side is closed), the statuses of the responses in
order, if the connection stays open for another request, and the number of generations that the engine must have run.
KEY stands for a member's key. `conftest.py` has the limits that these cases assume.
"""

from __future__ import annotations

from typing import NamedTuple

HALF = None
Piece = bytes | float | None

BODY = b'{"model":"m","prompt":"x","max_tokens":1}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
AUTH = b"Authorization: Bearer KEY\r\n"
HOST = b"Host: g\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\n"
ASK = POST + HOST + AUTH
GET = b"GET /healthz HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n"
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED = ASK + LENGTH + b"\r\n" + BODY
OK = GET + b"\r\n"


class Drops(bytes):
    """Sent byte by byte."""


class Case(NamedTuple):
    name: str
    sent: tuple[Piece, ...]
    statuses: tuple[int, ...]
    kept: bool = False
    ran: int = 0


def well(name: str, *sent: Piece, ran: int = 1, statuses: tuple[int, ...] = (200,)) -> Case:
    return Case(name, sent, statuses, kept=True, ran=ran)


def idle(name: str, *sent: Piece, statuses: tuple[int, ...] = (200,)) -> Case:
    """As `well`, without a generation."""
    return Case(name, sent, statuses, kept=True)


def bad(name: str, *sent: Piece, status: int = 400) -> Case:
    """Refused and closed, and what stands behind it is never read as a request."""
    return Case(name, sent, (status,))


def line(name: str, first: bytes, status: int = 400) -> Case:
    return bad(f"first line: {name}", first + b"\r\n" + HOST + b"\r\n" + SMUGGLED, status=status)


def header(name: str, lines: bytes, status: int = 400) -> Case:
    return bad(f"header: {name}", POST + HOST + AUTH + LENGTH + lines + b"\r\n" + BODY + SMUGGLED, status=status)


def framed(name: str, lines: bytes, body: bytes, status: int = 400) -> Case:
    return bad(f"framing: {name}", ASK + lines + b"\r\n" + body + SMUGGLED, status=status)


def host(name: str, lines: bytes) -> Case:
    return bad(f"host: {name}", b"GET /healthz HTTP/1.1\r\n" + lines + b"\r\n" + SMUGGLED)


def chunk(name: str, body: bytes, status: int = 400) -> Case:
    return bad(f"chunks: {name}", ASK + CHUNKED + b"\r\n" + body + SMUGGLED, status=status)


def path(name: str, target: bytes, status: int) -> Case:
    """With a key; 404 is one of ours, 200 would be another route."""
    return idle(f"path: {name}", b"GET %b HTTP/1.1\r\n" % target + HOST + AUTH + b"\r\n", statuses=(status,))


def stranger(name: str, target: bytes) -> Case:
    """Without a key no spelling of a path is open, nor one of a probe."""
    sent = b"GET %b HTTP/1.1\r\n" % target + HOST + b"\r\n"
    return idle(f"stranger: {name}", sent, statuses=(401,))


WELL = [
    well("a request", ASK + LENGTH + b"\r\n" + BODY),
    well("byte by byte", Drops(ASK + LENGTH + b"\r\n" + BODY)),
    well("head, then body", ASK + LENGTH + b"\r\n", 0.05, BODY),
    well("cut in the empty line", ASK + LENGTH + b"\r", 0.05, b"\n" + BODY),
    well("chunked", ASK + CHUNKED + b"\r\n" + IN_CHUNKS),
    well("one byte a chunk", ASK + CHUNKED + b"\r\n" + b"".join(b"1\r\n%c\r\n" % b for b in BODY) + b"0\r\n\r\n"),
    well("chunks byte by byte", ASK + CHUNKED + b"\r\n", Drops(IN_CHUNKS)),
    well("chunk extensions", ASK + CHUNKED + b'\r\n%x;a=b;c="d"\r\n%b\r\n0;e\r\n\r\n' % (len(BODY), BODY)),
    well("a trailer", ASK + CHUNKED + b"\r\n" + IN_CHUNKS[:-2] + b"X-Sum: 1\r\nAuthorization: Bearer no\r\n\r\n"),
    well("leading zeros of a size", ASK + CHUNKED + b"\r\n" + b"0000" + IN_CHUNKS),
    well("TE in capitals", ASK + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n" + IN_CHUNKS),
    well("leading zeros of a length", ASK + b"Content-Length: 000%d\r\n\r\n" % len(BODY) + BODY),
    well(
        "names in capitals",
        (POST + HOST + AUTH.replace(b"A", b"a") + LENGTH).replace(b"Host", b"HOST") + b"\r\n" + BODY,
    ),
    well("blanks around values", POST + b"Host:g\r\n" + AUTH + b"Content-Length: \t%d \t\r\n\r\n" % len(BODY) + BODY),
    well("a query is dropped", ASK.replace(b"completions ", b"completions?a=/../b&key=x ") + LENGTH + b"\r\n" + BODY),
    well("an empty line before", b"\r\n" + ASK + LENGTH + b"\r\n" + BODY),
    well("pipelined", (ASK + LENGTH + b"\r\n" + BODY) * 5, ran=5, statuses=(200,) * 5),
    well("pipelined with chunks", (ASK + CHUNKED + b"\r\n" + IN_CHUNKS) * 3, ran=3, statuses=(200,) * 3),
    well("pipelined, mixed", SMUGGLED + OK + ASK + CHUNKED + b"\r\n" + IN_CHUNKS + OK, ran=2, statuses=(200,) * 4),
    well("a refusal between", OK + POST + HOST + LENGTH + b"\r\n" + BODY + SMUGGLED, statuses=(200, 401, 200)),
    well("expect", ASK + LENGTH + b"Expect: 100-continue\r\n\r\n", 0.1, BODY, statuses=(100, 200)),
    well("expect, body at once", ASK + LENGTH + b"Expect: 100-continue\r\n\r\n" + BODY),
    well("expect in capitals", ASK + LENGTH + b"EXPECT: 100-CONTINUE\r\n\r\n", 0.1, BODY, statuses=(100, 200)),
    idle("expect without a body", GET + b"Expect: 100-continue\r\n\r\n"),
    idle("HEAD", b"HEAD /healthz HTTP/1.1\r\n" + HOST + b"\r\n" + OK, statuses=(200, 200)),
    idle("HEAD of what is not there", b"HEAD /no HTTP/1.1\r\n" + HOST + AUTH + b"\r\n" + OK, statuses=(404, 200)),
    idle("a body without a key", GET + b"Content-Length: 5\r\n\r\nhello" + OK, statuses=(413, 200)),
    idle("an empty body", ASK + b"Content-Length: 0\r\n\r\n", statuses=(400,)),
    idle("no body", ASK + b"\r\n", statuses=(400,)),
    idle("a refused small body", POST + HOST + LENGTH + b"\r\n" + BODY + OK, statuses=(401, 200)),
    idle("a refused body that follows", POST + HOST + LENGTH + b"\r\n", 0.1, BODY + OK, statuses=(401, 200)),
    idle(
        "an upgrade is not taken", GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + OK, statuses=(200, 200)
    ),
    idle("h2c is not taken", GET + b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"),
    idle("keep-alive is the rule", GET + b"Connection: keep-alive\r\n\r\n"),
    idle("repeated, harmless", GET + b"Accept: a\r\nAccept: b\r\nVia: x\r\nVia: y\r\n\r\n"),
    idle("two keys are none", POST + HOST + AUTH + AUTH + LENGTH + b"\r\n" + BODY, statuses=(401,)),
    idle("obs-text in a value", GET + b"X: \xe4\xff\r\n\r\n"),
    idle("a host with port", b"GET /healthz HTTP/1.1\r\nHost: [::1]:8470\r\n\r\n"),
    idle("an underscore that means nothing", GET + b"my_header: 1\r\n\r\n"),
    idle("50 headers", GET + b"".join(b"X%d: 1\r\n" % n for n in range(48)) + b"\r\n"),
]

CLOSED = [
    Case("close is asked for", (GET + b"Connection: close\r\n\r\n" + SMUGGLED,), (200,)),
    Case("pipelined without a key", ((GET.replace(b"healthz", b"v1/models") + b"\r\n") * 30,), (401,) * 17),
    Case("close among others", (GET + b"Connection: x, CLOSE\r\n\r\n",), (200,)),
    Case("HTTP/1.0", (OK.replace(b"1.1", b"1.0"),), (200,)),
    Case("HTTP/1.0 without a host", (b"GET /healthz HTTP/1.0\r\n\r\n",), (200,)),
    Case("HTTP/1.0 that would stay", (GET.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n\r\n",), (200,)),
    Case("HTTP/1.0 with a body", ((ASK + LENGTH).replace(b"1.1", b"1.0") + b"\r\n" + BODY,), (200,), ran=1),
    Case("half-closed behind a probe", (OK, HALF), (200,)),
    Case("half-closed behind two", (OK + OK, HALF), (200, 200)),
    Case("half-closed behind a refusal", (POST + HOST + LENGTH + b"\r\n" + BODY, HALF), (401,)),
    Case("half-closed in a refused body", (POST + HOST + LENGTH + b"\r\n{", HALF), (401,)),
    Case("half-closed in the head", (GET, HALF), ()),
    Case("half-closed in a body", (ASK + LENGTH + b"\r\n{", HALF), ()),
    Case("half-closed in a chunk", (ASK + CHUNKED + b"\r\n20\r\nabc", HALF), ()),
    Case("half-closed at once", (HALF,), ()),
    Case("half-closed behind half of a second", (OK + GET, HALF), (200,)),
    bad("late headers", GET, 2.0, status=408),
    Case("late headers behind a request", (OK + GET, 2.0), (200, 408)),
    bad("nothing at all", 2.0, status=408),
    bad("a late body", ASK + LENGTH + b"\r\n{", 2.0, status=408),
    bad("a late chunk", ASK + CHUNKED + b"\r\n20\r\nabc", 2.0, status=408),
    bad("headers drop by drop", *(piece for byte in GET[:30] for piece in (bytes([byte]), 0.06)), status=408),
    bad("expect, refused", POST + HOST + LENGTH + b"Expect: 100-continue\r\n\r\n", status=401),
    bad("expect, too large", ASK + b"Content-Length: 99999\r\nExpect: 100-continue\r\n\r\n", status=413),
    bad("expect something else", ASK + LENGTH + b"Expect: 200-ok\r\n\r\n" + BODY, status=417),
    bad("a body too large", ASK + b"Content-Length: 200000\r\n\r\n" + b"x" * 200_000 + SMUGGLED, status=413),
    bad("a length without end", ASK + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n", status=413),
    bad("a large body refused", POST + HOST + b"Content-Length: 900000\r\n\r\n" + b"x" * 900_000, status=401),
    bad("a chunked body refused", POST + HOST + CHUNKED + b"\r\n" + IN_CHUNKS + SMUGGLED, status=401),
    bad("headers too large", GET + b"X: " + b"a" * 9_000 + b"\r\n\r\n" + SMUGGLED, status=431),
    bad("a header without end", GET + b"X: " + b"a" * 20_000, status=431),
    bad("too many headers", GET + b"".join(b"X%d: 1\r\n" % n for n in range(60)) + b"\r\n", status=431),
    bad("one header too often", GET + b"X: 1\r\n" * 60 + b"\r\n", status=431),
    bad("a path without end", b"GET /" + b"a" * 20_000, status=431),
    Case("a bad one behind a good one", (OK + b"GET  / HTTP/1.1\r\n\r\n" + SMUGGLED,), (200, 400)),
    Case("garbage behind a body", (ASK + LENGTH + b"\r\n" + BODY + b"garbage\r\n\r\n" + SMUGGLED,), (200, 400), ran=1),
]

LINES = [
    line("no version", b"GET /healthz"),
    line("HTTP/0.9", b"GET /healthz HTTP/0.9", 505),
    line("HTTP/1.2", b"GET /healthz HTTP/1.2", 505),
    line("HTTP/2", b"PRI * HTTP/2.0", 505),
    line("HTTP/1.10", b"GET /healthz HTTP/1.10"),
    line("a small http", b"GET /healthz http/1.1"),
    line("another protocol", b"GET /healthz RTSP/1.1"),
    line("two blanks", b"GET  /healthz HTTP/1.1"),
    line("a tab", b"GET\t/healthz HTTP/1.1"),
    line("a blank before", b" GET /healthz HTTP/1.1"),
    line("a blank behind", b"GET /healthz HTTP/1.1 "),
    line("a blank in the path", b"GET /heal thz HTTP/1.1"),
    line("no method", b"/healthz HTTP/1.1"),
    line("an odd method", b"GE(T /healthz HTTP/1.1"),
    line("an unknown method", b"BREW /healthz HTTP/1.1"),
    line("a method in small letters", b"get /healthz HTTP/1.1"),
    line("half a version", b"GET /healthz HTTP/2"),
    line("a method without end", b"G" * 40 + b" /healthz HTTP/1.1"),
    line("absolute form", b"GET http://g/healthz HTTP/1.1"),
    line("absolute form of another host", b"GET http://evil/healthz HTTP/1.1"),
    line("absolute form without a path", b"GET http://g HTTP/1.1"),
    line("authority form", b"CONNECT g:443 HTTP/1.1"),
    line("authority form of GET", b"GET g:443 HTTP/1.1"),
    line("user and host", b"GET @g/healthz HTTP/1.1"),
    line("a fragment", b"GET /v1/models#@/healthz HTTP/1.1"),
    line("a fragment first", b"GET #/healthz HTTP/1.1"),
    line("a backslash", b"GET \\healthz HTTP/1.1"),
    line("not ASCII", b"GET /\xc3\xa4 HTTP/1.1"),
    line("NUL in the path", b"GET /healthz\x00 HTTP/1.1"),
    line("DEL in the path", b"GET /healthz\x7f HTTP/1.1"),
    line("CR in the path", b"GET /heal\rthz HTTP/1.1"),
    line("a relative path", b"GET healthz HTTP/1.1"),
    line("quotes", b'GET /"healthz" HTTP/1.1'),
    bad("LF alone", b"GET /healthz HTTP/1.1\nHost: g\n\n" + SMUGGLED),
    bad("LF alone in one line", b"GET /healthz HTTP/1.1\r\nHost: g\nX: y\r\n\r\n" + SMUGGLED),
    bad("CR alone", b"GET /healthz HTTP/1.1\rHost: g\r\r" + SMUGGLED),
    bad("two empty lines before", b"\r\n\r\n" + OK),
    bad("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100),
    bad("SSH", b"SSH-2.0-OpenSSH_9.7\r\n"),
    bad("a proxy's line", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + OK),
    bad("nothing but zeros", b"\x00" * 200),
]

HEADERS = [
    header("folded", b"X: a\r\n b\r\n"),
    header("folded length", b"X: a\r\n\tContent-Length: 3\r\n"),
    header("folded first", b" X: a\r\n"),
    header("a blank before the colon", b"X : a\r\n"),
    header("a blank before a length's colon", b"Content-Length : 3\r\n"),
    header("a tab before the colon", b"Transfer-Encoding\t: chunked\r\n"),
    header("no colon", b"nonsense\r\n"),
    header("no name", b": a\r\n"),
    header("NUL in a name", b"X\x00: a\r\n"),
    header("NUL in a value", b"X: a\x00b\r\n"),
    header("CR in a value", b"X: a\rb\r\n"),
    header("CR before CRLF", b"X: a\r\r\n"),
    header("LF in a value", b"X: a\nTransfer-Encoding: chunked\r\n"),
    header("DEL in a value", b"X: \x7f\r\n"),
    header("an escape in a value", b"X: \x1b[0m\r\n"),
    header("not ASCII in a name", b"X\xe4: a\r\n"),
    header("a bracket in a name", b"X[0]: a\r\n"),
    header("our name with underscores", b"x_archwright_workload: w\r\n"),
    header("a length with an underscore", b"content_length: 3\r\n"),
    header("a coding with an underscore", b"Transfer_Encoding: chunked\r\n"),
    header("two content types", b"Content-Type: a\r\nContent-Type: b\r\n"),
    header("two expectations", b"Expect: 100-continue\r\nExpect: 100-continue\r\n", 400),
]

FRAMING = [
    framed("two lengths", b"Content-Length: 3\r\nContent-Length: 41\r\n", BODY),
    framed("the same length twice", LENGTH + LENGTH, BODY),
    framed("a list of lengths", b"Content-Length: 41, 41\r\n", BODY),
    framed("an empty length", b"Content-Length: \r\n", BODY),
    framed("a signed length", b"Content-Length: +41\r\n", BODY),
    framed("a negative length", b"Content-Length: -1\r\n", BODY),
    framed("a hexadecimal length", b"Content-Length: 0x29\r\n", BODY),
    framed("a length with an underscore in it", b"Content-Length: 4_1\r\n", BODY),
    framed("a length with a point", b"Content-Length: 41.0\r\n", BODY),
    framed("a length in other digits", "Content-Length: ４１\r\n".encode(), BODY),
    framed("a length with a comment", b"Content-Length: 41 (x)\r\n", BODY),
    framed("length and chunks", LENGTH + CHUNKED, b"0\r\n\r\n"),
    framed("chunks and length", CHUNKED + LENGTH, b"0\r\n\r\n"),
    framed("chunks and a length of zero", CHUNKED + b"Content-Length: 0\r\n", b"0\r\n\r\n"),
    framed("a tab behind chunked", b"Transfer-Encoding: chunked\t\r\n", IN_CHUNKS),
    framed("chunked twice", CHUNKED + CHUNKED, IN_CHUNKS),
    framed("chunked, chunked", b"Transfer-Encoding: chunked, chunked\r\n", IN_CHUNKS),
    framed("gzip, chunked", b"Transfer-Encoding: gzip, chunked\r\n", IN_CHUNKS),
    framed("chunked, identity", b"Transfer-Encoding: chunked, identity\r\n", IN_CHUNKS),
    framed("identity", b"Transfer-Encoding: identity\r\n", IN_CHUNKS),
    framed("xchunked", b"Transfer-Encoding: xchunked\r\n", IN_CHUNKS),
    framed("chunked in quotes", b'Transfer-Encoding: "chunked"\r\n', IN_CHUNKS),
    framed("chunked with a parameter", b"Transfer-Encoding: chunked;q=1\r\n", IN_CHUNKS),
    framed("a vertical tab before chunked", b"Transfer-Encoding: \x0bchunked\r\n", IN_CHUNKS),
    framed("an empty coding", b"Transfer-Encoding: \r\n", IN_CHUNKS),
    bad("framing: chunks in HTTP/1.0", ASK.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n" + IN_CHUNKS),
]

CHUNKS = [
    chunk("no size", b"\r\n"),
    chunk("not a size", b"zz\r\n"),
    chunk("a signed size", b"+5\r\nhello\r\n0\r\n\r\n"),
    chunk("a prefixed size", b"0x5\r\nhello\r\n0\r\n\r\n"),
    chunk("a size with an underscore", b"1_0\r\n"),
    chunk("a blank before the size", b" 5\r\nhello\r\n0\r\n\r\n"),
    chunk("a blank behind the size", b"5 \r\nhello\r\n0\r\n\r\n"),
    chunk("a size beyond all bounds", b"fffffffffffffffff\r\nx"),
    chunk("LF behind the size", b"5\nhello\r\n0\r\n\r\n"),
    chunk("LF behind the chunk", b"5\r\nhello\n0\r\n\r\n"),
    chunk("nothing behind the chunk", b"5\r\nhello0\r\n\r\n"),
    chunk("longer than it said", b"5\r\nhello world\r\n0\r\n\r\n"),
    chunk("CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    chunk("NUL in an extension", b"5;\x00\r\nhello\r\n0\r\n\r\n"),
    chunk("LF in an extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    chunk("a blank in an extension", b"5; a\r\nhello\r\n0\r\n\r\n"),
    chunk("not ASCII in an extension", b"5;a=\xff\r\nhello\r\n0\r\n\r\n"),
    chunk("an extension without end", b"5;" + b"a" * 5_000),
    chunk("a folded trailer", b"0\r\nX: a\r\n b\r\n\r\n"),
    chunk("a coding in the trailer", b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    chunk("a length in the trailer", b"0\r\nContent-Length: 41\r\n\r\n"),
    chunk("a trailer without a colon", b"0\r\nnonsense\r\n\r\n"),
    chunk("a trailer without end", b"0\r\n" + b"X: a\r\n" * 2_000),
    chunk("too many empty lines", b"800\r\n" + b"\r\n" * 1_024 + b"\r\n0\r\n\r\n", 413),
    chunk("too many", b"1\r\nx\r\n" * 300, 413),
    chunk(
        "too large together", b"1000\r\n" + b"x" * 4_096 + b"\r\n" + b"fff0\r\n" + b"x" * 65_520 + b"\r\n0\r\n\r\n", 413
    ),
]

HOSTS = [
    host("none", b"X: 1\r\n"),
    host("two", b"Host: g\r\nHost: g\r\n"),
    host("empty", b"Host: \r\n"),
    host("with a path", b"Host: g/healthz\r\n"),
    host("with a user", b"Host: a@g\r\n"),
    host("with a fragment", b"Host: g#@h\r\n"),
    host("a list", b"Host: g, h\r\n"),
    host("a blank inside", b"Host: g h\r\n"),
    host("not a port", b"Host: g:port\r\n"),
    host("a long port", b"Host: g:999999\r\n"),
    host("an open bracket", b"Host: [::1\r\n"),
    host("a scheme", b"Host: http://g\r\n"),
]

PATHS = [
    path("dot segments", b"/v1/../healthz", 404),
    path("dot segments to a route", b"/x/../v1/models", 404),
    path("a dot", b"/./v1/models", 404),
    path("escaped dots", b"/v1/%2e%2e/healthz", 404),
    path("escaped slash", b"/v1%2fmodels", 404),
    path("escaped letters", b"/v1/%6dodels", 404),
    path("escaped twice", b"/v1/%256dodels", 404),
    path("two slashes", b"//v1/models", 404),
    path("a slash more", b"/v1/models/", 404),
    path("capitals", b"/V1/MODELS", 404),
    path("a semicolon", b"/v1/models;x=1", 404),
    path("a bad escape", b"/v1/models/%zz", 404),
    path("half an escape", b"/v1/models/%c3", 404),
    path("an escaped NUL", b"/v1/models/m%00", 404),
    path("dots in a name", b"/v1/models/../m", 404),
    path("escaped name", b"/v1/models/%6d", 200),
    path("name", b"/v1/models/m", 200),
    path("a query", b"/v1/models?/../x", 200),
    path("the star", b"*", 404),
    stranger("dots to a probe", b"/v1/models/../../healthz"),
    stranger("escaped dots to a probe", b"/v1/models/%2e%2e/%2e%2e/healthz"),
    stranger("a query of a probe", b"/v1/models?/healthz"),
    stranger("a probe with a slash", b"/healthz/"),
    stranger("a probe in capitals", b"/HEALTHZ"),
    stranger("an escaped probe", b"/%68ealthz"),
    stranger("a probe with a semicolon", b"/healthz;x"),
    stranger("a probe behind a slash", b"//healthz"),
    stranger("a key in the query", b"/v1/models?key=KEY"),
]

CASES = [*WELL, *CLOSED, *LINES, *HEADERS, *FRAMING, *CHUNKS, *HOSTS, *PATHS]
