"""HTTP/1.1 connections to one server over TCP, TLS or a Unix socket.

Design: replies are pushed to a sink once per read of the socket, within the event loop's callback, and a future marks
the end, so a relayed stream wakes no task. A cancelled request closes its connection, which stops the engine, unless
its sink wants the rest of the reply: a provider bills it, whether or not it is read. Redirects are not followed, so a
key goes only to its own address. A kept connection that the server closed before it replied is replaced once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from functools import cache, partial
from typing import NamedTuple, cast

import httptools

from archwright.errors import ArchwrightError

# Common servers close idle connections after 5 s. The client closes first, so no request uses a closing connection.
KEEP_ALIVE_S = 3.0
# Time to wait for the end of a reply whose sink is done. A connection can be kept only after the reply's end.
END_TIMEOUT_S = 0.5
HEAD_BYTES = 64 << 10
UNREAD_BYTES = 64 << 20  # of a reply that is read on after its caller was cancelled
# Headers in which servers state the tokens of the input. Their lengths are tested first.
INPUT_HEADERS = (b"x-prompt-tokens", b"x-amzn-bedrock-input-token-count")
INPUT_HEADER_SIZES = frozenset(map(len, INPUT_HEADERS))
MAX_STATED_DIGITS = 9
REFUSAL_BYTES = 64 << 10  # of an error reply's body


class ConnectionBroken(ConnectionError):
    """The connection closed before the end of the reply, or its bytes were not HTTP."""


class InvalidHttpReply(ConnectionBroken):
    """The received bytes are not an HTTP reply."""


class ConnectTimeout(TimeoutError):
    """The connection was not opened within the limit."""


class HttpStatusError(Exception):
    """An error reply: its status, the beginning of its body and its Retry-After header."""

    def __init__(self, status: int, body: bytes, retry_after: bytes) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body
        self.retry_after = retry_after


class ResponseSink:
    """Receives the body of one successful reply. `done`: it needs no more data.

    An ArchwrightError raised by `feed` ends the reply and is raised to the caller of the request."""

    done = False
    source: ClientConnection | None = None

    def sent(self, source: ClientConnection) -> None:
        """Called when the request is sent on `source`, which can be paused."""
        self.source = source

    def begin(self, kind: bytes) -> None:
        """Called with the content type before the first byte of the body."""

    def state_input(self, tokens: int) -> None:
        """Called with the tokens of the input, if the reply's headers state them."""

    def keep_reading_s(self) -> float:
        """Return for how many seconds the reply is read on after its caller was cancelled. 0: its connection closes."""
        return 0.0

    def feed(self, data: bytes) -> None:
        """Called with the part of the body from one read of the socket."""

    def pause(self) -> None:
        """Stop reading. The engine stalls once the buffers between are full."""
        if self.source is not None:
            self.source.pause()

    def resume(self) -> None:
        if self.source is not None:
            self.source.resume()


class UnreadReply(ResponseSink):
    """Passes the rest of a reply to the sink of a cancelled caller. `is_too_large`: it ends after UNREAD_BYTES."""

    def __init__(self, sink: ResponseSink) -> None:
        self.is_too_large = False
        self._sink = sink
        self._left_bytes = UNREAD_BYTES

    def begin(self, kind: bytes) -> None:
        self._sink.begin(kind)

    def state_input(self, tokens: int) -> None:
        self._sink.state_input(tokens)

    def feed(self, data: bytes) -> None:
        self._left_bytes -= len(data)
        self.is_too_large = self._left_bytes < 0
        if not self.is_too_large:
            self._sink.feed(data)
        self.done = self.is_too_large or self._sink.done


class ServerAddress(NamedTuple):
    """Address of a server: the path of a Unix socket, or a host and port with or without TLS.

    `name`: the name in the server's certificate, if it is not `host`."""

    path: str | None
    host: str
    port: int
    tls: ssl.SSLContext | None
    name: str = ""


