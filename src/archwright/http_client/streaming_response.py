"""A reply that its caller reads piece by piece."""

import asyncio
from collections import deque
from collections.abc import Callable

from archwright.http_client.connection_pool import END_TIMEOUT_S, ClientConnection, ResponseSink


class StreamingResponse(ResponseSink):
    """A sink whose reader awaits pieces. The socket pauses while more than `ahead` bytes are unread."""

    def __init__(self, ahead: int = 1 << 20) -> None:
        self.kind = b""
        self.begun = False
        self._ahead = ahead
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._task: asyncio.Task[None] | None = None
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

    def attach_task(self, task: asyncio.Task[None]) -> None:
        """Set the task that feeds this sink; `stop` ends it."""
        self._task = task
        task.add_done_callback(lambda _: self._wake.set())

    async def wait_until_sent(self) -> None:
        """Wait until the request is sent, or raise its error."""
        await self._wait_until(lambda: self.source is not None)

    async def wait_for_head(self) -> None:
        """Wait until the reply begins, or raise its error."""
        await self._wait_until(lambda: self.begun)

    async def next_piece(self) -> bytes | None:
        """Return the next piece of the body, None at its end. Raises what `ConnectionPool.send_request` does."""
        await self._wait_until(lambda: bool(self._pieces))
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._size -= len(piece)
        if self._size <= self._ahead:
            self.resume()
        return piece

    async def stop(self) -> None:
        """Close the connection, unless the reply has ended or ends soon for a sink that is done."""
        if self._task is not None:
            if self.done:
                await asyncio.wait([self._task], timeout=END_TIMEOUT_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        assert self._task is not None, "attach_task was not called"
        while not condition() and not self._task.done():
            self._wake.clear()
            await self._wake.wait()
        if not condition():
            self._task.result()
