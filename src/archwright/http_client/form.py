"""Write multipart/form-data (RFC 7578)."""

import secrets
from collections.abc import Iterable
from typing import NamedTuple

FORM_TYPE = "multipart/form-data"
# Escapes of the HTML standard for names in a header.
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})


class FormPart(NamedTuple):
    """One field of a form. `filename` is empty for a field that is no file."""

    name: str
    filename: str
    content_type: str
    data: bytes


def encode_form(parts: Iterable[FormPart]) -> tuple[bytes, str]:
    """Return a form and its content type. The random boundary occurs in no part."""
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    for part in parts:
        file = f'; filename="{part.filename.translate(_ESCAPES)}"' if part.filename else ""
        kind = f"\r\ncontent-type: {part.content_type}" if part.filename else ""
        named = f'content-disposition: form-data; name="{part.name.translate(_ESCAPES)}"{file}{kind}'
        pieces += (f"--{boundary}\r\n{named}\r\n\r\n".encode(), part.data, b"\r\n")
    return b"".join((*pieces, f"--{boundary}--\r\n".encode())), f"{FORM_TYPE}; boundary={boundary}"
