"""HTTP client for all engines: OpenAI's API over a Unix socket or a URL.

Closing the connection cancels the work. An engine notices it at once during a stream, but late during a plain request,
and our own engines never do. So the caller chooses between stream and plain request.
Design: an own client instead of a library, because the client runs for every request of the gateway: it encodes the
headers once per path, writes one buffer per request and passes reads to a sink, which saves CPU per request.
"""

import asyncio
import math
import re
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
    InvalidHttpReply,
    ResponseSink,
    ServerAddress,
    create_tls_context,
)
from archwright.http_client.json_constants import replace_constants
from archwright.http_client.sse import EventParser, ServerSentEvent, too_large_error
from archwright.http_client.streaming_response import StreamingResponse

CONNECT_TIMEOUT_S = 2.0
BODY_LIMIT_BYTES = 64 << 20
RETRY_AFTER_LIMIT_S = 3_600  # upper bound of a plausible wait
# Name suffixes of headers with our key. Values below the minimum length are not treated as secrets.
KEY_HEADERS, KEY_MIN_CHARACTERS = ("authorization", "key"), 8
# Paths under /v1 of an OpenAI-compatible server. Health and metrics are at the server's root.
API_PATHS = (
    *("/chat/completions", "/completions", "/embeddings", "/rerank", "/audio/transcriptions"),
    *("/models", "/responses", "/messages"),
)

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
# llama.cpp's message with status 500 for input that the model does not support.
_UNSUPPORTED_PATTERN = re.compile("(image|audio) input is not supported|unsupported tool", re.IGNORECASE)


class EngineRefused(EngineError):
    """An engine rejected a request. `body`: its decoded error, usually `{"error": {...}}`.

    `retry_after_s`: its Retry-After header, if any. `unable`: the engine works but does not support the request."""

    def __init__(
        self, status: int, body: dict[str, Any], where: ErrorLocation, retry_after_s: int | None = None
    ) -> None:
        detail = body.get("error", body)
        text = detail.get("message") or detail.get("detail", "") if isinstance(detail, dict) else detail
        super().__init__(
            "AW-ENG-04",
            f"the engine rejected the request with status {status}: {text}"[:500].rstrip(": "),
            where=where,
            hint="check the request, the model's name and the engine's key",
        )
        self.status = status
        self.body = body
        self.retry_after_s = retry_after_s
        self.unable = status == HTTPStatus.NOT_IMPLEMENTED or (
            status == HTTPStatus.INTERNAL_SERVER_ERROR and _UNSUPPORTED_PATTERN.search(str(text)) is not None
        )


