"""Send and time one streamed chat completion; each kind of failure has its own code.

    AW-REC-10 unreachable   11 TLS   12 key refused   13 no such model or path   14 redirect
    AW-REC-15 the reply is not an OpenAI stream   16 deadline   17 incomplete response
    AW-REC-18 refused with another status   19 the address or key cannot be used

Design: messages quote only short identifiers of a reply, because servers echo prompts and keys in their errors.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from archwright.errors import ErrorLocation, ReconcileError
from archwright.http_client.connection_pool import (
    ConnectionBroken,
    ConnectionPool,
    ConnectTimeout,
    HttpStatusError,
    InvalidHttpReply,
    ServerAddress,
    create_tls_context,
)
from archwright.http_client.streaming_response import StreamingResponse

BODY_LIMIT_BYTES = 65_536
EVENT_LIMIT_BYTES = 4_194_304
IDENTIFIER_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,60}")


class BenchTarget(NamedTuple):
    """An OpenAI-compatible endpoint. `url` ends in /v1 (added to a bare host); `ca_file` adds a private authority.

    `workload` is sent as a header to our own gateway, because several workloads may share a model.
    """

    url: str
    key: str | None
    model: str
    workload: str | None = None
    verify_tls: bool = True
    ca_file: str | None = None

    def __repr__(self) -> str:
        return f"Target({self.url!r}, model={self.model!r})"


class BenchTimeouts(NamedTuple):
    """Deadlines: to connect, between two pieces of a reply, and for the last responses after the last arrival."""

    connect_s: float = 10.0
    idle_s: float = 60.0
    drain_s: float = 30.0


class RequestDialect(NamedTuple):
    """The fields beyond the oldest interface that the endpoint accepts."""

    ignore_eos: bool = True
    usage: bool = True
    limit_field: str = "max_tokens"

    def build_body(self, model: str, prompt: str, max_tokens: int, *, stream: bool = True) -> bytes:
        fields: dict[str, object] = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": stream,
            self.limit_field: max_tokens,
        }
        if self.ignore_eos:
            fields["ignore_eos"] = True
        if self.usage and stream:
            fields["stream_options"] = {"include_usage": True}
        return msgspec.json.encode(fields)


class RequestTrace:
    """The timing of a request, updated while the stream runs, so that a cancelled request keeps its data."""

    def __init__(self) -> None:
        self.sent: float | None = None
        self.first: float | None = None
        self.last: float | None = None
        self.ended: float | None = None
        self.chunks = 0
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.finished = False
        self.error: ReconcileError | None = None


class RequestRefused(ReconcileError):
    """The server answered 400 or 422, perhaps because of one unknown field."""


class _Delta(msgspec.Struct):
    content: object = None
    reasoning_content: object = None
    reasoning: object = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _StreamEvent(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: object = None


class _CompletionReply(msgspec.Struct):
    usage: _Usage | None = None


_EVENT_DECODER = msgspec.json.Decoder(_StreamEvent)


def normalise_base_url(url: str) -> str:
    """Return the address without a trailing slash. Raises ReconcileError AW-REC-19, which never quotes the address."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise _address_error("the address is not a URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _address_error("the address must begin with http:// or https:// and name a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise _address_error("the address must hold no user, password, query or fragment")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    where = host if port is None else f"{host}:{port}"
    return f"{parts.scheme}://{where}{parts.path.rstrip('/') or '/v1'}"


def _address_error(message: str) -> ReconcileError:
    hint = "use an address such as http://127.0.0.1:8000/v1, and --key-env NAME for a key"
    return ReconcileError("AW-REC-19", message, where=ErrorLocation(field="url"), hint=hint)


class BenchClient:
    """A session with one endpoint; `clock` is the client's own, monotonic."""

    def __init__(
        self, target: BenchTarget, limits: BenchTimeouts, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.target = target
        self.url = normalise_base_url(target.url)
        self.clock = clock
        self.place = ErrorLocation(f"{self.url}/chat/completions")
        self.limits = limits
        lines = ["Content-Type: application/json", "Accept: text/event-stream", "Accept-Encoding: identity"]
        if target.key:
            if not target.key.isascii() or not target.key.isprintable():
                hint = "remove blanks and line ends from the variable that holds the key"
                message = "the key holds characters that a header cannot contain"
                raise ReconcileError("AW-REC-19", message, where=ErrorLocation(field="key_env"), hint=hint)
            lines.append(f"Authorization: Bearer {target.key}")
        if target.workload is not None:
            lines.append(f"x-archwright-workload: {target.workload}")
        parts = urlsplit(self.url)
        first = f"POST {parts.path}/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        self._head = (first + "\r\n".join(lines)).encode()
        self._origin: ConnectionPool | None = None

    async def __aenter__(self) -> BenchClient:
        # No limit on connections: a queue inside the client would hide the queue of the server.
        parts, tls = urlsplit(self.url), self._tls_context()
        port = parts.port or (443 if tls else 80)
        self._origin = ConnectionPool(ServerAddress(None, parts.hostname or "", port, tls), self.limits.connect_s)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._origin is not None:
            await self._origin.close()

    def _tls_context(self) -> ssl.SSLContext | None:
        if not self.url.startswith("https:"):
            return None
        if not self.target.verify_tls:
            unverified = ssl.create_default_context()
            unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
            return unverified
        if self.target.ca_file is None:
            return create_tls_context()
        try:
            return ssl.create_default_context(cafile=self.target.ca_file)
        except (OSError, ssl.SSLError) as error:
            where = ErrorLocation(self.target.ca_file)
            hint = "give a PEM file of the authority that signed the endpoint's certificate"
            raise ReconcileError("AW-REC-11", "cannot read the certificate file", where=where, hint=hint) from error

    async def stream(self, body: bytes, trace: RequestTrace) -> None:
        """Send `body` and read the stream to its end. Raises ReconcileError; `trace` keeps the data received so far."""
        trace.sent = self.clock()
        reply = self._post(body)
        try:
            with self._translate_errors(trace):
                await self._wait_for_head(reply)
                shown = reply.kind.partition(b";")[0].strip().lower().decode("latin-1") or "application/octet-stream"
                if shown not in ("text/event-stream", "text/plain", "application/octet-stream"):
                    message = f"the reply is {shown}, not an event stream"
                    raise self._error("AW-REC-15", message, "give the URL of an OpenAI-compatible server, up to /v1")
                async for data in self._iterate_events(reply):
                    if data == b"[DONE]":
                        trace.finished = reply.done = True
                        break
                    self._record_event(data, trace)
        finally:
            trace.ended = self.clock()
            await reply.stop()
        if not trace.finished:
            raise self._error("AW-REC-17", "the stream ended before its last event", "read the server's log")

    def _post(self, body: bytes) -> StreamingResponse:
        assert self._origin is not None, "used outside its context"
        data = b"%b\r\nContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)
        reply = StreamingResponse()
        reply.attach_task(asyncio.get_running_loop().create_task(self._origin.send_request(data, reply)))
        return reply

    async def _wait_for_head(self, reply: StreamingResponse) -> None:
        await reply.wait_until_sent()
        async with asyncio.timeout(self.limits.idle_s):
            await reply.wait_for_head()

    async def count_prompt_tokens(self, body: bytes) -> int | None:
        """Return the prompt's tokens as a response without streaming counts them; None if it does not."""
        reply, data = self._post(body), b""
        try:
            with self._translate_errors(RequestTrace()):
                await self._wait_for_head(reply)
                while len(data) < BODY_LIMIT_BYTES and (piece := await self._next_piece(reply)) is not None:
                    data += piece
                usage = msgspec.json.decode(data[:BODY_LIMIT_BYTES], type=_CompletionReply).usage
        finally:
            await reply.stop()
        return None if usage is None else usage.prompt_tokens

    async def _next_piece(self, reply: StreamingResponse) -> bytes | None:
        async with asyncio.timeout(self.limits.idle_s):
            return await reply.next_piece()

    def _record_event(self, data: bytes, trace: RequestTrace) -> None:
        event = _EVENT_DECODER.decode(data)
        if event.error:
            raise self._error("AW-REC-17", "the server reported an error inside the stream", "read the server's log")
        now = self.clock()
        for choice in event.choices or ():
            delta = choice.delta
            if delta is not None and (delta.content or delta.reasoning_content or delta.reasoning):
                trace.first = now if trace.first is None else trace.first
                trace.last = now
                trace.chunks += 1
            trace.finished = trace.finished or choice.finish_reason is not None
        if event.usage is not None:
            trace.input_tokens = event.usage.prompt_tokens
            trace.output_tokens = event.usage.completion_tokens

    async def _iterate_events(self, reply: StreamingResponse) -> AsyncIterator[bytes]:
        rest = b""
        while (piece := await self._next_piece(reply)) is not None:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip()
            if len(rest) > EVENT_LIMIT_BYTES:
                raise self._error("AW-REC-15", "an event of the stream has no end", "check the URL")

    def _status_error(self, answer: HttpStatusError) -> ReconcileError:
        status, name = answer.status, extract_error_identifier(answer.body)
        if 300 <= status < 400:
            message = f"the server redirects ({status}); following it would send the key to another address"
            return self._error("AW-REC-14", message, "give the final URL")
        if status in (401, 403):
            return self._error(
                "AW-REC-12", f"the server refuses the key ({status})", "give the variable of the key with --key-env"
            )
        if status == 404 or name == "model_not_found":
            message = f"{status}: no model {self.target.model!r}, or no chat completions at this address"
            return self._error("AW-REC-13", message, f"list its models: GET {self.url}/models")
        message = f"the server answers {status}" + (f" ({name})" if name else "")
        kind = RequestRefused if status in (400, 422) else ReconcileError
        return kind(
            "AW-REC-18", message, where=self.place, hint="read the server's log; check the model and its limits"
        )

    @contextmanager
    def _translate_errors(self, trace: RequestTrace) -> Iterator[None]:
        """Translate the errors of the HTTP client. The order matters: TLS errors are connection errors too."""
        try:
            yield
        except HttpStatusError as answer:
            raise self._status_error(answer) from answer
        except ssl.SSLError as error:
            hint = (
                "check https or http, the host name, and the authority (a private authority needs its certificate file)"
            )
            raise self._error("AW-REC-11", "no trusted TLS connection", hint) from error
        except ConnectTimeout as error:
            message = f"no connection within {self.limits.connect_s:g} s"
            raise self._error("AW-REC-10", message, "check the host and the firewalls") from error
        except TimeoutError as error:
            state = "the response stopped" if trace.chunks else "no response"
            hint = "check that the server is not overloaded, and that it serves OpenAI requests"
            raise self._error("AW-REC-16", f"{state} for {self.limits.idle_s:g} s", hint) from error
        except UnicodeError as error:
            raise _address_error("the address is not a URL") from error
        except InvalidHttpReply as error:
            raise self._error("AW-REC-15", "the reply is not HTTP", "check the port, and http or https") from error
        except ConnectionBroken as error:
            message = f"the connection broke {'during' if trace.chunks else 'before'} the response"
            raise self._error("AW-REC-17", message, "read the server's log") from error
        except OSError as error:
            named = not isinstance(error, socket.gaierror) and error.errno is not None and error.errno > 0
            reason = os.strerror(error.errno or 0).lower() if named else "no such host"
            message = f"cannot connect: {reason}"
            raise self._error("AW-REC-10", message, "check that the server runs, and the host and port") from error
        except msgspec.DecodeError as error:
            hint = "give the URL of an OpenAI-compatible server, up to /v1"
            raise self._error("AW-REC-15", "an event of the stream does not follow the OpenAI format", hint) from error

    def _error(self, code: str, message: str, hint: str) -> ReconcileError:
        return ReconcileError(code, message, where=self.place, hint=hint)


def extract_error_identifier(body: bytes) -> str:
    """Return the error's code or type if it is a plain identifier, else an empty text."""
    try:
        decoded = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return ""
    error = decoded.get("error") if isinstance(decoded, dict) else None
    names = (error.get("code"), error.get("type")) if isinstance(error, dict) else ()
    return next((name for name in names if isinstance(name, str) and IDENTIFIER_PATTERN.fullmatch(name)), "")
