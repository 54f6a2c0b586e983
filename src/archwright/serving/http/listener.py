"""Accept connections on the master's socket, which all workers share, and hand over to a successor.

Design: a worker accepts one connection per wake-up, so a burst is spread over all workers. A worker that is replaced
drops no request: running requests finish, and an idle connection is closed with its next response or when it stays
silent. A connection takes its slot when it is accepted, before TLS (connection_slots.py).
"""

import asyncio
import socket
import ssl
from contextlib import suppress
from functools import partial

from archwright.serving.http.connection import LINGER_S, HttpServer
from archwright.serving.http.connection_slots import STAGE_HANDSHAKE, ConnectionSlot
from archwright.serving.http.http_response import SHUTDOWN

ACCEPT_RETRY_S = 0.1  # after the system had no free file descriptor


class Listener:
    """Accepts connections of the non-blocking, listening socket `bound`."""

    def __init__(self, bound: socket.socket, server: HttpServer, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._bound = bound
        self._server = server
        self._open = False
        self._handshakes: set[asyncio.Task[None]] = set()

    def use_tls(self, tls: ssl.SSLContext) -> None:
        """Use another context for new connections."""
        self._tls = tls

    def open(self) -> None:
        self._open = True
        self._server.loop.add_reader(self._bound, self._accept_connection)

    def close(self) -> None:
        """Stop accepting in this process; other processes that share the socket continue."""
        self._open = False
        self._server.loop.remove_reader(self._bound)
        self._bound.close()

    async def wait_for_handshakes(self) -> None:
        """Wait until all accepted sockets are connections of the server."""
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _accept_connection(self) -> None:
        try:
            connection, address = self._bound.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another worker was first, or the client has disconnected
        except OSError:
            self._server.loop.remove_reader(self._bound)
            self._server.loop.call_later(ACCEPT_RETRY_S, self._resume)
            return
        slots = self._server.slots
        slot = slots.admit(str(address[0]))
        if slot is None:
            connection.close()
            return
        connection.setblocking(False)
        task = self._server.loop.create_task(self._start_connection(connection, slot))
        slots.attach(slot, task.cancel)
        self._handshakes.add(task)
        task.add_done_callback(partial(self._end_handshake, connection, slot))

    def _resume(self) -> None:
        if self._open:
            self.open()

    async def _start_connection(self, connection: socket.socket, slot: ConnectionSlot) -> None:
        server, tls = self._server, self._tls
        wait_s = server.limits.handshake_s if tls else None
        with suppress(OSError):  # also ssl.SSLError and the handshake's timeout
            await server.loop.connect_accepted_socket(
                partial(server.create_connection, slot),
                connection,
                ssl=tls,
                ssl_handshake_timeout=wait_s,
                ssl_shutdown_timeout=wait_s,
            )

    def _end_handshake(self, connection: socket.socket, slot: ConnectionSlot, task: asyncio.Task[None]) -> None:
        self._handshakes.discard(task)
        if slot.stage == STAGE_HANDSHAKE:  # it failed, or the slot was needed for another connection
            self._server.slots.release(slot)
            connection.close()


async def drain_connections(server: HttpServer) -> None:
    """Take no more requests; running requests finish within `drain_s` or get an error."""
    server.close_gradually(at_once=True)
    await _wait_until_empty(server, server.limits.drain_s, idle_s=0.0)
    for connection in tuple(server.connections):
        connection.end(SHUTDOWN)
    for response in tuple(server.buffer.unread):
        response.give_up()
    await _wait_until_empty(server, LINGER_S, idle_s=0.0)
    for connection in tuple(server.connections):
        connection.abort()


async def hand_over_connections(server: HttpServer, stop: asyncio.Event) -> None:
    """Finish all requests, for at most `request_s` or until `stop`; another worker takes new requests."""
    server.close_gradually()
    finished = asyncio.ensure_future(_wait_until_empty(server, server.limits.request_s, idle_s=server.limits.drain_s))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((finished, stopped), return_when=asyncio.FIRST_COMPLETED)
    finished.cancel()
    stopped.cancel()


async def _wait_until_empty(server: HttpServer, limit_s: float, idle_s: float) -> None:
    began = server.buffer.now()
    while (server.connections or server.buffer.unread) and (passed := server.buffer.now() - began) < limit_s:
        if passed >= idle_s:
            for connection in tuple(server.connections):
                connection.close_if_idle(idle_s)
        await asyncio.sleep(0.01)