class CompleteBody(ResponseSink):
    """Keeps the body of a reply. `input_tokens`: as the reply's headers state them, else 0."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.input_tokens = 0

    def state_input(self, tokens: int) -> None:
        self.input_tokens = tokens

    def feed(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > BODY_LIMIT_BYTES:
            raise too_large_error(BODY_LIMIT_BYTES)


class EngineClient:
    """Client of one engine. `address`: "unix:/path.sock" or an http(s) URL ending in /v1.

    Request paths may be written with or without /v1. Connections belong to an event loop. Connections to a URL are
    reused. On a Unix socket every request opens a connection, because that is cheap and llama.cpp closes the connection
    after each stream. Only connecting has a timeout: the caller sets the deadline and cancels. `headers` replace the
    key. `model`: the engine's name of the model, if it differs. `query` follows every path. `exact_url`: paths follow
    the URL as it is."""

    def __init__(
        self,
        address: str,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        model: str = "",
        query: str = "",
        exact_url: bool = False,
    ) -> None:
        self.address = address
        self._model = model
        self._query = f"?{query}" if query else ""
        self._socket = address.removeprefix("unix:") if address.startswith("unix:") else None
        base = "http://engine/v1" if self._socket else address.rstrip("/")
        self._parts = urlsplit(base)
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            hint = "use a URL such as http://host:8000/v1, or unix:/path.sock"
            raise UsageError("AW-USE-10", f"not an address of an engine: {address!r}", hint=hint)
        self._base = base if exact_url or base.endswith("/v1") else f"{base}/v1"
        self._root = self._base.removesuffix("/v1")
        self.set_headers(headers if headers is not None else {"Authorization": f"Bearer {key}"} if key else {})
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, ConnectionPool] = WeakKeyDictionary()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: ConnectionPool | None = None
        self._thread = 0

    def set_headers(self, headers: Mapping[str, str]) -> None:
        """Use these headers from the next request on."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._lines = (
            f"Host: {self._parts.netloc.rpartition('@')[2]}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
            f"Content-Type: application/json\r\n{lines}"
        )
        self._heads: dict[tuple[str, str], bytes] = {}
        keys = (value.rpartition(" ")[2] for name, value in headers.items() if name.lower().endswith(KEY_HEADERS))
        self._keys = [key.encode() for key in keys if len(key) >= KEY_MIN_CHARACTERS]

    @property
    def model_override(self) -> dict[str, Any]:
        """The field with the engine's name of the model, if it differs."""
        return {"model": self._model} if self._model else {}

    @property
    def extra_fields(self) -> dict[str, Any]:
        """Fields added to a generation: the model's name, and progress reports for our own engine.

        llama.cpp notices a closed connection only when it writes, so without progress reports it would process an
        abandoned prompt to its end."""
        return {**self.model_override, "return_progress": True} if self._socket is not None else self.model_override

    def send_request(
        self, path: str, body: dict[str, Any], sink: ResponseSink, headers: Mapping[str, str] = NO_HEADERS
    ) -> Coroutine[Any, Any, None]:
        """POST `body` with additional `headers` (not validated) and feed the reply to `sink`.

        Cancelling closes the connection. Raises EngineRefused for a status of 300 or more, EngineError AW-ENG-01 if the
        engine cannot be reached, AW-ENG-02 if it disconnects, and the errors of the sink."""
        return self._send_encoded(self._encode_request("POST", path, _encode(body), headers), sink)

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the decoded events until [DONE].

        Closing the iterator or cancelling its task closes the connection. Raises what `send_request` does,
        EngineRefused for an error event, EngineError AW-ENG-02 for an end without [DONE], AW-ENG-03 for an invalid
        event."""
        extra = self.extra_fields
        hide_progress = "return_progress" in extra and "return_progress" not in body
        response = StreamingResponse()
        task = asyncio.get_running_loop().create_task(self.send_request(path, {**body, **extra}, response))
        response.attach_task(task)
        try:
            parser = EventParser()
            while (piece := await response.next_piece()) is not None:
                for event in parser.feed(piece):
                    if event.data == b"[DONE]":
                        response.done = True
                        return
                    message = self.decode_event(event)
                    if not (hide_progress and "prompt_progress" in message):
                        yield message
            raise self._broken_error("the stream ended without [DONE]")
        finally:
            await response.stop()

    async def post(
        self,
        path: str,
        body: dict[str, Any],
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        sink: CompleteBody | None = None,
    ) -> dict[str, Any]:
        """POST `body` and return the reply's object, read by `sink` if it is given."""
        data = self._encode_request("POST", path, _encode(body), headers)
        return await self._read_object(data, sink or CompleteBody())

    async def send_bytes(
        self,
        method: str,
        path: str,
        body: bytes,
        kind: str = "application/json",
        *,
        sink: CompleteBody | None = None,
    ) -> dict[str, Any]:
        """Send `body` as it is, with any method; `kind`: its content type; `sink` as in `post`."""
        data = self._encode_request(method, path, body)
        line = b"Content-Type: application/json"
        typed = data.replace(line, f"Content-Type: {kind}".encode(), 1)
        return await self._read_object(typed, sink or CompleteBody())

    async def get(self, path: str) -> dict[str, Any]:
        return self._decode_object(await self._read_body(self._encode_request("GET", path)))

    async def get_text(self, path: str) -> str:
        return (await self._read_body(self._encode_request("GET", path))).decode("utf-8", "replace")

    async def healthy(self, path: str = "/health", timeout_s: float = 2.0) -> bool:
        """True if GET `path` has a status below 300 in time; without a path, if a connection opens."""
        try:
            async with asyncio.timeout(timeout_s):
                if path:
                    await self._read_body(self._encode_request("GET", path))
                else:
                    await self._probe_connection()
        except (EngineError, OSError, UnicodeError):  # TimeoutError is an OSError; UnicodeError: an invalid host name
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
        """Close this event loop's connections. The client can be used again afterwards."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        self._loop = self._pool = None
        if pool is not None:
            await pool.close()

    def decode_event(self, event: ServerSentEvent) -> dict[str, Any]:
        """Decode an event's object. Raises EngineRefused for an error event, EngineError AW-ENG-03 if invalid."""
        message = self._decode_object(event.data)
        if event.kind == "error" or "error" in message:
            raise self.reported_error(message.get("error", message))
        return message

    def reported_error(self, detail: object) -> EngineRefused:
        code = detail.get("code") if isinstance(detail, dict) else None
        status = code if isinstance(code, int) and 400 <= code <= 599 else 500
        redacted = msgspec.json.decode(self._redact_keys(_encode(detail)))
        return EngineRefused(status, {"error": redacted}, ErrorLocation(self.address))

    def _redact_keys(self, text: bytes) -> bytes:
        """Remove our key. Some engines and proxies quote it in an error, which is passed on to the client."""
        for key in self._keys:
            text = text.replace(key, b"...")
        return text

    def invalid_reply_error(self, error: object) -> EngineError:
        hint = "check that the address is an OpenAI-compatible endpoint ending in /v1"
        return self._engine_error("AW-ENG-03", f"the engine's reply is invalid: {error}", hint)

    def _broken_error(self, reason: str) -> EngineError:
        hint = "send the request again; if it fails again, read the engine's log"
        return self._engine_error("AW-ENG-02", f"the engine disconnected: {reason}", hint)

    def _engine_error(self, code: str, message: str, hint: str) -> EngineError:
        return EngineError(code, message, where=ErrorLocation(self.address), hint=hint)

    async def _read_object(self, data: bytes, sink: CompleteBody) -> dict[str, Any]:
        """Return the reply's object, with the usage that only its headers state."""
        await self._send_encoded(data, sink)
        reply = self._decode_object(bytes(sink.data))
        if sink.input_tokens:
            reply.setdefault("usage", {"prompt_tokens": sink.input_tokens})
        return reply

    async def _read_body(self, data: bytes) -> bytes:
        body = CompleteBody()
        await self._send_encoded(data, body)
        return bytes(body.data)

    async def _send_encoded(self, data: bytes, sink: ResponseSink) -> None:
        loop, pool = self._loop, self._pool
        # A thread runs one loop at a time. asyncio.get_running_loop() would cost a system call (getpid) per request.
        if pool is None or loop is None or self._thread != get_ident() or not loop.is_running():
            pool = self._pool_of_loop(asyncio.get_running_loop())
        try:
            await pool.send_request(data, sink)
        except HttpStatusError as error:
            body, retry_s = _decode_refusal(self._redact_keys(error.body)), _parse_retry_after(error.retry_after)
            raise EngineRefused(error.status, body, ErrorLocation(self.address), retry_s) from error
        except RecursionError as error:
            raise self.invalid_reply_error(error) from error
        except InvalidHttpReply as error:
            raise self.invalid_reply_error(error) from error
        except ConnectionBroken as error:
            raise self._broken_error(str(error) or type(error).__name__) from error
        except (OSError, UnicodeError) as error:  # also TimeoutError and ssl.SSLError; UnicodeError: invalid host name
            hint = "run `archwright status`, and check the engine's address"
            message = f"the engine cannot be reached: {str(error) or type(error).__name__}"
            raise self._engine_error("AW-ENG-01", message, hint) from error

    def _pool_of_loop(self, loop: asyncio.AbstractEventLoop) -> ConnectionPool:
        pool = self._pools.get(loop)
        if pool is None:
            tls = create_tls_context() if self._parts.scheme == "https" else None
            port = self._parts.port or (443 if tls else 80)
            address = ServerAddress(self._socket, self._parts.hostname or "", port, tls)
            pool = self._pools[loop] = ConnectionPool(address, CONNECT_TIMEOUT_S, keeps=self._socket is None)
        self._loop, self._pool, self._thread = loop, pool, get_ident()
        return pool

    def _encode_request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = NO_HEADERS
    ) -> bytes:
        head = self._heads.get((method, path))
        if head is None:
            target = urlsplit(self._url(path)).path
            head = self._heads[method, path] = f"{method} {target}{self._query} HTTP/1.1\r\n{self._lines}".encode()
        if method == "GET":
            return head + b"\r\n"
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() if headers else b""
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (head, extra, len(body), body)

    def _url(self, path: str) -> str:
        tail = "/" + path.removeprefix("/").removeprefix("v1/")
        below_v1 = path.removeprefix("/").startswith("v1/") or tail in API_PATHS
        return (self._base if below_v1 else self._root) + tail

    def _decode_object(self, data: bytes) -> dict[str, Any]:
        try:
            try:
                return _decode_object(data)
            except msgspec.DecodeError:
                return _decode_object(replace_constants(data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.invalid_reply_error(error) from error


def _parse_retry_after(value: bytes) -> int | None:
    """Parse a Retry-After header of either form to 1 to RETRY_AFTER_LIMIT_S seconds; None if invalid."""
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        seconds = int(text[:12])
    else:
        try:
            seconds = math.ceil(parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, OverflowError):
            return None
    return min(max(1, seconds), RETRY_AFTER_LIMIT_S)


def _decode_refusal(data: bytes) -> dict[str, Any]:
    """Decode the body of an error reply, which Gemini's OpenAI endpoint wraps in a list."""
    try:
        body = msgspec.json.decode(data, type=dict[str, Any] | list[dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"error": {"message": data[:500].decode("utf-8", "replace")}}
    return body if isinstance(body, dict) else body[0] if body else {}