class ClientConnection(asyncio.Protocol):
    """One connection with one reply at a time. The pool keeps idle connections."""

    def __init__(self, pool: ConnectionPool, loop: asyncio.AbstractEventLoop) -> None:
        self.alive = True
        self.silent = True
        self.idle_at = 0.0
        self._pool = pool
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._sink: ResponseSink | None = None
        self._ended: asyncio.Future[None] | None = None
        self._status = 0
        self._paused = False
        self._reset()

    def _reset(self) -> None:
        self._kind = self._retry_after = self._input_tokens = b""
        self._begun = self._complete = self._keep = self._content = self._sized = False
        self._head_bytes = 0
        self._pieces: list[bytes] = []
        self._refusal = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods without being subclasses.
        self._transport = cast(asyncio.Transport, transport)

    def send_request(self, data: bytes, sink: ResponseSink) -> asyncio.Future[None]:
        """Send a request. The future ends with the reply, or fails like `ConnectionPool.send_request`."""
        self.silent = True
        self._reset()
        sink.sent(self)
        self._sink = sink
        self._ended = ended = self._loop.create_future()
        self._pool.queue_write(self, data)
        return ended

    def write(self, data: bytes) -> None:
        if self.alive:
            self._transport.write(data)

    def release(self, ended: asyncio.Future[None]) -> None:
        """Close the connection unless the reply has ended. Called when the caller no longer waits."""
        if self._ended is ended:
            self._ended = None
            self._drop()

    async def read_rest(self, cancelled: asyncio.Future[None], sink: ResponseSink) -> bool:
        """Read the reply on after its caller was cancelled, if the sink wants that. True: the reply has ended.

        The caller's task then counts as not cancelled. Raises what `ConnectionPool.send_request` does."""
        limit_s = sink.keep_reading_s()
        if limit_s <= 0:
            return False
        if self._ended is cancelled:  # else the reply ended in the same tick
            self._ended = rest = self._loop.create_future()
            self._sink = reader = UnreadReply(sink)
            self.resume()
            try:
                async with asyncio.timeout(limit_s):
                    await rest
            except TimeoutError:
                return False
            finally:
                self.release(rest)
            if reader.is_too_large:
                return False
        elif not (self._complete or self._content):
            return False
        task = asyncio.current_task()
        assert task is not None, "only a task is cancelled"
        task.uncancel()
        return True

    def pause(self) -> None:
        if self._ended is not None and self.alive and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self.alive:
            self._transport.resume_reading()
        self._paused = False

    def close(self) -> None:
        self.alive = False
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._ended is None and self._sink is None:
            self._drop()  # unsolicited data
            return
        self.silent = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(InvalidHttpReply(f"the reply is not HTTP: {error}"))
            return
        if not self._begun:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._fail(InvalidHttpReply("the reply's headers are larger than 64 KiB"))
            return
        if self._pieces:
            body = b"".join(self._pieces)
            self._pieces.clear()
            if not self._feed(body):
                return
        if self._complete:
            self._finish()

    def eof_received(self) -> bool:
        """End a reply without a length at the end of the connection."""
        if self._ended is not None and self._begun and not self._sized and not self._complete:
            self._finish()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        self._pool.discard(self)
        if exc is not None and not isinstance(exc, OSError):
            self._fail(exc)  # a bug in a sink, not an error of the engine
        else:
            self._fail(ConnectionBroken(str(exc) if exc else "the connection was closed"))

    # httptools calls the following methods while it parses.

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 12 and name.lower() == b"content-type":
            self._kind = value
        elif len(name) in (14, 17) and name.lower() in (b"content-length", b"transfer-encoding"):
            self._sized = True
        elif len(name) == 11 and name.lower() == b"retry-after":
            self._retry_after = value
        elif len(name) in INPUT_HEADER_SIZES and name.lower() in INPUT_HEADERS:
            self._input_tokens = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._sized = False
            return
        self._status, self._begun = status, True
        self._sized = self._sized or status in (204, 304)
        if status < 300 and self._sink is not None:
            self._sink.begin(self._kind)
            stated = self._input_tokens
            if stated.isdigit() and len(stated) <= MAX_STATED_DIGITS:
                self._sink.state_input(int(stated))

    def on_body(self, body: bytes) -> None:
        if not self._complete:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._begun:
            # A second reply in the same bytes is unexpected: do not keep the connection.
            self._keep = not self._complete and self._parser.should_keep_alive()
            self._complete = True

    def _feed(self, data: bytes) -> bool:
        """Pass data to the sink. Return False if the reply ended."""
        if self._status >= 300:
            self._refusal += data
            if len(self._refusal) > REFUSAL_BYTES:
                self._finish()
                return False
            return True
        sink = self._sink
        if sink is None or self._content:
            return True  # remaining bytes of a reply whose sink is done
        try:
            sink.feed(data)
        except (ArchwrightError, RecursionError) as error:  # RecursionError: the engine's JSON is nested too deeply
            self._fail(error)
            return False
        if not sink.done:
            return True
        self._content = True
        if not self._complete:
            self._resolve()
            if self._pool.keeps:
                self._loop.call_later(END_TIMEOUT_S, self._drop_if_late)
            else:
                self._drop()
                return False
        return True

    def _drop_if_late(self) -> None:
        """Close the connection if a reply whose sink is done has not ended."""
        if self._sink is not None and self._content and not self._complete:
            self._drop()

    def _finish(self) -> None:
        refused, keep = self._status >= 300, self._complete and self._keep and self._pool.keeps
        # A server that rejects early may not have read the whole request, and would read the rest as another request.
        if refused and keep:
            keep = self._transport.get_write_buffer_size() == 0
        self._sink = None
        self.resume()
        if keep and self.alive:
            self.idle_at = self._loop.time()
            self._pool.idle.append(self)
        else:
            self.close()
        self._resolve(HttpStatusError(self._status, bytes(self._refusal), self._retry_after) if refused else None)

    def _fail(self, error: Exception) -> None:
        self._drop()
        self._resolve(error)

    def _drop(self) -> None:
        self._sink = None
        if self.alive:
            self.alive = False
            self._transport.abort()

    def _resolve(self, error: Exception | None = None) -> None:
        ended, self._ended = self._ended, None
        if ended is not None and not ended.done():
            if error is None:
                ended.set_result(None)
            else:
                ended.set_exception(error)


