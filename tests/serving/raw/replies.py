"""Reads what a server said, strictly: every byte must belong to a well-formed reply."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [A-Za-z][A-Za-z \-]*")
FIELD = re.compile(rb"([a-z0-9\-]+): ([!-~][ -~]*)?")


class Reply(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes


def parsed(said: bytes, heads: tuple[int, ...] = ()) -> list[Reply]:
    """The replies in `said`; those with an index in `heads` are to HEAD and have no body."""
    found: list[Reply] = []
    while said:
        top, end, said = said.partition(b"\r\n\r\n")
        assert end, f"half a head: {top!r}"
        first, *lines = top.split(b"\r\n")
        status = STATUS.fullmatch(first)
        assert status is not None, first
        fields = [FIELD.fullmatch(line) for line in lines]
        assert all(fields), lines
        headers = {field.group(1): field.group(2) or b"" for field in fields if field}
        assert len(headers) == len(lines), f"a header twice: {lines}"
        code = int(status.group(1))
        if code == 100:
            assert not headers
            body = b""
        elif len([r for r in found if r.status != 100]) in heads:
            body = b""
        else:
            body, said = _body(headers, said)
            if code >= 400:
                assert set(json.loads(body)["error"]) == {"message", "type", "code", "param"}
        assert code == 100 or headers[b"x-request-id"].startswith(b"aw-")
        found.append(Reply(code, headers, body))
    return found


def _body(headers: dict[bytes, bytes], said: bytes) -> tuple[bytes, bytes]:
    """The body, and what is behind it."""
    if b"transfer-encoding" in headers:
        assert headers[b"transfer-encoding"] == b"chunked" and b"content-length" not in headers
        body = b""
        while True:
            size, _, said = said.partition(b"\r\n")
            count = int(size, 16)
            assert said[count : count + 2] == b"\r\n", "a chunk is not whole"
            body, said = body + said[:count], said[count + 2 :]
            if not count:
                return body, said
    length = int(headers[b"content-length"])
    assert len(said) >= length, "half a body"
    return said[:length], said[length:]
