"""Blocking HTTP requests of commands, checks and threads: each has a connection of its own.

An answer with any status is a reply; no answer is NoReply. Neither a proxy nor a redirect is followed by default, since
both would show a key to another host.
Design: the standard library's client. A few requests a minute need no pool, and `client` serves the event loop.
"""

import http.client
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from email.message import Message
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

BODY_LIMIT_BYTES = 4 << 20
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class NoReply(ConnectionError):
    """The server did not answer, or its answer ended early; the text says why."""


class CompleteReply(NamedTuple):
    """A complete answer; `is_cut`: its body is longer than the limit, and `body` holds the beginning."""

    status: int
    headers: Message
    body: bytes
    is_cut: bool


class StreamedReply:
    """An answer that is read while it comes; close it."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.status = int(answer.status)
        self.headers: Message = answer.headers

    def read(self, limit_bytes: int = BODY_LIMIT_BYTES) -> bytes:
        """Return at most so much of the body. Raises NoReply if the connection breaks."""
        try:
            data: bytes = self._answer.read(limit_bytes)
        except (OSError, http.client.HTTPException) as error:
            raise _no_reply(error) from error
        if len(data) < limit_bytes:
            self._check_end()
        return data

    def __iter__(self) -> Iterator[bytes]:
        """Yield the lines. Raises NoReply if the connection breaks."""
        try:
            yield from self._answer
        except (OSError, http.client.HTTPException) as error:
            raise _no_reply(error) from error
        self._check_end()

    def _check_end(self) -> None:
        """The library returns a body that is shorter than its stated length without an error."""
        if self._answer.length:
            raise NoReply("the body ended early")

    def close(self) -> None:
        self._answer.close()

    def __enter__(self) -> "StreamedReply":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BlockingClient:
    """Sends requests with a timeout per step.

    `tls`: None for the authorities of the system. `unix_socket`: connects there, whatever the URL names.
    `uses_proxy`: that of the environment. `follows_redirects`: with no header but those of the library.
    """

    def __init__(
        self,
        timeout_s: float,
        *,
        tls: ssl.SSLContext | None = None,
        unix_socket: Path | None = None,
        uses_proxy: bool = False,
        follows_redirects: bool = False,
    ) -> None:
        self._timeout_s = timeout_s
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=tls)]
        if unix_socket is not None:
            handlers.append(_UnixHandler(unix_socket))
        if not uses_proxy:
            handlers.append(urllib.request.ProxyHandler({}))
        if not follows_redirects:
            handlers.append(_RedirectRefusal())
        self._opener = urllib.request.build_opener(*handlers)

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        limit_bytes: int = BODY_LIMIT_BYTES,
    ) -> CompleteReply:
        """Return the answer. Raises NoReply."""
        with self.open(method, url, headers=headers, body=body) as reply:
            data = reply.read(limit_bytes + 1)
            return CompleteReply(reply.status, reply.headers, data[:limit_bytes], len(data) > limit_bytes)

    def open(
        self, method: str, url: str, *, headers: Mapping[str, str] = NO_HEADERS, body: bytes | None = None
    ) -> StreamedReply:
        """Return the answer as soon as its head is there. Raises NoReply."""
        try:
            request = urllib.request.Request(url, data=body, method=method)
            for name, value in headers.items():
                request.add_unredirected_header(name, value)
            return StreamedReply(self._opener.open(request, timeout=self._timeout_s))
        except urllib.error.HTTPError as refusal:
            return StreamedReply(refusal)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _no_reply(error) from error


class _RedirectRefusal(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Refuse, so that the redirect is the answer."""


class _UnixHandler(urllib.request.HTTPHandler):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        def connect(host: str, **options: Any) -> http.client.HTTPConnection:
            return _UnixConnection(self._path, host, **options)

        return self.do_open(connect, request)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _no_reply(error: Exception) -> NoReply:
    reason = getattr(error, "reason", None) or error
    return NoReply(str(reason) or type(error).__name__)
