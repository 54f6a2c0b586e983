"""Fetch the images that a request names by URL, so that no engine connects to an address of a caller's choice.

Design: the name is resolved once, every address must be public, and the connection goes to the checked address with the
name in the certificate check. A second resolution cannot lead elsewhere. Redirects are not followed. The request has no
header of the caller. All failures of the network have one message, so a caller learns nothing about hosts and ports.
"""

import asyncio
import base64
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

from archwright.http_client.connection_pool import (
    ConnectionPool,
    HttpStatusError,
    ResponseSink,
    ServerAddress,
    create_tls_context,
)
from archwright.journal import Journal
from archwright.policy.image_hosts import ImageUrl, is_public_address
from archwright.serving.http.errors import ApiError, bad_request
from archwright.serving.http.http_response import HttpResponse
from archwright.serving.requests.multimodal import ImageReference
from archwright.serving.requests.tenant_work_queue import TenantWorkQueue

IMAGE_BYTES = 8 << 20
FETCH_TIMEOUT_S = 5.0
# Of a process. More than the images of 8 MiB that one tenant's quota of bytes allows, so no tenant takes all; of many
# tenants, each takes a turn.
PARALLEL_FETCHES = 64
_SIGNATURES = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def resolve_host(host: str, port: int) -> list[str]:
    """Return the addresses of a name. Waits outside the event loop's thread. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class ImageFetcher:
    """Fetches images from allowed hosts. One per process; `tls` None: the system's certificate authorities."""

    def __init__(
        self,
        journal: Journal,
        resolve: Resolve = resolve_host,
        is_permitted: Callable[[str], bool] = is_public_address,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = FETCH_TIMEOUT_S,
    ) -> None:
        self._journal, self._resolve, self._is_permitted, self._tls = journal, resolve, is_permitted, tls
        self._timeout_s = timeout_s
        self.queue = TenantWorkQueue(PARALLEL_FETCHES)

    async def insert_images(self, images: Sequence[ImageReference], response: HttpResponse, tenant: str) -> None:
        """Fetch the images and put their data in place of the URLs. Raises ApiError 400, and 429 for too many bytes."""
        held = len(images) * IMAGE_BYTES
        response.hold_bytes(tenant, held)
        tasks = [asyncio.create_task(self._fetch_image(image, tenant)) for image in images]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        response.hold_bytes(tenant, sum(len(data) for _kind, data in found) - held)
        for image, (kind, data) in zip(images, found, strict=True):
            image.insert(kind, data)

    async def _fetch_image(self, image: ImageReference, tenant: str) -> tuple[str, str]:
        buffer = _ImageBuffer(image.at)
        try:
            async with self.queue.hold_place(tenant), asyncio.timeout(self._timeout_s):
                await self._request_image(image.url, buffer)
        except (OSError, HttpStatusError, UnicodeError) as error:  # TimeoutError and ssl.SSLError are OSErrors
            self._journal.info("image not fetched", host=image.url.host, reason=type(error).__name__)
            raise _not_fetched(image.at, "the host did not send it") from error
        return buffer.read_image()

    async def _request_image(self, url: ImageUrl, buffer: "_ImageBuffer") -> None:
        scheme, host, port, target = url
        addresses = await self._resolve(host, port)
        if not addresses or not all(map(self._is_permitted, addresses)):
            raise PermissionError("an address of the host is not public")
        tls = (self._tls or create_tls_context()) if scheme == "https" else None
        pool = ConnectionPool(ServerAddress(None, addresses[0], port, tls, host), self._timeout_s, keeps=False)
        named = host if port == (443 if tls else 80) else f"{host}:{port}"
        accepted = ", ".join(_SIGNATURES)
        head = f"GET {target} HTTP/1.1\r\nHost: {named}\r\nUser-Agent: archwright\r\nAccept: {accepted}\r\n"
        await pool.send_request(f"{head}Accept-Encoding: identity\r\nConnection: close\r\n\r\n".encode(), buffer)


class _ImageBuffer(ResponseSink):
    """The body of one image, at most IMAGE_BYTES; `at`: the path of its URL in the request."""

    def __init__(self, at: str) -> None:
        self._at = at
        self._data = bytearray()
        self._kind = ""

    def begin(self, kind: bytes) -> None:
        self._kind = kind.decode("latin-1").partition(";")[0].strip().lower()

    def feed(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > IMAGE_BYTES:
            raise _not_fetched(self._at, f"it is larger than {IMAGE_BYTES >> 20} MiB")

    def read_image(self) -> tuple[str, str]:
        """Return type and base64 data. Raises ApiError 400 unless header and bytes say the same supported type."""
        data = self._data
        fits = data.startswith(_SIGNATURES.get(self._kind, ())) and (data[8:12] == b"WEBP" or data[:4] != b"RIFF")
        if not fits:
            raise _not_fetched(self._at, f"its type is not one of {', '.join(_SIGNATURES)}")
        return self._kind, base64.b64encode(data).decode()


def _not_fetched(at: str, reason: str) -> ApiError:
    message = f"{at!r}: the image could not be fetched: {reason}. Send the image as base64 data."
    return bad_request(message, at, "image_not_fetched")
