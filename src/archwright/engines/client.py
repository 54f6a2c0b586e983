"""The one client for every engine: OpenAI's HTTP over a Unix socket or a URL.

A generation is always asked as a stream, also for callers who want one reply: engines notice a closed stream at
once but a closed plain request late or never, so closing the stream is how work is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
import msgspec

from archwright.engines.sse import Event, EventParser, too_large
from archwright.errors import EngineError, UsageError, Where

CONNECT_TIMEOUT_S = 2.0
# How often a request is sent anew after a kept connection turned out dead before a byte of the reply came.
FRESH_TRIES = 2
# Below the five seconds after which common servers drop an idle connection: we must let go first, else a request
# can be written into a connection that is just being closed.
KEEP_ALIVE_S = 3.0
BODY_LIMIT_BYTES = 64 << 20
# What lives below /v1 on an OpenAI-compatible server; health and metrics live at its root.
API_PATHS = ("/chat/completions", "/completions", "/embeddings", "/models", "/responses")


class EngineRefused(EngineError):
    """The engine answered, and said no: its HTTP `status` and the decoded `body` (usually `{"error": {...}}`)."""

    def __init__(self, status: int, body: dict[str, Any], where: Where) -> None:
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


class EngineClient:
    """`address` is "unix:/path.sock" or an http(s) URL ending in /v1. Paths may be written with or without /v1.

    There is one session per event loop. Connections to a URL are kept and used again; on a Unix socket every request
    has its own, since connecting is next to free there and llama.cpp drops the connection unannounced after each
    stream. There is no total timeout: the caller owns the deadline and cancels; only connecting is limited.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        self.address = address
        self._socket = address.removeprefix("unix:") if address.startswith("unix:") else None
        base = "http://engine/v1" if self._socket else address.rstrip("/")
        if not base.startswith(("http://", "https://")):
            raise UsageError(
                "AW-USE-10",
                f"not an engine's address: {address!r}",
                hint="give a URL such as http://host:8000/v1, or unix:/path.sock",
            )
        self._base = base if base.endswith("/v1") else f"{base}/v1"
        self._root = self._base.removesuffix("/v1")
        self._headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = WeakKeyDictionary()

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The decoded events until [DONE]. Closing the iterator, or cancelling its task, closes the connection.

        Raises EngineRefused for a status of 400 or more and for an error event, EngineError AW-ENG-01 when the
        engine cannot be reached, AW-ENG-02 when it breaks off before [DONE], AW-ENG-03 when it speaks nonsense.
        """
        # llama.cpp looks for a closed connection once a second without a result, and any neighbour's result starts that
        # second anew: a prompt nobody waits for would be read to its end. Reporting progress makes it write, and so
        # notice, after each batch. The reports stay here: the caller did not ask for them.
        hidden = self._socket is not None and "return_progress" not in body
        if hidden:
            body = {**body, "return_progress": True}
        async with self._request("POST", path, body) as response:
            parser = EventParser()
            async for chunk in response.content.iter_any():
                for event in parser.feed(chunk):
                    if event.data == b"[DONE]":
                        await _drain(response)
                        return
                    message = self._decoded(event)
                    if not (hidden and "prompt_progress" in message):
                        yield message
            raise self._broke_off("the stream ended without [DONE]")

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._request("POST", path, body) as response:
            return self._object(await _read(response))

    async def get(self, path: str) -> dict[str, Any]:
        async with self._request("GET", path) as response:
            return self._object(await _read(response))

    async def text(self, path: str) -> str:
        """A page that is not JSON, such as the engine's metrics."""
        async with self._request("GET", path) as response:
            return (await _read(response)).decode("utf-8", "replace")

    async def healthy(self, path: str = "/health", timeout_s: float = 2.0) -> bool:
        """Whether GET `path` answers with a status below 300 in time."""
        try:
            async with asyncio.timeout(timeout_s), self._request("GET", path) as response:
                await _read(response)
        except (EngineError, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Close this event loop's connections; the client may be used again afterwards."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            connector: aiohttp.BaseConnector
            if self._socket:
                connector = aiohttp.UnixConnector(self._socket, limit=0, force_close=True)
            else:
                connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
            timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
            session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, headers=self._headers, trace_configs=[_reuse_noted()]
            )
            self._sessions[loop] = session
        return session

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        data = None if body is None else msgspec.json.encode(body)
        response = await self._sent(method, path, data)
        try:
            if response.status >= 300:
                raise EngineRefused(response.status, _body(await _read(response)), Where(self.address))
            yield response
        except (aiohttp.ClientError, OSError) as error:
            raise self._broke_off(_said(error)) from error
        finally:
            # Closes the connection unless the reply was read to its end: this is what stops the engine.
            response.close()

    async def _sent(self, method: str, path: str, data: bytes | None) -> aiohttp.ClientResponse:
        """The reply's head. A kept connection may just have been closed by the server: then it is sent anew."""
        for fresh_tries_left in reversed(range(FRESH_TRIES + 1)):
            seen: dict[str, bool] = {}
            try:
                # No redirects: a key goes to the address it was given for and nowhere else.
                return await self._session().request(
                    method, self._url(path), data=data, allow_redirects=False, trace_request_ctx=seen
                )
            except (aiohttp.ClientConnectorError, TimeoutError) as error:
                raise self._unreachable(error) from error
            except (aiohttp.ClientError, OSError) as error:
                if not seen.get("reused") or not fresh_tries_left:
                    raise self._broke_off(_said(error)) from error
        raise AssertionError("the last try returns or raises")

    def _url(self, path: str) -> str:
        tail = "/" + path.removeprefix("/").removeprefix("v1/")
        below_v1 = path.removeprefix("/").startswith("v1/") or tail in API_PATHS
        return (self._base if below_v1 else self._root) + tail

    def _decoded(self, event: Event) -> dict[str, Any]:
        message = self._object(event.data)
        if event.kind == "error" or "error" in message:
            detail = message.get("error", message)
            code = detail.get("code") if isinstance(detail, dict) else None
            status = code if isinstance(code, int) and 400 <= code <= 599 else 500
            raise EngineRefused(status, {"error": detail}, Where(self.address))
        return message

    def _object(self, data: bytes) -> dict[str, Any]:
        try:
            return msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineError(
                "AW-ENG-03",
                f"the engine's reply is not a JSON object: {error}",
                where=Where(self.address),
                hint="check that the address is an OpenAI-compatible endpoint ending in /v1",
            ) from error

    def _unreachable(self, error: Exception) -> EngineError:
        return EngineError(
            "AW-ENG-01",
            f"the engine cannot be reached: {_said(error)}",
            where=Where(self.address),
            hint="see `archwright status`, or check the address",
        )

    def _broke_off(self, reason: str) -> EngineError:
        return EngineError(
            "AW-ENG-02",
            f"the engine broke off: {reason}",
            where=Where(self.address),
            hint="send the request again; the engine's log says why",
        )


def _reuse_noted() -> aiohttp.TraceConfig:
    """Notes in a request's `trace_request_ctx` that it went out on a kept connection."""

    async def on_reuse(_: object, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx["reused"] = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(on_reuse)
    return trace


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _drain(response: aiohttp.ClientResponse) -> None:
    # The end of the body comes with or right after [DONE]; having read it keeps the connection for the next request.
    try:
        async with asyncio.timeout(0.5):
            while not response.content.at_eof():
                await response.content.readany()
    except (TimeoutError, aiohttp.ClientError, OSError):
        response.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > BODY_LIMIT_BYTES:
            raise too_large(BODY_LIMIT_BYTES)
    return bytes(data)


def _body(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"error": {"message": data[:500].decode("utf-8", "replace")}}
