"""A reply read piece by piece by a waiting caller."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from archwright.http_client.connection_pool import END_TIMEOUT_S, ClientConnection, ResponseSink


class StreamingResponse(ResponseSink):
    """A sink whose reader waits for the next piece; reading pauses while `ahead` bytes are unread."""

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
        """Set the task that feeds this sink; `stop` ends it."""
        self._over = asking
        asking.add_done_callback(lambda _: self._wake.set())

    async def wait_until_sent(self) -> None:
        """Wait until the request is sent, or raise its error."""
        await self._wait_until(lambda: self.source is not None)

    async def wait_for_head(self) -> None:
        """Wait until the reply begins, or raise its error."""
        await self._wait_until(lambda: self.begun)

    async def next_piece(self) -> bytes | None:
        """The next piece of the body, None at its end. Raises what `ConnectionPool.send_request` does."""
        await self._wait_until(lambda: bool(self._pieces))
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._size -= len(piece)
        if self._size <= self._ahead:
            self.resume()
        return piece

    async def stop(self) -> None:
        """Close the connection unless the reply has ended, or ends soon for a sink that is done."""
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
