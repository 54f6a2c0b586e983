"""A host of images on a real socket with TLS, which answers each path as written here."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

from tests.serving.conftest import certified

NAME = "images.example.org"
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 9
LARGE = 8 << 20
Send = Callable[[bytes], None]


def whole(body: bytes, kind: str = "image/png", status: str = "200 OK", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{more}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def chunked(size: int) -> bytes:
    piece = b"10000\r\n" + (PNG + bytes(65_536 - len(PNG))) + b"\r\n"
    return b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n" + piece * (size >> 16)


OPEN_END = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n"
REPLIES: dict[str, bytes] = {
    "/x.png": whole(PNG, "image/png; charset=binary"),
    "/x.jpg": whole(b"\xff\xd8\xff\xe0rest", "IMAGE/JPEG"),
    "/x.gif": whole(b"GIF89a..", "image/gif"),
    "/x.webp": whole(b"RIFF....WEBPVP8 ", "image/webp"),
    "/chunked": chunked(65_536) + b"0\r\n\r\n",
    "/open-end": OPEN_END + PNG,
    # None of these is an image that the gateway takes.
    "/missing": whole(PNG, status="404 Not Found"),
    "/moved": whole(PNG, status="302 Found", more="location: https://images.example.org/x.png\r\n"),
    "/upgrade": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n" + PNG,
    "/html": whole(b"<html>" * 9, "text/html"),
    "/html-as-png": whole(b"<html>" * 9),
    "/png-as-gif": whole(PNG, "image/gif"),
    "/wave-as-webp": whole(b"RIFF....WAVE", "image/webp"),
    "/svg": whole(b"<svg/>", "image/svg+xml"),
    "/untyped": b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n" + PNG[:8],
    "/empty": whole(b""),
    "/none": b"HTTP/1.1 204 No Content\r\ncontent-type: image/png\r\n\r\n",
    "/gzip": whole(b"\x1f\x8b" + PNG, more="content-encoding: gzip\r\n"),
    "/garbage": b"220 mail.example.org ESMTP\r\n" * 9,
    "/silent-end": b"",
    "/short": whole(PNG).replace(b"length: 62", b"length: 99"),
    "/two-lengths": whole(PNG, more="content-length: 5\r\n"),
    "/long-head": b"HTTP/1.1 200 OK\r\n" + b"x-y: z\r\n" * 200_000 + b"\r\n",
    "/continues": b"HTTP/1.1 100 Continue\r\n\r\n" * 200_000,
    "/large": whole(PNG + bytes(LARGE)),
    "/large-chunked": chunked(LARGE + 65_536),
    "/large-open-end": OPEN_END + PNG + bytes(LARGE),
}
TAKEN = ("/x.png", "/x.jpg", "/x.gif", "/x.webp", "/chunked", "/open-end")
TOO_LARGE = ("/large", "/large-chunked", "/large-open-end")
NO_IMAGE = ("/html", "/html-as-png", "/png-as-gif", "/wave-as-webp", "/svg", "/untyped", "/empty", "/none", "/gzip")
NOT_SENT = tuple(path for path in REPLIES if path not in (*TAKEN, *TOO_LARGE, *NO_IMAGE))


@dataclass
class ImageHost:
    """`asked`: the heads of the requests; `names`: the names in their TLS handshakes."""

    certificate: str
    port: int = 0
    asked: list[str] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    replies: dict[str, bytes] = field(default_factory=lambda: dict(REPLIES))

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.port}"

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate)


class Server(ThreadingTCPServer):
    daemon_threads = True
    host: ImageHost
    tls: ssl.SSLContext


class Handler(BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        # The gateway may leave early.
        with suppress(OSError), self.server.tls.wrap_socket(self.request, server_side=True) as connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65_536) or b"\r\n\r\n"
            self.server.host.asked.append(head.decode())
            path = head.split(b" ")[1].decode()
            if path == "/stalls":
                connection.sendall(OPEN_END)
                connection.recv(1)
            elif path == "/drips":
                self.drip(connection)
            else:
                connection.sendall(self.server.host.replies[path])

    def drip(self, connection: socket.socket) -> None:
        connection.sendall(OPEN_END + PNG)
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)


@contextmanager
def serving_images(folder: Path, name: str = NAME) -> Iterator[ImageHost]:
    """Serve with a certificate for `name`."""
    certificate, key = certified(folder, f"DNS:{name}")
    host = ImageHost(certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    tls.sni_callback = lambda _socket, sent, _context: host.names.append(sent)
    server = Server(("127.0.0.1", 0), Handler)
    server.host, server.tls, host.port = host, tls, server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
