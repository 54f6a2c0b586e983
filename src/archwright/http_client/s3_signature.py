"""Signature version 4, with which requests to S3 and to servers with its interface are signed.

Design: by hand, since the client of the lake sends no headers of object lock and lists no versions
(docs/decisions/051-object-lock.md). The tests hold it to the published examples.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

ALGORITHM = "AWS4-HMAC-SHA256"
_TERMINATOR = "aws4_request"


class S3Credentials(NamedTuple):
    """A key that signs; `session_token` of temporary credentials, else empty."""

    access_key: str
    secret_key: str
    session_token: str = ""


class SignedRequest(NamedTuple):
    """What is signed. `url`: its path is escaped already; `headers` need no host."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


def sign_s3_request(request: SignedRequest, credentials: S3Credentials, *, region: str, now: float) -> dict[str, str]:
    """Return the headers of the request with its signature; `now`: seconds since the epoch."""
    parts = urlsplit(request.url)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    body_digest = hashlib.sha256(request.body).hexdigest()
    headers = {name.lower(): value.strip() for name, value in request.headers.items()}
    headers |= {"host": parts.netloc, "x-amz-content-sha256": body_digest, "x-amz-date": stamp}
    if credentials.session_token:
        headers["x-amz-security-token"] = credentials.session_token

    ordered = sorted(headers.items())
    signed_names = ";".join(name for name, _value in ordered)
    header_lines = "".join(f"{name}:{value}\n" for name, value in ordered)
    query = _encode_query(parts.query)
    canonical = "\n".join((request.method, parts.path or "/", query, header_lines, signed_names, body_digest))

    scope = f"{stamp[:8]}/{region}/s3/{_TERMINATOR}"
    text = "\n".join((ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    signature = hmac.digest(_derive_key(credentials, stamp[:8], region), text.encode(), "sha256").hex()
    credential = f"Credential={credentials.access_key}/{scope}"
    headers["authorization"] = f"{ALGORITHM} {credential},SignedHeaders={signed_names},Signature={signature}"
    return headers


def _encode_query(query: str) -> str:
    pairs: list[str] = []
    for name, value in sorted(parse_qsl(query, keep_blank_values=True)):
        pairs.append(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}")
    return "&".join(pairs)


def _derive_key(credentials: S3Credentials, day: str, region: str) -> bytes:
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (day, region, "s3", _TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
