"""One streamed chat completion over the wire, timed; every way it can go wrong has its own code.

    AW-REC-10 unreachable   11 TLS   12 key refused   13 no such model or path   14 redirect
    AW-REC-15 the reply is not an OpenAI stream   16 deadline   17 broke off in mid-answer
    AW-REC-18 refused with another status   19 the address or key cannot be used

Nothing of a reply but short identifiers is ever quoted: servers echo prompts and keys in their messages.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec

from archwright.errors import ReconcileError, Where

BODY_LIMIT = 65_536
CLOSING_S = 0.05
EVENT_LIMIT = 4_194_304
IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,60}")


class Target(NamedTuple):
    """An OpenAI-compatible endpoint. `url` ends in /v1 (a bare host gets it); `ca_file` adds a private authority.

    `workload` goes along as a header where our own gateway must choose between workloads that share a model.
    """

    url: str
    key: str | None
    model: str
    workload: str | None = None
    verify_tls: bool = True
    ca_file: str | None = None

    def __repr__(self) -> str:
        return f"Target({self.url!r}, model={self.model!r})"


class Limits(NamedTuple):
    """Deadlines: to connect, between two pieces of a reply, and for the peak's last answers once arrivals end."""

    connect_s: float = 10.0
    idle_s: float = 60.0
    drain_s: float = 30.0


class Dialect(NamedTuple):
    """Which fields beyond the oldest interface the endpoint takes."""

    ignore_eos: bool = True
    usage: bool = True
    limit_field: str = "max_tokens"

    def body(self, model: str, prompt: str, max_tokens: int, *, stream: bool = True) -> bytes:
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


class Trace:
    """Filled in while the stream runs, so that a request ended from outside leaves what it had."""

    def __init__(self) -> None:
        self.sent: float | None = None
        self.first: float | None = None
        self.last: float | None = None
        self.ended: float | None = None
        self.chunks = 0
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.finished = False
        self.reused = False
        self.error: ReconcileError | None = None


class Refused(ReconcileError):
    """The server answered 400 or 422: perhaps only a field it does not know."""


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


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: object = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


_DECODER = msgspec.json.Decoder(_Event)
_PLAIN = msgspec.json.Decoder(_Answer)


