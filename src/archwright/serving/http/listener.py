"""Where connections come in, and how a process leaves: the listening socket is the master's, shared by its workers.

Decides that a worker takes one connection each time it is told that some wait, so that a burst is spread over all who
are awake. And that who leaves for a successor drops nothing: what is under way is finished, and a kept connection is
closed by its next answer, which says so; only one that stays silent is closed as it is.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress

from archwright.serving.http.connection import LINGER_S, HttpServer
from archwright.serving.http.http_exchange import SHUTDOWN

ACCEPT_RETRY_S = 0.1  # after the system had no descriptor left


class Listener:
    """`bound` listens and does not block."""

    def __init__(self, bound: socket.socket, server: HttpServer, tls: ssl.SSLContext | None) -> None:
        self._bound = bound
        self._server = server
        self._tls = tls
        self._open = False
        self._greeting: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        self._open = True
        self._server.loop.add_reader(self._bound, self._accept_connection)

    def close(self) -> None:
        """In this process; others that share the socket go on."""
        self._open = False
        self._server.loop.remove_reader(self._bound)
        self._bound.close()

    async def wait_for_handshakes(self) -> None:
        """Who was let in just before is one of the server's connections now."""
        await asyncio.gather(*self._greeting)

    def _accept_connection(self) -> None:
        try:
            connection, _address = self._bound.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another worker was first, or the client has gone
        except OSError:
            self._server.loop.remove_reader(self._bound)
            self._server.loop.call_later(ACCEPT_RETRY_S, self._resume)
            return
        connection.setblocking(False)
        task = self._server.loop.create_task(self._start_connection(connection))
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)

    def _resume(self) -> None:
        if self._open:
            self.open()

    async def _start_connection(self, connection: socket.socket) -> None:
        server, tls = self._server, self._tls
        wait_s = server.limits.headers_s if tls else None
        with suppress(OSError):  # ssl.SSLError is one, and a handshake that takes too long
            await server.loop.connect_accepted_socket(
                server.create_connection, connection, ssl=tls, ssl_handshake_timeout=wait_s
            )


async def drain_connections(server: HttpServer) -> None:
    """Nobody may send another request; who has one under way is answered, in `drain_s` or with a refusal."""
    server.closing = server.ending = True
    await _wait_until_empty(server, server.limits.drain_s, idle_s=0.0)
    for connection in tuple(server.connections):
        connection.end(SHUTDOWN)
    await _wait_until_empty(server, LINGER_S, idle_s=0.0)
    for connection in tuple(server.connections):
        connection.abort()


async def hand_over_connections(server: HttpServer, stop: asyncio.Event) -> None:
    """Another worker takes what comes: finish all that is here, as long as a request may last, or until `stop`."""
    server.closing = True
    finished = asyncio.ensure_future(_wait_until_empty(server, server.limits.request_s, idle_s=server.limits.drain_s))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((finished, stopped), return_when=asyncio.FIRST_COMPLETED)
    finished.cancel()
    stopped.cancel()


async def _wait_until_empty(server: HttpServer, limit_s: float, idle_s: float) -> None:
    began = server.outbox.now()
    while server.connections and (passed := server.outbox.now() - began) < limit_s:
        if passed >= idle_s:
            for connection in tuple(server.connections):
                connection.close_if_idle(idle_s)
        await asyncio.sleep(0.01)
