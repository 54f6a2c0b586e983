"""A reply taken piece by piece, by who would rather wait for the next than be fed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from archwright.http_client.connection_pool import END_TIMEOUT_S, ClientConnection, ResponseSink


class StreamingResponse(ResponseSink):
    """A sink for who would rather wait for the next piece; the server is held back while `ahead` bytes lie unread."""

    def __init__(self, ahead: int = 1 << 20) -> None:
        self.kind = b""
        self.begun = False
        self._ahead = ahead
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._over: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def sent(self, source: ClientConnection) -> None:
        super().sent(source)
        self._wake.set()

    def begin(self, kind: bytes) -> None:
        self.kind, self.begun = kind, True
        self._wake.set()

    def feed(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        self._wake.set()
        if self._size > self._ahead:
            self.pause()

    def attach_task(self, asking: asyncio.Task[None]) -> None:
        """`asking` is the task that feeds this sink; `stop` it at the end."""
        self._over = asking
        asking.add_done_callback(lambda _: self._wake.set())

    async def wait_until_sent(self) -> None:
        """Wait until the request is on its way, or raise why it is not."""
        await self._wait_until(lambda: self.source is not None)

    async def wait_for_head(self) -> None:
        """Wait until the reply has begun, or raise why it does not."""
        await self._wait_until(lambda: self.begun)

    async def next_piece(self) -> bytes | None:
        """The next piece of the body, None at its end. Raises what `Origin.ask` does."""
        await self._wait_until(lambda: bool(self._pieces))
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._size -= len(piece)
        if self._size <= self._ahead:
            self.resume()
        return piece

    async def stop(self) -> None:
        """Close the connection unless the reply has ended, or is about to for a sink that has all it wants."""
        if self._over is not None:
            if self.done:
                await asyncio.wait([self._over], timeout=END_TIMEOUT_S)
            self._over.cancel()
            await asyncio.gather(self._over, return_exceptions=True)

    async def _wait_until(self, enough: Callable[[], bool]) -> None:
        assert self._over is not None, "nothing was asked"
        while not enough() and not self._over.done():
            self._wake.clear()
            await self._wake.wait()
        if not enough():
            self._over.result()