class ConnectionPool:
    """Connections to one server. Belongs to the event loop that created it."""

    def __init__(self, address: ServerAddress, connect_s: float, keeps: bool = True) -> None:
        self.keeps = keeps
        self.idle: deque[ClientConnection] = deque()
        self._address = address
        self._connect_s = connect_s
        self._loop = asyncio.get_running_loop()
        self._open: set[ClientConnection] = set()
        self._unsent: list[tuple[ClientConnection, bytes]] = []

    def queue_write(self, connection: ClientConnection, data: bytes) -> None:
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append((connection, data))

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        for connection, data in unsent:
            connection.write(data)

    async def send_request(self, data: bytes, sink: ResponseSink) -> None:
        """Send the request `data` and return at the end of the reply.

        Cancelling closes the connection, or lets the sink have the rest of the reply (`keep_reading_s`).
        Raises OSError and ssl.SSLError if connecting fails, ConnectTimeout, ConnectionBroken, HttpStatusError for a
        status of 300 or more, and the errors of the sink."""
        connection = self._take_idle()
        if connection is not None:
            ended = connection.send_request(data, sink)
            try:
                return await ended
            except ConnectionBroken:
                if not connection.silent:
                    raise
            except asyncio.CancelledError:
                if await connection.read_rest(ended, sink):
                    return None
                raise
            finally:
                connection.release(ended)
        try:
            async with asyncio.timeout(self._connect_s) as limit:
                connection = await self._connect()
        except TimeoutError as error:
            if limit.expired():
                raise ConnectTimeout(f"no connection within {self._connect_s:g} s") from error
            raise
        ended = connection.send_request(data, sink)
        try:
            await ended
        except asyncio.CancelledError:
            if not await connection.read_rest(ended, sink):
                raise
        finally:
            connection.release(ended)

    async def close(self) -> None:
        """Close every connection and wait until their sockets are closed."""
        self.keeps = False
        for connection in tuple(self._open):
            connection.close()
        while self._open:
            await asyncio.sleep(0.001)

    def discard(self, connection: ClientConnection) -> None:
        self._open.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def _take_idle(self) -> ClientConnection | None:
        """Return the last used idle connection, if any is usable. Close the expired ones."""
        if not self.idle:
            return None
        oldest = self._loop.time() - KEEP_ALIVE_S
        while self.idle and self.idle[0].idle_at < oldest:
            self.idle.popleft().close()
        while self.idle:
            newest = self.idle.pop()
            if newest.alive:
                return newest
        return None

    async def _connect(self) -> ClientConnection:
        make = partial(ClientConnection, self, self._loop)
        path, host, port, tls, name = self._address
        if path is not None:
            _, connection = await self._loop.create_unix_connection(make, path)
        else:
            server_name = (name or host) if tls else None
            _, connection = await self._loop.create_connection(make, host, port, ssl=tls, server_hostname=server_name)
        self._open.add(connection)
        return connection


@cache
def create_tls_context() -> ssl.SSLContext:
    """Create a context with TLS 1.2 or newer, the system's CAs and host name checks."""
    return ssl.create_default_context()