def base_url(url: str) -> str:
    """The address without a trailing slash. Raises ReconcileError (AW-REC-19); never shows what may be a secret."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise _unusable("the address is not a URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _unusable("the address must begin with http:// or https:// and name a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise _unusable("the address must hold no user, password, query or fragment")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    where = host if port is None else f"{host}:{port}"
    return f"{parts.scheme}://{where}{parts.path.rstrip('/') or '/v1'}"


def _unusable(message: str) -> ReconcileError:
    hint = "as in http://127.0.0.1:8000/v1 ; a key is named with --key-env"
    return ReconcileError("AW-REC-19", message, where=Where(field="url"), hint=hint)


async def _mark_reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    trace: Trace = context.trace_request_ctx
    trace.reused = True


class Wire:
    """A session with one endpoint; `clock` is the client's own, monotonic."""

    def __init__(self, target: Target, limits: Limits, clock: Callable[[], float] = time.perf_counter) -> None:
        self.target = target
        self.url = base_url(target.url)
        self.clock = clock
        self.place = Where(f"{self.url}/chat/completions")
        self.limits = limits
        self._headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if target.key:
            if not target.key.isascii() or not target.key.isprintable():
                hint = "check the variable that holds it for blanks and line ends"
                raise ReconcileError("AW-REC-19", "the key holds characters no header can carry", hint=hint)
            self._headers["Authorization"] = f"Bearer {target.key}"
        if target.workload is not None:
            self._headers["x-archwright-workload"] = target.workload
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Wire:
        # No limit on connections: a queue inside the client would hide the server's. Short keep-alive: a connection
        # that the server is about to close must not be picked for the next request.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0, ssl=self._tls())
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self.limits.connect_s, sock_read=self.limits.idle_s, connect=None
        )
        watch = aiohttp.TraceConfig()
        watch.on_connection_reuseconn.append(_mark_reused)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=self._headers, trace_configs=[watch]
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            # Closed TLS connections let go of their sockets only some turns of the loop later.
            await asyncio.sleep(CLOSING_S)

    def _tls(self) -> ssl.SSLContext | bool:
        if not self.target.verify_tls:
            return False
        if self.target.ca_file is None:
            return True
        try:
            return ssl.create_default_context(cafile=self.target.ca_file)
        except (OSError, ssl.SSLError) as error:
            where, hint = Where(self.target.ca_file), "give a PEM file of the authority that signed the endpoint's"
            raise ReconcileError("AW-REC-11", "cannot read the certificate file", where=where, hint=hint) from error

    async def stream(self, body: bytes, trace: Trace) -> None:
        """Send `body`, read the stream to its end. Raises ReconcileError; `trace` then holds what had come."""
        trace.sent = self.clock()
        try:
            with self._translated(trace):
                async with await self._post(body, trace) as response:
                    await self._accept(response)
                    async for data in self._events(response):
                        if data == b"[DONE]":
                            trace.finished = True
                            break
                        self._note(data, trace)
        finally:
            trace.ended = self.clock()
        if not trace.finished:
            raise self._error("AW-REC-17", "the stream ended before its last event", "see the server's log")

    async def _post(self, body: bytes, trace: Trace) -> aiohttp.ClientResponse:
        """The reply's head. A kept connection that the server had closed meanwhile is no failure: ask on another."""
        assert self._session is not None, "used outside its context"
        while True:
            trace.reused = False
            try:
                return await self._session.post(
                    self.place.file or "", data=body, allow_redirects=False, trace_request_ctx=trace
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not trace.reused:
                    raise

    async def prompt_tokens(self, body: bytes) -> int | None:
        """The prompt's tokens as a plain (not streamed) answer counts them; None where it does not."""
        trace = Trace()
        with self._translated(trace):
            async with await self._post(body, trace) as response:
                await self._accept(response, stream=False)
                usage = _PLAIN.decode(await response.content.read(BODY_LIMIT)).usage
        return None if usage is None else usage.prompt_tokens

    def _note(self, data: bytes, trace: Trace) -> None:
        event = _DECODER.decode(data)
        if event.error:
            raise self._error("AW-REC-17", "the server reported an error inside the stream", "see the server's log")
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

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The data of each server-sent event, as it arrives."""
        rest = b""
        async for piece in response.content.iter_any():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip()
            if len(rest) > EVENT_LIMIT:
                raise self._error("AW-REC-15", "an event of the stream has no end", "check that the URL is right")

    async def _accept(self, response: aiohttp.ClientResponse, *, stream: bool = True) -> None:
        """Pass a stream; raise the right error for anything else."""
        status = response.status
        if status == 200:
            if stream and response.content_type not in ("text/event-stream", "text/plain", "application/octet-stream"):
                message = f"the reply is {response.content_type}, not an event stream"
                raise self._error("AW-REC-15", message, "the URL must be that of an OpenAI-compatible server, to /v1")
            return
        if 300 <= status < 400:
            message = f"the server redirects ({status}); following would hand the key to another address"
            raise self._error("AW-REC-14", message, "give the final URL")
        if status in (401, 403):
            raise self._error("AW-REC-12", f"the key is refused ({status})", "name the key's variable with --key-env")
        if status == 404 or (name := await self._identifier(response)) == "model_not_found":
            message = f"{status}: no model {self.target.model!r}, or no chat completions at this address"
            raise self._error("AW-REC-13", message, f"see which models it has: GET {self.url}/models")
        message = f"the server answers {status}" + (f" ({name})" if name else "")
        kind = Refused if status in (400, 422) else ReconcileError
        raise kind("AW-REC-18", message, where=self.place, hint="see the server's log; check the model and its limits")

    async def _identifier(self, response: aiohttp.ClientResponse) -> str:
        """The error's code or type when it is a plain identifier, else nothing."""
        try:
            decoded = msgspec.json.decode(await response.content.read(BODY_LIMIT))
        except msgspec.DecodeError:
            return ""
        error = decoded.get("error") if isinstance(decoded, dict) else None
        names = (error.get("code"), error.get("type")) if isinstance(error, dict) else ()
        return next((name for name in names if isinstance(name, str) and IDENTIFIER.fullmatch(name)), "")

    @contextmanager
    def _translated(self, trace: Trace) -> Iterator[None]:
        """The client library's errors as ours. Order matters: the TLS errors are connection errors too."""
        try:
            yield
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            hint = "check https or http, the host name, and the authority (a private one needs its certificate file)"
            raise self._error("AW-REC-11", "no trusted TLS connection", hint) from error
        except aiohttp.ConnectionTimeoutError as error:
            message = f"no connection within {self.limits.connect_s:g} s"
            raise self._error("AW-REC-10", message, "is the host right, and no firewall between?") from error
        except TimeoutError as error:
            had = "the answer stopped" if trace.chunks else "no answer"
            hint = "is the server overloaded, or is it another kind of service?"
            raise self._error("AW-REC-16", f"{had} for {self.limits.idle_s:g} s", hint) from error
        except (aiohttp.InvalidURL, UnicodeError) as error:
            raise _unusable("the address is not a URL") from error
        except aiohttp.ClientConnectorError as error:
            number = error.os_error.errno
            reason = os.strerror(number).lower() if number is not None and number > 0 else "no such host"
            message = f"cannot connect: {reason}"
            raise self._error("AW-REC-10", message, "is the server running, and the host and port right?") from error
        except aiohttp.ClientResponseError as error:
            raise self._error("AW-REC-15", "the reply is not HTTP", "check the port, and http or https") from error
        except msgspec.DecodeError as error:
            hint = "the URL must be that of an OpenAI-compatible server, to /v1"
            raise self._error("AW-REC-15", "an event of the stream is not what OpenAI defines", hint) from error
        except aiohttp.ClientError as error:
            message = "the connection broke in mid-answer" if trace.chunks else "the connection broke before an answer"
            raise self._error("AW-REC-17", message, "see the server's log") from error

    def _error(self, code: str, message: str, hint: str) -> ReconcileError:
        return ReconcileError(code, message, where=self.place, hint=hint)
