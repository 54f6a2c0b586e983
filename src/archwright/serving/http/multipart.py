"""Read and write multipart/form-data (RFC 7578), strictly and with bounds.

Design: the standard library's email parser reads only the headers of the parts, because it would decode a whole upload
as text. Parts are found by one search for the boundary.
"""

import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from email import message_from_string
from email.message import Message
from typing import Any, NamedTuple

from archwright.serving.http.errors import ApiError, bad_request

FORM_TYPE = "multipart/form-data"
MAX_PARTS = 64
MAX_HEADER_BYTES = 4_096  # of one part
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PLAIN_ENCODINGS = ("binary", "7bit", "8bit")
# Escapes of the HTML standard for names in a header.
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})


class FormPart(NamedTuple):
    """One field of a form. `filename` is empty for a field that is no file."""

    name: str
    filename: str
    content_type: str
    data: bytes


def parse_form(body: bytes, content_type: str) -> tuple[dict[str, Any], FormPart | None]:
    """Return the texts by name, and the part `file`, whose value is its data. A name that ends in [] has a list.

    Raises ApiError 400, also for another name that occurs twice."""
    fields: dict[str, Any] = {}
    file: FormPart | None = None
    for part in read_parts(body, content_type):
        if part.name.endswith("[]"):
            fields.setdefault(part.name, []).append(part.data.decode("utf-8", "replace"))
        elif part.name in fields:
            raise _malformed(f"the field {part.name[:80]!r} occurs twice")
        elif part.name == "file":
            file, fields["file"] = part, part.data
        else:
            fields[part.name] = part.data.decode("utf-8", "replace")
    return fields, file


def read_parts(body: bytes, content_type: str) -> list[FormPart]:
    """Return all parts in order. Raises ApiError 400 for a body that is not a complete form."""
    described, boundary = Message(), ""
    with suppress(TypeError, ValueError):  # of parameters that the parser does not expect
        described["content-type"] = content_type
        boundary = described.get_boundary("")
    if described.get_content_type() != FORM_TYPE or not _BOUNDARY.fullmatch(boundary):
        raise bad_request(f"the content type must be {FORM_TYPE} with a boundary")
    mark = b"--" + boundary.encode()
    if not body.startswith(mark + b"\r\n"):
        raise _malformed("it does not begin with its boundary")
    parts: list[FormPart] = []
    delimiter, begin = b"\r\n" + mark, len(mark) + 2
    while True:
        end = body.find(delimiter, begin)
        if end < 0:
            raise _malformed("its last boundary is missing")
        if len(parts) == MAX_PARTS:
            raise _malformed(f"it has more than {MAX_PARTS} parts")
        parts.append(_read_part(body, begin, end))
        begin = end + len(delimiter) + 2
        after = body[begin - 2 : begin]
        if after == b"--" and body[begin:] in (b"", b"\r\n"):
            return parts
        if after != b"\r\n":
            raise _malformed("a boundary is not a line of its own")


def _read_part(body: bytes, begin: int, end: int) -> FormPart:
    headers_end = body.find(b"\r\n\r\n", begin, min(end, begin + MAX_HEADER_BYTES))
    if headers_end < 0:
        raise _malformed(f"a part has no headers, or more than {MAX_HEADER_BYTES} bytes of them")
    try:
        headers = message_from_string(body[begin : headers_end + 4].decode())
        name, filename = headers.get_param("name", header="content-disposition"), headers.get_filename("")
        filename.encode()
    except (TypeError, ValueError):
        raise _malformed("the headers of a part are not UTF-8, or have invalid parameters") from None
    encoding = str(headers.get("content-transfer-encoding", "binary")).lower()
    if headers.defects or headers.get_content_disposition() != "form-data" or not isinstance(name, str) or not name:
        raise _malformed("a part lacks the header content-disposition with form-data and a name")
    if encoding not in _PLAIN_ENCODINGS:
        raise _malformed(f"the encoding {encoding[:40]!r} of a part is not supported")
    return FormPart(name, filename, headers.get_content_type(), body[headers_end + 4 : end])


def encode_multipart(parts: Iterable[FormPart]) -> tuple[bytes, str]:
    """Return a form and its content type. The random boundary occurs in no part."""
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    for part in parts:
        file = f'; filename="{part.filename.translate(_ESCAPES)}"' if part.filename else ""
        kind = f"\r\ncontent-type: {part.content_type}" if part.filename else ""
        named = f'content-disposition: form-data; name="{part.name.translate(_ESCAPES)}"{file}{kind}'
        pieces += (f"--{boundary}\r\n{named}\r\n\r\n".encode(), part.data, b"\r\n")
    return b"".join((*pieces, f"--{boundary}--\r\n".encode())), f"{FORM_TYPE}; boundary={boundary}"


def _malformed(problem: str) -> ApiError:
    return bad_request(f"the body is not a valid form: {problem}", code="invalid_multipart")
