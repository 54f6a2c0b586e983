"""A bucket of S3 with object lock as a place of audit records.

Until its date no user can delete an object, the owner of the bucket included. An object holds one batch of lines. Its
name has the number of the last record and the SHA-256 of the content. Each request to store an object asks for the
lock, and S3 refuses it for a bucket without object lock. A user who may store objects can hide one behind a newer
version or a mark of deletion. So all versions are read, and only content that its name confirms counts.
"""

import base64
import hashlib
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import parse_qs, quote, urlencode

import msgspec

from archwright.access.audit_delivery.delivery_place import DeliveryBatch
from archwright.errors import ErrorLocation, StoreError
from archwright.http_client.blocking_client import BlockingClient, CompleteReply, NoReply
from archwright.http_client.s3_signature import S3Credentials, SignedRequest, sign_s3_request
from archwright.settings import S3Access, read_s3_access

SCHEME = "s3://"
LOCK_DAYS = 365
WINDOW_S = 60.0
TIMEOUT_S = 20.0
RENEW_EVERY_S = 300.0
OBJECT_LIMIT_BYTES = 64 << 20
SUFFIX = ".jsonl"
S3_HINT = "check bucket, object lock, AWS_REGION, AWS_ENDPOINT_URL and the credentials"


class BucketAddress(NamedTuple):
    """s3://BUCKET/PREFIX?lock_days=N. `prefix` ends with a slash unless it is empty."""

    bucket: str
    prefix: str
    lock_days: int


def parse_address(address: str) -> BucketAddress:
    location, _, query = address.removeprefix(SCHEME).partition("?")
    bucket, _, prefix = location.partition("/")
    days = parse_qs(query).get("lock_days", [str(LOCK_DAYS)])[0]
    folder = prefix.strip("/")
    return BucketAddress(bucket, f"{folder}/" if folder else "", int(days))


class _ContainerCredentials(msgspec.Struct, rename="pascal"):
    """The answer of the platform of containers; `expiration`: as in ISO 8601."""

    access_key_id: str
    secret_access_key: str
    token: str = ""


class ObjectLockBucket:
    """A place of `audit_delivery`; it collects the records of WINDOW_S for an object."""

    window_s = WINDOW_S

    def __init__(self, address: str, access: S3Access | None = None) -> None:
        self._address = address
        self._target = parse_address(address)
        self._access = access or read_s3_access()
        self._client = BlockingClient(TIMEOUT_S)
        self._credentials: S3Credentials | None = None
        self._renew_at = 0.0

    def deliver(self, batch: DeliveryBatch) -> None:
        """Store an object. Raises StoreError AW-STO-31."""
        body = b"\n".join((*batch.lines, b""))
        digest = hashlib.sha256(body).hexdigest()
        name = f"{self._target.prefix}{batch.store}/{batch.last:012}-{digest}{SUFFIX}"
        locked_until = time.gmtime(time.time() + self._target.lock_days * 86_400)
        # S3 demands this digest of an object with a lock.
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        headers = {
            "content-type": "application/x-ndjson",
            "content-md5": base64.b64encode(md5).decode(),
            "x-amz-object-lock-mode": "COMPLIANCE",
            "x-amz-object-lock-retain-until-date": time.strftime("%Y-%m-%dT%H:%M:%SZ", locked_until),
        }
        self._send("PUT", name, headers=headers, body=body)

    def read_lines(self) -> Iterator[bytes]:
        """Yield the lines of all objects. Raises StoreError AW-STO-31."""
        confirmed: set[str] = set()
        for name, version in self._list_versions():
            if name in confirmed:
                continue
            body = self._send("GET", name, query={"versionId": version}).body
            if name.endswith(f"-{hashlib.sha256(body).hexdigest()}{SUFFIX}"):
                confirmed.add(name)
                yield from body.splitlines()

    def _list_versions(self) -> Iterator[tuple[str, str]]:
        """Yield name and version of each object, in the order of names."""
        query = {"versions": "", "prefix": self._target.prefix}
        while True:
            reply = self._send("GET", "", query=query)
            try:
                listing = ElementTree.fromstring(reply.body)
            except ElementTree.ParseError as error:
                raise self._refusal(f"the list of versions is no XML: {error}") from error
            for entry in listing.iterfind("{*}Version"):
                yield entry.findtext("{*}Key", ""), entry.findtext("{*}VersionId", "")
            if listing.findtext("{*}IsTruncated") != "true":
                return
            query["key-marker"] = listing.findtext("{*}NextKeyMarker", "")
            query["version-id-marker"] = listing.findtext("{*}NextVersionIdMarker", "")

    def _send(
        self,
        method: str,
        name: str,
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> CompleteReply:
        root = f"{self._access.endpoint}/{self._target.bucket}"
        path = f"/{quote(name, safe='/-_.~')}" if name else ""
        url = f"{root}{path}?{urlencode(query)}" if query else f"{root}{path}"
        request = SignedRequest(method, url, headers or {}, body)
        try:
            credentials = self._load_credentials()
            signed = sign_s3_request(request, credentials, region=self._access.region, now=time.time())
            reply = self._client.send(method, url, headers=signed, body=body or None, limit_bytes=OBJECT_LIMIT_BYTES)
        except NoReply as error:
            raise self._refusal(str(error)) from error
        if reply.status >= 300:
            raise self._refusal(_describe_reply(reply))
        return reply

    def _load_credentials(self) -> S3Credentials:
        """Return the keys of the environment, or those that the platform of containers gives."""
        access = self._access
        if access.access_key:
            return S3Credentials(access.access_key, access.secret_key, access.session_token)
        if self._credentials is None or time.monotonic() >= self._renew_at:
            if not access.credentials_url:
                raise self._refusal("there are no credentials")
            headers = {"authorization": access.read_token()}
            reply = self._client.send("GET", access.credentials_url, headers=headers)
            if reply.status != 200:
                raise self._refusal(f"the platform gives no credentials: status {reply.status}")
            answer = msgspec.json.decode(reply.body, type=_ContainerCredentials)
            self._credentials = S3Credentials(answer.access_key_id, answer.secret_access_key, answer.token)
            self._renew_at = time.monotonic() + RENEW_EVERY_S
        return self._credentials

    def _refusal(self, reason: str) -> StoreError:
        message = f"S3 refused: {' '.join(reason.split())[:300]}"
        return StoreError("AW-STO-31", message, where=ErrorLocation(self._address), hint=S3_HINT)


def _describe_reply(reply: CompleteReply) -> str:
    """Return code and message of the answer."""
    try:
        answer = ElementTree.fromstring(reply.body)
    except ElementTree.ParseError:
        return f"status {reply.status}"
    return f"{answer.findtext('{*}Code', '')} {answer.findtext('{*}Message', '')}".strip() or f"status {reply.status}"
