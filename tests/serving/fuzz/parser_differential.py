"""Requests drawn from a grammar and then damaged: our parser against the grammar of RFC 9112 and against h11.

    python -m tests.serving.fuzz.parser_differential SEED COUNT

For each case: nothing but MalformedRequest comes out of the parser; a random split of the bytes gives the same result;
a request that we accept matches the RFC's grammar, written below as expressions, with the same method, path, headers,
body and end; h11 accepts it with the same parts too. Both may accept more than we do.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import h11

from archwright.engines.http_request_parser import ChunkedBody, MalformedRequest, check_partial_head, parse_head

CHUNKS, TRAILER_BYTES = 12, 256  # limits of a chunked body
H11_DIGITS = 20  # h11 limits the digits of a chunk size, the RFC does not

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
TEXT = rb"[\t -~\x80-\xff]*"
FIELDS = rb"(?:%b:%b\r\n)*\r\n" % (TOKEN, TEXT)
HEAD = re.compile(rb"([A-Z\-]+) (/[!-~]*|\*) HTTP/1\.([01])\r\n(%b)" % FIELDS)
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]+)(?:;%b)?\r\n" % TEXT)
TRAILER = re.compile(FIELDS)

LINES = [
    *([b"POST /v1/chat/completions HTTP/1.1"] * 40),
    *([b"GET /v1/models?a=/../b HTTP/1.1", b"PUT /a%2f/;b HTTP/1.1", b"DELETE * HTTP/1.0", b"POST / HTTP/1.0"] * 4),
    *(b"GET  / HTTP/1.1", b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET /#a HTTP/1.1", b"CONNECT / HTTP/1.1"),
    *(b"get / HTTP/1.1", b"PRI * HTTP/1.0", b"GET http://g/ HTTP/1.1", b"SOURCE / ICE/1.0", b'GET /" HTTP/1.1'),
]
FIELD_LINES = [
    *([b"Accept: */*", b"X:", b"X: \t", b"Via: a, b \t", b"accept:a", b"Authorization: Bearer aw_x"] * 16),
    *(b"Connection: close", b"Connection: keep-alive, Upgrade", b"Upgrade: h2c", b"Expect: 100-continue"),
    *(b"Content-Type: application/json", b"my_field: 1", b"X: \xe4\xff", b"Connection: x, CLOSE", b"TE: trailers"),
    *(b"Content_Length: 3", b"X : 1", b" X: 1", b"Host: h", b"Expect: x", b"X\x00: 1", b"X: \x01", b"x_request_id: 1"),
]
HOSTS = [*([b"Host: g"] * 90), b"host: [::1]:80", b"Host: g:1", b"Host: a@b", b"Host:", b"X-Host: g"]
FRAMINGS = [
    *(b"Content-Length: 0", b"Content-Length: +3", b"Content-Length: 3, 3", b"Content-Length: 3\r\nContent-Length: 3"),
    *(b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding:\x0bchunked"),
    *(b"Content-Length: 3\r\nTransfer-Encoding: chunked", b"Content-Length: 99999999999999999999"),
]
EXTENSIONS = [*([b""] * 90), *([b";a=b", b';c="d e"', b";a"] * 4), b"; a", b";", b";a=\xff", b" ", b";" + b"a" * 300]
TRAILERS = [
    *([b"", b"", b"X-Sum: 1\r\n", b"Y:\r\nZ: 2\r\n"] * 6),
    b"Host: h\r\n",
    b"Content-Length: 3\r\n",
    b"X: a\r\n b\r\n",
]
BODIES = [b"", b"{}", b"hello", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b'{"a":\r\n\r\n1}', b"x" * 40, b"\xff\x00"]
WORDS = [
    *(b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"0", b"-1", b"+", b",", b";", b"#", b"\\", b"\xff", b"\x7f"),
    *(b"\r\n\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"HTTP/1.0", b"_", b"ffffffff", b" X: 1\r\n", b"X: 1\n", b"\x0b", b"000000000000000000000000"),
]
NEXT = b"GET /next HTTP/1.1\r\nHost: g\r\n\r\n"


class Message(NamedTuple):
    """A request as a parser reads it; `end` is the position behind it."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes
    end: int


def build_case(chance: random.Random) -> bytes:
    """One request by the grammar, mostly valid, with up to three changes, and a second request behind."""
    pick = chance.choice
    fields = [pick(HOSTS), *(pick(FIELD_LINES) for _ in range(pick((0, 1, 1, 2, 2, 3))))]
    body, kind = pick(BODIES), chance.random()
    if kind < 0.4:
        fields.append(b"Transfer-Encoding: chunked")
        pieces = [pick(BODIES[1:]) for _ in range(pick((0, 1, 1, 2, 3, 15 if kind < 0.02 else 1)))]
        sizes = [b"%b%x" % (pick((b"", b"", b"", b"000")), len(piece)) for piece in pieces]
        lines = [b"%b%b\r\n%b\r\n" % (size, pick(EXTENSIONS), one) for size, one in zip(sizes, pieces, strict=True)]
        body = b"%b0%b\r\n%b\r\n" % (b"".join(lines), pick(EXTENSIONS), pick(TRAILERS))
    elif kind < 0.8:
        fields.append(b"Content-Length: %b%d" % (pick((b"", b"", b"000")), len(body)))
    elif kind < 0.9:
        fields.append(pick(FRAMINGS))
    else:
        body = b""
    if chance.random() < 0.3:
        chance.shuffle(fields)
    data = b"%b\r\n%b\r\n\r\n%b%b" % (pick(LINES), b"\r\n".join(fields), body, NEXT)
    for _ in range(pick((0, 0, 1, 1, 2, 3))):
        data = change_bytes(data, chance)
    return data


