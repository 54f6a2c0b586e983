"""The one client for every engine: OpenAI's HTTP over a Unix socket or a URL.

Closing the connection is how work is cancelled: engines notice that of a stream at once, of a plain request some late
(ours never), so who asks decides which of the two it is (`serving.generation`).
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from threading import get_ident
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import msgspec

from archwright.errors import EngineError, ErrorLocation, UsageError
from archwright.http_client.connection_pool import (
    ConnectionBroken,
    ConnectionPool,
    HttpStatusError,
    ResponseSink,
    ServerAddress,
    create_tls_context,
)
from archwright.http_client.sse import EventParser, ServerSentEvent, too_large_error
from archwright.http_client.streaming_response import StreamingResponse

CONNECT_TIMEOUT_S = 2.0
BODY_LIMIT_BYTES = 64 << 20
RETRY_AFTER_LIMIT_S = 3_600  # whoever asks to be left alone for longer is not believed
# What carries our key to an engine; what is shorter is no secret.
KEY_HEADERS, KEY_MIN_CHARACTERS = ("authorization", "key"), 8
# What lives below /v1 on an OpenAI-compatible server; health and metrics live at its root.
API_PATHS = ("/chat/completions", "/completions", "/embeddings", "/models", "/responses", "/messages")

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_encode = msgspec.json.Encoder().encode
# What llama.cpp says, with a 500, to what its model cannot take.
_UNSUPPORTED_PATTERN = re.compile("(image|audio) input is not supported|unsupported tool", re.IGNORECASE)


class EngineRefused(EngineError):
    """The engine answered, and said no: its HTTP `status` and the decoded `body` (usually `{"error": {...}}`), and when
    it wants to be asked again, where it said so. `unable`: it is well, and cannot do what was asked."""

    def __init__(
        self, status: int, body: dict[str, Any], where: ErrorLocation, retry_after_s: int | None = None
    ) -> None:
        detail = body.get("error", body)
        text = detail.get("message") or detail.get("detail", "") if isinstance(detail, dict) else detail
        super().__init__(
            "AW-ENG-04",
            f"the engine refused with status {status}: {text}"[:500].rstrip(": "),
            where=where,
            hint="check the request, the model's name and the key",
        )
        self.status = status
        self.body = body
        self.retry_after_s = retry_after_s
        self.unable = status == HTTPStatus.NOT_IMPLEMENTED or (
            status == HTTPStatus.INTERNAL_SERVER_ERROR and _UNSUPPORTED_PATTERN.search(str(text)) is not None
        )


class EngineClient:
    """`address` is "unix:/path.sock" or an http(s) URL ending in /v1. Paths may be written with or without /v1.

    Connections belong to an event loop. Those to a URL are kept and used again; on a Unix socket every request has
    its own, since connecting is next to free there and llama.cpp drops the connection unannounced after each stream.
    There is no total timeout: the caller owns the deadline and cancels; only connecting is limited. `headers` are sent
    instead of the key, for a provider that wants it elsewhere. `model` is what generations call the model there, where
    its name differs from the caller's.
    """

    def __init__(
        self, address: str, key: str | None = None, headers: Mapping[str, str] | None = None, model: str = ""
    ) -> None:
        self.address = address
        self._model = model
        self._socket = address.removeprefix("unix:") if address.startswith("unix:") else None
        base = "http://engine/v1" if self._socket else address.rstrip("/")
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                "AW-USE-10",
                f"not an engine's address: {address!r}",
                hint="give a URL such as http://host:8000/v1, or unix:/path.sock",
            )
        self._base = base if base.endswith("/v1") else f"{base}/v1"
        self._root = self._base.removesuffix("/v1")
        self._parts = parts
        self.set_headers(headers if headers is not None else {"Authorization": f"Bearer {key}"} if key else {})
        self._origins: WeakKeyDictionary[asyncio.AbstractEventLoop, ConnectionPool] = WeakKeyDictionary()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._origin: ConnectionPool | None = None
        self._thread = 0

    def set_headers(self, headers: Mapping[str, str]) -> None:
        """These carry the key from the next request on."""
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._lines = (
            f"Host: {self._parts.netloc.rpartition('@')[2]}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
            f"Content-Type: application/json\r\n{more}"
        )
        self._heads: dict[tuple[str, str], bytes] = {}
        keys = (value.rpartition(" ")[2] for name, value in headers.items() if name.lower().endswith(KEY_HEADERS))
        self._keys = [key.encode() for key in keys if len(key) >= KEY_MIN_CHARACTERS]

    @property
    def model_override(self) -> dict[str, Any]:
        """The model's name there, where it is another."""
        return {"model": self._model} if self._model else {}

    @property
    def extra_fields(self) -> dict[str, Any]:
        """What a generation is asked beside the caller's wishes: to report on the reading of its prompt.

        llama.cpp looks for a closed connection once a second without a result, and any neighbour's result starts
        that second anew: a prompt nobody waits for would be read to its end. Reporting progress makes it write, and
        so notice, after each batch. The reports stay inside: no caller asked for them.
        """
        return {**self.model_override, "return_progress": True} if self._socket is not None else self.model_override

    def send_request(
        self, path: str, body: dict[str, Any], sink: ResponseSink, headers: Mapping[str, str] = NO_HEADERS
    ) -> Coroutine[Any, Any, None]:
        """POST `body`, with these headers too; `sink` is fed the reply as it arrives. Cancelled, it closes the
        connection. Names and values are the caller's to vouch for.

        Raises EngineRefused for a status of 300 or more, EngineError AW-ENG-01 when the engine cannot be reached,
        AW-ENG-02 when it breaks off, and what the sink raises.
        """
        return self._send_encoded(self._encode_request("POST", path, _encode(body), headers), sink)

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The decoded events until [DONE]. Closing the iterator, or cancelling its task, closes the connection.

        Raises what `ask` does, EngineRefused for an error event, AW-ENG-02 when the engine breaks off before [DONE],
        AW-ENG-03 when it speaks nonsense.
        """
        more = self.extra_fields
        hidden = "return_progress" in more and "return_progress" not in body
        if more:
            body = {**body, **more}
        pulled = StreamingResponse()
        task = asyncio.get_running_loop().create_task(self.send_request(path, body, pulled))
        pulled.attach_task(task)
        try:
            parser = EventParser()
            while (piece := await pulled.next_piece()) is not None:
                for event in parser.feed(piece):
                    if event.data == b"[DONE]":
                        pulled.done = True
                        return
                    message = self.decode_event(event)
                    if not (hidden and "prompt_progress" in message):
                        yield message
            raise self._broken_error("the stream ended without [DONE]")
        finally:
            await pulled.stop()

    async def post(self, path: str, body: dict[str, Any], headers: Mapping[str, str] = NO_HEADERS) -> dict[str, Any]:
        return self._decode_object(await self._read_body(self._encode_request("POST", path, _encode(body), headers)))

    async def get(self, path: str) -> dict[str, Any]:
        return self._decode_object(await self._read_body(self._encode_request("GET", path)))

    async def get_text(self, path: str) -> str:
        """A page that is not JSON, such as the engine's metrics."""
        return (await self._read_body(self._encode_request("GET", path))).decode("utf-8", "replace")

    async def healthy(self, path: str = "/health", timeout_s: float = 2.0) -> bool:
        """Whether GET `path` answers with a status below 300 in time; without a path, whether it is there."""
        try:
            async with asyncio.timeout(timeout_s):
                if path:
                    await self._read_body(self._encode_request("GET", path))
                else:
                    await self._probe_connection()
        except (EngineError, OSError, UnicodeError):  # TimeoutError is one; a name that can be no host's
            return False
        return True

    async def _probe_connection(self) -> None:
        if self._socket is not None:
            _reader, writer = await asyncio.open_unix_connection(self._socket)
        else:
            default = 443 if self._parts.scheme == "https" else 80
            _reader, writer = await asyncio.open_connection(self._parts.hostname, self._parts.port or default)
        writer.close()
        await writer.wait_closed()

    async def close(self) -> None:
        """Close this event loop's connections; the client may be used again afterwards."""
        origin = self._origins.pop(asyncio.get_running_loop(), None)
        self._loop = self._origin = None
        if origin is not None:
            await origin.close()

    def decode_event(self, event: ServerSentEvent) -> dict[str, Any]:
        """An event as an object. Raises EngineRefused for an error, EngineError AW-ENG-03 for anything else."""
        message = self._decode_object(event.data)
        if event.kind == "error" or "error" in message:
            raise self.reported_error(message.get("error", message))
        return message

    def reported_error(self, detail: object) -> EngineRefused:
        """The error that an event of a stream reports."""
        code = detail.get("code") if isinstance(detail, dict) else None
        status = code if isinstance(code, int) and 400 <= code <= 599 else 500
        said = msgspec.json.decode(self._redact_keys(_encode(detail)))
        return EngineRefused(status, {"error": said}, ErrorLocation(self.address))

    def _redact_keys(self, said: bytes) -> bytes:
        """Some quote the key that they refuse, proxies all that they were sent: whoever asked is told what was said."""
        for key in self._keys:
            said = said.replace(key, b"...")
        return said

    def invalid_reply_error(self, error: object) -> EngineError:
        return EngineError(
            "AW-ENG-03",
            f"the engine's reply is not a JSON object: {error}",
            where=ErrorLocation(self.address),
            hint="check that the address is an OpenAI-compatible endpoint ending in /v1",
        )

    async def _read_body(self, data: bytes) -> bytes:
        whole = _BodyBuffer()
        await self._send_encoded(data, whole)
        return bytes(whole.data)

    async def _send_encoded(self, data: bytes, sink: ResponseSink) -> None:
        loop, origin = self._loop, self._origin
        # A thread runs one loop at a time, so this is it; asking asyncio for it would be a system call per request.
        if origin is None or loop is None or self._thread != get_ident() or not loop.is_running():
            origin = self._pool_of_loop(asyncio.get_running_loop())
        try:
            await origin.send_request(data, sink)
        except HttpStatusError as error:
            again_s = _parse_retry_after(error.retry_after)
            raise EngineRefused(
                error.status, _decode_refusal(self._redact_keys(error.body)), ErrorLocation(self.address), again_s
            ) from error
        except RecursionError as error:
            raise self.invalid_reply_error(error) from error
        except ConnectionBroken as error:
            raise self._broken_error(_describe_error(error)) from error
        except (OSError, UnicodeError) as error:  # TimeoutError and ssl.SSLError are such; a name that can be no host's
            raise self._unreachable_error(error) from error

    def _pool_of_loop(self, loop: asyncio.AbstractEventLoop) -> ConnectionPool:
        """The connections of this event loop."""
        origin = self._origins.get(loop)
        if origin is None:
            tls: ssl.SSLContext | None = None
            port = self._parts.port or 80
            if self._parts.scheme == "https":
                tls, port = create_tls_context(), self._parts.port or 443
            address = ServerAddress(self._socket, self._parts.hostname or "", port, tls)
            origin = self._origins[loop] = ConnectionPool(address, CONNECT_TIMEOUT_S, keeps=self._socket is None)
        self._loop, self._origin, self._thread = loop, origin, get_ident()
        return origin

    def _encode_request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = NO_HEADERS
    ) -> bytes:
        head = self._heads.get((method, path))
        if head is None:
            target = urlsplit(self._url(path)).path
            head = f"{method} {target} HTTP/1.1\r\n{self._lines}".encode()
            self._heads[method, path] = head
        if method == "GET":
            return head + b"\r\n"
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() if headers else b""
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (head, more, len(body), body)

    def _url(self, path: str) -> str:
        tail = "/" + path.removeprefix("/").removeprefix("v1/")
        below_v1 = path.removeprefix("/").startswith("v1/") or tail in API_PATHS
        return (self._base if below_v1 else self._root) + tail

    def _decode_object(self, data: bytes) -> dict[str, Any]:
        try:
            return msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.invalid_reply_error(error) from error

    def _unreachable_error(self, error: Exception) -> EngineError:
        return EngineError(
            "AW-ENG-01",
            f"the engine cannot be reached: {_describe_error(error)}",
            where=ErrorLocation(self.address),
            hint="see `archwright status`, or check the address",
        )

    def _broken_error(self, reason: str) -> EngineError:
        return EngineError(
            "AW-ENG-02",
            f"the engine broke off: {reason}",
            where=ErrorLocation(self.address),
            hint="send the request again; the engine's log says why",
        )


class _BodyBuffer(ResponseSink):
    def __init__(self) -> None:
        self.data = bytearray()

    def feed(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > BODY_LIMIT_BYTES:
            raise too_large_error(BODY_LIMIT_BYTES)


def _parse_retry_after(said: bytes) -> int | None:
    """Seconds of a Retry-After header, in either of its forms: 1 to AGAIN_LIMIT_S. None for nothing and nonsense."""
    text = said.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        seconds = int(text[:12])
    else:
        try:
            seconds = math.ceil(parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, OverflowError):
            return None
    return min(max(1, seconds), RETRY_AFTER_LIMIT_S)


def _describe_error(error: Exception) -> str:
    return str(error) or type(error).__name__


def _decode_refusal(data: bytes) -> dict[str, Any]:
    """What a refusal says; Gemini's OpenAI endpoint puts it into a list."""
    try:
        found = msgspec.json.decode(data, type=dict[str, Any] | list[dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"error": {"message": data[:500].decode("utf-8", "replace")}}
    return found if isinstance(found, dict) else found[0] if found else {}