def change_bytes(data: bytes, chance: random.Random, words: Sequence[bytes] = WORDS) -> bytes:
    """Insert, delete, replace or repeat some bytes; words often go to the beginning of a line."""
    at, kind = int(chance.random() * len(data)), int(chance.random() * 5)
    if kind == 0:
        return data[:at] + chance.choice(words) + data[at:]
    if kind == 1:
        return data[:at] + data[at + 1 + int(chance.random() * 6) :]
    if kind == 2:
        return b"%b%c%b" % (data[:at], int(chance.random() * 256), data[at + 1 :])
    if kind == 3:
        return data[: at + int(chance.random() * 40)] + data[at:]
    at = data.find(b"\n", at) + 1
    return data[:at] + chance.choice(words) + data[at:]


def read_request(pieces: Iterable[bytes]) -> Message | int | None:
    """The first request in the pieces, as a connection reads it: the status of a refusal, None if more must follow."""
    buffer, head, at = b"", None, 0
    chunks, body = ChunkedBody(CHUNKS, TRAILER_BYTES), b""
    try:
        for piece in pieces:
            buffer += piece
            if head is None:
                end = buffer.find(b"\r\n\r\n")
                if end < 0:
                    check_partial_head(buffer)
                    continue
                head, at = parse_head(buffer[:end]), end + 4
            if head.length is None:
                found, at = chunks.feed(buffer, at)
                body += found
                if chunks.done:
                    return Message(head.method, head.path, head.headers, body, at)
            elif len(buffer) >= at + head.length:
                end = at + head.length
                return Message(head.method, head.path, head.headers, buffer[at:end], end)
    except MalformedRequest as error:
        return error.status
    return None


def split_bytes(data: bytes, chance: random.Random) -> list[bytes]:
    """`data` in two to four pieces, or in single bytes."""
    if chance.random() < 0.02:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(int(chance.random() * len(data)) for _ in range(chance.choice((1, 1, 2, 3))))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def join_fields(pairs: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for name, value in pairs:
        headers[name] = b"%b, %b" % (headers[name], value) if name in headers else value
    return headers


def read_by_grammar(data: bytes) -> Message:
    """The first request in `data`; an AssertionError if it does not match the RFC's grammar."""
    head = HEAD.match(data)
    assert head is not None, "not a head"
    method, target, _, fields = head.groups()
    pairs = [line.partition(b":") for line in fields.split(b"\r\n")[:-2]]
    headers = join_fields((name.lower(), value.strip(b" \t")) for name, _, value in pairs)
    at, body = head.end(), b""
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        size = -1
        while size:
            line = CHUNK_LINE.match(data, at)
            assert line is not None, "not a chunk size"
            size, at = int(line.group(1), 16), line.end()
            if size:
                body += data[at : at + size]
                at += size + 2
                assert data[at - 2 : at] == b"\r\n", "not the end of a chunk"
        trailer = TRAILER.match(data, at)
        assert trailer is not None, "not a trailer"
        at = trailer.end()
    else:
        length = int(headers.get(b"content-length", b"0"))
        body, at = data[at : at + length], at + length
    return Message(method.decode(), target.partition(b"?")[0].decode(), headers, body, at)


def read_by_h11(data: bytes) -> Message:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request), request
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage), event
    path = request.target.partition(b"?")[0].decode()
    headers = join_fields((name.lower(), value) for name, value in request.headers.raw_items())
    return Message(request.method.decode(), path, headers, body, len(data) - len(connection.trailing_data[0]))


def check_case(data: bytes, chance: random.Random) -> str:
    """Check all properties. Returns what the case was: accepted, refused or incomplete."""
    found = read_request([data])
    apart = read_request(split_bytes(data, chance))
    if not isinstance(found, Message):
        assert (found is None) == (apart is None) and not isinstance(apart, Message), (found, apart)
        return "incomplete" if found is None else "refused"
    assert apart == found, apart
    assert read_by_grammar(data) == found
    if b"0" * (H11_DIGITS - 3) not in data:
        coding = found.headers.get(b"transfer-encoding")
        headers = found.headers if coding is None else {**found.headers, b"transfer-encoding": coding.lower()}
        assert read_by_h11(data) == found._replace(headers=headers)  # h11 gives the coding in lower case
    return "accepted"


def check_cases(seed: int, count: int) -> Counter[str]:
    """Check `count` cases. Returns how many were accepted, refused and so on."""
    chance, kinds = random.Random(seed), Counter[str]()
    for number in range(count):
        data = build_case(chance)
        try:
            kinds[check_case(data, chance)] += 1
        except Exception as error:
            raise AssertionError(f"case {number} of seed {seed}: {data!r}") from error
    return kinds


if __name__ == "__main__":
    print(json.dumps(check_cases(int(sys.argv[1]), int(sys.argv[2]))))
